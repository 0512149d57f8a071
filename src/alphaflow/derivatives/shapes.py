"""Tangent rules for functions that move numbers about: shapes, indices, joining and cutting, writing by index."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dual import (
    RULES,
    Dual,
    NoRule,
    check_aligned,
    differentiable,
    first_dual,
    follow,
    make,
    name_of,
    not_over_rows,
    primal,
    tail_of,
)
from .generic import generic, pushed
from .rules import rule, run, spread
from .writes import promote, write


def root_of(out: Tensor, x: Dual) -> Dual | None:
    """Return the Dual that owns the memory of an output, where that is a view."""
    if torch.compiler.is_compiling() or not out._is_view():
        return None
    return x if x.root is None else x.root


@rule(
    *(
        torch.reshape,
        Tensor.reshape,
        Tensor.view,
        torch.flatten,
        Tensor.flatten,
        torch.unflatten,
        Tensor.unflatten,
    ),
    *(torch.squeeze, Tensor.squeeze, torch.unsqueeze, Tensor.unsqueeze, Tensor.view_as, Tensor.reshape_as),
    *(torch.ravel, Tensor.ravel),
)
def _reshape(func: Any, args: Any, kwargs: Any) -> Any:
    """Reshape the tangent where the order of the numbers stays: the batch's dimension is found by counting."""
    out, x = run(func, args, kwargs), args[0]
    if not isinstance(x, Dual) or out is x.primal:  # x.view_as(dual); nothing to do
        return out if not isinstance(x, Dual) else x
    if isinstance(args[1] if len(args) > 1 else kwargs.get("dtype"), torch.dtype):
        raise NoRule("view as another dtype")
    if not x.start:
        return make(out, x.tangent.reshape(out.shape), 0, 0, root_of(out, x))
    before, beyond = math.prod(x.shape[: x.rows]), x.start * math.prod(x.shape[x.rows + 1 :])
    done = 1
    for place, length in enumerate(out.shape):
        after = math.prod(out.shape[place + 1 :])
        if done == before and length > 1:
            if not after or beyond % after:
                break
            start = beyond // after
            shape = [*out.shape[:place], length - start, *out.shape[place + 1 :]]
            return make(out, x.tangent.reshape(shape), start, place, root_of(out, x))
        done *= length
    raise NoRule(f"{name_of(func)} from {tuple(x.shape)} to {tuple(out.shape)} splits the rows of the batch")


def _push_alike(func: Any, args: Any, kwargs: Any) -> Any:
    """Linear functions treat a tangent just like the primal."""
    x = args[0]
    out = run(func, args, kwargs)
    if not isinstance(x, Dual) or (isinstance(out, Tensor) and not differentiable(out)):  # x.to(dual), x.to(int)
        return out
    if out is x.primal:
        return x
    with torch.no_grad():
        tangent = func(x.tangent, *primal(args[1:]), **{key: primal(value) for key, value in kwargs.items()})
    if isinstance(out, Tensor):
        return follow(func, out, tangent, x.start, x.rows, root_of(out, x))
    return type(out)(follow(func, a, b, x.start, x.rows, root_of(a, x)) for a, b in zip(out, tangent))


def _alike(*functions: Any) -> None:
    rule(*functions)(_push_alike)


_alike(torch.transpose, Tensor.transpose, torch.permute, Tensor.permute, torch.movedim, Tensor.movedim)
_alike(torch.swapaxes, Tensor.swapaxes, torch.swapdims, Tensor.swapdims, torch.moveaxis, Tensor.moveaxis)
_alike(torch.t, Tensor.t, torch.adjoint, Tensor.adjoint, torch.conj, Tensor.conj, torch.resolve_conj)
_alike(Tensor.T.__get__, Tensor.mT.__get__, Tensor.mH.__get__, Tensor.H.__get__)  # type: ignore[attr-defined]
_alike(Tensor.real.__get__, Tensor.imag.__get__, torch.real, torch.imag)  # type: ignore[attr-defined]
_alike(Tensor.contiguous, torch.clone, Tensor.clone, Tensor.float, Tensor.double, Tensor.bfloat16, Tensor.half)
_alike(Tensor.to, Tensor.type, Tensor.type_as, Tensor.cpu, Tensor.cuda, torch.view_as_real)
# A detached value still moves with t; only the gradient to the weights stops at it.
_alike(Tensor.detach, torch.detach)


