"""Dual tensors: a network runs once and yields u with its graph and du/dt without one.

A `Dual` is a tensor (the primal, part of the autograd graph as ever) that carries a tangent, its derivative along
(v, 0, 1), computed beside it without a graph. Every torch function a network calls on a Dual is intercepted:
functions with a rule (`rules.py` and its neighbours) push the tangent forward exactly and cheaply; others go
through `torch.func.jvp` of that one function where that is known to be right (`generic.py`); all else raises
`NoRule`. Tangents cover only the last rows of the batch, those with r < t, while the primal covers all, so that
the batch is never split.

No tangent is lost in silence. What a Dual shows to torch is an empty shell without memory (`_Sealed`): code that
gets at it past `__torch_function__`, such as `torch.tensor(x)`, finds no numbers there, and is refused. An
`autograd.Function` is recognised by the mode that torch runs it in. Writing in place changes what other tensors
see: `writes.py` keeps their tangents in step.

Nothing here is particular to a network: any module made of ordinary torch functions works.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
"""A rule for each torch function: rule(func, args, kwargs) -> output, a Dual where its tangent is not zero."""

FALLBACK: list[Rule] = []
"""The one rule for functions that have none of their own; `generic.py` puts it here."""


class NoRule(NotImplementedError):
    """A function that the network calls has no derivative here; the message names it."""


class Dual(torch.Tensor):
    """A tensor with a tangent."""

    primal: Tensor
    """The plain tensor."""
    tangent: Tensor
    """Like the tensor, but only rows `start` and later along dimension `rows` (the batch's)."""
    start: int
    rows: int
    root: "Dual | None"
    """The Dual whose memory this one is a view of, or None."""
    version: int | None
    """How often the primal's memory had been written when the tangent was taken; None: torch doesn't count."""

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
            rule = RULES.get(func)
            try:
                if not torch.compiler.is_compiling():
                    if not torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled():
                        raise NoRule(_FUNCTION)
                    _look(args)
                    if kwargs:
                        _look(kwargs.values())
                        args, kwargs = _positional(args, kwargs) if rule else (args, kwargs)
                return (rule or FALLBACK[0])(func, args, kwargs or {})
            except NoRule as error:
                raise NoRule(f"{error} (in {_calling_module()})") from None
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise NoRule(
                    f"{name_of(func)} called in an unforeseen way: {error} (in {_calling_module()})"
                ) from None


_FUNCTION = (
    "the inside of a torch.autograd.Function, whose gradient would get lost (checkpointing with "
    "use_reentrant=True is one: set it to False)"
)


class _Sealed(Dual):
    """The class of what `make` returns: a shell without memory, so that nothing gets at numbers without their
    tangent."""

    # opt_einsum and its kin look here for whose functions take a tensor: numpy's would get past the tangent.
    __module__ = "torch"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise NoRule(f"{func} reached past the functions that can be intercepted (in {_calling_module()})")


REFRESH: list[Callable[[Dual], None]] = []
"""The function that takes the tangent of a view anew after its memory was written; `writes.py` puts it here."""


def _look(values: Any) -> None:
    """Renew the tangents of all views whose memory has been written since."""
    for value in values:
        kind = type(value)
        if kind is _Sealed:
            if value.version is not None and value.version != value.primal._version:
                REFRESH[0](value)
        elif kind is tuple or kind is list:
            _look(value)


def _positional(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments as rules expect them, by position and by torch's own names: torch.mul(input=a, other=b),
    x.sum(axis=1)."""
    kwargs = {_ALSO.get(key, key): value for key, value in kwargs.items()}
    if not args:
        for name in ("input", "tensors"):
            if name in kwargs:
                args = (kwargs.pop(name),)
                break
    if len(args) == 1:
        for name in ("other", "mat2"):
            if name in kwargs:
                args = (*args, kwargs.pop(name))
    return args, kwargs


_ALSO = {"axis": "dim", "keepdims": "keepdim", "self": "input"}


def call(func: Any, *args: Any) -> Any:
    """Call a function as torch would, but from inside a rule, where nothing is intercepted."""
    if any(isinstance(leaf, Dual) for leaf in flatten(args)):
        return (RULES.get(func) or FALLBACK[0])(func, args, {})
    return func(*args)


def make(primal: Tensor, tangent: Tensor, start: int = 0, rows: int = 0, root: Dual | None = None) -> Dual:
    """Join a primal and its tangent; `root` is the Dual whose memory the primal is a view of."""
    dual: Dual
    if torch.compiler.is_compiling():
        with torch.enable_grad():  # rules call this from where the tangent was computed, without a graph
            # Dynamo lets a few builtins past __torch_function__: they get NaN, not numbers without tangents.
            dual = primal.detach().new_full((), torch.nan).expand(primal.shape).as_subclass(Dual)
    else:
        dual = _shell(_Sealed, primal.shape, dtype=primal.dtype, device=primal.device)
        try:
            dual.version = primal._version
        except RuntimeError:  # a tensor made in inference mode
            dual.version = None
    dual.primal, dual.tangent, dual.start, dual.rows, dual.root = primal, tangent, start, rows, root
    return dual


_shell = torch.Tensor._make_wrapper_subclass


def primal(value: Any) -> Any:
    """Return the plain tensor of a Dual, anything else as it is, and sequences element by element."""
    if isinstance(value, Dual):
        return value.primal
    if isinstance(value, tuple | list):
        return type(value)(primal(item) for item in value)
    return value


def tail(dual: Dual) -> Tensor:
    """Return the rows of the primal that the tangent covers, without a graph."""
    plain = dual.primal.detach()
    return plain.narrow(dual.rows, dual.start, plain.shape[dual.rows] - dual.start) if dual.start else plain


def tail_of(value: Any, like: Dual) -> Any:
    """Return the tangent's rows of another operand of an elementwise function: a Dual, or a tensor that broadcasts
    to it.

    Raises:
        NoRule: the operand is a Dual whose rows lie elsewhere.
    """
    if isinstance(value, Dual):
        check_aligned(value, like)
        return tail(value)
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    place = like.rows - like.ndim + value.ndim  # broadcasting aligns from the right
    if like.start and 0 <= place < value.ndim and value.shape[place] == like.shape[like.rows] > 1:
        return value.narrow(place, like.start, value.shape[place] - like.start)
    return value


def check_aligned(a: Dual, b: Dual) -> None:
    """Raise unless the tangents of two operands that broadcast together cover the same rows of the result."""
    if a is b or not (a.start or b.start):
        return
    if a.start != b.start or a.rows - a.ndim != b.rows - b.ndim or a.shape[a.rows] != b.shape[b.rows]:
        raise NoRule("operands whose batches lie in different dimensions")


def follow(func: Any, out: Tensor, tangent: Tensor, start: int, rows: int, root: Dual | None = None) -> Dual:
    """Join an output with its tangent; the batch's dimension is the one in which they differ."""
    if out.is_complex() and not tangent.is_complex():
        tangent = tangent.to(out.dtype)
    if not start:
        return make(out, tangent, 0, min(rows, max(out.ndim - 1, 0)), root)
    differ = [k for k, (a, b) in enumerate(zip(out.shape, tangent.shape)) if a != b]
    if out.ndim != tangent.ndim or len(differ) != 1:
        raise NoRule(f"{name_of(func)} mixes the rows of the batch, or has no rule for tangents on part of it")
    return make(out, tangent, out.shape[differ[0]] - tangent.shape[differ[0]], differ[0], root)


def not_over_rows(func: Any, x: Dual, dim: Any) -> None:
    """Raise if a function works along the batch while the tangent covers only a part of it."""
    if not x.start:
        return
    if dim is None:
        raise NoRule(f"{name_of(func)} over the whole batch")
    for one in dim if isinstance(dim, tuple | list) else (dim,):
        if one % x.ndim == x.rows:
            raise NoRule(f"{name_of(func)} along the batch")


def first_dual(*values: Any) -> Dual:
    """Return the Dual of the highest dimension among the arguments, to which the others broadcast."""
    duals = [value for value in flatten(values) if isinstance(value, Dual)]
    most = max(dual.ndim for dual in duals)
    return next(dual for dual in duals if dual.ndim == most)


def flatten(values: Any) -> list[Any]:
    """Return all leaves of nested tuples, lists and dictionaries."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return [leaf for value in values for leaf in flatten(value)]
    return [values]


def differentiable(value: Any) -> bool:
    """Return whether a value is a tensor that may have a tangent."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def name_of(func: Any) -> str:
    """Return a torch function's usual name."""
    if torch.compiler.is_compiling():
        return "a function"
    owner = getattr(func, "__self__", None)
    if inspect.isdatadescriptor(owner):  # x.data is a call of Tensor.data.__get__
        return f"Tensor.{getattr(owner, '__name__', owner)}"
    return str(getattr(func, "__qualname__", None) or getattr(func, "__name__", func))


def _calling_module() -> str:
    """Return the type of the innermost module that is not torch's own and is being run."""
    if torch.compiler.is_compiling():
        return "a compiled module"
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module):
            return type(owner).__name__
        frame = frame.f_back
    return "a function"
