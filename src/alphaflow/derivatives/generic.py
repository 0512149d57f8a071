"""Functions without a rule of their own: `torch.func.jvp` of that one function, where it is known to be right.

Such a function is torch's own, out of place, without random numbers, and, where tangents cover a part of the
batch, known to keep rows apart (`kinds.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .dual import FALLBACK, Dual, NoRule, differentiable, first_dual, flatten, follow, make, name_of, primal, tail
from .kinds import BLANK, CONSTANT, DRAWS, ESCAPES, KINDS, PLAIN, SILENT, Narrow, is_torchs, place_of_inplace
from .writes import IN_PLACE, in_place, mark_blank


def generic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute the primal of any function once, and its own jvp on the rows of the tangent.

    Raises:
        NoRule: the function may lose the tangent, or mix rows that have one with rows that have none.
    """
    compiling = torch.compiler.is_compiling()  # what is compiled has run uncompiled before
    if not compiling:
        _refuse(func, args, kwargs)
    if func in IN_PLACE or kwargs.get("inplace") or (not compiling and _asked_in_place(func, args)):
        return in_place(func, args, kwargs)
    drawn = None if func in KINDS else _draws()
    out = func(*primal(args), **{key: primal(value) for key, value in kwargs.items()})
    if func in CONSTANT or not any(differentiable(leaf) for leaf in flatten(out)):
        return _without_tangent(func, args, kwargs, out)
    if drawn is not None and not torch.equal(drawn, torch.default_generator.get_state()):
        raise NoRule(f"{name_of(func)}: primal and tangent would not see the same draw")
    return pushed(func, args, kwargs, out)


def _refuse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise a `NoRule` for functions that may lose the tangent."""
    if func in ESCAPES or not is_torchs(func):
        raise NoRule(f"no rule for {name_of(func)}, which may lose the tangent")
    if func in DRAWS:
        raise NoRule(f"{name_of(func)}: primal and tangent would not see the same draw")
    if kwargs.get("out") is not None:
        raise NoRule(f"{name_of(func)} with out=, which writes into a tensor without a tangent")
    if func in SILENT and any(isinstance(x, str) and x == "prod" for x in (*args, kwargs.get("reduce"))):
        raise NoRule(f"{name_of(func)} of products: torch gives zeros for its derivative")


def _asked_in_place(func: Any, args: tuple[Any, ...]) -> bool:
    place = place_of_inplace(func)
    return place is not None and len(args) > place and bool(args[place])


def pushed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Join the output of a function with its tangent, taken by jvp."""
    like = first_dual(args, kwargs)
    starts = {leaf.start > 0 for leaf in flatten((args, kwargs)) if isinstance(leaf, Dual)}
    narrow: Narrow = _as_it_is
    if True in starts:
        if func not in KINDS or len(starts) > 1:
            raise NoRule(f"no rule for {name_of(func)} with tangents on part of the batch")
        narrow = KINDS[func](func, args, kwargs, like)
    inputs: list[Tensor] = []
    tangents: list[Tensor] = []

    def open_up(value: Any) -> Any:
        """Replace Duals by their place in `inputs`; some functions write to them, so none may be expanded."""
        if isinstance(value, Dual):
            inputs.append(own(tail(value)))
            tangents.append(own(value.tangent.to(value.dtype)))
            return _Place(len(inputs) - 1)
        if isinstance(value, tuple | list):
            return type(value)(open_up(item) for item in value)
        if isinstance(value, dict):
            return {key: open_up(item) for key, item in value.items()}
        return narrow(value.detach() if isinstance(value, Tensor) and not like.start else value)

    # Dynamo cannot take the jvp at a view; its copies cost nothing once compiled.
    own = Tensor.clone if torch.compiler.is_compiling() else Tensor.contiguous
    places, named = open_up(args), open_up(kwargs)

    def run(*values: Tensor) -> Any:
        return func(*_fill(places, values), **_fill(named, values))

    try:
        with torch.no_grad():
            _, change = torch.func.jvp(run, tuple(inputs), tuple(tangents))  # type: ignore[misc]
    except (RuntimeError, NotImplementedError) as error:
        raise NoRule(f"no derivative of {name_of(func)}: {str(error).splitlines()[0]}") from None
    return _join(func, out, change, like)


def _draws() -> Tensor | None:
    """Return the state of the generator that functions on a CPU draw from, to see whether one did."""
    return None if torch.compiler.is_compiling() else torch.default_generator.get_state()


def _without_tangent(func: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """Return an output that has no derivative (shapes, comparisons, indices, constants); refuse numbers for
    Python."""
    if func in BLANK and not torch.compiler.is_compiling():
        mark_blank(out, first_dual(args, kwargs))
    for leaf in flatten(out):
        if isinstance(leaf, float | complex) or not (
            isinstance(leaf, (Tensor, *PLAIN)) or type(leaf).__module__.split(".")[0] == "torch"
        ):
            raise NoRule(f"{name_of(func)} hands numbers to Python, past their tangent")
    return out


def _root(dual: Dual) -> Dual:
    return dual if dual.root is None else dual.root


def _as_it_is(value: Any) -> Any:
    return value


class _Place:
    """Marks the place of an input of the function while its jvp is taken."""

    def __init__(self, index: int) -> None:
        self.index = index


def _fill(structure: Any, values: Sequence[Tensor]) -> Any:
    if isinstance(structure, _Place):
        return values[structure.index]
    if isinstance(structure, tuple | list):
        return type(structure)(_fill(item, values) for item in structure)
    if isinstance(structure, dict):
        return {key: _fill(item, values) for key, item in structure.items()}
    return structure


def _join(func: Any, out: Any, pushed: Any, like: Dual) -> Any:
    if isinstance(out, Tensor):
        if not differentiable(out):
            return out
        root = _root(like) if not torch.compiler.is_compiling() and out._is_view() else None
        return follow(func, out, pushed, like.start, like.rows, root)
    if not isinstance(out, tuple | list):
        return out
    parts = [_join(func, one, other, like) for one, other in zip(out, pushed)]
    return type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)


FALLBACK.append(generic)
__all__ = ["generic", "make", "pushed"]
