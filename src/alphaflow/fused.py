"""The pass of dual tensors that training runs; what they are says `alphaflow.dual`."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import dual_attention, dual_rules  # noqa: F401 -- they fill dual.RULES
from .dual import Dual, NoRule, make


def dual_forward(
    u: Callable[[Tensor, Tensor], Tensor], z: Tensor, v: Tensor, t: Tensor, *, start: int = 0
) -> tuple[Tensor, Tensor]:
    """One pass: u(z, t) with its graph, and du/dt along (v, 1) on rows `start` and later, without one.

    Args:
        u: the network with r and y filled in. z: (B, *shape); t: (B,). v: (B - start, *shape).

    Returns:
        u (B, *shape) and du/dt (B - start, *shape).

    Raises:
        NoRule: a function that the network calls has no derivative, or would draw random numbers twice; or the
            output carries no tangent.
    """
    tangent_t = torch.ones_like(t[start:])
    out = u(make(z, v.detach().to(z.dtype), start), make(t, tangent_t, start))
    if not isinstance(out, Dual):
        raise NoRule("the network's output carries no tangent: it depends on neither z nor t, or a hook lost it")
    return out.primal, out.tangent.detach()


__all__ = ["NoRule", "dual_forward"]
