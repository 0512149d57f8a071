"""Writing in place: what one tensor's memory holds is seen by every view of it, and so are the tangents.

The Dual that owns the memory (its `root`) holds the tangent of all of it. Each write gives the root a new tangent
and raises torch's own count of writes, which views share; a view that is used later finds the count changed and
takes its tangent anew from the root, at the place where its numbers lie.
"""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .dual import FALLBACK, REFRESH, RULES, Dual, NoRule, make, name_of, primal

_NAMES = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "idiv": "div", "ipow": "pow"}
IN_PLACE: dict[Any, Any] = {
    getattr(home, name): getattr(Tensor, name[:-1], None) or getattr(torch.nn.functional, name[:-1], None)
    for home in (Tensor, torch, torch.nn.functional)
    for name in dir(home)
    if name.endswith("_") and not name.endswith("__")
} | {
    getattr(Tensor, f"__{name}__"): getattr(Tensor, plain)
    for name, plain in _NAMES.items()
    if hasattr(Tensor, f"__{name}__")
}
"""For each torch function that writes in place, the function that does not, or None."""


def in_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Push tangents through x.add_(y), F.elu(x, inplace=True): the tangent by the function out of place, the
    primal by the one given.

    The function runs a second time for it, without a graph: computed beside and copied into place, the primal
    would hinder torch's own backward pass, which saw what it overwrote.
    """
    target: Any = args[0] if args else None
    if not isinstance(target, Dual):
        promote(func, target)
    if func in IN_PLACE:
        plain, given, named = IN_PLACE[func], args, kwargs
    else:
        plain, given, named = func, tuple(False if arg is True else arg for arg in args), dict(kwargs)
        named.pop("inplace", None)
    if plain is None or not callable(plain):
        raise NoRule(f"{name_of(func)} writes in place")
    compiling = torch.compiler.is_compiling()
    with contextlib.nullcontext() if compiling else torch.no_grad():
        result = (RULES.get(plain) or FALLBACK[0])(plain, given, named)
    if not isinstance(result, Dual):
        raise NoRule(f"{name_of(func)} writes in place what has no tangent")
    if result.shape != target.shape or not same_rows(result, target):
        raise NoRule(f"{name_of(func)} writes rows of another batch")
    if compiling:  # the compiler may lay memory out anew, and views cannot be told apart there
        target.primal.copy_(result.primal)
        target.tangent = result.tangent
        return target
    named = {key: primal(value) for key, value in kwargs.items()}
    return write(target, result.tangent, lambda: func(target.primal, *primal(args[1:]), **named))


_passes = itertools.count()
_current = [0]


def begin() -> None:
    """Begin a new pass: tensors that an earlier pass made to be written into are no longer its own."""
    if not torch.compiler.is_compiling():  # compiled code writes nothing in this way
        _current[0] = next(_passes)


def mark_blank(out: Tensor, like: Dual) -> None:
    """Record that this pass made x.new_zeros(...) or its kin, and where its batch would lie."""
    if out.is_floating_point() or out.is_complex():
        out._blank = (_current[0], like.start, like.rows, like.shape[like.rows] if like.ndim else 1)  # type: ignore[attr-defined]


def promote(func: Any, target: Any) -> None:
    """Make a Dual, without change so far, of a plain tensor that this pass made and that nothing else sees.

    Raises:
        NoRule: the tensor is any other, such as a buffer: its tangent would be lost, or outlive the pass.
    """
    mark = getattr(target, "_blank", None)
    if type(target) is not Tensor or mark is None or mark[0] != _current[0] or torch.compiler.is_compiling():
        raise NoRule(
            f"{name_of(func)} writes in place into a tensor without a tangent: make it by new_zeros or zeros_like "
            "from one of the pass, or write a = a + b instead of a += b"
        )
    _, start, rows, size = mark
    if start and (rows >= target.ndim or target.shape[rows] != size):
        raise NoRule(f"{name_of(func)} writes in place into a tensor of another batch")
    tangent = torch.zeros_like(target)
    tangent = tangent.narrow(rows, start, size - start) if start else tangent
    other = make(target, tangent, start, rows if start else 0)
    try:
        torch.utils.swap_tensors(target, other)
    except RuntimeError as error:
        raise NoRule(f"{name_of(func)} writes in place into a tensor that others see: {error}") from None
    target.primal = other  # type: ignore[attr-defined]  # the names have changed places


def same_rows(a: Dual, b: Dual) -> bool:
    """Return whether the tangents of two Duals of one shape cover the same of their rows."""
    return a.start == b.start and (not a.start or a.rows == b.rows)


def write(target: Dual, tangent: Tensor, do: Callable[[], Any]) -> Dual:
    """Write a Dual's memory: its primal by calling `do`, and with it the tangent, for all views of that memory."""
    root = _owner(target)
    if target.version is None:
        raise NoRule("writing in place in inference mode")
    if root is target:
        do()
        target.tangent = tangent
    else:
        _must_be_fresh(root)
        with torch.no_grad():
            whole = _spread_out(root)
            seen = _seen(whole, root, target)
            seen.copy_(tangent)
        do()
        target.tangent, root.tangent = seen, _covered(whole, root)
    root.version = target.version = root.primal._version
    return target


