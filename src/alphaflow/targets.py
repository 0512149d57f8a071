"""What the network should predict: the average-velocity targets of the family.

    two-point    α ṽ + (1 - α) u⁻(z_s, r, s),   s = α r + (1 - α) t,   z_s = z_t - (t - s) ṽ
    derivative   v - (t - r) du⁻/dt             the limit α → 0

Source: α-Flow (arXiv 2510.20771), Definition 1 and Algorithm 1. Definition 1 prints z_t + (t - s) ṽ, a
misprint; the sign here is the algorithm's. u⁻ is the network under stop-gradient.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from .derivative import Method, choose_method, total_derivative
from .errors import choose
from .fused import dual_forward
from .path import Network, expand, move

Shift = Literal["data", "model", "velocity"]


def average_velocity_target(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    alpha: float | Tensor,
    y: Tensor | None = None,
    *,
    shift: Shift = "data",
    derivative: Method = "auto",
) -> Tensor:
    """The regression target for u(z, r, t, y), without a gradient.

    Args:
        net: the network u(z, r, t, y).
        z, v: points on the path and (guided) velocities there, (B, *shape).
        r, t: times (B,), r <= t. Rows with r == t give v.
        alpha: in [0, 1]; a tensor, () or (B,) for a value per row, in (0, 1]. At 1 the target is v and no network
            is evaluated, whatever `shift` (at s = r the network's own velocity would teach nothing); between 0
            and 1 it is evaluated at (z_s, r, s), at 0 its derivative is taken.
        y: classes (B,) or None.
        shift: the velocity ṽ that leads from z_t to z_s.
            "data": v. "model": u⁻(z_t, s, t), as in Shortcut models; at α = 0, u⁻(z_t, t, t).
            "velocity": z_s by u⁻(z_t, t, t) but v in the target; at α = 0 improved MeanFlow (2512.02012).
        derivative: how du/dt is taken at α = 0; see `alphaflow.derivative`.

    Returns:
        (B, *shape), detached.

    Raises:
        ValueError: alpha outside [0, 1] (a tensor of values: outside (0, 1], looked at on the CPU only, since
            elsewhere it would stall the step), or an unknown `shift` or `derivative`.
    """
    choose("shift", shift, get_args(Shift))
    check_alpha(alpha)
    with torch.no_grad():
        if not isinstance(alpha, Tensor) and alpha == 0:
            tangent = shift_velocity(net, z, v, t, y, shift)
            _, slope = total_derivative(net, z, tangent, r, t, y, method=derivative)
            return derivative_target(v, tangent, slope, r, t, shift)
        if not isinstance(alpha, Tensor) and alpha == 1:
            return v.detach()
        target = _two_point_target(net, z, v, r, t, alpha, y, shift)
        return torch.where(expand(r == t, z), v, target)


def _two_point_target(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    alpha: float | Tensor,
    y: Tensor | None,
    shift: Shift,
) -> Tensor:
    s = t - alpha * (t - r)
    if shift == "data":
        carrier = near = v
    elif shift == "model":
        carrier = near = net(z, s, t, y)
    else:
        carrier, near = net(z, t, t, y), v
    far = net(move(z, carrier, t, s), r, s, y)
    if not isinstance(alpha, Tensor):
        return alpha * near + (1 - alpha) * far
    share = expand(alpha, z)
    return torch.where(share == 1, v, share * near + (1 - share) * far)  # far may be 0 / 0 at s = 0


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


def predict_with_target(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    alpha: float | Tensor,
    y: Tensor | None = None,
    *,
    start: int = 0,
    shift: Shift = "data",
    derivative: Method = "auto",
) -> tuple[Tensor, Tensor]:
    """u(z, r, t, y) on all rows with its graph, and the target of rows `start` and later.

    The same as calling the network and `average_velocity_target` on those rows; but at α = 0 the fused derivative
    gives both in one pass. Rows before `start` have r = t and no target here: theirs is v.
    """
    z_tail, v_tail, r_tail, t_tail = z[start:], v[start:], r[start:], t[start:]
    y_tail = None if y is None else y[start:]
    if start == len(z):
        return net(z, r, t, y), v[start:]
    if not isinstance(alpha, Tensor) and alpha == 0:
        if derivative == "auto":
            derivative = choose_method(net, z_tail, v_tail, r_tail, t_tail, y_tail)
        if derivative == "fused":
            tangent = shift_velocity(net, z_tail, v_tail, t_tail, y_tail, shift)
            u, slope = dual_forward(lambda z, t: net(z, r, t, y), z, tangent, t, start=start)
            return u, derivative_target(v_tail, tangent, slope, r_tail, t_tail, shift)
    u = net(z, r, t, y)
    target = average_velocity_target(
        net,
        z_tail,
        v_tail,
        r_tail,
        t_tail,
        alpha[start:] if isinstance(alpha, Tensor) and alpha.ndim else alpha,
        y_tail,
        shift=shift,
        derivative=derivative,
    )
    return u, target


@torch.no_grad()
def shift_velocity(net: Network, z: Tensor, v: Tensor, t: Tensor, y: Tensor | None, shift: Shift) -> Tensor:
    """The tangent of du/dt in z at α = 0, (B, *shape): v, or with other shifts the network's own u(z, t, t)."""
    return v if shift == "data" else net(z, t, t, y)


@torch.no_grad()
def derivative_target(v: Tensor, tangent: Tensor, slope: Tensor, r: Tensor, t: Tensor, shift: Shift) -> Tensor:
    """The target at α = 0 from du/dt, the `slope`, taken along the `tangent`; all (B, *shape). v where r = t."""
    near = tangent if shift == "model" else v
    return torch.where(expand(r == t, v), v, near - expand(t - r, v) * slope)
