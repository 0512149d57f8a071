"""The total derivative du/dt of the average velocity along a path, by several ways behind one call.

du/dt = v · ∂u/∂z + ∂u/∂t        tangent (v, 0, 1) in (z, r, t); MeanFlow (arXiv 2505.13447), equation 8

fused        one pass of dual tensors (`dual`): in training, u with its graph comes out of the same pass
forward      one forward pass with torch.func.jvp; attention runs on the math backend
reverse      two backward passes (the double-VJP trick); for networks whose ops lack forward rules
difference   central difference; any network, even one that is no PyTorch graph; about 5 digits in float32
auto         the first of these that agrees with central differences (`trial`); logged once, with reasons
"""

import logging
from collections.abc import Hashable
from contextlib import suppress
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..condition import Condition
from ..errors import choose
from ..path import Network, Points, checked
from .agreement import DerivativeError
from .behind import is_compiled, look_behind
from .fused import dual_forward
from .trial import Trial
from .ways import METHODS, WAYS, Method, eager, full_precision

__all__ = [
    "METHODS",
    "DerivativeError",
    "Method",
    "check_derivative",
    "choose_method",
    "du_dt",
    "full_precision",
    "total_derivative",
]
log = logging.getLogger("alphaflow")

Memory = dict[tuple[Hashable, ...], str]
_chosen: "WeakKeyDictionary[object, Memory]" = WeakKeyDictionary()
_chosen_for_code: Memory = {}


def total_derivative(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    y: Condition | None = None,
    *,
    method: Method = "auto",
) -> tuple[Tensor, Tensor]:
    """Return u(z, r, t, y) and du/dt along (v, 0, 1), neither with a gradient to the weights.

    A network that draws random numbers (dropout) gets the same draw in all that is evaluated here.

    Args:
        net: the network u(z, r, t, y).
        z, v: (B, *shape).
        r, t: (B,), r <= t.
        y: classes (B,) or another condition of B rows (see `condition`), or None.
        method: one of the ways in the docstring of `alphaflow.derivatives.total`.

    Returns:
        u and du/dt, each (B, *shape); du/dt in units of u per unit of t.

    Raises:
        UserError: (a ValueError) the method is unknown, or the network's output is not like z.
        NotImplementedError: (RuntimeError from some functions of torch) the network calls something that this
            method cannot differentiate; `auto` goes on to the next one instead.
    """
    choose("derivative", method, METHODS)
    with torch.no_grad():
        return du_dt(net, Points(z, v, r, t, y), method)


