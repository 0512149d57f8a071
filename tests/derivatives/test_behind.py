"""A callable is tried once for what it stands for, a trial moves nothing, and networks that draw draw once."""

import functools
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import alphaflow as af
from alphaflow.derivatives.behind import look_behind, standing_in
from alphaflow.derivatives.total import DerivativeError, check_derivative, choose_method
from alphaflow.errors import UserError
from alphaflow.method.family import MEMBERS
from alphaflow.method.guidance import Guided
from alphaflow.path import Points
from reference import Counting, gradient
from small_networks import ROWS, Net, points

# --- found once, and nothing moved -------------------------------------------------------------------------------


class Wrapped:
    """A callable object over a network."""

    def __init__(self, net) -> None:
        self.net = net

    def __call__(self, z, r, t, y=None):
        return self.net(z, r, t, y)


def called(net, z, r, t, y=None):
    return net(z, r, t, y)


def makers(net):
    """Ways to make a callable anew in each step."""

    def swapped(scale):
        return lambda z, r, t, y=None: net(z, r * scale, t, y)

    return {
        "lambda": lambda: lambda z, r, t, y=None: net(z, r, t, y),
        "lambda over a number": lambda: swapped(1.0),
        "bound method": lambda: net.forward,
        "partial": lambda: functools.partial(called, net),
        "object": lambda: Wrapped(net),
        "default": lambda: lambda z, r, t, y=None, inner=net: inner(z, r, t, y),
        "nested": lambda: lambda z, r, t, y=None: (lambda *a: net(*a))(z, r, t, y),
        "guided": lambda: Guided(net, null=0, scale=2.0),
    }


@pytest.mark.parametrize("kind", sorted(makers(Net())))
def test_what_a_callable_stands_for_is_tried_once(kind, caplog):
    caplog.set_level(logging.INFO, logger="alphaflow")
    inner = Net()
    calls = []
    inner.a.register_forward_hook(lambda *_: calls.append(1))
    make, counts = makers(inner)[kind], []
    for _ in range(3):
        calls.clear()
        af.MeanFlow()(make(), torch.randn(ROWS, 2), torch.zeros(ROWS).long()).loss.backward()
        counts.append(len(calls))
    assert counts[0] > 3 and counts[1] == counts[2] <= 2
    assert sum(record.getMessage().startswith("du/dt of") for record in caplog.records) == 1


def test_other_networks_of_the_same_code_are_not_mistaken_for_each_other(caplog):
    def over(net, operation=torch.tanh):
        return lambda z, r, t, y=None: operation(net(z, r, t, y))

    plain = Net()
    lost = Net(between=lambda x: x + 0.5 * x.data.sin())
    z, v, r, t = points(2)
    assert choose_method(over(plain), Points(z, v, r, t)) == "fused"
    assert choose_method(over(lost), Points(z, v, r, t)) == "difference"
    assert choose_method(over(plain, lambda x: x + 0.5 * x.data), Points(z, v, r, t)) == "difference"
    assert choose_method(over(plain), Points(z, v, r, t)) == "fused"


def test_training_and_evaluation_mode_are_two_networks():
    net, (z, v, r, t) = Net(between=nn.Dropout(0.5)), points(2)
    assert choose_method(net.train(), Points(z, v, r, t)) == "forward"
    assert choose_method(net.eval(), Points(z, v, r, t)) == "fused"
    assert choose_method(net.train(), Points(z, v, r, t)) == "forward"