@rule(torch.view_as_complex)
def _view_as_complex(func: Any, args: Any, kwargs: Any) -> Any:
    out, x = run(func, args, kwargs), args[0]
    with torch.no_grad():
        tangent = x.tangent
        fits = tangent.stride(-1) == 1 and all(step % 2 == 0 for step in tangent.stride()[:-1])
        tangent = func((tangent if fits else tangent.contiguous()).to(x.dtype))
    return follow(func, out, tangent, x.start, x.rows, root_of(out, x))


@rule(F.pad)
def _pad(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "pad", "mode", "value")
    x, widths, mode, _ = (
        dict(zip(names, (None, None, "constant", None))) | dict(zip(names, args)) | kwargs
    ).values()
    out = run(func, args, kwargs)
    if x.start and x.rows >= x.ndim - len(widths) // 2 and any(widths[2 * (x.ndim - 1 - x.rows) :][:2]):
        raise NoRule("pad along the batch")
    with torch.no_grad():
        tangent = func(x.tangent, widths, mode)  # the padding has no derivative
    return follow(func, out, tangent, x.start, x.rows)


@rule(F.avg_pool2d, F.pixel_shuffle, F.pixel_unshuffle, torch.pixel_shuffle, torch.pixel_unshuffle)
def _of_pictures(func: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    if x.start and x.rows >= x.ndim - 3:
        raise NoRule(f"{name_of(func)} along the batch")
    return _push_alike(func, args, kwargs)


def _over_dim(place: int, default: int | None, *functions: Any) -> None:
    """Register linear functions along a dimension, which must not be the batch's."""

    def body(func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0]
        dim = kwargs.get("dim", args[place] if len(args) > place else default)
        if isinstance(dim, torch.dtype):  # x.sum(torch.float64)
            dim = None
        not_over_rows(func, x, dim)
        return _push_alike(func, args, kwargs)

    rule(*functions)(body)


_over_dim(2, 0, torch.chunk, Tensor.chunk, torch.split, Tensor.split)
_over_dim(1, 0, torch.unbind, Tensor.unbind)
_over_dim(1, None, torch.mean, Tensor.mean, torch.sum, Tensor.sum)
_over_dim(1, None, torch.narrow, Tensor.narrow, torch.select, Tensor.select)


@rule(torch.cat, torch.concat, torch.concatenate, torch.stack)
def _cat(func: Any, args: Any, kwargs: Any) -> Any:
    out, parts = run(func, args, kwargs), args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    like = first_dual(parts)
    for part in parts:
        if isinstance(part, Dual):
            check_aligned(part, like)
    if func is not torch.stack:
        not_over_rows(func, like, dim)
    with torch.no_grad():
        tangents = [p.tangent if isinstance(p, Dual) else torch.zeros_like(tail_of(p, like)) for p in parts]
        return follow(func, out, func(tangents, dim), like.start, like.rows)


@rule(Tensor.__getitem__)
def _getitem(func: Any, args: Any, kwargs: Any) -> Any:
    x, index = args
    if not isinstance(x, Dual):
        raise NoRule("an index that depends on z or t")
    out = func(primal(x), index)
    if x.start:
        _check_index(x, index)
    with torch.no_grad():
        return follow(func, out, func(x.tangent, index), x.start, x.rows, root_of(out, x))


def _check_index(x: Dual, index: Any) -> None:
    """Refuse an index that picks rows of the batch."""
    index = index if isinstance(index, tuple) else (index,)
    indexed = sum(_dims_of(item) for item in index)
    place = 0
    for item in index:
        if item is Ellipsis:
            place += x.ndim - indexed
        elif item is not None:
            if place <= x.rows < place + _dims_of(item) and not _is_all(item, x.shape[x.rows]):
                raise NoRule("indexing the rows of the batch")
            place += _dims_of(item)


def _is_all(item: Any, size: int) -> bool:
    return isinstance(item, slice) and item.indices(size) == (0, size, 1)


def _dims_of(item: Any) -> int:
    """Return how many dimensions an item of an index takes up."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8):
        return item.ndim
    if isinstance(item, list | range) and any(isinstance(one, bool | list) for one in item):
        raise NoRule("indexing with nested lists, or lists of truth values")
    return 1


@rule(Tensor.__setitem__)
def _setitem(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through x[index] = value, by index or by a mask."""
    x, index, value = args
    if torch.compiler.is_compiling():
        raise NoRule("assigning by index, compiled")
    if not isinstance(x, Dual):
        promote(func, x)
    mask = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if x.start and isinstance(mask, Tensor) and mask.dtype == torch.bool and x.rows < mask.ndim:
        if isinstance(value, Tensor) and value.ndim:
            raise NoRule("assigning a tensor by a mask over the rows of the batch")
        covered = mask.narrow(x.rows, x.start, mask.shape[x.rows] - x.start)
    else:
        covered = index
        if x.start:
            _check_index(x, index)
    with torch.no_grad():
        tangent = x.tangent.clone(memory_format=torch.contiguous_format)
        func(tangent, covered, _assigned(x, index, value))
    write(x, tangent, lambda: func(x.primal, index, primal(value)))


def _assigned(x: Dual, index: Any, value: Any) -> Any:
    """Return the tangent of the value that is assigned."""
    if not isinstance(value, Dual):
        return 0.0
    if x.start or value.start:
        seen = x.primal[index]
        cut = x.tangent[index]
        place = follow(Tensor.__getitem__, seen, cut, x.start, x.rows).rows - seen.ndim
        if value.start != x.start or value.rows - value.ndim != place:
            raise NoRule("assigning rows of another batch")
    return value.tangent.to(x.tangent.dtype)


@rule(Tensor.expand, torch.broadcast_to, Tensor.broadcast_to, Tensor.expand_as)
def _expand(func: Any, args: Any, kwargs: Any) -> Any:
    out, x = run(func, args, kwargs), args[0]
    if not isinstance(x, Dual):
        return out
    with torch.no_grad():
        return follow(func, out, spread(x.tangent, x, out), x.start, x.rows, root_of(out, x))


@rule(Tensor.repeat, torch.tile, Tensor.tile)
def _repeat(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through copies side by side; of the batch, there is one."""
    x = args[0]
    times = args[1] if len(args) == 2 and not isinstance(args[1], int) else args[1:]
    times = tuple(kwargs.get("dims", kwargs.get("repeats", times)))
    place = x.rows - x.ndim
    if x.start and len(times) >= -place and times[place] != 1:
        raise NoRule(f"{name_of(func)} along the batch")
    return _push_alike(func, args, kwargs)


@rule(torch.repeat_interleave, Tensor.repeat_interleave)
def _repeat_interleave(func: Any, args: Any, kwargs: Any) -> Any:
    """Repeat the tangent, along the batch too, where each row is repeated alike."""
    x, times = args[0], kwargs.get("repeats", args[1] if len(args) > 1 else None)
    dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
    if not x.start:
        return generic(func, args, kwargs)
    if dim is None or (dim % x.ndim == x.rows and not isinstance(times, int)):
        raise NoRule(f"{name_of(func)} along the batch")
    out = run(func, args, kwargs)
    with torch.no_grad():
        tangent = func(x.tangent, times, dim)
    return follow(func, out, tangent, x.start, x.rows)


@rule(F.dropout, torch.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
def _dropout(func: Any, args: Any, kwargs: Any) -> Any:
    share = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    if share and kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True)):
        raise NoRule("dropout: primal and tangent would not see the same draw; set its p to 0")
    return args[0]


@rule(
    *(
        getattr(Tensor, name).__get__
        for name in "shape ndim dtype device requires_grad is_cuda is_leaf grad_fn layout is_meta _base".split()
    ),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.__len__),
)
def _attribute(func: Any, args: Any, kwargs: Any) -> Any:
    """Answer for the attributes that networks ask for most often, without a detour."""
    return run(func, args, kwargs)


@rule(Tensor.__bool__, Tensor.__int__, Tensor.__index__, Tensor.__format__, Tensor.__repr__, Tensor.__str__)
def _shown(func: Any, args: Any, kwargs: Any) -> Any:
    """Return steps, such as comparisons, and words, through which no derivative passes."""
    return run(func, args, kwargs)


__all__ = ["RULES", "pushed"]
