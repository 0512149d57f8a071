"""Dual tensors: a network runs once and yields u with its graph and du/dt without one.

A `Dual` is a tensor (the primal, part of the autograd graph as ever) that carries a tangent, its derivative along
(v, 0, 1), computed beside it without a graph. Every torch function a network calls on a Dual is intercepted:
functions with a rule (`dual_rules.py`) push the tangent forward exactly and cheaply; any other goes through
`torch.func.jvp` of that one function. Tangents cover only the last rows of the batch, those with r < t, while the
primal covers all, so that the batch is never split.

Nothing here knows a network: any module made of ordinary torch functions works.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
"""torch function -> rule(func, args, kwargs) -> output, a Dual where its tangent is not zero."""

IN_PLACE: dict[Any, Any] = {
    getattr(home, name): getattr(Tensor, name[:-1], None)
    for home in (Tensor, torch, torch.nn.functional)
    for name in dir(home)
    if name.endswith("_") and not name.endswith("__")
}
"""torch function that writes in place -> the tensor method that does not, or None."""


class NoRule(NotImplementedError):
    """A function of the network has no derivative here; the message names it."""


class Dual(torch.Tensor):
    """A tensor with a tangent.

    primal: the plain tensor.
    tangent: like the tensor, but only rows `start` and later along dimension `rows` (the batch's).
    """

    primal: Tensor
    tangent: Tensor
    start: int
    rows: int

    # Torch writes these methods in Python, where Dynamo would trace into them, past __torch_function__.
    def split(self, size: Any, dim: int = 0) -> Any:
        return torch.split(self, size, dim)

    def unflatten(self, dim: Any, sizes: Any) -> Tensor:
        return torch.unflatten(self, dim, sizes)

    def norm(self, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
        return torch.norm(self, p, dim, keepdim, dtype=dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            rule = RULES.get(func, _generic)
            try:
                return rule(func, args, kwargs or {})
            except NoRule as error:
                raise NoRule(f"{error} (in {_calling_module()})") from None
            except (AttributeError, IndexError, KeyError, TypeError) as error:
                raise NoRule(
                    f"{name_of(func)} called in an unforeseen way: {error} (in {_calling_module()})"
                ) from None


def call(func: Any, *args: Any) -> Any:
    """A function as torch would call it, but from inside a rule, where nothing is intercepted."""
    if any(isinstance(leaf, Dual) for leaf in flatten(args)):
        return RULES.get(func, _generic)(func, args, {})
    return func(*args)


def make(primal: Tensor, tangent: Tensor, start: int = 0, rows: int = 0) -> Dual:
    """Join a primal and its tangent."""
    with torch.enable_grad():  # rules call this from where the tangent was computed, without a graph
        if torch.compiler.is_compiling():
            # Dynamo lets a few builtins past __torch_function__: they shall find NaN, not lose the tangent.
            dual = primal.detach().new_full((), torch.nan).expand(primal.shape).as_subclass(Dual)
        else:
            dual = primal.as_subclass(Dual)
    dual.primal, dual.tangent, dual.start, dual.rows = primal, tangent, start, rows
    return dual


def primal(value: Any) -> Any:
    """The plain tensor of a Dual; anything else as it is; sequences element by element."""
    if isinstance(value, Dual):
        return value.primal
    if isinstance(value, tuple | list):
        return type(value)(primal(item) for item in value)
    return value


def tail(dual: Dual) -> Tensor:
    """The rows of the primal that the tangent covers, without a graph."""
    plain = dual.primal.detach()
    return plain.narrow(dual.rows, dual.start, plain.shape[dual.rows] - dual.start) if dual.start else plain


def tail_of(value: Any, like: Dual) -> Any:
    """The same rows of another operand of an elementwise function: a Dual, or a tensor that broadcasts to it."""
    if isinstance(value, Dual):
        return tail(value)
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    place = like.rows - like.ndim + value.ndim  # broadcasting aligns from the right
    if like.start and 0 <= place < value.ndim and value.shape[place] == like.shape[like.rows] > 1:
        return value.narrow(place, like.start, value.shape[place] - like.start)
    return value


def follow(func: Any, out: Tensor, tangent: Tensor, start: int, rows: int) -> Dual:
    """Join an output with its tangent; the batch's dimension is the one in which they differ."""
    if not start:
        return make(out, tangent, 0, min(rows, max(out.ndim - 1, 0)))
    differ = [k for k, (a, b) in enumerate(zip(out.shape, tangent.shape)) if a != b]
    if out.ndim != tangent.ndim or len(differ) != 1:
        raise NoRule(f"{name_of(func)} mixes the rows of the batch, or has no rule for tangents on part of it")
    return make(out, tangent, out.shape[differ[0]] - tangent.shape[differ[0]], differ[0])


def first_dual(*values: Any) -> Dual:
    """The Dual of the highest dimension among the arguments: the one that the others broadcast to."""
    duals = [value for value in flatten(values) if isinstance(value, Dual)]
    most = max(dual.ndim for dual in duals)
    return next(dual for dual in duals if dual.ndim == most)


def flatten(values: Any) -> list[Any]:
    """All leaves of nested tuples, lists and dictionaries."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return [leaf for value in values for leaf in flatten(value)]
    return [values]


def name_of(func: Any) -> str:
    """How a person would call a torch function."""
    if torch.compiler.is_compiling():
        return "a function"
    return str(getattr(func, "__qualname__", None) or getattr(func, "__name__", func))


def _calling_module() -> str:
    """The type of the innermost module that is not torch's own and is being run."""
    if torch.compiler.is_compiling():
        return "a compiled module"
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module):
            return type(owner).__name__
        frame = frame.f_back
    return "a function"


