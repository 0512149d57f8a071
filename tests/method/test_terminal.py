"""Terminal velocity matching: its loss and its whole gradient row by row, its zero, its times, its refusals."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from alphaflow.derivatives.graphed import graphed_slope
from alphaflow.errors import UserError
from alphaflow.method.compiled import Compiled
from alphaflow.method.family import TVM, Lagrangian
from alphaflow.method.guidance import Guidance
from alphaflow.method.times import LogitNormal
from alphaflow.models import DiT
from alphaflow.rng import KeyedRandom
from drawn import NULL, ROWS, assert_same, keyed, on_path
from reference import GaussianFlow, SmallNet, gradient

FLOW = GaussianFlow(torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.3, 1.0, 1.5]).double())


def loss_by_rows(net: nn.Module, x: Tensor, y: Tensor, out, teacher=None) -> Tensor:
    """‖u - (t - r) ∂u/∂r - ū(z_r, r, r)‖² by the full Jacobian in r, where r = t ‖u - v‖², (B,)."""
    z, v = on_path(x, out)
    losses = []
    for i in range(len(x)):
        one = slice(i, i + 1)
        r, t = out.r[one], out.t[one]
        u, target = net(z[one], r, t, y[one]), v[one]
        if r < t:
            jacobian = torch.autograd.functional.jacobian(
                lambda s: net(z[one], s, t, y[one])[0],  # noqa: B023
                r,
                create_graph=True,
            )
            speed = u - (t - r) * jacobian[:, 0]
            arrived = (z[one] - (t - r) * u).detach()
            target = (teacher or net)(arrived, r, r, y[one]).detach()
            losses.append((speed - target).square().mean())
        else:
            losses.append((u - target).square().mean())
    return torch.stack(losses)


@pytest.mark.parametrize("derivative", ["auto", "forward", "reverse", "difference"])
def test_loss_and_gradient_are_those_of_the_papers_residual_row_by_row(net, data, derivative):
    """Through u and ∂u/∂r alike: the second derivative by r and the weights is in it."""
    x, y = data
    out = TVM(derivative=derivative)(net, x, y, generator=keyed())
    expected = loss_by_rows(net, x, y, out)
    assert int((out.r < out.t).sum()) == ROWS // 2
    tolerance = 1e-6 if derivative == "difference" else 1e-10
    assert_same(out.per_sample, expected.detach(), tolerance)
    assert_same(gradient(out.loss, net), gradient(expected.mean(), net), tolerance)


def test_the_gradient_is_another_than_that_through_u_alone(net, data):
    """On the same rows the losses are equal, for the errors are; the gradients differ."""
    settings = {key: getattr(TVM(), key) for key in ("times", "flow_ratio")}
    whole, half = (member(**settings)(net, *data, generator=keyed()) for member in (TVM, Lagrangian))
    assert_same(whole.residual, half.residual)
    ours, theirs = gradient(whole.loss, net), gradient(half.loss, net)
    assert (ours - theirs).norm() > 0.01 * theirs.norm()


class Stretched(nn.Module):
    """The exact average velocity of Gaussian data, plus c (t - r): exact at c = 0, and on r = t rows at any."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return FLOW(z, r, t) + self.c * (t - r)[:, None]


@pytest.mark.parametrize("member", [TVM, Lagrangian])
def test_the_exact_average_velocity_has_no_error_and_others_have(member):
    """Both forms have one zero set: a term c (t - r) gives u - (t - r) ∂u/∂r - v an error of order c."""
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)).double()
    found = {}
    for c in (0.0, 1e-2):
        net = Stretched(c)
        out = member(teacher=FLOW, flow_ratio=0.25, derivative="forward")(net, x, generator=keyed())
        found[c] = out.residual[3:]
        assert gradient(out.loss, net).abs().item() < 1e-14 or c
    assert found[0.0].max() < 1e-24
    assert found[1e-2].min() > 1e-8


def test_where_r_comes_to_t_the_error_is_that_of_flow_matching_itself(net, data):
    """u - (t - r) ∂u/∂r - ū(z_r, r, r) → 0 for any u, at first order of t - r."""
    x, y = data
    points = TVM(flow_ratio=0.0, teacher=FLOW).draw(net, x, y, generator=keyed())
    errors = []
    for gap in (1e-2, 1e-3):
        near = dataclasses.replace(points, r=points.t - gap)
        out = TVM().evaluate(net, near)
        errors.append(out.residual.max().sqrt().item())
    assert errors[0] < 0.3 and errors[1] / errors[0] == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("member", [TVM, Lagrangian])
