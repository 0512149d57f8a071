"""The U-Net: initialisation, sizes, its own group norm."""

import pytest
import torch
from torch import nn

from alphaflow.models import UNet
from alphaflow.models.unet import GroupNorm, SpatialAttention


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (32, 8), (48, 12), (3, 1)])
def test_group_norm_is_torchs(channels: int, groups: int) -> None:
    torch.manual_seed(0)
    mine, theirs = GroupNorm(channels).double(), nn.GroupNorm(groups, channels).double()
    with torch.no_grad():
        for p in mine.parameters():
            p += torch.randn_like(p)
    theirs.load_state_dict(mine.state_dict())
    x = 3 + torch.randn(2, channels, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(mine(x), theirs(x))
    torch.testing.assert_close(mine(x.to(memory_format=torch.channels_last)), theirs(x))


def test_zero_output_at_initialisation() -> None:
    z = torch.randn(2, 1, 8, 8)
    assert torch.equal(UNet(1, width=8)(z, torch.zeros(2), torch.ones(2)), torch.zeros_like(z))


def test_one_network_takes_several_sizes() -> None:
    net = UNet(2, width=8, multipliers=(1, 2, 2), blocks=2)
    for H, W in ((4, 4), (8, 12), (28, 28)):
        assert net(torch.randn(1, 2, H, W), torch.zeros(1), torch.ones(1)).shape == (1, 2, H, W)


def test_attention_at_the_lowest_resolution_only() -> None:
    net = UNet(1, width=8, multipliers=(1, 2, 4))
    assert [name for name, m in net.named_modules() if isinstance(m, SpatialAttention)] == ["mid_attn"]


def test_every_output_sees_every_input() -> None:
    """Through the bottleneck the corner answers to the opposite corner."""
    torch.manual_seed(0)
    net = UNet(1, width=8, multipliers=(1, 2)).double()
    with torch.no_grad():
        net.out_conv.weight.normal_()
    z = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    corner = net(z, torch.zeros(1), torch.ones(1))[0, 0, 0, 0]
    (gradient,) = torch.autograd.grad(corner, z)
    assert gradient.abs().min() > 0


def test_sizes_that_do_not_halve() -> None:
    net = UNet(1, width=8, multipliers=(1, 2, 2))
    with pytest.raises(ValueError, match=r"6 cannot be halved 2 times.*multiples of 4"):
        net(torch.zeros(1, 1, 8, 6), torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"takes \(B, 1, H, W\)"):
        net(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="at least one level"):
        UNet(1, multipliers=())