def du_dt(
    net: Network, points: Points, method: Method, *, tangent: Tensor | None = None, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Return u at the points, and du/dt on the rows `start` and later: `total_derivative` as a step calls it.

    Args:
        tangent: the direction in z on those rows; None: v.

    Returns:
        u: by `fused` of all rows and, where gradients are recorded, with its graph; otherwise of the rows `start`
        and later, without. du/dt (B - start, *shape), without.
    """
    rows = points.rows(start)
    tangent = rows.v if tangent is None else tangent
    if method == "auto":
        method = choose_method(net, points, start=start)
    with eager(net):
        if method == "fused":
            u, slope = dual_forward(
                lambda z, t: net(z, points.r, t, points.y), points.z, tangent, points.t, start=start
            )
            return checked(u, points.z), slope
        u, slope = WAYS[method](lambda z, t: net(z, rows.r, t, rows.y), rows.z, tangent, rows.t)
    return checked(u, rows.z), slope


def choose_method(net: Network, points: Points, *, start: int = 0) -> Method:
    """Return what `auto` means for this network: each way is tried and checked, and the choice remembered and
    logged with the reason.

    It is remembered for what a callable stands for: the modules behind a lambda, a bound method or a partial, in
    the mode (training or not) that they are in. Trying moves neither their buffers nor torch's generators.

    Args:
        net, z, v, r, t, y: as in `total_derivative`.
        start: the first row on which training takes tangents.

    Raises:
        UserError: (a ValueError) the network's output is not like z.
        DerivativeError: the network draws random numbers that no two evaluations can share, or no way is right.
        Exception: whatever the network itself raises when it is simply called.
    """
    return _choose(net, points, start)[0]


def _choose(net: Network, points: Points, start: int) -> tuple[Method, float | None]:
    """Return the choice, and its error over the batch if that has been looked at on the way."""
    modules, key = look_behind(net)
    memory = _memory(net, modules)
    if key in memory:
        return memory[key], None  # type: ignore[return-value]
    trial, reason, error = Trial(net, modules, points, start), "", None
    shown = modules[0] if isinstance(net, partial) and modules else net
    name = getattr(shown, "__name__", type(shown).__name__)
    method: Method = "difference"
    for method in ("fused", "forward", "reverse"):
        try:
            error = trial.examine(method)
            break
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:  # a function of torch or of the network may raise anything on a Dual
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            reason += f"; not {method}: {lines[0].split('; ')[0][:160]}"
    else:
        method = "difference"
        trial.attempt(method)
        try:
            error = trial.examine_difference()
        except DerivativeError as problem:
            raise DerivativeError(
                f"no way to take du/dt of {name} is right{reason}; not difference: "
                f"{str(problem).split('; ')[0]}. A network that multiplies its times, as by 1000, is too rough "
                "in t for differences: let it take another way (in float32, if autocast rounds its times), or "
                "give derivative='difference' to train on it as it is"
            ) from None
    level = logging.WARNING if reason else logging.INFO
    log.log(level, "du/dt of %s: %s%s", name, method, reason or " (the cheapest way it supports)")
    if is_compiled(net):
        log.warning(
            "%s is compiled, and du/dt runs it as it was before: hand in the plain module, and compile all of the "
            "objective by af.Compiled",
            name,
        )
    memory[key] = method
    return method, error


def _memory(net: Network, modules: list[torch.nn.Module]) -> Memory:
    for owner in (*modules[:1], net):
        if owner is net and hasattr(net, "__code__"):
            break  # a function may be made anew each time, so its code is the key
        with suppress(TypeError):  # neither hashable nor weakly referable
            return _chosen.setdefault(owner, {})
    if len(_chosen_for_code) > 1000:
        _chosen_for_code.clear()
    return _chosen_for_code


def check_derivative(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    y: Condition | None = None,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
) -> float:
    """Compare du/dt by `method` with central differences, which any network allows, and its u with the plain one.

    Two rows are compared along z and t together, along z alone and along t alone, in float64 if the network allows
    it; the whole batch along both. The error may be what the differences' own error leaves in doubt, up to the
    tolerance. `difference` itself, which trains with one step, is compared with one of a quarter.

    Zero-initialised networks (adaLN-zero) have du/dt = 0 at the start, where any derivative looks right; so the
    comparison runs on copies of the weights with a little noise added, and random matrices in place of zero ones.
    Weights, buffers and torch's generators stay as they are.

    Args:
        net, z, v, r, t, y, method: as in `total_derivative`.
        tolerance: on ‖a - b‖ / ‖b‖ over the batch; None: as the differences allow, and at most 2e-2, or 1e-1 under
            autocast.

    Returns:
        ‖a - b‖ / ‖b‖ over the batch, a by `method` and b by central differences of the steps that fit best.

    Raises:
        DerivativeError: the two differ by more than the tolerance.
    """
    modules, _ = look_behind(net)
    points, quarter = Points(z, v, r, t, y), max(len(z) // 4, min(1, len(z) - 1))
    if method == "auto":
        method, error = _choose(net, points, quarter)
        if error is not None and tolerance is None:  # the choice has just compared all of it
            return error
    first = quarter if method == "fused" else 0  # as training runs it
    trial = Trial(net, modules, points, first, tolerance=tolerance)
    if method == "difference":
        return trial.examine_difference()
    trial.examine(method, whole=False)
    return trial.examine_whole(method)
