"""Networks of diffusers as average velocities."""

import pytest
import torch

import alphaflow as af
from alphaflow.models import DiffusersDiT, DiffusersUNet

diffusers = pytest.importorskip("diffusers")


def make_unet(**changes):
    settings = {
        "sample_size": 8,
        "in_channels": 2,
        "out_channels": 2,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "class_embed_type": "identity",
    }
    return diffusers.UNet2DModel(**settings | changes)


def make_dit(**changes):
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 2,
        "num_layers": 2,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 3,
    }
    return diffusers.DiTTransformer2DModel(**settings | changes)


@pytest.fixture(params=["unet", "dit"])
def net(request):
    torch.manual_seed(0)
    return DiffusersUNet(make_unet(), num_classes=3) if request.param == "unet" else DiffusersDiT(make_dit())


@pytest.fixture
def batch():
    source = torch.Generator().manual_seed(1)
    z, v = (torch.randn(4, 2, 8, 8, generator=source) for _ in range(2))
    return z, v, torch.tensor([0.0, 0.2, 0.4, 0.5]), torch.tensor([1.0, 0.6, 0.9, 0.5]), torch.tensor([0, 1, 2, 1])


def test_it_begins_as_the_network_that_was_given(batch):
    z, _, r, t, y = batch
    unet = make_unet()
    u = DiffusersUNet(unet)(z, r, t)
    assert torch.equal(u, unet(z, t, class_labels=torch.zeros(4, 32)).sample)
    dit = make_dit().eval()
    before = dit(z, timestep=t, class_labels=y).sample
    assert torch.equal(DiffusersDiT(dit)(z, r, t, y), before)


def test_training_reaches_both_times_and_the_class(net, batch):
    z, v, r, t, y = batch
    assert torch.equal(net(z, r, t, y), net(z, 0.5 * t, t, y))  # of r it has learned nothing yet
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(3):
        (net(z, r, t, y) - v).square().mean().backward()
        optimizer.step(), optimizer.zero_grad()
    with torch.no_grad():
        u = net(z, r, t, y)
        for other in (net(z, r * 0.5, t, y), net(z, r, t * 0.9, y), net(z, r, t, (y + 1) % 3)):
            assert ((u - other).flatten(1).norm(dim=1)[1:] > 1e-3).all()
        assert torch.equal(net(z, r, t), net(z, r, t, torch.full_like(y, 3)))


def test_in_training_mode_it_says_the_same_twice(net, batch):
    """A DiT of diffusers drops labels of its own accord; u and its target would then be of different classes."""
    z, _, r, t, y = (rows.repeat_interleave(16, 0) for rows in batch)
    net.train()
    assert torch.equal(net(z, r, t, y), net(z, r, t, y))


@pytest.mark.parametrize("method", ["auto", "fused", "reverse"])
def test_the_derivative_is_right(net, batch, method):
    z, v, r, t, y = batch
    assert af.check_derivative(net, z, v, r, t, y, method=method) < 2e-2


def test_what_does_not_fit_is_refused(batch):
    z, _, r, t, y = batch
    with pytest.raises(af.UserError, match='class_embed_type="identity"'):
        DiffusersUNet(make_unet(class_embed_type=None))
    with pytest.raises(af.UserError, match="takes 2 channels and gives 4"):
        DiffusersDiT(make_dit(out_channels=4))
    with pytest.raises(ValueError, match="has no classes"):
        DiffusersUNet(make_unet())(z, r, t, y)
