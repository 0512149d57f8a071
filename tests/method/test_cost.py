"""What an evaluation of an objective costs: how often, and on which rows, the network runs. Guidance."""

import traceback
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import alphaflow
from alphaflow import models
from alphaflow.derivatives import attention
from alphaflow.derivatives.fused import dual_forward
from alphaflow.method.alpha import RandomSplit
from alphaflow.method.guidance import Guidance
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.targets import average_velocity_target
from alphaflow.method.times import Uniform
from alphaflow.method.weighting import AnchorWeight, Weight, WeightName
from alphaflow.path import interpolate
from alphaflow.rng import KeyedRandom
from drawn import NULL, PLAIN, ROWS, assert_same, keyed, noise_of, on_path
from reference import Counting, gradient


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"alpha": 1.0}, [12]),
        ({"alpha": 0.5}, [12, 9]),
        ({"alpha": 1e-3, "flow_ratio": 0.5}, [12, 6]),
        ({"alpha": 0.5, "flow_ratio": 1.0}, [12, 1]),
        ({"alpha": 1.0, "flow_ratio": 1.0}, [12]),
        ({"alpha": 0.5, "flow_ratio": 0.0}, [12, 12]),
        ({"alpha": 0.5, "shift": "model"}, [12, 9, 9]),
        ({"alpha": 0.0, "derivative": "forward"}, [12, 9]),
        ({"alpha": 0.0, "derivative": "reverse"}, [12, 9]),
        ({"alpha": 0.0, "derivative": "difference"}, [12, 9, 9, 9]),
        ({"alpha": 0.0, "derivative": "forward", "flow_ratio": 1.0}, [12, 1]),
    ],
    ids=str,
)
def test_only_rows_that_need_it_are_evaluated(net, data, settings, rows):
    counting = Counting(net)
    AlphaFlow(**settings)(counting, *data, generator=keyed())
    assert counting.rows == rows


def test_the_extra_evaluation_is_at_the_shifted_point_of_rows_with_r_below_t(net, data):
    x, y = data
    counting = Counting(net)
    out = AlphaFlow(alpha=0.25)(counting, x, y, generator=keyed())
    extra = counting.calls[1]
    s = 0.25 * out.r + 0.75 * out.t
    assert torch.equal(extra["r"], out.r[3:])
    assert_same(extra["t"], s[3:])
    assert_same(extra["z"], interpolate(x, noise_of(x), s)[0][3:])
    assert torch.equal(extra["y"], y[3:])


def test_weights_gather_their_gradient_from_one_evaluation_only(net, data):
    """Under stop-gradient the target is a constant: the gradient is that of ‖u - τ‖² with τ fixed."""
    x, y = data
    for alpha in (0.5, 0.0):
        out = AlphaFlow(alpha=alpha, **PLAIN)(net, x, y, generator=keyed())
        z, v = on_path(x, out)
        target = average_velocity_target(net, z, v, out.r, out.t, alpha, y)
        assert_same(gradient(out.loss, net), gradient((net(z, out.r, out.t, y) - target).square().mean(), net))


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [
        (Guidance(null=NULL, omega=0.4, kappa=0.5, t_min=0.2, t_max=0.75, drop=0.4), [False, True]),
        (Guidance(null=NULL, omega=0.5, kappa=0.5, drop=0.0), [False]),
        (Guidance(null=NULL, omega=2.0, drop=0.0), [True]),
        (Guidance(null=NULL, omega=1.0, kappa=0.0, drop=0.5), []),
        (Guidance(null=NULL, omega=2.0, drop=1.0), [True]),
        (Guidance(null=NULL, omega=2.0, t_min=0.5, t_max=0.5), [True]),
    ],
    ids=["both", "class alone", "null alone", "drops alone", "all dropped", "empty interval"],
)
def test_guidance_evaluates_its_rows_in_one_call_and_one_row_where_none_is_guided(net, data, guidance, branches):
    x, y = data
    counting = Counting(net)
    out = AlphaFlow(alpha=1.0, guidance=guidance)(counting, x, y, generator=keyed())
    inside = (out.t > guidance.t_min) & (out.t < guidance.t_max)
    dropped = inside & (keyed().uniform("drop") < guidance.drop)
    guided = inside & ~dropped
    assert torch.equal(counting.calls[-1]["y"], torch.where(dropped, NULL, y))
    if not branches:
        assert counting.rows == [ROWS]
        return
    many = int(guided.sum())
    assert counting.rows == [max(many, 1) * len(branches), ROWS]
    if not many:
        assert_same(
            out.residual, AlphaFlow(alpha=1.0)(net, x, counting.calls[-1]["y"], generator=keyed()).residual
        )
        return
    call = counting.calls[0]
    assert torch.equal(call["r"], call["t"])
    for null, part in zip(branches, call["y"].chunk(len(branches))):
        assert torch.equal(part, torch.full((many,), NULL) if null else y[guided])
    for part in call["t"].chunk(len(branches)):
        assert torch.equal(part, out.t[guided])


def test_guided_velocities_are_the_weighted_sum_and_labels_stay_in_place(net, batch):
    z, v, _, t, y = batch
    before = y.clone()
    guidance = Guidance(null=NULL, omega=0.2, kappa=0.92, t_min=0.3, t_max=0.8, drop=0.0)
    guided, labels = guidance(net, z, v, t, y, KeyedRandom(3, torch.arange(8)))
    null = torch.full_like(y, NULL)
    with torch.no_grad():
        expected = 0.2 * v + 0.92 * net(z, t, t, y) + (1 - 0.2 - 0.92) * net(z, t, t, null)
    inside = ((t > 0.3) & (t < 0.8))[:, None]
    assert 0 < inside.sum() < len(t)
    assert_same(guided, torch.where(inside, expected, v))
    assert torch.equal(labels, before)
    assert torch.equal(y, before)


