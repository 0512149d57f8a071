"""The modules behind a callable (a lambda, a bound method, a partial), and stand-ins for their weights.

A network may be any callable u(z, r, t, y), often one made anew at each step: `lambda z, r, t, y: net(z, t, y)`.
What is found out once about the network has to be found again, and what a trial of it would disturb belongs to the
modules.
"""

import functools
import types
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_DEPTH, _MOST = 6, 64


def look_behind(net: object) -> tuple[list[nn.Module], tuple[Hashable, ...]]:
    """Return the modules that a callable calls, and a key that is equal for callables that stand for the same.

    Bound methods, closures, defaults, global names that code refers to, partials, and the attributes of objects
    are followed. Numbers, texts and tensors do not count: another scale is no other network.
    """
    modules: list[nn.Module] = []
    key: list[Hashable] = []
    _walk(net, modules, key, set(), _DEPTH)
    return modules, tuple(key)


def _walk(value: Any, modules: list[nn.Module], key: list[Hashable], seen: set[int], depth: int) -> None:
    if id(value) in seen or depth < 0 or value is None or isinstance(value, Tensor | str | bytes | int | float):
        return
    seen.add(id(value))

    def follow(values: Any) -> None:
        for one in list(values)[:_MOST]:
            _walk(one, modules, key, seen, depth - 1)

    if isinstance(value, nn.Module):
        modules.append(value)
        key += [weakref.ref(value), value.training]
    elif isinstance(value, types.MethodType):
        follow((value.__func__, value.__self__))
    elif isinstance(value, types.FunctionType):
        key.append(value.__code__)
        follow(_cells(value))
        follow(value.__defaults__ or ())
        follow((value.__kwdefaults__ or {}).values())
        follow(
            one for one in _globals(value) if isinstance(one, nn.Module | types.FunctionType | functools.partial)
        )
    elif isinstance(value, functools.partial):
        follow((value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        follow(value)
    elif isinstance(value, dict):
        follow(value.values())
    elif isinstance(value, type):
        key.append(weakref.ref(value))
    elif isinstance(value, types.BuiltinFunctionType):
        key.append(value)
    elif isinstance(value, Callable):  # type: ignore[arg-type]
        key.append(weakref.ref(type(value)))
        follow(getattr(value, "__dict__", {}).values())


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the cell of a closure is not filled yet
            continue


def _globals(function: types.FunctionType) -> Iterator[Any]:
    """Yield what the function's code, and that of functions inside it, may mean by global names; torch's own are
    left out."""
    if function.__module__ and function.__module__.split(".")[0] == "torch":
        return
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        for name in code.co_names:
            if name in function.__globals__:
                yield function.__globals__[name]


def is_compiled(net: object) -> bool:
    """Return whether the callable, or a module behind it, was handed to torch.compile."""
    if hasattr(net, "_torchdynamo_orig_callable"):
        return True
    return any(
        hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        for root in look_behind(net)[0]
        for module in root.modules()
    )


@contextmanager
def standing_in(
    modules: list[nn.Module],
    *,
    weight: Callable[[str, Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[None]:
    """For a while, let the modules compute with copies of their weights and buffers; the originals are not
    touched.

    So running statistics and the vectors of spectral norms do not move, whatever is tried meanwhile.

    Args:
        modules: the modules.
        weight: makes a parameter's stand-in from its name and value; None: the parameters stay.
        dtype: the type of all stand-ins that are floating; None: their own.
    """
    copies: dict[int, Tensor] = {}
    undo: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for number, root in enumerate(modules):
            for path, module in root.named_modules():
                for name, value in module._parameters.items():
                    if value is None or (weight is None and dtype is None):
                        continue
                    if id(value) not in copies:
                        full = f"{number}." * (number > 0) + f"{path}." * bool(path) + name
                        copy = weight(full, value.detach()) if weight else value.detach()
                        copies[id(value)] = _cast(copy, dtype)
                    undo.append((module._parameters, name, value))
                for name, value in module._buffers.items():
                    if value is None:
                        continue
                    if id(value) not in copies:
                        copies[id(value)] = _cast(value.detach().clone(), dtype)
                    undo.append((module._buffers, name, value))
        for home, name, value in undo:
            home[name] = copies[id(value)]
        yield
    finally:
        for home, name, value in undo:
            home[name] = value


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value
