"""The ImageNet recipes against the loss of α-Flow's release, written anew from what is known of its behaviour.

One row after another, in float64, in the release's own terms: a step dt = α (t - r) down to s, the target as the
mean of ṽ over dt and of u⁻ over the rest. Nothing of the package is used to compute it but the random numbers.
"""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from alphaflow.method.family import AlphaFlow, MeanFlow
from alphaflow.method.guidance import Guidance
from alphaflow.recipes import RECIPES
from alphaflow.rng import KeyedRandom
from alphaflow.runs.build import build_objective
from reference import SmallNet, gradient, slope_in_time

ROWS, SHAPE, CLASSES = 32, (2, 3, 3), 1000
RELEASED = [name for name in RECIPES if name.startswith("imagenet") and not RECIPES[name].twin_of]
TWINS = [f"{name}-{member}" for name in RELEASED if name != "imagenet-xl2-plus" for member in ("meanflow", "fm")]


def released_loss(
    net: nn.Module, x: Tensor, noise: Tensor, y: Tensor, out, alpha: float, ours, lost: Tensor
) -> Tensor:
    """The mean over rows; `ours` are the recipe's settings, `lost` the rows that would lose their label."""
    rows = []
    for i in range(len(x)):
        x_i, e_i, y_i = x[i : i + 1], noise[i : i + 1], y[i : i + 1]
        r, t = out.r[i : i + 1], out.t[i : i + 1]
        z = x_i * (1 - t) + e_i * t
        velocity = e_i - x_i
        if ours.label_drop and ours.guide_from < t < ours.guide_to:
            if lost[i]:
                y_i = torch.full_like(y_i, CLASSES)  # for all that follows, the guidance included
            guided = ours.omega * velocity
            with torch.no_grad():
                if ours.kappa:
                    guided = guided + ours.kappa * net(z, t, t, y_i)
                rest = 1 - ours.omega - ours.kappa
                if rest:
                    guided = guided + rest * net(z, t, t, torch.full_like(y_i, CLASSES))
            velocity = guided
        scale = 1.0
        if torch.isclose(r, t):
            target = velocity
        elif alpha == 0:
            target = velocity - (t - r) * slope_in_time(net, z, velocity, r, t, y_i)
        else:
            dt = alpha * (t - r)
            s = t - dt
            with torch.no_grad():
                beyond = net(z - dt * velocity, r, s, y_i)
            target = ((dt * velocity + (s - r) * beyond) / (t - r)).clamp(-4, 4)
            scale = alpha
        square = (net(z, r, t, y_i) - target.detach()).square().mean()
        rows.append(scale * square / (square.detach() + 1e-3))
    return torch.stack(rows).mean()


def wide_net() -> SmallNet:
    """Its own velocities, too, go beyond ±4."""
    net = SmallNet(dim=18, classes=CLASSES, seed=4)
    with torch.no_grad():
        net.last.weight.mul_(30)
    return net


def points() -> tuple[Tensor, Tensor, Tensor]:
    """Data so wide that targets are cut at ±4, the noise that the objective will draw, labels."""
    source = torch.Generator().manual_seed(11)
    x = 8 * torch.randn(ROWS, *SHAPE, generator=source, dtype=torch.float64)
    noise = KeyedRandom(3, torch.arange(ROWS)).normal("noise", SHAPE).double()
    return x, noise, torch.randint(CLASSES, (ROWS,), generator=source)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.01, 0.0])
@pytest.mark.parametrize("name", [*RELEASED, *TWINS])
def test_loss_and_gradient_are_the_releases(name: str, alpha: float) -> None:
    recipe = RECIPES[name]
    ours = dataclasses.replace(recipe.config.objective, label_drop=3 * recipe.config.objective.label_drop)
    objective = build_objective(dataclasses.replace(recipe.config, objective=ours), CLASSES)
    # The twins' targets are not cut where their own α leaves nothing to cut.
    objective = dataclasses.replace(objective, alpha=alpha, clip=4.0)
    net, (x, noise, y) = wide_net(), points()
    lost = KeyedRandom(3, torch.arange(ROWS)).uniform("drop") < ours.label_drop

    out = objective(net, x, y, generator=KeyedRandom(3, torch.arange(ROWS)))
    expected = released_loss(net, x, noise, y, out, alpha, ours, lost)
    torch.testing.assert_close(out.loss, expected, rtol=1e-11, atol=0)
    a, b = gradient(out.loss, net), gradient(expected, net)
    assert ((a - b).norm() / b.norm()).item() < 1e-10

    # ... which is no accident of a setting that does nothing here.
    inside = (out.t > ours.guide_from) & (out.t < ours.guide_to)
    if ours.label_drop:
        assert 2 < int((lost & inside).sum()) < int(inside.sum())
    if ours.guide_to < 1:
        assert (~inside).any()
    if alpha and objective.flow_ratio < 1:
        uncut = dataclasses.replace(objective, clip=None)(net, x, y, generator=KeyedRandom(3, torch.arange(ROWS)))
        differ = ~torch.isclose(uncut.residual, out.residual)
        assert int(differ.sum()) > 4 and not differ[out.r == out.t].any()


