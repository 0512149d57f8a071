"""A teacher in the place of the samples: closed forms of Gaussian data, whose velocity is known."""

import pytest
import torch
from torch import Tensor, nn

from alphaflow.method.family import MEMBERS, MeanFlow, TrajectoryFlowMatching
from alphaflow.method.guidance import Guidance, Guided
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.times import Times, Uniform
from drawn import NULL, PLAIN, ROWS, assert_same, keyed, noise_of
from reference import GaussianFlow, SmallNet, gradient, order

MEAN, STD = torch.tensor([0.5, -1.0, 0.2]).double(), torch.tensor([0.4, 0.7, 1.3]).double()
FLOW = GaussianFlow(MEAN, STD)


@pytest.fixture
def gaussian() -> Tensor:
    source = torch.Generator().manual_seed(2)
    return MEAN + STD * torch.randn(ROWS, 3, generator=source, dtype=torch.float64)


EXACT = ["meanflow", "imeanflow", "shortcut", "splitmeanflow", "facm", "consistency", "fm"]
"""Members whose fixed point is the average velocity itself, not one that a step of length α(t - r) blurs."""


@pytest.mark.parametrize("member", EXACT)
def test_the_exact_average_velocity_meets_every_target_of_the_exact_teacher(gaussian, member):
    """Without a teacher the samples' noise is left, which no network can predict."""
    taught, plain = (
        MEMBERS[member](teacher=teacher, derivative="forward")(FLOW, gaussian, generator=keyed())
        for teacher in (FLOW, None)
    )
    assert taught.residual.max() < 1e-24
    assert plain.residual.mean() > 0.1


def test_with_a_teacher_the_two_point_target_is_off_by_the_square_of_its_step(gaussian):
    """z_s then is a step of Euler's along the teacher's flow, not a point of the sample's path."""
    alphas, errors = [0.04, 0.02, 0.01, 0.005], []
    for alpha in alphas:
        out = AlphaFlow(alpha=alpha, flow_ratio=0, teacher=FLOW)(FLOW, gaussian, generator=keyed())
        errors.append(float(out.residual.mean().sqrt()))
    assert order(alphas, errors) == pytest.approx(2, abs=0.1)


def test_the_gradient_over_many_samples_is_that_of_the_samples_themselves(net):
    """The mean of v given z is the teacher's: targets linear in v keep their gradient, and lose its noise."""
    rows = 40_000
    source = torch.Generator().manual_seed(4)
    x = MEAN + STD * torch.randn(rows, 3, generator=source, dtype=torch.float64)
    found = {}
    for name, teacher in (("samples", None), ("teacher", FLOW)):
        objective = TrajectoryFlowMatching(teacher=teacher, times=Times(t=Uniform(), r=Uniform()), **PLAIN)
        out = objective(net, x, generator=torch.Generator().manual_seed(1))
        found[name] = (gradient(out.loss, net), out.metrics["residual"])
    (ours, low), (theirs, high) = found["teacher"], found["samples"]
    assert (ours - theirs).norm() < 0.02 * theirs.norm()
    assert low < high - 0.3


# --- guidance ----------------------------------------------------------------------------------------------------


class TwoClasses:
    """The exact velocities of two Gaussians: u(z, t, t, y) of class y, and of both for any other y."""

    def __init__(self) -> None:
        self.flows = [GaussianFlow(MEAN, STD), GaussianFlow(-MEAN, STD)]

    def log_densities(self, z: Tensor, t: Tensor) -> Tensor:
        """log p(z | y) for both classes, (B, 2)."""
        logs = []
        for flow in self.flows:
            scale = flow.variance(t[:, None]).sqrt()
            logs.append(torch.distributions.Normal((1 - t[:, None]) * flow.mean, scale).log_prob(z).sum(1))
        return torch.stack(logs, 1)

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        each = torch.stack([flow(z, r, t) for flow in self.flows], 1)
        known = nn.functional.one_hot(y.clamp(max=1), 2).to(z)
        share = torch.where((y < 2)[:, None], known, self.log_densities(z, t).softmax(1))
        return (share[:, :, None] * each).sum(1)