def test_a_teacher_says_the_velocity_at_the_end_and_rows_without_data_suffice(net, data, member):
    """Lagrangian distillation (AYF): flow_ratio may be 0 with a teacher; without one u = 0 would fit all."""
    x, y = data
    out = member(teacher=FLOW, flow_ratio=0.0)(net, x, y, generator=keyed())
    assert bool((out.r < out.t).all())
    assert_same(out.residual, loss_by_rows(net, x, y, out, FLOW).detach())
    with pytest.raises(ValueError, match="never sees the data"):
        member(flow_ratio=0.0)
    with pytest.raises(ValueError, match="never sees the data"):  # guided, v is another than the teacher's
        member(flow_ratio=0.0, teacher=FLOW, guidance=Guidance(null=NULL, omega=2.0))
    guided = member(teacher=FLOW, guidance=Guidance(null=NULL, omega=2.0, drop=0.0))
    assert guided.rule.teacher is None


def test_times_are_drawn_by_the_gap():
    """t - r is σ(N(-0.8, 1)) exactly; r then is σ(N(-0.4, 1)) cut to where it leaves room."""
    rows = 20_000
    r, t = TVM().times.draw(KeyedRandom(0, torch.arange(rows)))
    assert bool((r <= t).all()) and t.max() <= 1 and r.min() >= 0
    gap, law = t - r, LogitNormal()
    share = law.cdf(r) / law.cdf(1 - gap)  # uniform, and independent of the gap
    for values in (LogitNormal(-0.8).cdf(gap), share):
        ranks = (torch.arange(rows) + 0.5).double() / rows
        assert (values.sort().values - ranks).abs().max() < 1.95 / rows**0.5  # Kolmogorov-Smirnov at 0.1 %
    assert abs(torch.corrcoef(torch.stack([gap, share]))[0, 1]) < 0.03
    t_flow = TVM().times.draw(KeyedRandom(0, torch.arange(rows)), rows)[1]
    assert (law.cdf(t_flow).sort().values - ranks).abs().max() < 1.95 / rows**0.5


def test_guidance_is_where_the_data_are(net, data):
    """ω v + (1 - ω) u⁻(z, t, t | ∅) on the rows with r = t, as TVM has it."""
    x, y = data
    guidance = Guidance(null=NULL, omega=2.0, drop=0.0)
    points = TVM(guidance=guidance).draw(net, x, y, generator=keyed())
    plain = TVM().draw(net, x, y, generator=keyed())
    none = net(points.z, points.t, points.t, torch.full_like(y, NULL))
    assert_same(points.v, (2 * plain.v - none).detach())


class Dropping(nn.Module):
    """With dropout, which u, ∂u/∂r and ū must share."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.drop = SmallNet(), nn.Dropout(0.5)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.drop(torch.ones(len(z), 3).double()) * self.net(z, r, t, y)


def test_dropout_is_the_same_in_all_of_a_row_by_every_way(data):
    """Were a mask drawn anew for each of two evaluations, their difference over h would be of order 1 / h."""
    x, y = data
    net, found = Dropping().train(), []
    for derivative in ("forward", "difference"):
        torch.manual_seed(0)
        found.append(TVM(derivative=derivative, flow_ratio=0.25)(net, x, y, generator=keyed()).residual)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-9)
    points = TVM(flow_ratio=0.25).draw(net, x, y, generator=keyed())
    out = TVM().evaluate(net, dataclasses.replace(points, r=points.t - 1e-6))
    assert out.residual[3:].max() < 1e-9  # u and ū at r = t are one number under one mask


def test_a_transformer_has_a_gradient_through_the_slope_by_forward_mode_as_by_differences():
    """Attention, normalisation and modulation have second derivatives by r and the weights."""
    torch.manual_seed(0)
    net = DiT(input_size=(4, 4), patch=2, channels=1, width=16, depth=2, heads=2, num_classes=3).double()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2)
    z, r, t = (
        torch.randn(3, 1, 4, 4).double(),
        torch.tensor([0.1, 0.2, 0.3]).double(),
        torch.full((3,), 0.8).double(),
    )
    slopes = []
    for method in ("forward", "reverse", "difference"):
        u, slope = graphed_slope(lambda s: net(z, s, t, torch.arange(3)), r, method)
        assert_same(u, net(z, r, t, torch.arange(3)))
        slopes.append(gradient(slope.square().sum(), net))
    assert slopes[0].norm() > 1e-3
    assert_same(slopes[1], slopes[0], 1e-8)
    assert (slopes[2] - slopes[0]).norm() < 1e-7 * slopes[0].norm()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 0.5}, "goes with shift 'end' and alpha 0, not 'end' and 0.5"),
        ({"shift": "model"}, "not 'model' and 0"),
        ({"derivative": "fused"}, "derivative 'fused' does not keep: choose 'auto'"),
        ({"trust": 0.5}, "trust, relaxation or max_change"),
        ({"relaxation": 0.5}, "trust, relaxation or max_change"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TVM(**settings)


def test_compiling_it_whole_is_refused():
    with pytest.raises(UserError, match=r"\(tvm\) is not compiled whole: leave compile out"):
        Compiled(TVM())
