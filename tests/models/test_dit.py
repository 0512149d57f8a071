"""The DiT: published sizes, initialisation, geometry."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alphaflow.errors import UserError
from alphaflow.models import DiT, dit, forward_macs


def small(num_classes: int = 3, **changes: object) -> DiT:
    arguments: dict = {"input_size": (8, 4), "patch": 2, "channels": 3, "width": 32, "depth": 2, "heads": 2}
    return DiT(**{**arguments, **changes}, num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"),
    [
        ("B/4", 131, 5.6),
        ("B/2", 131, 23.0),
        ("M/2", 308, None),
        ("L/2", 459, 80.7),
        ("XL/2", 676, 118.6),
        ("S/2", 33, 6.1),
    ],
)
def test_published_sizes(name: str, millions: int, gmacs: float | None) -> None:
    with torch.device("meta"):
        net = dit(name, input_size=32, channels=4, num_classes=1000)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions
    if gmacs is not None:
        assert round(forward_macs(net) / 1e9, 1) == gmacs


@pytest.mark.parametrize(
    "changes", [{}, {"patch": 1, "mlp_ratio": 2.5}, {"depth": 1, "input_size": 12, "channels": 1}]
)
def test_forward_macs_is_what_torch_counts(changes: dict) -> None:
    net = small(**changes)
    z, t = torch.randn(1, *net.shape), torch.rand(1)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        net(z, t, t)
    assert counter.get_total_flops() == 2 * forward_macs(net) == 2 * forward_macs(net.config)


def test_zero_output_and_standard_deviations_at_initialisation() -> None:
    torch.manual_seed(0)
    net = small(width=128, num_classes=50)
    z, r, t = torch.randn(4, *net.shape), torch.zeros(4), torch.ones(4)
    assert torch.equal(net(z, r, t, torch.arange(4)), torch.zeros_like(z))
    for embedder in (net.t_embedder, net.d_embedder):
        assert embedder.mlp.get_parameter("0.weight").std().item() == pytest.approx(0.02, rel=0.05)
    assert net.y_embedder is not None
    assert net.y_embedder.embedding_table.weight.std().item() == pytest.approx(0.02, rel=0.05)
    # Xavier: variance 2 / (fan in + fan out).
    qkv = net.get_parameter("blocks.0.attn.qkv.weight")
    assert qkv.std().item() == pytest.approx((2 / (4 * 128)) ** 0.5, rel=0.05)


def test_blocks_are_the_identity_at_initialisation() -> None:
    net = small()
    x, c = torch.randn(2, 8, 32), torch.randn(2, 32)
    for block in net.blocks:
        assert torch.equal(block(x, c), x)


def test_names_and_shapes_of_the_published_parameters() -> None:
    """What a converter of released DiT weights relies on."""
    shapes = {name: tuple(p.shape) for name, p in small().state_dict().items()}
    expected = {
        "x_embedder.proj.weight": (32, 12),
        "t_embedder.mlp.0.weight": (32, 256),
        "d_embedder.mlp.2.weight": (32, 32),
        "y_embedder.embedding_table.weight": (4, 32),
        "blocks.1.attn.qkv.weight": (96, 32),
        "blocks.1.attn.proj.bias": (32,),
        "blocks.1.mlp.fc1.weight": (128, 32),
        "blocks.1.mlp.fc2.weight": (32, 128),
        "blocks.1.adaLN_modulation.1.weight": (192, 32),
        "final_layer.linear.weight": (12, 32),
        "final_layer.adaLN_modulation.1.bias": (64,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert "pos_embed" not in shapes


def test_patch_embedding_is_a_convolution_and_patches_return_to_their_place() -> None:
    net = small().double()
    z = torch.randn(2, 3, 8, 4, dtype=torch.float64)
    kernel = net.x_embedder.proj.weight.view(32, 3, 2, 2)
    tokens = F.conv2d(z, kernel, net.x_embedder.proj.bias, stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(net.x_embedder(z), tokens)
    # Each token's values, in DiT's (p, q, c) order, cut by hand.
    patches = torch.stack(
        [z[:, :, i : i + 2, j : j + 2].permute(0, 2, 3, 1).flatten(1) for i in (0, 2, 4, 6) for j in (0, 2)], 1
    )
    assert torch.equal(net._unpatchify(patches), z)


def test_positions_tell_rows_from_columns() -> None:
    net = small(input_size=(8, 6), width=64)
    positions = net.pos_embed.view(4, 3, 64)
    assert torch.equal(positions[:, 0, 32:], positions[:, 2, 32:])  # the second half knows only the row
    assert torch.equal(positions[0, :, :32], positions[3, :, :32])  # the first half only the column
    assert torch.equal(positions[2, 0, 32:], positions[0, 2, :32])  # by the same function
    assert torch.unique(positions.flatten(0, 1), dim=0).shape[0] == 12
    torch.testing.assert_close(net.pos_embed.square().sum(1), torch.full((12,), 32.0))  # sin² + cos² = 1


def test_without_positions_it_would_commute_with_moving_patches() -> None:
    torch.manual_seed(0)
    net = small()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    z, r, t = torch.randn(2, *net.shape), torch.zeros(2), torch.ones(2)
    rolled = z.roll(2, dims=2)  # by one patch
    assert not torch.allclose(net(rolled, r, t), net(z, r, t).roll(2, dims=2), atol=1e-3)
    net.pos_embed.zero_()
    torch.testing.assert_close(net(rolled, r, t), net(z, r, t).roll(2, dims=2), rtol=1e-4, atol=1e-5)


def test_materialised_from_meta() -> None:
    with torch.device("meta"):
        net = small()
    net.to_empty(device="cpu")
    net.init_weights()
    assert torch.equal(net.pos_embed, small().pos_embed)
    z = torch.randn(2, *net.shape)
    assert torch.equal(net(z, torch.zeros(2), torch.ones(2)), torch.zeros_like(z))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 9}, "input_size=9: 9 cannot be cut into patches of 2"),
        ({"input_size": (8, 5)}, r"input_size=\(8, 5\): 5 cannot be cut .* multiple of 2"),
        ({"patch": 0}, "patch=0"),
        ({"heads": 5}, "width=32 is not divisible by heads=5"),
        ({"width": 30, "heads": 1}, "width=30 .* multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_input_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 8\).*\(B, 3, 8, 4\)"):
        small()(torch.zeros(2, 3, 4, 8), torch.zeros(2), torch.ones(2))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("XXL/2", "did you mean 'XL'"),
        ("b/2", "choose one of S, B"),
        ("B", "'B/2'"),
        ("B/x", "'B/2'"),
        ("B/0", "B/2"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dit(name, input_size=32, channels=4, num_classes=0)
