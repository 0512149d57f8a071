"""One run of one setting: a plain loop around the objective, so that anything in it can be exchanged."""

import copy
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from sets import Set
from steering import ByBias
from torch import Tensor, nn

import alphaflow as af
from alphaflow import schedules
from alphaflow.method.guidance import with_guidance
from alphaflow.method.self_steering import SelfSteering
from alphaflow.method.targets import average_velocity_target
from alphaflow.method.weighting import Weight
from alphaflow.models.ema import EMA
from alphaflow.path import Points

CHECKPOINTS, BATCHES = 8, 6
"""Where conflict is measured: at the end of each eighth of a run, on so many batches."""
SCALE = 1.5
"""Of guidance."""
_STEERING = {"bias": ByBias, "curvature": SelfSteering}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an experiment varies; the rest is the set's and the paper's. Schedules are in shares of the run."""

    alpha: str = "sigmoid(0%, 100%)"
    flow_ratio: float | str = 0.25
    shift: str = "data"
    weight: str = ""
    """one that `Weight` knows; consistent: the set's own in the form that is continuous at α → 0"""
    power: float = 1.0
    teacher: bool = False
    """targets are made by the averaged weights"""
    time_scale: float = 1.0
    ends: bool = False
    """the network is told t and r instead of t and t - r"""
    steer: str = ""
    """α chooses itself, by its bias or by the curvature that the network sees"""
    surgery: str = ""
    """gradients of TFM and TC are brought to one norm (norms), or each rid of what opposes the other (project)"""
    teacher_from: float = 1.0
    """from this share of the run on, velocities are those of the averaged weights as they were then"""
    guidance: str = ""
    """in training: fixed, at one scale; told, the scale of each row is drawn and the network hears it"""
    balanced: bool = False
    """draw every class equally often"""
    conflict: bool = False
    """measure the gradients' cosines on the way"""
    sweep: bool = False
    """score many ways of sampling"""
    only: tuple[str, ...] = ()
    """the sets that it is for; none named: all three"""

    def steps(self, chosen: Set, begun: int | None = None) -> int:
        """As many as cost what `chosen.steps` steps of MeanFlow with 25 % of rows at r = t do.

        begun: the step at which an α that steers itself began to fall; until then it counts like `alpha`.
        """
        budget = 3.75 * chosen.steps
        if begun is not None:
            alpha = SelfSteering()
            alpha.begun = begun
            falls = next(k for k in range(2 * begun) if alpha(k) < 1)
            beyond = 1 - float(self.flow_ratio)
            return round((budget + beyond * falls - begun / SelfSteering.every) / (3 + beyond))
        costs = [self._cost(k / 1000) for k in range(1000)]
        return round(budget / (sum(costs) / len(costs)))

    def _cost(self, share: float) -> float:
        """Of a step, in forward passes of the batch: 3 for one with its backward pass, and on rows with r < t and
        α < 1 one more for a tangent or a second point, and one for a velocity of the network's own.

        A second backward pass costs 2, the teacher 1, guidance 0.9 (a tenth of the labels is dropped), a
        measurement for steering, on half a batch: of the curvature 2 halves, of the bias 7."""
        alpha, ratio = schedules.parse(self.alpha, 10**6), schedules.parse(str(self.flow_ratio), 10**6)
        at, cost = round(share * 10**6), 3.0
        if alpha(at) < 1 or self.steer == "bias":
            cost += (1 - ratio(at)) * (1 + (self.shift != "data"))
        cost += 2 * (self.surgery != "") + (share >= self.teacher_from) + 0.9 * (self.guidance != "")
        return cost + {"": 0.0, "curvature": 1 / SelfSteering.every, "bias": 3.5 / ByBias.every}[self.steer]

    def objective(self, chosen: Set) -> af.AlphaFlow:
        steps, weight = self.steps(chosen), self.weight or chosen.weight
        if weight == "consistent":
            weight = {"adaptive": "scaled"}.get(chosen.weight, chosen.weight)
        return af.AlphaFlow(
            alpha=_STEERING[self.steer]() if self.steer else schedules.parse(self.alpha, steps),
            flow_ratio=schedules.parse(str(self.flow_ratio), steps),
            shift=self.shift,  # type: ignore[arg-type]
            weight=Weight(kind=weight, power=self.power),  # type: ignore[arg-type]
            guidance=self._guidance(chosen),
        )

    def _guidance(self, chosen: Set) -> af.Guidance | None:
        if not self.guidance:
            return None
        settings: dict[str, Any] = {"omega": SCALE} if self.guidance == "fixed" else {"scales": (1.0, 4.0)}
        return af.Guidance(null=chosen.classes, drop=0.1, **settings)


class GuidanceConditioned(nn.Module):
    """A network that is told the times otherwise: scaled, or as t and r."""

    def __init__(self, net: nn.Module, scale: float, ends: bool) -> None:
        super().__init__()
        self.net, self.scale, self.ends = net, scale, ends

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        first = t - r if self.ends else r  # it embeds t - first
        return self.net(z, first * self.scale, t * self.scale, y)