def test_the_mean_over_the_classes_that_z_may_have_is_the_velocity_without_a_class():
    """So a dropped label may keep its class's velocity: by the score, v = -(z + t ∇log p) / (1 - t)."""
    both, t = TwoClasses(), torch.linspace(0.05, 0.9, 12).double()
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    logs = [
        torch.distributions.Normal((1 - t[:, None]) * flow.mean, flow.variance(t[:, None]).sqrt())
        .log_prob(z)
        .sum(1)
        for flow in both.flows
    ]
    (score,) = torch.autograd.grad(torch.stack(logs).logsumexp(0).sum(), z)
    expected = -(z + t[:, None] * score) / (1 - t[:, None])
    assert_same(both(z, t, t, torch.full((12,), 2)), expected.detach())


def test_guidance_takes_the_teachers_velocity_for_that_of_the_data(net, data):
    x, y = data
    guidance = Guidance(null=NULL, omega=0.4, kappa=0.5, t_min=0.2, t_max=0.75, drop=0.4)
    teacher = SmallNet(dim=3, seed=7)
    draw = AlphaFlow(guidance=guidance, teacher=teacher.eval()).draw(net, x, y, generator=keyed())
    v = teacher(draw.z, draw.t, draw.t, y)
    guided = (
        0.4 * v
        + 0.5 * net(draw.z, draw.t, draw.t, y)
        + 0.1 * net(draw.z, draw.t, draw.t, torch.full_like(y, NULL))
    )
    inside = (draw.t > 0.2) & (draw.t < 0.75) & (draw.y != NULL)
    assert 0 < int(inside.sum()) < ROWS and int((draw.y == NULL).sum()) > 0
    assert_same(draw.v, torch.where(inside[:, None], guided, v))


@pytest.mark.parametrize("omega", [1.0, 1.5])
def test_scales_of_a_guided_teacher_and_of_training_multiply(omega):
    """At the fixed point u_c = u_∅ + w ω / (1 - κ) (v_c - u_∅); its flow matching targets are then u_c itself."""
    both, w, kappa = TwoClasses(), 2.0, 0.25
    whole = Guided(both, 2, w * omega / (1 - kappa))
    guidance = Guidance(null=2, omega=omega, kappa=kappa, drop=0.0)

    def student(z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.where((y < 2)[:, None], whole(z, r, t, y), both(z, r, t, y))

    objective = AlphaFlow(alpha=1.0, flow_ratio=1.0, teacher=Guided(both, 2, w), guidance=guidance)
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    out = objective(student, x, torch.arange(ROWS) % 2, generator=keyed())
    assert out.residual.max() < 1e-12  # `Guided` keeps its scale in float32


# --- the teacher as a module -------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """With what behaves otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3).double(), nn.Dropout(0.5)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.drop(self.norm(z)) * t[:, None]


def test_the_teacher_learns_nothing_and_stays_in_evaluation_mode(net, data):
    x, y = data
    teacher = Noisy()
    with pytest.raises(ValueError, match=r"the teacher is in training mode.*call teacher.eval\(\)"):
        MeanFlow(teacher=teacher)
    teacher.eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective = MeanFlow(teacher=teacher)
    net.train()
    first, again = (objective(net, x, y, generator=keyed()) for _ in range(2))
    first.loss.backward()
    assert torch.equal(first.residual, again.residual)
    assert all(weight.grad is None for weight in teacher.parameters())
    assert any(weight.grad is not None for weight in net.parameters())
    assert not teacher.training and "teacher" not in repr(objective)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    z = objective.draw(net, x, y, generator=keyed())
    assert_same(z.v, teacher(z.z, z.t, z.t, y).detach())
    assert_same(z.z, (1 - z.t[:, None]) * x + z.t[:, None] * noise_of(x))
