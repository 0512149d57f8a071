"""The pass of dual tensors that training runs; `alphaflow.derivatives.dual` explains them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import attention, norms, recurrent, shapes  # noqa: F401 -- they fill dual.RULES
from .dual import Dual, NoRule, make
from .writes import begin


def dual_forward(
    u: Callable[[Tensor, Tensor], Tensor], z: Tensor, v: Tensor, t: Tensor, *, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Return u(z, t) with its graph, and du/dt along (v, 1) on rows `start` and later without one, in one pass.

    Args:
        u: the network with r and y filled in.
        z: (B, *shape).
        v: (B - start, *shape).
        t: (B,).
        start: the first row that du/dt is taken on.

    Returns:
        u (B, *shape) and du/dt (B - start, *shape).

    Raises:
        NoRule: a function that the network calls has no derivative, or would draw random numbers twice; or the
            output carries no tangent.
    """
    begin()
    tangent_t = torch.ones_like(t[start:])
    inputs = make(z, v.detach().to(z.dtype), start), make(t, tangent_t, start)
    if torch.compiler.is_compiling():
        out = u(*inputs)
    else:
        with _named():
            out = u(*inputs)
    if not isinstance(out, Dual):
        raise NoRule("the network's output carries no tangent: it depends on neither z nor t, or a hook lost it")
    return out.primal, out.tangent.detach()


@contextmanager
def _named() -> Iterator[None]:
    """Keep a refusal what it is where torch wraps it: what torch's interpreter raises names no cause."""
    try:
        yield
    except NoRule:
        raise
    except RuntimeError as error:
        if "TorchScript interpreter" not in str(error):
            raise
        name = re.search(r", in (\w+)", str(error))
        raise NoRule(
            f"{name[1] if name else 'it'} is a torch.jit.script, in which nothing can be intercepted; "
            "set PYTORCH_JIT=0 in the environment, which leaves such functions as they are written"
        ) from None


__all__ = ["NoRule", "dual_forward"]