def test_modules_behind_a_callable_are_found_and_die_with_it():
    net = Net()
    modules, key = look_behind(lambda z, r, t, y=None: net(z, r, t, y))
    assert modules == [net]
    again = [look_behind((lambda: lambda z, r, t, y=None: net(z, r, t, y))())[1] for _ in range(2)]
    assert again[0] == again[1] != key  # other code
    assert look_behind(functools.partial(net.forward))[0] == [net]
    assert look_behind(torch.sin)[0] == []


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.seen += 1
        return x


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda z, r, t, y=None: net(z, r, t, y)])
def test_a_trial_moves_no_buffer_no_weight_and_no_generator(wrap):
    between = nn.Sequential(
        nn.BatchNorm1d(32), nn.utils.spectral_norm(nn.Linear(32, 32)), nn.Dropout(0.3), Counts()
    )
    between.append(nn.utils.parametrizations.spectral_norm(nn.Linear(32, 32)))
    net, (z, v, r, t) = Net(between=between, inner=between), points(2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    same = [*net.parameters(), *net.buffers()]
    state = torch.get_rng_state()
    choose_method(wrap(net), Points(z, v, r, t))
    check_derivative(wrap(net), z, v, r, t)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(a is b for a, b in zip(same, [*net.parameters(), *net.buffers()]))


def test_stand_ins_keep_weights_that_are_shared_shared():
    net = Net()
    net.c = net.b
    with standing_in([net], weight=lambda name, weight: weight + 1, dtype=torch.float64):
        assert net.c.weight is net.b.weight and net.b.weight.dtype == torch.float64
    assert isinstance(net.b.weight, nn.Parameter) and net.b.weight.dtype == torch.float32


# --- networks that draw random numbers ---------------------------------------------------------------------------


class Masked(nn.Module):
    """The place of a dropout layer, with masks that are given."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.mask = p, None

    def forward(self, x):
        return x * self.mask[-len(x) :] / (1 - self.p)


def dropping(kind: str, p: float = 0.4) -> nn.Module:
    if kind == "dropout":
        return nn.Sequential(nn.Tanh(), nn.Dropout(p), nn.Linear(32, 32).double(), nn.Tanh(), nn.Dropout(p))
    if kind == "noise":

        class Noise(nn.Module):
            def forward(self, x):
                return x.tanh() + torch.randn(x.shape, dtype=x.dtype)

        return Noise()
    return nn.Sequential(nn.Tanh(), nn.AlphaDropout(p))


@pytest.mark.parametrize("way", ["difference", "forward", "reverse", "auto"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("member", ["meanflow", "imeanflow"])
def test_u_and_its_derivative_see_one_mask(way, ratio, member):
    """As with the masks fixed, whatever share of the rows is differentiated; another step draws others."""
    p, rows = 0.4, 16
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = Net(between=nn.Sequential(nn.Tanh(), nn.Dropout(p))).double()
    torch.manual_seed(7)
    mask = (F.dropout(torch.ones(rows, 32, dtype=torch.float64), p) > 0).double()
    fixed = Masked(p)
    fixed.mask = mask
    same = Net(between=nn.Sequential(nn.Tanh(), fixed)).double()

    objective = MEMBERS[member](flow_ratio=ratio, derivative=way)
    draw = objective.draw(net, x, generator=torch.Generator().manual_seed(0))
    if way == "auto":
        choose_method(net, Points(draw.z, draw.v, draw.r, draw.t))
    torch.manual_seed(7)
    ours = objective.evaluate(net, draw)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    net(draw.z, draw.r, draw.t)
    assert torch.equal(after, torch.get_rng_state())  # drawn from once, for u
    expected = MEMBERS[member](flow_ratio=ratio, derivative="forward").evaluate(same, draw)
    torch.testing.assert_close(ours.residual, expected.residual, rtol=1e-6, atol=1e-9)
    mine, theirs = gradient(ours.loss, net), gradient(expected.loss, same)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)
    torch.set_rng_state(after)
    assert not torch.allclose(objective.evaluate(net, draw).residual, ours.residual)


@pytest.mark.parametrize("kind", ["dropout", "noise", "alpha dropout"])
def test_residuals_of_networks_that_draw_are_of_the_size_of_those_that_do_not(kind):
    """With masks of its own at each end a central difference is 1/h times too large: 6e7 in float64."""
    net = Net(between=dropping(kind)).double()
    x = torch.randn(32, 2, dtype=torch.float64)
    for way in ("difference", "forward", "reverse"):
        out = af.MeanFlow(flow_ratio=0.0, derivative=way)(net, x)
        assert out.metrics["residual"] < 100
    net.train()
    z, v, r, t = points(2, dtype=torch.float64)
    assert check_derivative(net, z, v, r, t) < 1e-5
    assert check_derivative(net, z, v, r, t, method="difference") < 1e-5


def test_two_points_see_one_mask_too():
    """As α falls the two-point target's residual falls with α²; with other masks it would stay."""
    net = Net(between=nn.Sequential(nn.Tanh(), nn.Dropout(0.4))).double()
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sizes = []
    for alpha in (1e-2, 1e-3):
        torch.manual_seed(3)
        objective = af.AlphaFlow(alpha=alpha, flow_ratio=0.25)
        sizes.append(objective(net, x, generator=torch.Generator().manual_seed(0)).residual[4:].mean().item())
    assert sizes[1] / sizes[0] == pytest.approx(1e-2, rel=0.1)


def test_a_generator_of_the_networks_own_is_refused():
    own = torch.Generator().manual_seed(0)
    net = Net(between=lambda x: x + torch.randn(x.shape, generator=own))
    with pytest.raises(DerivativeError, match="it draws from a generator of its own"):
        af.MeanFlow()(net, torch.randn(ROWS, 2))


def test_compiled_objectives_refuse_networks_that_draw():
    compiled = af.Compiled(af.MeanFlow(derivative="difference"), backend="aot_eager")
    with pytest.raises(UserError, match="turn dropout off"):
        compiled(Net(between=nn.Dropout(0.2)), torch.randn(ROWS, 2))


def test_networks_that_draw_nothing_are_evaluated_no_more_than_before():
    counting = Counting(Net())
    af.MeanFlow(flow_ratio=0.5, derivative="forward")(counting, torch.randn(ROWS, 2))
    assert counting.rows == [ROWS, ROWS // 2]