def refresh(view: Dual) -> None:
    """Take the tangent of a view anew from the owner of its memory.

    Raises:
        NoRule: the memory was written by something that could not be intercepted.
    """
    root = _owner(view)
    _must_be_fresh(root)
    with torch.no_grad():
        view.tangent = _seen(_spread_out(root), root, view)
    view.version = root.version


def _owner(dual: Dual) -> Dual:
    """Return the Dual whose tangent holds what this one shows: the root, or itself where it is a copy."""
    root = dual.root
    if root is None or root.primal.untyped_storage().data_ptr() != dual.primal.untyped_storage().data_ptr():
        return dual
    return root


def _must_be_fresh(root: Dual) -> None:
    if root.version != root.primal._version:
        raise NoRule("a tensor that was written in place where it could not be intercepted")


def _spread_out(root: Dual) -> Tensor:
    """Return a copy of a tangent that lies in memory as the primal does, with room for the rows that it doesn't
    cover."""
    plain = root.primal
    whole = root.tangent.new_empty(0).new_empty_strided(plain.shape, plain.stride(), dtype=plain.dtype)
    _covered(whole, root).copy_(root.tangent)
    return whole


def _seen(whole: Tensor, root: Dual, view: Dual) -> Tensor:
    """Return the part of such a copy that a view of the primal sees."""
    base, plain = root.primal, view.primal
    if base.dtype != plain.dtype or base.is_conj() != plain.is_conj() or base.is_neg() != plain.is_neg():
        raise NoRule("writing in place into a view of another type")
    offset = plain.storage_offset() - base.storage_offset()
    return _covered(whole.as_strided(plain.shape, plain.stride(), offset), view)


def _covered(whole: Tensor, like: Dual) -> Tensor:
    return whole.narrow(like.rows, like.start, whole.shape[like.rows] - like.start) if like.start else whole


def rule_copy(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through x.copy_(y), x.fill_(y), x.zero_(), where the old numbers have no effect."""
    target, value = args[0], args[1] if len(args) > 1 else None
    if not isinstance(target, Dual):
        promote(func, target)
    with torch.no_grad():
        tangent = torch.zeros_like(target.tangent)
        if isinstance(value, Dual):
            if value.start != target.start or (
                value.start and value.rows - value.ndim != target.rows - target.ndim
            ):
                raise NoRule(f"{name_of(func)} writes rows of another batch")
            tangent.copy_(value.tangent)
    return write(target, tangent, lambda: func(target.primal, *primal(args[1:]), **kwargs))


RULES |= dict.fromkeys((Tensor.copy_, Tensor.fill_, torch.fill_, Tensor.zero_, torch.zero_), rule_copy)
REFRESH.append(refresh)
