"""The video DiT: geometry, what sees what, and its kinship with the DiT."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from alphaflow.errors import UserError
from alphaflow.models import DiT, VideoDiT, forward_macs
from alphaflow.models.video_dit import AxisAttention, time_table


def small(attention: str = "joint", frames: int = 3, depth: int = 2, **changes: object) -> VideoDiT:
    arguments: dict = {"input_size": (4, 6), "patch": 2, "channels": 2, "width": 32, "heads": 2, "num_classes": 3}
    return VideoDiT(**{**arguments, **changes}, frames=frames, depth=depth, attention=attention)


def lively(net: VideoDiT | DiT) -> VideoDiT | DiT:
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=source))
    return net.double()


def reach(net: VideoDiT, z: Tensor, frame: int, patch: int) -> Tensor:
    """Which (frame, patch) of the output moves when one patch of the input does: bool (T, N)."""
    r, t = torch.zeros(1).double(), torch.full((1,), 0.7).double()
    row, column = divmod(patch, 3)
    moved = z.clone()
    moved[:, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
    change = (net(moved, r, t) - net(z, r, t)).abs()[0].sum(0)  # (T, H, W)
    return F.avg_pool2d(change[:, None], 2).flatten(1) > 1e-9


def test_joint_attention_reaches_all_tokens_in_one_block_and_factorised_along_one_axis_at_a_time() -> None:
    z = torch.randn(1, 2, 3, 4, 6, dtype=torch.float64)
    assert reach(lively(small("joint", depth=1)), z, 1, 4).all()
    net = lively(small("factorised", depth=2))
    assert reach(net, z, 1, 4).all()  # within the frame, then across
    net.blocks = net.blocks[:1]
    within = torch.zeros(3, 6, dtype=torch.bool)
    within[1] = True
    assert torch.equal(reach(net, z, 1, 4), within)
    net = lively(small("factorised", depth=2))
    net.blocks = net.blocks[1:]
    across = torch.zeros(3, 6, dtype=torch.bool)
    across[:, 4] = True
    assert torch.equal(reach(net, z, 1, 4), across)


@pytest.mark.parametrize("along", ["frames", "places"])
def test_attention_along_an_axis_is_attention_on_each_slice(along: str) -> None:
    torch.manual_seed(0)
    attention = AxisAttention(16, 2, (3, 5), along).double()
    x = torch.randn(2, 15, 16, dtype=torch.float64)
    grid = x.view(2, 3, 5, 16)
    slices = grid.transpose(1, 2) if along == "frames" else grid
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(-2, -3) for part in attention.qkv(slices).chunk(3, -1))
    scores = (q @ k.mT / 8**0.5).softmax(-1) @ v
    expected = attention.proj(scores.transpose(-2, -3).flatten(-2))
    expected = expected.transpose(1, 2) if along == "frames" else expected
    torch.testing.assert_close(attention(x), expected.reshape(2, 15, 16))


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_a_dit_of_images_has_weights_that_fit_and_does_the_same_on_a_single_frame(attention: str) -> None:
    torch.manual_seed(0)
    image = lively(DiT((4, 6), 2, 2, 32, 2, 2, 3))
    video = small(attention, frames=1).double()
    video.load_state_dict(image.state_dict())
    z, r, t = torch.randn(2, 2, 4, 6).double(), torch.zeros(2).double(), torch.ones(2).double()
    if attention == "joint":
        video.pos_embed.copy_(image.pos_embed)  # without the position of frame 0
        torch.testing.assert_close(video(z[:, :, None], r, t)[:, :, 0], image(z, r, t))
    assert video.state_dict().keys() == image.state_dict().keys()


def test_patches_return_to_their_frame_and_place() -> None:
    net = small()
    z = torch.arange(2 * 2 * 3 * 4 * 6).float().view(2, 2, 3, 4, 6)
    per_frame = DiT((4, 6), 2, 2, 32, 1, 2, 3)
    embedded = net.x_embedder(z).view(2, 3, 6, 32)
    per_frame.x_embedder.load_state_dict(net.x_embedder.state_dict())
    for k in range(3):
        torch.testing.assert_close(embedded[:, k], per_frame.x_embedder(z[:, :, k]))
    values = torch.randn(2, 18, 8)
    frames = net._unpatchify(values)
    for k in range(3):
        assert torch.equal(frames[:, :, k], per_frame._unpatchify(values.view(2, 3, 6, 8)[:, k]))


def test_positions_tell_frames_apart() -> None:
    table = time_table(17, 64).double()
    torch.testing.assert_close(table.square().sum(1), torch.full((17,), 32.0).double())  # sin² + cos² = 1
    distances = torch.cdist(table, table)
    assert (distances + 100 * torch.eye(17)).min() > 0.5
    # Only the difference of two times counts, which is why sines and cosines are used.
    products = table @ table.T
    for shift in range(1, 16):
        diagonal = products.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    net = lively(small())
    z, r, t = torch.randn(1, 2, 3, 4, 6).double(), torch.zeros(1).double(), torch.ones(1).double()
    turned = z.flip(2)
    assert not torch.allclose(net(turned, r, t).flip(2), net(z, r, t), atol=1e-3)
    net.pos_embed.copy_(net.pos_embed.view(3, 6, 32)[:1].expand(3, 6, 32).reshape(18, 32))
    torch.testing.assert_close(net(turned, r, t).flip(2), net(z, r, t))


def test_it_starts_as_zero_also_when_made_on_meta() -> None:
    with torch.device("meta"):
        net = small("factorised")
    net.to_empty(device="cpu")
    net.init_weights()
    assert torch.equal(net.pos_embed, small().pos_embed)
    z = torch.randn(2, *net.shape)
    assert torch.equal(net(z, torch.zeros(2), torch.ones(2)), torch.zeros_like(z))


def test_factorised_attention_costs_less_and_by_what_the_formula_says() -> None:
    counts = {}
    for attention in ("joint", "factorised"):
        with torch.device("meta"):
            net = small(attention, frames=7)
            z, t = torch.empty(1, *net.shape), torch.empty(1)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                net(z, t, t)
        counts[attention] = counter.get_total_flops() // 2
    frames, places, width = 7, 6, 32
    everything = 2 * 2 * (frames * places) ** 2 * width  # two blocks, q k and w v
    by_axes = 2 * frames * places * (places + frames) * width
    assert counts["joint"] - counts["factorised"] == everything - by_axes
    tall = {"input_size": (4 * 7, 6), "patch": 2, "channels": 2, "width": 32, "depth": 2, "heads": 2}
    assert counts["joint"] == forward_macs(tall)  # an image of as many tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "jiont"}, "did you mean 'joint'"),
        ({"frames": 0}, "frames=0"),
        ({"attention": "factorised", "depth": 1}, "depth=1 leaves factorised"),
        ({"heads": 3}, "width=32 with heads=3"),
        ({"input_size": 5}, "input_size=5"),
    ],
)
def test_settings_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        small(**changes)


def test_input_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 2, 3, 4, 6\)"):
        small()(torch.zeros(2, 2, 4, 4, 6), torch.zeros(2), torch.ones(2))
