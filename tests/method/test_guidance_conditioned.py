"""Guidance's scale and interval as inputs of the network: what is drawn, what is learned, what is told."""

import math

import pytest
import torch
from torch import Tensor

from alphaflow import models
from alphaflow.method.compiled import Compiled
from alphaflow.method.family import MEMBERS, FlowMatching
from alphaflow.method.guidance import Guidance, GuidanceConditioned, with_guidance
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.weighting import Weight
from alphaflow.models import DiT, Network
from alphaflow.path import expand, interpolate
from alphaflow.rng import KeyedRandom
from drawn import NULL, ROWS, assert_same, keyed
from reference import Counting, GaussianFlow, SmallNet

MEANS, STD = (-1.0, 1.5), 0.4
"""Two classes of one-dimensional Gaussians, equally frequent."""


class Listening(SmallNet):
    """Its output depends on every column of (B, 4) labels; classes alone mean scale 1 and (0, 1)."""

    def forward(self, z, r, t, y=None):
        y = with_guidance(y, 1.0, null=self.null, dtype=z.dtype) if y.ndim == 1 else y
        told = (y[:, 1] - 1).sin() + 2 * y[:, 2] * y[:, 3]
        return super().forward(z, r, t, y[:, 0].long()) * (1 + expand(told, z))


def velocity_of(k: int, z: Tensor, t: Tensor) -> Tensor:
    """u(z, t, t) of class k."""
    return GaussianFlow(torch.tensor([MEANS[k]]), torch.tensor([STD]))(z, t, t)


def unconditional(z: Tensor, t: Tensor) -> Tensor:
    """The classes' velocities, each as likely as z makes its class."""
    variance = (1 - t) ** 2 * STD**2 + t**2
    logs = torch.stack([-((z[:, 0] - (1 - t) * mean) ** 2) / (2 * variance) for mean in MEANS], dim=1)
    share = logs.softmax(1)
    return sum(share[:, k : k + 1] * velocity_of(k, z, t) for k in range(2))


class ExactlyGuided:
    """Knows the velocity that guidance asks for: v_∅ + scale (v_c - v_∅) within the interval, else v_c."""

    def __call__(self, z, r, t, y):
        free = unconditional(z, t)
        own = torch.where(y[:, :1] == 0, velocity_of(0, z, t), velocity_of(1, z, t))
        inside = (t > y[:, 2]) & (t < y[:, 3])
        guided = free + torch.where(inside, y[:, 1], 1.0)[:, None] * (own - free)
        return torch.where(y[:, :1] == 2, free, guided)