def run(chosen: Set, setting: Setting, seed: int) -> dict[str, Any]:
    """Train and score; the same seed gives the same weights, data and noise to every setting."""
    start, steps = time.process_time(), setting.steps(chosen)
    torch.manual_seed(seed)
    net = chosen.network(guided=setting.guidance == "told")
    if setting.time_scale != 1 or setting.ends:
        net = GuidanceConditioned(net, setting.time_scale, setting.ends)
    objective = setting.objective(chosen)
    optimizer = torch.optim.AdamW(net.parameters(), chosen.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    ema = EMA(net, half_life=0.06 * steps, ramp=0.1)
    generator = torch.Generator().manual_seed(seed)
    cosines, alphas, teacher = [], [], None
    classes = _rows_by_class(chosen) if setting.balanced else None
    step = 0
    while step < steps:
        rows = _rows(chosen, chosen.batch, generator, classes)
        x, y = chosen.x[rows], None if chosen.y is None else chosen.y[rows]
        for group in optimizer.param_groups:
            group["lr"] = chosen.lr * _rate(step, steps)
        draw = objective.draw(net, x, y, step=step, generator=generator)
        if step >= setting.teacher_from * steps:
            teacher = teacher or copy.deepcopy(ema.module)
            with torch.no_grad():
                draw = replace(draw, v=teacher(draw.z, draw.t, draw.t, draw.y))
        if setting.surgery:
            _operated(objective, net, draw, setting.surgery)
        else:
            loss = (
                _taught(objective, net, ema.module, draw)
                if setting.teacher
                else objective.evaluate(net, draw).loss
            )
            loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 16.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(net, step + 1)
        if isinstance(objective.alpha, ByBias | SelfSteering) and (step + 1) % objective.alpha.every == 0:
            _steer(objective, objective.alpha, net, chosen, step + 1, seed)
            alphas.append(round(objective.alpha(step + 1), 4))
            steps = setting.steps(chosen, getattr(objective.alpha, "begun", None))
        if setting.conflict and (step + 1) * CHECKPOINTS // steps > step * CHECKPOINTS // steps:
            cosines.append({"at": (step + 1) / steps, **conflict(chosen, net, seed)})
        step += 1
    seconds = time.process_time() - start
    found = {
        "steps": steps,
        "seconds": round(seconds, 2),
        "figures": score(chosen, net, ema.module, setting),
    }
    return found | ({"cosines": cosines} if cosines else {}) | ({"alphas": alphas} if alphas else {})


def _rows_by_class(chosen: Set) -> list[Tensor]:
    return [torch.nonzero(chosen.y == k)[:, 0] for k in range(chosen.classes)]


def _rows(chosen: Set, count: int, generator: torch.Generator, classes: list[Tensor] | None) -> Tensor:
    """Which samples to take: uniformly, or of uniformly drawn classes."""
    if classes is None:
        return torch.randint(len(chosen.x), (count,), generator=generator)
    drawn = torch.randint(len(classes), (count,), generator=generator)
    places = torch.rand(count, generator=generator)
    return torch.stack(
        [classes[k][int(place * len(classes[k]))] for k, place in zip(drawn.tolist(), places.tolist())]
    )


def _steer(
    objective: af.AlphaFlow, alpha: ByBias | SelfSteering, net: nn.Module, chosen: Set, step: int, seed: int
) -> None:
    """Another measurement, on half a batch of its own."""
    if alpha(step) < 1 and (isinstance(alpha, SelfSteering) or alpha.value == 0):
        return
    generator = torch.Generator().manual_seed(seed * 10**6 + step)
    rows = torch.randint(len(chosen.x), (chosen.batch // 2,), generator=generator)
    y = None if chosen.y is None else chosen.y[rows]
    draw = objective.draw(net, chosen.x[rows], y, step=step, generator=generator, flow_rows=0)
    if isinstance(alpha, ByBias):
        alpha.follow(step * chosen.batch, *alpha.measure(net, draw, objective.weight))
    else:
        alpha.follow(step, *alpha.measure(net, draw))


def _rate(step: int, steps: int) -> float:
    """Fifty steps of warm-up; the last half falls to a twentieth."""
    return min(1.0, (step + 1) / 50) * min(1.0, 0.05 + 1.9 * (1 - step / steps))


def _taught(objective: af.AlphaFlow, net: nn.Module, teacher: nn.Module, draw: Points) -> Tensor:
    """The objective with u⁻ of a teacher, for the paper's Table 5a."""
    target = average_velocity_target(teacher, draw.z, draw.v, draw.r, draw.t, draw.alpha, draw.y)
    error = (net(draw.z, draw.r, draw.t, draw.y) - target).square().flatten(1).mean(1)
    a = torch.where(draw.r < draw.t, draw.alpha or 1.0, torch.ones_like(draw.t))
    return (objective.weight(error.detach(), a, draw.z[0].numel(), draw.r, draw.t) * error).mean()


def _operated(objective: af.AlphaFlow, net: nn.Module, draw: Points, how: str) -> None:
    """Gradients of the objective's two parts, ‖u - v‖² and 2 (v - target)·u, changed before they are added."""
    u = net(draw.z, draw.r, draw.t, draw.y)
    target = average_velocity_target(net, draw.z, draw.v, draw.r, draw.t, draw.alpha, draw.y)
    error = (u.detach() - target).square().flatten(1).mean(1)
    a = torch.where(draw.r < draw.t, draw.alpha or 1.0, torch.ones_like(draw.t))
    weight = objective.weight(error, a, draw.z[0].numel(), draw.r, draw.t)
    parts = (u - draw.v).square(), 2 * (draw.v - target) * u
    weights = list(net.parameters())
    tfm, tc = (
        torch.autograd.grad((weight * part.flatten(1).mean(1)).mean(), weights, retain_graph=k == 0)
        for k, part in enumerate(parts)
    )
    p, q, pq = (sum(float((x * y).sum()) for x, y in zip(*pair)) for pair in ((tfm, tfm), (tc, tc), (tfm, tc)))
    shares = 1.0, 1.0
    if how == "norms" and q > 0:
        shares = (q / p) ** 0.25, (p / q) ** 0.25
    elif how == "project" and pq < 0:
        shares = 1 - pq / p, 1 - pq / q
    for w, one, other in zip(weights, tfm, tc):
        w.grad = shares[0] * one + shares[1] * other


def conflict(chosen: Set, net: nn.Module, seed: int) -> dict[str, list[float]]:
    """Cosines of ∇TFM and of ∇FM′ with ∇TC on the same points, batch by batch, by three plain backward passes."""
    generator = torch.Generator().manual_seed(seed + 1000)
    plain = af.MeanFlow(flow_ratio=0.0)
    with_tc: dict[str, list[float]] = {"tfm": [], "fm": []}
    for _ in range(BATCHES):
        rows = torch.randint(len(chosen.x), (chosen.batch,), generator=generator)
        draw = plain.draw(
            net, chosen.x[rows], None if chosen.y is None else chosen.y[rows], step=0, generator=generator
        )
        target = average_velocity_target(net, draw.z, draw.v, draw.r, draw.t, 0.0, draw.y)
        losses = {
            "tc": lambda d=draw, tau=target: (2 * (d.v - tau) * net(d.z, d.r, d.t, d.y)).mean(),
            "tfm": lambda d=draw: (net(d.z, d.r, d.t, d.y) - d.v).square().mean(),
            "fm": lambda d=draw: (net(d.z, d.t, d.t, d.y) - d.v).square().mean(),
        }
        gradients = {name: _gradient(net, loss()) for name, loss in losses.items()}
        for name, values in with_tc.items():
            pair = gradients[name], gradients["tc"]
            values.append(round(float(torch.cosine_similarity(*pair, dim=0)), 4))
    return with_tc


def _gradient(net: nn.Module, loss: Tensor) -> Tensor:
    parts = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None]).double()


@torch.no_grad()
def score(chosen: Set, net: nn.Module, average: nn.Module, setting: Setting) -> dict[str, dict[str, float]]:
    """Figures by weights, sampler and times, all from the same noise; ema@ is told of a scale."""
    ways: list[tuple[str, str, tuple[float, ...]]] = [
        ("ema", "ode", (1.0, 0.0)),
        ("own", "ode", (1.0, 0.0)),
        ("ema", "ode", (1.0, 0.5, 0.0)),
        ("ema", "consistency", (1.0, 0.5, 0.0)),
    ]
    if setting.guidance == "told":
        ways += [(f"ema@{SCALE}", "ode", times) for times in ((1.0, 0.0), (1.0, 0.5, 0.0))]
    if setting.sweep:
        ways += [("ema", m, (1.0, s, 0.0)) for m in ("ode", "consistency") for s in (0.1, 0.3, 0.7, 0.9)]
    networks = {"ema": average, "own": copy.deepcopy(net).eval(), f"ema@{SCALE}": average}
    labels = chosen.scored
    count = 4000 if labels is None else len(labels)
    found = {}
    for weights, method, times in ways:
        generator = torch.Generator().manual_seed(12345)
        noise = torch.randn(count, *chosen.x.shape[1:], generator=generator)
        y = with_guidance(labels, SCALE, null=chosen.classes) if "@" in weights and labels is not None else labels
        samples = af.sample(networks[weights], noise, y, times=times, method=method, generator=generator)
        name = f"{weights} {method} {' '.join(f'{t:g}' for t in times)}"
        finite = bool(torch.isfinite(samples).all())
        figures = chosen.score(samples, labels) if finite else {}
        found[name] = {key: round(value, 6) for key, value in figures.items()}
    return found
