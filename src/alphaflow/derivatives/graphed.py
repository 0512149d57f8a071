"""A derivative by one time together with its graph, for a loss whose gradient goes through it (TVM).

A gradient through torch's own derivative of `layer_norm` is wrong, without a word (torch 2.13: on random numbers
by 86 %); so that function is written out here while the derivative is taken.
`findings/layer-norm-gradient-of-jvp.sh` shows it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .ways import Method, full_precision, math_attention, usual_step

GRAPHED: tuple[Method, ...] = ("forward", "reverse")
"""The ways that keep a graph, the cheapest first; differences do so for any network. Not `fused`."""


class _WrittenOut(TorchFunctionMode):
    """For a while, compute `layer_norm` by elementary functions, whose derivatives of any order are right."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.layer_norm, torch.layer_norm):
            return _layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    lowered = torch.is_autocast_enabled(input.device.type)  # then torch computes it in float32
    z = input.float() if lowered else input
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    z = z - z.mean(axes, keepdim=True)
    z = z * (z.square().mean(axes, keepdim=True) + eps).rsqrt()
    z = z if weight is None else z * weight
    return z if bias is None else z + bias


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
        with math_attention(), _WrittenOut():
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
    with torch.enable_grad(), math_attention(), _WrittenOut():
        t = t.detach().requires_grad_()
        out = u(t)
        w = torch.zeros_like(out, requires_grad=True)
        (pulled,) = torch.autograd.grad(out, t, w, create_graph=True, allow_unused=True)
        slope = torch.zeros_like(out)
        if pulled is not None:
            (slope,) = torch.autograd.grad(pulled, w, torch.ones_like(t), create_graph=True)
    return (out, slope) if recorded else (out.detach(), slope.detach())