def test_dropped_rows_differ_between_the_release_and_meanflows_code() -> None:
    """Where ω = 1 the two agree; elsewhere the release's residual of such a row is ω times the other's."""
    net, (x, _, y) = wide_net(), points()
    lost = KeyedRandom(3, torch.arange(ROWS)).uniform("drop") < 0.3
    for omega, same in ((1.0, True), (0.2, False)):
        plain, guided = (
            AlphaFlow(
                alpha=0.5,
                flow_ratio=1.0,
                guidance=Guidance(null=CLASSES, omega=omega, kappa=0.6, drop=0.3, guide_dropped=guide),
            )(net, x, y, generator=KeyedRandom(3, torch.arange(ROWS)))
            for guide in (False, True)
        )
        torch.testing.assert_close(plain.residual[~lost], guided.residual[~lost], rtol=1e-12, atol=0)
        # u(z, t, t, ∅) - (ω v + (1 - ω) u⁻(z, t, t, ∅)) = ω (u - v)
        torch.testing.assert_close(guided.residual[lost], plain.residual[lost] * omega**2, rtol=1e-10, atol=0)
        assert torch.allclose(plain.residual, guided.residual) == same


@pytest.mark.parametrize("where", ["interval", "everywhere", "flow"])
def test_labels_drop_where_it_is_said(where: str) -> None:
    """A fifth of all rows, of which half have r = t: inside the interval, anywhere, or where r = t alone."""
    rows = 4000
    guidance = Guidance(null=CLASSES, omega=2.0, t_min=0.3, t_max=0.7, drop=0.2, drop_where=where)
    x, y = torch.zeros(rows, 1), torch.zeros(rows, dtype=torch.int64)
    objective = MeanFlow(flow_ratio=0.5, guidance=guidance)
    draw = objective.draw(lambda z, r, t, y: z, x, y, generator=KeyedRandom(0, torch.arange(rows)))
    lost, inside, flow = draw.y == CLASSES, (draw.t > 0.3) & (draw.t < 0.7), draw.r == draw.t
    may = {"interval": inside, "everywhere": torch.ones(rows) > 0, "flow": flow}[where]
    assert not lost[~may].any()
    share = 0.4 if where == "flow" else 0.2  # of the rows that may: 20 % of all
    assert lost[may].double().mean().item() == pytest.approx(share, abs=0.03)
    noise = KeyedRandom(0, torch.arange(rows)).normal("noise", (1,))
    plain = (draw.v == noise)[:, 0]  # the data's velocity: x is 0
    assert torch.equal(plain, lost | ~inside)
    half = objective.draw(
        lambda z, r, t, y: z, x[2000:], y[2000:], generator=KeyedRandom(0, torch.arange(2000, rows)), flow_rows=0
    )
    if where != "flow":
        assert torch.equal(half.y, draw.y[2000:])  # each row's own, whatever its company
    else:
        assert not (half.y == CLASSES).any()


def test_labels_that_drop_where_r_is_t_need_such_rows() -> None:
    guidance = Guidance(null=CLASSES, drop_where="flow")
    with pytest.raises(ValueError, match="flow_ratio 0 has no such rows"):
        MeanFlow(flow_ratio=0.0, guidance=guidance)
    with pytest.raises(ValueError, match="needs to know those rows"):
        guidance(
            lambda z, r, t, y: z,
            torch.zeros(4, 1),
            torch.zeros(4, 1),
            torch.rand(4),
            torch.zeros(4).long(),
            KeyedRandom(0, torch.arange(4)),
        )
    with pytest.raises(ValueError, match="unknown drop_where 'flows': did you mean 'flow'"):
        Guidance(null=4, drop_where="flows")