def points(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """z, t and classes."""
    source = torch.Generator().manual_seed(2)
    z, t = torch.randn(rows, 1, generator=source).double(), torch.rand(rows, generator=source).double()
    return z, t, torch.arange(rows) % 2


# --- the target --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.0, 0.5, 0.9])
def test_the_guided_velocity_is_a_fixed_point_for_every_scale_and_interval(kappa):
    """Where v is its mean, v_c, the target of the network that is right is that network, whatever κ."""
    z, t, y = points(400)
    own = torch.where((y == 0)[:, None], velocity_of(0, z, t), velocity_of(1, z, t))
    guidance = Guidance(null=2, kappa=kappa, scales=(1.0, 6.0), intervals=True, drop=0.0)
    target, told = guidance(ExactlyGuided(), z, own, t, y, KeyedRandom(1, torch.arange(400)))
    assert_same(target, ExactlyGuided()(z, t, t, told))
    assert (target - own).abs().max() > 0.5


@pytest.mark.parametrize("guided", [False, True])
def test_rows_with_dropped_labels_have_their_own_fixed_point_guided_or_not(guided):
    """Where v is its mean, v_∅; guided they see (1 - κ) v + κ u⁻(z, t, t | ∅), since they are told scale 1."""
    z, t, y = points(400)
    v = unconditional(z, t) + 1
    guidance = Guidance(null=2, kappa=0.4, scales=(1.0, 6.0), drop=1.0, guide_dropped=guided)
    target, told = guidance(ExactlyGuided(), z, v, t, y, KeyedRandom(1, torch.arange(400)))
    assert told.tolist() == [[2, 1, 0, 1]] * 400
    assert_same(target, unconditional(z, t) + (0.6 if guided else 1))


def test_each_row_is_guided_by_its_own_scale_in_its_own_interval():
    rows, kappa = 300, 0.3
    net, (z, t, y) = Listening(dim=1, classes=4), points(rows)
    v = torch.randn(rows, 1, generator=torch.Generator().manual_seed(3)).double()
    random = KeyedRandom(5, torch.arange(rows))
    guidance = Guidance(null=NULL, kappa=kappa, scales=(1.0, 4.0), intervals=True, drop=0.3)
    target, told = guidance(net, z, v, t, y, random)
    dropped = random.uniform("drop") < 0.3
    seen = set()
    for i in range(rows):
        row = slice(i, i + 1)
        label, scale, start, end = told[i].tolist()
        if dropped[i]:
            assert (label, scale, start, end) == (NULL, 1, 0, 1)
        else:
            assert label == y[i] and 1 < scale < 4 and 0 < start < 0.5 < end < 1
        expected = v[row]
        if not dropped[i] and start < t[i] < end:
            omega, none = scale * (1 - kappa), torch.tensor([NULL])
            with torch.no_grad():
                own, free = net(z[row], t[row], t[row], told[row]), net(z[row], t[row], t[row], none)
            expected = omega * v[row] + kappa * own + (1 - omega - kappa) * free
        assert_same(target[row], expected)
        seen.add((bool(dropped[i]), bool(start < t[i] < end)))
    assert seen == {(True, True), (False, True), (False, False)}  # dropped rows are told the whole interval


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("kappa", [0.0, 0.4])
def test_one_scale_is_todays_guidance(alpha, kappa, net, data):
    """A network that does not listen has the same loss, and one told 3 learns what one for scale 3 learns."""

    def deaf(z, r, t, y):
        return net(z, r, t, y[:, 0].long() if y.ndim == 2 else y)

    fixed = {"null": NULL, "kappa": kappa, "t_min": 0.1, "t_max": 0.8, "drop": 0.2}
    plain = AlphaFlow(alpha=alpha, guidance=Guidance(omega=3 * (1 - kappa), **fixed))
    told = AlphaFlow(alpha=alpha, guidance=Guidance(scales=(3.0, 3.0), **fixed))
    expected = plain(net, *data, generator=keyed())
    found = told(deaf, *data, generator=keyed())
    assert_same(found.per_sample, expected.per_sample)
    labels = told.draw(deaf, *data, generator=keyed()).y
    dropped = labels[:, 0] == NULL
    assert 0 < dropped.sum() < ROWS
    assert labels[~dropped, 1:].unique(dim=0).tolist() == [[3, 0, 1]]


def test_scales_are_log_uniform_and_intervals_uniform():
    rows = 20_000
    guidance = Guidance(null=2, scales=(1.0, 9.0), intervals=True, drop=0.0)
    z, t = torch.zeros(rows, 1), torch.full((rows,), 0.5)
    random = KeyedRandom(0, torch.arange(rows))
    _, told = guidance(lambda z, r, t, y: z, z, z, t, torch.zeros(rows).long(), random)
    shares = [told[:, 1].log() / math.log(9), 2 * told[:, 2], 2 * told[:, 3] - 1]
    for share in shares:
        assert torch.histc(share, 10, 0, 1).div(rows).sub(0.1).abs().max() < 0.01
    assert torch.corrcoef(torch.stack(shares)).sub(torch.eye(3)).abs().max() < 0.03


def test_the_network_runs_once_for_guidance_and_on_the_rows_concerned():
    net, (z, t, y) = Counting(Listening(dim=1)), points(200)
    random = KeyedRandom(0, torch.arange(200))
    guidance = Guidance(null=NULL, kappa=0.5, scales=(1.0, 4.0), intervals=True)
    _, told = guidance(net, z, z, t, y, random)
    many = int(((told[:, 0] != NULL) & (t > told[:, 2]) & (t < told[:, 3])).sum())
    assert net.rows == [2 * many] and many < 200
    own, free = net.calls[0]["y"].chunk(2)
    assert free.unique(dim=0).tolist() == [[NULL, 1, 0, 1]] and set(own[:, 0].tolist()) == {0, 1}
    guidance(net, z, z, torch.zeros(200), y, random)
    assert net.rows[1:] == [2]  # of a collective nobody stays away


def test_a_row_draws_the_same_in_any_company(data):
    x, y = data
    objective = AlphaFlow(alpha=0.0, guidance=Guidance(null=NULL, kappa=0.3, scales=(1.0, 4.0), intervals=True))
    net, ids = Listening(), torch.arange(ROWS)
    whole = objective(net, x, y, generator=KeyedRandom(3, ids), flow_rows=4)
    for part, flow in ((slice(0, 5), 4), (slice(5, None), 0)):
        out = objective(net, x[part], y[part], generator=KeyedRandom(3, ids[part]), flow_rows=flow)
        assert_same(out.residual, whole.residual[part])


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_learns_from_told_labels(name, data):
    """Its gradient reaches the embedding of guidance, which begins at zero."""
    x, y = data
    net = models.MLP(3, 16, 1, 4, guided=True).double()
    guidance = Guidance(null=NULL, kappa=0.3, scales=(1.0, 4.0), intervals=True)
    MEMBERS[name](guidance=guidance)(net, x, y, generator=keyed()).loss.backward()
    assert net.guide_embedder.mlp[2].weight.grad.norm() > 1e-6


def test_compiled_it_is_the_same():
    net = models.MLP(3, 8, 1, 4, guided=True)
    torch.nn.init.normal_(net.guide_embedder.mlp[2].weight)
    x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4
    guidance = Guidance(null=NULL, scales=(1.0, 4.0), intervals=True)
    objective = AlphaFlow(alpha=0.0, guidance=guidance)
    results = [
        one(net, x, y, generator=KeyedRandom(0, torch.arange(8))).per_sample
        for one in (objective, Compiled(objective, backend="aot_eager"))
    ]
    torch.testing.assert_close(*results)


# --- the network -------------------------------------------------------------------------------------------------


def dit(**settings) -> DiT:
    torch.manual_seed(0)
    net = DiT(8, 4, 1, 16, 1, 2, 300, **settings)
    for name, weight in net.named_parameters():
        if not name.startswith("guide_embedder"):
            torch.nn.init.normal_(weight, std=0.2)
    return net


def rows_of(net: Network, count: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(4)
    z = torch.randn(count, *net.shape, generator=source)
    return z, torch.zeros(count), torch.rand(count, generator=source), 295 + torch.arange(count)


@pytest.mark.parametrize("half", [False, True])
def test_at_first_it_says_the_same_for_all_scales_and_is_the_network_without_them(half):
    guided, plain = dit(guided=True), dit()
    weights = guided.state_dict()
    extra = {name for name in weights if name not in plain.state_dict()}
    assert {name.split(".")[0] for name in extra} == {"guide_embedder"}
    plain.load_state_dict({name: weight for name, weight in weights.items() if name not in extra})
    z, r, t, y = rows_of(guided)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected = plain(z, r, t, y)
        for labels in (y, with_guidance(y, 1.0, null=300), with_guidance(y, 4.0, 0.2, 0.9, null=300)):
            assert torch.equal(guided(z, r, t, labels), expected)
        assert torch.equal(guided(z, r, t), plain(z, r, t))
    assert not torch.equal(expected, plain(z, r, t, y - 1))


def test_once_trained_it_hears_every_number_and_rows_keep_to_themselves():
    net = dit(guided=True)
    torch.nn.init.normal_(net.guide_embedder.mlp[2].weight)
    z, r, t, y = rows_of(net)
    plain = net(z, r, t, y)
    assert torch.equal(net(z, r, t, with_guidance(y, 1.0, null=300)), plain)  # what classes alone mean
    assert torch.equal(GuidanceConditioned(net, 300, 1.0)(z, r, t, y), plain)
    y[-1] = 300
    labels = with_guidance(y, torch.linspace(1.5, 4, 6), 0.3, 0.7, null=300)
    out = net(z, r, t, labels)
    for column in (1, 2, 3):
        other = labels.clone()
        other[0, column] += 0.1
        changed = (net(z, r, t, other) - out).flatten(1).abs().amax(1)
        assert changed[0] > 1e-4 and changed[1:].max() < 1e-6
    torch.testing.assert_close(out[-1:], net(z, r, t)[-1:])  # no class has no scale
    torch.testing.assert_close(
        GuidanceConditioned(net, 300, 2.0, 0.1)(z, r, t, y), net(z, r, t, with_guidance(y, 2.0, 0.1, null=300))
    )


def test_autocast_rounds_neither_classes_nor_scales():
    """299 and 300 are one number in bfloat16, and so are scales closer than 1/128."""
    net = dit(guided=True)
    torch.nn.init.normal_(net.guide_embedder.mlp[2].weight, std=5.0)
    z, r, t, _ = rows_of(net, 1)
    outs = []
    with torch.autocast("cpu", torch.bfloat16):
        for label, scale in ((298, 2.0), (299, 2.0), (299, 2.001)):
            y = with_guidance(torch.tensor([label]), scale, null=300, dtype=torch.bfloat16)
            assert y.dtype == torch.float32 and y[0, 0] == label
            outs.append((net.y_embedder(y[:, 0].long()), net.guide_embedder(y[:, 1:]), net(z, r, t, y)))
    assert torch.equal(outs[1][0][0], net.y_embedder.embedding_table.weight[299])
    assert not torch.equal(outs[0][2], outs[1][2])
    assert outs[1][1].dtype == torch.float32 and not torch.equal(outs[1][1], outs[2][1])
    with pytest.raises(ValueError, match=r"y is torch\.bfloat16 .* float32 or float64"):
        net(z, r, t, y.bfloat16())


def test_networks_that_are_not_told_refuse_it_by_name():
    y = with_guidance(torch.tensor([0, 1]), 2.0, null=3)
    z, t = torch.zeros(2, 1, 8, 8), torch.ones(2)
    for net in (
        models.DiT(8, 4, 1, 16, 1, 2, 3),
        models.UNet(1, 8, (1,), num_classes=3),
        models.ImprovedDiT(8, 4, 1, 16, 1, 1, 2, 3, 16),
        models.DataPrediction(models.MLP(64, 8, 1, 3)),
    ):
        with pytest.raises(ValueError, match=r"y has shape \(2, 4\).*classes alone.*guided=True"):
            net(z, 0 * t, t, y)
    with pytest.raises(ValueError, match=r"shape \(2, 3\): give classes"):
        models.MLP(64, 8, 1, 3, guided=True)(z, 0 * t, t, y[:, :3])
    with pytest.raises(ValueError, match="guided=True needs classes"):
        models.MLP(64, guided=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scales": (0.5, 2.0)}, r"scales \(0.5, 2\) must rise from 1"),
        ({"scales": (3.0, 2.0)}, "must rise"),
        ({"scales": (1.0, math.inf)}, "must rise"),
        ({"scales": (1.0, 2.0), "omega": 2.0}, "omega 2 is drawn"),
        ({"intervals": True}, "intervals go with scales"),
        ({"scales": (1.0, 2.0), "intervals": True, "t_max": 0.9}, "without t_min and t_max"),
    ],
    ids=str,
)
def test_impossible_draws_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Guidance(null=4, **settings)


# --- learning it -------------------------------------------------------------------------------------------------


def test_one_network_learns_the_guided_velocities_of_all_scales():
    """Of two Gaussians; at every scale it is nearer to that scale's velocity than to any other's."""
    torch.manual_seed(0)
    net = models.MLP(1, 48, 2, 2, guided=True)
    steps, rate = 600, 5e-3
    optimizer = torch.optim.Adam(net.parameters(), rate)
    guidance = Guidance(null=2, scales=(1.0, 4.0), drop=0.2)
    objective = FlowMatching(guidance=guidance, weight=Weight(kind="uniform"))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        x, y = gaussians(256)
        optimizer.zero_grad()
        objective(net, x, y).loss.backward()
        optimizer.step()

    x, y = gaussians(2000)
    t, scales = torch.linspace(0.3, 0.95, 2000), (1.0, 2.0, 3.5)
    z, _ = interpolate(x, torch.randn(2000, 1), t)
    errors = torch.empty(3, 3)
    for i, told in enumerate(scales):
        with torch.no_grad():
            found = net(z, t, t, with_guidance(y, told, null=2))
        for j, asked in enumerate(scales):
            errors[i, j] = (
                (found - ExactlyGuided()(z, t, t, with_guidance(y, asked, null=2))).square().mean().sqrt()
            )
    others = errors.clone().fill_diagonal_(math.inf)
    assert (errors.diagonal() < 0.6 * others.amin(1)).all(), errors


def gaussians(rows: int) -> tuple[Tensor, Tensor]:
    """Samples and their classes."""
    y = torch.arange(rows) % 2
    return torch.tensor(MEANS)[y][:, None] + STD * torch.randn(rows, 1), y
