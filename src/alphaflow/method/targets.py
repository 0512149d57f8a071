"""What the network should predict: the average-velocity targets of the family.

    two-point    α ṽ + (1 - α) u⁻(z_s, r, s),   s = α r + (1 - α) t,   z_s = z_t - (t - s) ṽ
    derivative   v - (t - r) du⁻/dt             the limit α → 0
    Lagrangian   u⁻(z_r, r, r) + (t - r) ∂u⁻/∂r, z_r = z_t - (t - r) u⁻     the same with s near r

The first two move the start of the interval, t; with `shift="end"` its other end r moves, and s = r + α (t - r).
Source: α-Flow (arXiv 2510.20771), Definition 1 and Algorithm 1. Definition 1 prints z_t + (t - s) ṽ, a
misprint; the sign here is the algorithm's. u⁻ is the network under stop-gradient.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ..condition import Condition
from ..derivatives.total import METHODS, Method, choose_method, du_dt
from ..errors import choose
from ..path import Network, Points, expand, move, predict
from ..rng import global_state, is_same, replayed, set_apart

Shift = Literal["data", "model", "velocity", "end"]


@dataclass(frozen=True)
class Rule:
    """How a target is made: `shift` and `derivative` as in `average_velocity_target`.

    jumps: the way from s to r is that of so many equal jumps of the network (RCGM); of one, in the formulas above.
    blend: under shift "velocity" the way to z_s, or the tangent, is (1 - blend) v + blend u⁻(z_t, t, t).
    teacher: under shift "end" at α = 0 the velocity at z_r is u(z_r, r, r) of this network in the place of u⁻'s
        (Lagrangian distillation, AYF, arXiv 2506.14603).
    """

    shift: Shift = "data"
    derivative: Method = "auto"
    jumps: int = 1
    blend: float = 1.0
    teacher: Network | None = None

    def __post_init__(self) -> None:
        choose("shift", self.shift, get_args(Shift))
        choose("derivative", self.derivative, METHODS)
        if self.jumps < 1:
            raise ValueError(f"jumps {self.jumps} must be at least 1")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend {self.blend:g} must lie in [0, 1]: 0 is the data's velocity, 1 the network's")
        if self.blend != 1 and self.shift != "velocity":
            raise ValueError(f"blend {self.blend:g} goes with shift 'velocity', not {self.shift!r}")


def predict_with_target(net: Network, points: Points, rule: Rule) -> tuple[Tensor, Tensor]:
    """u at the points with its graph, and the target of each row without one, both (B, *shape).

    The first `flow_rows` have the target v and need no evaluation for it; but one row always takes part, so that
    processes which evaluate a network together call it equally often.

    A network that draws random numbers (dropout) is evaluated for the target from where it drew for u, and on all
    rows, so that it draws the same.
    """
    start = min(points.flow_rows, len(points.z) - 1)
    shift, derivative, differentiates = rule.shift, rule.derivative, points.regime == "derivative"
    if differentiates and derivative == "auto":
        derivative = choose_method(*differentiated(net, points, shift), start=start)
    if differentiates and derivative == "fused":
        u, _, target = meanflow_target(net, points, replace(rule, derivative=derivative), start=start)
        return u, torch.cat([points.v[:start], target])
    before = None if torch.compiler.is_compiling() else global_state(points.z.device)
    u = predict(net, points.z, points.r, points.t, points.y)
    if points.regime == "flow":
        return u, points.v.detach()
    first, again = start, net
    if before is not None and not is_same(before, global_state(points.z.device)):
        first, again = 0, replayed(net, before, points.z.device)
    with nullcontext() if again is net else set_apart(points.z.device):
        target = target_of(again, points.rows(first), replace(rule, derivative=derivative))
    return u, torch.cat([points.v[:start], target[start - first :]])


@torch.no_grad()
def target_of(net: Network, points: Points, rule: Rule) -> Tensor:
    """Return the target of each row (B, *shape), where u is not needed; see `average_velocity_target`."""
    if points.regime == "flow":
        return points.v.detach()
    if points.regime == "derivative":
        return meanflow_target(net, points, rule)[2]
    return torch.where(expand(points.r == points.t, points.z), points.v, _two_point_target(net, points, rule))


def meanflow_target(net: Network, points: Points, rule: Rule, *, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """u, du/dt and the target at α = 0, the latter two on the rows `start` and later; u as `du_dt` gives it.

    The tangent in z is v, or with other shifts the network's own u(z, t, t), or `rule.blend` of it. With shift
    "end" it is the Lagrangian target (arXiv 2505.18825; TVM, 2511.19797), and ∂u/∂r takes the place of du/dt:
    dz_r/dr = u - (t - r) ∂u/∂r must be the velocity at z_r.
    """
    rows, shift, derivative = points.rows(start), rule.shift, rule.derivative
    if shift == "end":
        u, slope = du_dt(
            *differentiated(net, points, shift), derivative, tangent=torch.zeros_like(rows.z), start=start
        )
        with torch.no_grad():
            arrived = move(rows.z, u[-len(rows.z) :], rows.t, rows.r)
            end = predict(net if rule.teacher is None else rule.teacher, arrived, rows.r, rows.r, rows.y).to(
                rows.v
            )
            target = end + expand(rows.t - rows.r, rows.z) * slope
            return u, slope, torch.where(expand(rows.r == rows.t, rows.z), rows.v, target)
    with torch.no_grad():
        tangent = rows.v if shift == "data" else predict(net, rows.z, rows.t, rows.t, rows.y)
        tangent = tangent if rule.blend == 1 else rows.v + rule.blend * (tangent - rows.v)
    u, slope = du_dt(net, points, derivative, tangent=tangent, start=start)
    with torch.no_grad():
        target = (tangent if shift == "model" else rows.v) - expand(rows.t - rows.r, rows.z) * slope
        return u, slope, torch.where(expand(rows.r == rows.t, rows.z), rows.v, target)


def differentiated(net: Network, points: Points, shift: Shift) -> tuple[Network, Points]:
    """Return what du/dt is taken of, and where: with shift "end" of the network with r and t exchanged, whose
    derivative by its last time, at a still z, is ∂u/∂r."""
    if shift != "end":
        return net, points
    return partial(_exchanged, net), replace(points, r=points.t, t=points.r)


def _exchanged(net: Network, z: Tensor, t: Tensor, r: Tensor, y: Condition | None = None) -> Tensor:
    return net(z, r, t, y)


def _two_point_target(net: Network, points: Points, rule: Rule) -> Tensor:
    z, v, r, t, y, alpha = points.z, points.v, points.r, points.t, points.y, points.alpha
    shift = rule.shift
    if shift == "end":
        alpha = 1 - alpha
    s = t - alpha * (t - r)
    if shift == "data":
        carrier = near = v
    elif shift in ("model", "end"):
        carrier = near = predict(net, z, s, t, y)
    else:
        carrier, near = predict(net, z, t, t, y), v
        carrier = carrier if rule.blend == 1 else v + rule.blend * (carrier - v)
    far = _mean_velocity(net, move(z, carrier, t, s), r, s, y, rule.jumps)
    if not isinstance(alpha, Tensor):
        return alpha * near + (1 - alpha) * far
    share = expand(alpha, z)
    lost = share == (0 if shift == "end" else 1)  # α = 1
    return torch.where(lost, v, share * near + (1 - share) * far)  # far may be 0 / 0 at s = 0


def _mean_velocity(net: Network, z: Tensor, r: Tensor, s: Tensor, y: Condition | None, jumps: int) -> Tensor:
    """Return the velocity that leads over [r, s] as so many equal jumps do: the mean of theirs."""
    velocities = []
    for k in range(1, jumps + 1):
        start, end = s + (r - s) * ((k - 1) / jumps), r if k == jumps else s + (r - s) * (k / jumps)
        velocities.append(predict(net, z, end, start, y))
        z = move(z, velocities[-1], start, end)
    return velocities[0] if jumps == 1 else torch.stack(velocities).mean(0)


def average_velocity_target(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    alpha: float | Tensor,
    y: Condition | None = None,
    *,
    shift: Shift = "data",
    derivative: Method = "auto",
    jumps: int = 1,
) -> Tensor:
    """Return the regression target for u(z, r, t, y), without a gradient.

    Args:
        net: the network u(z, r, t, y).
        z, v: points on the path and (guided) velocities there, (B, *shape).
        r, t: times (B,), r <= t. Rows with r == t give v.
        alpha: in [0, 1]; a tensor, () or (B,) for a value per row, in (0, 1]. At 1 the target is v and no network
            is evaluated, whatever `shift` (at s = r the network's own velocity would teach nothing); between 0
            and 1 it is evaluated at (z_s, r, s), at 0 its derivative is taken.
        y: classes (B,) or another condition of B rows (see `condition`), or None.
        shift: the velocity ṽ that leads from z_t to z_s. "data": v. "model": u⁻(z_t, s, t), as in Shortcut models;
            at α = 0, u⁻(z_t, t, t). "velocity": z_s by u⁻(z_t, t, t) but v in the target; at α = 0 improved
            MeanFlow (2512.02012). "end": as "model" with s = r + α (t - r), so that α shrinks the last part of the
            way instead of the first; at α = 0 the Lagrangian target (2505.18825).
        derivative: how du/dt is taken at α = 0; see `alphaflow.derivatives.total`.
        jumps: for 0 < α < 1, the way from z_s to time r is that of so many equal jumps of the network (RCGM).

    Returns:
        (B, *shape), detached.

    Raises:
        ValueError: alpha outside [0, 1] (a tensor of values: outside (0, 1], looked at on the CPU only, since
            elsewhere it would stall the step), an unknown `shift` or `derivative`, or no jump.
    """
    rule = Rule(shift, derivative, jumps)
    check_alpha(alpha)
    return target_of(net, Points(z, v, r, t, y, alpha), rule)


def check_alpha(alpha: float | Tensor) -> None:
    """Refuse, with a ValueError, what `average_velocity_target` refuses as α."""
    if not isinstance(alpha, Tensor):
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha {alpha:g} lies outside [0, 1]: 1 is flow matching, 0 is MeanFlow")
    elif alpha.is_cpu and not torch.compiler.is_compiling():
        bad = alpha[~((alpha > 0) & (alpha <= 1))]
        if len(bad):
            raise ValueError(
                f"alpha {bad[0]:g} in a tensor of alphas lies outside (0, 1]: a derivative (0) is taken for whole "
                "batches only, give the number 0"
            )
