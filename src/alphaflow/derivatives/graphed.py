"""A derivative by one time together with its graph, for a loss whose gradient goes through it (TVM)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .ways import Method, full_precision, math_attention, usual_step

GRAPHED: tuple[Method, ...] = ("forward", "reverse")
"""The ways that keep a graph, the cheapest first; differences do so for any network. Not `fused`."""


def graphed_slope(u: Callable[[Tensor], Tensor], t: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    """Return u(t) and du/dt, both with their graphs to the weights behind u.

    A loss of du/dt costs a second derivative, by a time and by the weights: by `forward` about three plain passes
    with their backward passes, by `difference` as much. In float32 the gradient by `difference` has about four
    digits; with TF32 its backward pass has fewer.

    Args:
        u: the network with all but one of its times filled in, (B,) to (B, *shape).
        t: that time, (B,).
        method: `forward`, `reverse` or `difference`, see `alphaflow.derivatives.total`.
    """
    if method == "forward":
        with math_attention():
            t = t.detach().clone()
            value, slope = torch.func.jvp(u, (t,), (torch.ones_like(t),))  # type: ignore[misc]
            return value, slope
    if method == "reverse":
        return _reverse(u, t)
    h = usual_step(t.dtype)
    with torch.autocast(t.device.type, enabled=False), full_precision():
        return u(t), (u(t + h) - u(t - h)) / (2 * h)


def _reverse(u: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    recorded = torch.is_grad_enabled()
    with torch.enable_grad(), math_attention():
        t = t.detach().requires_grad_()
        out = u(t)
        w = torch.zeros_like(out, requires_grad=True)
        (pulled,) = torch.autograd.grad(out, t, w, create_graph=True, allow_unused=True)
        slope = torch.zeros_like(out)
        if pulled is not None:
            (slope,) = torch.autograd.grad(pulled, w, torch.ones_like(t), create_graph=True)
    return (out, slope) if recorded else (out.detach(), slope.detach())