def test_a_tenth_of_the_labels_drops_inside_the_interval_and_none_outside(net):
    rows = 5000
    z = torch.zeros(rows, 3, dtype=torch.float64)
    t = torch.linspace(0, 1, rows, dtype=torch.float64)
    random = KeyedRandom(0, torch.arange(rows))
    _, labels = Guidance(null=NULL, t_min=0.2, t_max=0.7)(net, z, z, t, torch.zeros(rows).long(), random)
    dropped = labels == NULL
    inside = (t > 0.2) & (t < 0.7)
    assert not dropped[~inside].any()
    assert dropped[inside].double().mean().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0, RandomSplit(Uniform())], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": Guidance(null=4, kappa=0.5, scales=(1.0, 4.0), intervals=True)},
        *({"weight": Weight(kind=kind)} for kind in get_args(WeightName)),
        {"weight": AnchorWeight(), "shift": "velocity"},
        {"clip": 4.0, "relaxation": 0.5, "cosine": 0.5},
    ],
    ids=str,
)
def test_an_objective_never_waits_for_the_device(alpha, settings):
    """On the meta device there are no numbers: whatever asks for one raises, as it would stall a GPU."""
    x, y = torch.empty(8, 1, 8, 8, device="meta"), torch.empty(8, dtype=torch.int64, device="meta")
    net = models.DiT(8, 4, 1, 16, 1, 2, 4, guided="guidance" in settings).to("meta")
    guided = {"guidance": Guidance(null=4, omega=2.0, kappa=0.5, drop=0.1), **settings}
    objective = AlphaFlow(alpha=alpha, flow_ratio=0.5, derivative="fused", **guided)
    with Copies() as copies:
        output = objective(net, x, y, generator=KeyedRandom(0, torch.arange(8)))
        output.loss.backward()
    assert copies.callers and set(copies.callers) == {"send"}
    assert output.loss.is_meta and net.final_layer.linear.weight.grad.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        float(output.loss.detach())


class Copies(TorchDispatchMode):
    """Notes which of our functions makes each copy from the host to the device, here `meta`."""

    OURS = Path(alphaflow.__file__).parent

    def __init__(self) -> None:
        super().__init__()
        self.callers: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        taken = [leaf.device.type for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if isinstance(out, Tensor) and out.is_meta and "cpu" in taken:
            frames = traceback.extract_stack()
            ours = [frame.name for frame in frames if Path(frame.filename).is_relative_to(self.OURS)]
            self.callers.append(ours[-1])
        return out


class Watch(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            self.largest = max(self.largest, leaf.numel() if isinstance(leaf, Tensor) else 0)
        return out


def test_attentions_tangent_never_holds_the_whole_matrix(monkeypatch):
    """512 tokens go by blocks of 32 queries; a fused kernel does the primal."""
    monkeypatch.setitem(attention.CHUNK, "cpu", 32 * 512)
    z, v = torch.randn(2, 3, 1, 512, 4, dtype=torch.float64)

    def attend(z, t):
        return F.scaled_dot_product_attention(z * t[:, None, None, None], z, z)

    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    with Watch() as watch:
        _, slope = dual_forward(attend, z, v[1:], t, start=1)
    assert watch.largest <= 32 * 512
    expected = (attend(z + 1e-5 * v, t + 1e-5) - attend(z - 1e-5 * v, t - 1e-5)) / 2e-5
    torch.testing.assert_close(slope, expected[1:], rtol=1e-7, atol=1e-8)


def test_eight_thousand_tokens_need_a_sixty_fourth_of_their_matrix():
    """In float32 as shipped; the same as for a few of the queries alone, in float64."""
    source = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 2, 1, 8192, 4, generator=source)
    t = torch.tensor([0.5, 0.8])

    def attend(queries):
        return lambda z, t: F.scaled_dot_product_attention((z * t[:, None, None, None])[:, :, queries], z, z)

    with Watch() as watch:
        _, slope = dual_forward(attend(slice(None)), z, v[1:], t, start=1)
    assert watch.largest == 8192**2 / 64
    few = slice(4090, 4100)
    _, exact = dual_forward(attend(few), z.double(), v[1:].double(), t.double(), start=1)
    torch.testing.assert_close(slope[:, :, few].double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 0.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_one_row_takes_part_where_none_needs_it_and_leaves_no_trace(net, data, alpha, ratio):
    """Where an evaluation is a collective no process may stay away because none of its rows needs it."""
    nowhere = Guidance(null=NULL, omega=2.0, t_min=0.999, t_max=1.0)
    counting = Counting(net)
    settings = {"alpha": alpha, "flow_ratio": ratio, "derivative": "forward"}
    guided = AlphaFlow(**settings, guidance=nowhere)(counting, *data, generator=keyed())
    assert counting.rows == [1, 12, 1 if ratio == 1 else 6]
    assert_same(guided.per_sample, AlphaFlow(**settings)(net, *data, generator=keyed()).per_sample)
    if ratio == 1:
        plain = AlphaFlow(alpha=1.0, flow_ratio=1.0)(net, *data, generator=keyed())
        assert_same(guided.per_sample, plain.per_sample)