def _generic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any function: its primal once, and its own jvp on the rows of the tangent."""
    if func in IN_PLACE:
        return _in_place(func, args, kwargs)
    out = func(*primal(args), **{key: primal(value) for key, value in kwargs.items()})
    if not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in flatten(out)):
        return out  # shapes, comparisons, indices
    like = first_dual(args, kwargs)
    inputs: list[Tensor] = []
    tangents: list[Tensor] = []

    def open_up(value: Any) -> Any:
        """Replace Duals by their place in `inputs`; some functions write to them, so none may be expanded."""
        if isinstance(value, Dual):
            inputs.append(own(tail(value)))
            tangents.append(own(value.tangent))
            return _Place(len(inputs) - 1)
        if isinstance(value, tuple | list):
            return type(value)(open_up(item) for item in value)
        if isinstance(value, dict):
            return {key: open_up(item) for key, item in value.items()}
        return tail_of(value, like)

    # Dynamo cannot take the jvp at a view; its copies cost nothing once compiled.
    own = Tensor.clone if torch.compiler.is_compiling() else Tensor.contiguous
    places, named = open_up(args), open_up(kwargs)

    def run(*values: Tensor) -> Any:
        return func(*_fill(places, values), **_fill(named, values))

    try:
        with torch.no_grad():
            _, pushed = torch.func.jvp(run, tuple(inputs), tuple(tangents))  # type: ignore[misc]
    except (RuntimeError, NotImplementedError) as error:
        raise NoRule(f"no derivative of {name_of(func)}: {str(error).splitlines()[0]}") from None
    return _join(func, out, pushed, like)


def _in_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """x.add_(y): the tangent by the function without its underscore, then the primal in place."""
    target, plain = args[0], IN_PLACE[func]
    if plain is None or not isinstance(target, Dual):
        raise NoRule(f"{name_of(func)} writes in place into a tensor without a tangent")
    result = RULES.get(plain, _generic)(plain, args, kwargs)
    target.primal.copy_(result.primal)
    target.tangent = result.tangent
    return target


class _Place:
    """Stands for an input of the function while its jvp is taken."""

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
        return follow(func, out, pushed, like.start, like.rows) if out.is_floating_point() else out
    return type(out)(_join(func, one, other, like) for one, other in zip(out, pushed))
