"""Tangents for distillation, blended and warmed up; teachers led away from weaker ones; noise given with data."""

import pytest
import torch
from torch._dynamo.utils import counters

import alphaflow as af
from alphaflow import schedules
from alphaflow.method.compiled import Compiled
from alphaflow.method.family import FlowMatching, ImprovedMeanFlow, MeanFlow, TrajectoryFlowMatching
from alphaflow.method.guidance import Autoguided
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.targets import target_of
from alphaflow.method.times import Times
from alphaflow.path import Points
from alphaflow.runs.build import build_objective
from alphaflow.runs.config import Config, ObjectiveConfig
from drawn import PLAIN, ROWS, assert_same, keyed, noise_of, on_path
from reference import GaussianFlow, SmallNet, gradient, slope_in_time

# --- the tangent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blend", [0.0, 0.3, 0.94, 1.0])
def test_the_blended_tangent_row_by_row(net, data, blend):
    """du/dt along (1 - β) v + β u⁻(z, t, t); the target keeps v."""
    x, y = data
    out = ImprovedMeanFlow(blend=blend, **PLAIN)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    rows = []
    for i in range(ROWS):
        row = slice(i, i + 1)
        r, t = out.r[row], out.t[row]
        tangent = (1 - blend) * v[row] + blend * net(z[row], t, t, y[row]).detach()
        target = v[row] - (t - r) * slope_in_time(net, z[row], tangent, r, t, y[row])
        rows.append((net(z[row], r, t, y[row]) - target.detach()).square().mean())
    assert_same(out.residual, torch.stack(rows).detach())
    assert_same(gradient(out.loss, net), gradient(torch.stack(rows).mean(), net))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_ends_of_the_blend_are_the_shifts_data_and_velocity(net, data, alpha):
    def loss(**settings):
        return AlphaFlow(alpha=alpha, **settings)(net, *data, generator=keyed()).residual

    assert_same(loss(shift="velocity", blend=0.0), loss(shift="data"))
    assert torch.equal(loss(shift="velocity", blend=1.0), loss(shift="velocity"))
    assert not torch.isclose(loss(shift="velocity", blend=0.5)[3:], loss(shift="data")[3:]).any()


def test_targets_are_linear_in_the_blend_so_that_their_mean_is_the_same_where_the_network_knows_v(net, batch):
    """E[v | z] = u(z, t, t) makes the mean tangent independent of β: the target is affine in tangent and v."""
    z, v, r, t, y = batch
    own = net(z, t, t, y).detach()
    targets = {}
    for sign in (1, -1):  # two samples through z whose mean velocity is the network's own
        points = Points(z, own + sign * v, r, t, y)
        for blend in (0.0, 0.5, 1.0):
            objective = AlphaFlow(alpha=0.0, shift="velocity", blend=blend)
            targets.setdefault(blend, []).append(target_of(net, points, objective.rule))
    means = [sum(pair) / 2 for pair in targets.values()]
    spreads = [float((pair[0] - pair[1]).norm()) for pair in targets.values()]
    assert_same(means[1], means[0], 1e-9)
    assert_same(means[2], means[0], 1e-9)
    assert len({round(spread, 6) for spread in spreads}) == 3


# --- trust -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [0.0, 0.3, 1.0])
def test_the_warm_up_is_v_less_a_share_of_the_derivative(net, data, trust):
    x, y = data
    out = MeanFlow(trust=trust, flow_ratio=0.25, **PLAIN)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    rows = []
    for i in range(ROWS):
        row = slice(i, i + 1)
        r, t = out.r[row], out.t[row]
        target = v[row] - trust * (t - r) * slope_in_time(net, z[row], v[row], r, t, y[row])
        rows.append((net(z[row], r, t, y[row]) - target.detach()).square().mean())
    assert_same(out.residual, torch.stack(rows).detach())
    assert_same(gradient(out.loss, net), gradient(torch.stack(rows).mean(), net))


def test_a_warm_up_goes_from_trajectory_flow_matching_to_the_member(net, data):
    def loss(member, step, **settings):
        return member(flow_ratio=0.25, times=Times(), **PLAIN, **settings)(
            net, *data, step=step, generator=keyed()
        ).loss

    warm = schedules.linear(0, 1000, first=0, last=1)
    assert_same(loss(MeanFlow, 0, trust=warm), loss(TrajectoryFlowMatching, 0))
    for step in (1000, 5000):
        assert torch.equal(loss(MeanFlow, step, trust=warm), loss(MeanFlow, step))
    assert loss(MeanFlow, 500, trust=warm) == loss(MeanFlow, 0, trust=0.5)


