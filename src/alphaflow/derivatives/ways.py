"""The ways to take du/dt, each of a function u(z, t): its value, and its derivative along (v, 1)."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .behind import is_compiled
from .fused import dual_forward

Method = Literal["auto", "fused", "forward", "reverse", "difference"]
"""A name of a way to take du/dt, or `auto`."""
METHODS: tuple[str, ...] = get_args(Method)
"""The names of the ways, and `auto`."""
Function = Callable[[Tensor, Tensor], Tensor]
"""u(z, t): the network with r and y filled in."""


def fused(u: Function, z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return u and du/dt by one pass of dual tensors."""
    with torch.no_grad():
        return dual_forward(u, z, v, t)


def forward(u: Function, z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return u and du/dt by torch.func.jvp."""
    with torch.no_grad(), math_attention():
        z, t = (x.detach().clone() for x in (z, t))  # a compiled loss cannot take the jvp at a view of rows
        tangents = (v.detach().to(z.dtype), torch.ones_like(t))
        out, pushed = torch.func.jvp(u, (z, t), tangents)  # type: ignore[misc]
        return out, pushed


def reverse(u: Function, z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return u and du/dt by two backward passes."""
    with torch.enable_grad(), math_attention():
        z, t = z.detach().requires_grad_(), t.detach().requires_grad_()
        out = u(z, t)
        # Jᵀw is linear in w; its own transpose applied to the tangent is J·tangent.
        w = torch.zeros_like(out, requires_grad=True)
        pulled = torch.autograd.grad(out, (z, t), w, create_graph=True, allow_unused=True)
        tangents = (v.detach().to(z.dtype), torch.ones_like(t))
        used = [(part, tangent) for part, tangent in zip(pulled, tangents) if part is not None]
        (pushed,) = torch.autograd.grad([part for part, _ in used], w, [tangent for _, tangent in used])
    return out.detach(), pushed


def difference(u: Function, z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return u and du/dt by a central difference."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False), full_precision():
        return u(z, t), quotient(u, z, v, t, usual_step(z.dtype))


def usual_step(dtype: torch.dtype) -> float:
    """Return h = eps^(1/3), which balances truncation (h²) and rounding (eps / h)."""
    return torch.finfo(dtype).eps ** (1 / 3)


def quotient(u: Function, z: Tensor, v: Tensor, t: Tensor, h: float) -> Tensor:
    """Return (u(z + h v, t + h) - u(z - h v, t - h)) / 2h, in full precision: half would drown it."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False), full_precision():
        return (u(z + h * v, t + h) - u(z - h * v, t - h)) / (2 * h)


WAYS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "fused": fused,
    "forward": forward,
    "reverse": reverse,
    "difference": difference,
}


def math_attention() -> AbstractContextManager[None]:
    """Run attention, for a while, in plain products of matrices, which any way can differentiate."""
    return sdpa_kernel(SDPBackend.MATH)  # the other backends have no forward-mode and no second derivative


def eager(net: object = None) -> AbstractContextManager[object]:
    """For a while, run compiled parts of a network as written: no way but `difference` gets through compiled code.

    net: the network, which is left alone unless it or a part of it was compiled; None: any.
    """
    if torch.compiler.is_compiling() or "torch._dynamo" not in sys.modules:  # nothing is compiled, or all is
        return nullcontext()
    if net is not None and not is_compiled(net):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def full_precision() -> Iterator[None]:
    """For a while, take float32 products with all of their 23 bits: TF32's 10 would put a difference quotient off
    by a tenth.

    Compiled code cannot switch; the code that calls it has to.
    """
    if torch.compiler.is_compiling():
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
