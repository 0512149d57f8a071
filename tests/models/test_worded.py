"""The DiT that reads words: masks, the null prompt, exactness of the fused derivative, cost in operations."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alphaflow.derivatives.total import check_derivative, choose_method, total_derivative
from alphaflow.models import DiT, WordedDiT
from alphaflow.path import Points

SIZES = {"input_size": 8, "patch": 2, "channels": 3, "width": 32, "depth": 2, "heads": 2}


def worded(**changes: object) -> WordedDiT:
    torch.manual_seed(0)
    net = WordedDiT(**{**SIZES, "vocabulary": 20, "length": 6, "text_width": 32, **changes})
    with torch.no_grad():  # adaLN-zero hides everything at the start
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return net.double()


def inputs(rows: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    z, v = torch.randn(2, rows, 3, 8, 8, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.3, 0.9, rows, dtype=torch.float64)
    y = torch.randint(1, 20, (rows, 6), generator=generator)
    y[:, 4:] = 0
    y[1] = 0
    return z, v, t / 2, t, y


def test_the_fused_derivative_is_exact_in_float64_and_is_the_one_chosen():
    net, (z, v, r, t, y) = worded(), inputs()
    assert choose_method(net, Points(z, v, r, t, y), start=2) == "fused"
    fused, forward = (total_derivative(net, z, v, r, t, y, method=way) for way in ("fused", "forward"))
    for ours, right in zip(fused, forward):
        assert torch.allclose(ours, right, rtol=1e-11, atol=1e-12)
    assert check_derivative(net, z, v, r, t, y, method="fused") < 1e-5


def test_what_stands_behind_the_last_word_changes_nothing_and_each_word_something():
    net, (z, _, r, t, y) = worded(), inputs()
    short = worded(length=4)
    weights = {name: tensor for name, tensor in net.state_dict().items() if name != "encoder.places.weight"}
    short.load_state_dict({**weights, "encoder.places.weight": net.encoder.places.weight[:4]})
    assert torch.allclose(net(z, r, t, y), short(z, r, t, y[:, :4]), rtol=1e-12)
    for place in range(4):
        other = y.clone()
        other[0, place] = 1 + y[0, place] % 19
        moved = (net(z, r, t, other) - net(z, r, t, y)).flatten(1).norm(dim=1)
        assert moved[0] > 1e-6
        assert not moved[1:].any()


def test_the_order_of_words_counts():
    net, (z, _, r, t, y) = worded(), inputs()
    assert (net(z, r, t, y) - net(z, r, t, y.index_select(1, torch.tensor([1, 0, 2, 3, 4, 5]))))[0].norm() > 1e-6


def test_no_prompt_is_one_of_blanks_and_is_finite():
    net, (z, _, r, t, y) = worded(), inputs()
    none = net(z, r, t)
    assert torch.equal(none, net(z, r, t, torch.zeros_like(y)))
    assert bool(none.isfinite().all())
    assert torch.equal(none[1], net(z, r, t, y)[1])


def test_prompts_of_another_shape_or_kind_are_refused():
    net, (z, _, r, t, y) = worded(), inputs()
    for wrong in (y[:, :5], y[:, 0], y.double()):
        with pytest.raises(ValueError, match=r"takes prompts, int64 \(6, 6\)"):
            net(z, r, t, wrong)
    with pytest.raises(ValueError, match="text_width=70"):
        worded(text_width=70)


def test_a_forward_pass_costs_a_sixth_more_than_with_classes():
    """By operations, at the sizes of the recipe."""
    sizes = {"input_size": 32, "patch": 8, "channels": 3, "width": 192, "depth": 4, "heads": 4}
    with torch.device("meta"):
        nets = DiT(**sizes, num_classes=10), WordedDiT(**sizes, vocabulary=279, length=16)
    flops = []
    for net in nets:
        z, t = torch.empty(8, 3, 32, 32, device="meta"), torch.empty(8, device="meta")
        with FlopCounterMode(display=False) as counter:
            net(z, t, t)
        flops.append(counter.get_total_flops())
    assert 1 < flops[1] / flops[0] < 1.17


def test_its_settings_build_it_again():
    net = worded(text_depth=1)
    again = WordedDiT(**net.config)
    assert again.load_state_dict(net.float().state_dict()).missing_keys == []


def test_positions_are_a_dits_unless_their_distance_is_said():
    """A network that was written down before there was a distance is built as it was."""
    plain, apart = worded(), worded(position_step=2.0)
    dit = DiT(**SIZES, num_classes=0).double()
    assert torch.equal(plain.pos_embed, dit.pos_embed)
    finer = DiT(
        **{**SIZES, "input_size": 16}, num_classes=0
    ).double()  # every second of its patches is one of ours
    expected = finer.pos_embed.view(8, 8, -1)[::2, ::2].flatten(0, 1)
    assert torch.equal(apart.pos_embed, expected)
    older = {name: value for name, value in plain.config.items() if name != "position_step"}
    assert torch.equal(WordedDiT(**older).double().pos_embed, plain.pos_embed)
    apart.place_positions("cpu")
    assert torch.equal(apart.pos_embed.double(), expected)