def test_a_warm_up_compiles_to_one_graph_and_one_more_when_it_is_over(net, data):
    torch._dynamo.reset()
    counters.clear()
    objective = MeanFlow(derivative="fused", trust=schedules.linear(0, 4, first=0, last=1))
    compiled = Compiled(objective, backend="aot_eager")
    for step in range(6):
        ours, eager = (
            one(net, *data, step=step, generator=torch.Generator().manual_seed(step)).per_sample
            for one in (compiled, objective)
        )
        assert_same(ours, eager)
    assert counters["stats"]["unique_graphs"] == 2


# --- the teacher -------------------------------------------------------------------------------------------------


def test_autoguidance_leads_away_from_the_weaker_network(net, batch):
    z, _, r, t, y = batch
    weak = SmallNet(seed=1)
    strong_u, weak_u = net(z, r, t, y), weak(z, r, t, y)
    assert_same(Autoguided(net, weak, 1.0)(z, r, t, y), strong_u)
    assert_same(Autoguided(net, net, 2.5)(z, r, t, y), strong_u)
    assert_same(Autoguided(net, weak, 2.5)(z, r, t, y), weak_u + 2.5 * (strong_u - weak_u))
    with pytest.raises(ValueError, match=r"scale 0\.5 must be at least 1"):
        Autoguided(net, weak, 0.5)


def test_distilled_from_an_exact_teacher_the_exact_flow_has_no_error(data):
    """AYF's: MeanFlow on a teacher's velocities with a normalised tangent, at u* at any trust of 1 and blend."""
    mean, std = (torch.tensor(row, dtype=torch.float64) for row in ([0.5, -1.0, 2.0], [0.3, 1.0, 1.5]))
    exact = GaussianFlow(mean, std)
    weight = af.Weight(kind="normalised")
    for blend in (0.0, 0.5):
        objective = MeanFlow(
            teacher=Autoguided(exact, exact, 2.0), shift="velocity", blend=blend, weight=weight, flow_ratio=0.25
        )
        assert objective(exact, data[0], generator=keyed()).residual.max() < 1e-18
    early = MeanFlow(teacher=exact, trust=0.5, flow_ratio=0.25)(exact, data[0], generator=keyed())
    assert early.residual[3:].min() > 1e-8  # while it warms up, the exact flow is not its own target


# --- noise that goes with the data -------------------------------------------------------------------------------


def test_noise_that_is_given_takes_the_place_of_what_would_be_drawn(net, data):
    x, y = data
    for objective in (AlphaFlow(alpha=0.3), FlowMatching()):
        drawn = objective(net, x, y, generator=keyed())
        given = objective(net, x, y, generator=keyed(), noise=noise_of(x))
        assert torch.equal(given.loss, drawn.loss) and torch.equal(given.t, drawn.t)
    noise = noise_of(x).flip(0)
    points = AlphaFlow().draw(net, x, y, generator=keyed(), noise=noise)
    assert torch.equal(points.v, noise - x)
    with pytest.raises(ValueError, match="noise has shape"):
        AlphaFlow().draw(net, x, y, noise=noise[:, :2])


def test_on_pairs_of_the_exact_flow_the_velocities_of_a_path_do_not_cross(data):
    """Re-MeanFlow's: x made from its noise by an exact flow. Straight ways between such pairs of one Gaussian are
    an affine function of z, so that the exact straight flow has no error at all, as on single noise it has."""
    noise = noise_of(data[0])
    x = 0.5 + 0.3 * noise

    def straight(z, r, t, y=None):
        scale = (1 - t) * 0.3 + t
        return (0.7 * (z - 0.5 * (1 - t[:, None])) / scale[:, None]) - 0.5

    paired = MeanFlow(flow_ratio=0.25)(straight, x, generator=keyed(), noise=noise)
    alone = MeanFlow(flow_ratio=0.25)(straight, x, generator=keyed(4))
    assert paired.residual.max() < 1e-18 and alone.residual.min() > 1e-4


# --- words and refusals ------------------------------------------------------------------------------------------


def test_the_command_line_says_blend_and_trust():
    ours = ObjectiveConfig(name="imeanflow", blend=0.25, trust="linear(0%, 50%, first=0, last=1)")
    built = build_objective(Config(steps=10, objective=ours), 0)
    assert built.blend == 0.25 and [built.trust(k) for k in (0, 5, 9)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"blend": 0.5}, "blend 0.5 goes with shift 'velocity', not 'data'"),
        ({"blend": 1.5, "shift": "velocity"}, "blend 1.5 must lie"),
        ({"trust": 1.5}, "trust 1.5 lies outside"),
        ({"trust": schedules.linear(0, 10, first=2.0)}, "trust 2 lies outside"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        AlphaFlow(**settings)
