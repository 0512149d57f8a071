"""Tangent rules for the functions that networks spend their time in. Importing this fills `dual.RULES`.

A rule gets (func, args, kwargs) as torch would call it. The primal is computed once, by the function itself, in
the graph; the tangent without one, on its rows only. Elementwise functions and those with a symmetric Jacobian
(softmax, normalisation) push a tangent forward by the very kernel with which autograd pulls a gradient back.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dual import RULES, Dual, NoRule, first_dual, follow, make, name_of, primal, tail, tail_of

aten = torch.ops.aten


def rule(*functions: Any) -> Callable[[Any], Any]:
    """Register a rule for functions."""

    def register(body: Any) -> Any:
        for function in functions:
            RULES[function] = body
        return body

    return register


def bind(names: tuple[str, ...], args: Any, kwargs: Any, defaults: tuple[Any, ...] = ()) -> list[Any]:
    """Arguments in the order of `names`; the last ones default to `defaults`, the others to None."""
    blank = dict(zip(names, [None] * (len(names) - len(defaults)) + list(defaults)))
    return list({**blank, **dict(zip(names, args)), **kwargs}.values())


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return func(*primal(args), **{key: primal(value) for key, value in kwargs.items()})


# ---------------------------------------------------------------- arithmetic


@rule(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
def _add(func: Any, args: Any, kwargs: Any) -> Any:
    return _sum(func, args, kwargs, 1.0)


@rule(torch.sub, Tensor.sub, Tensor.__sub__)
def _sub(func: Any, args: Any, kwargs: Any) -> Any:
    return _sum(func, args, kwargs, -1.0)


def _sum(func: Any, args: Any, kwargs: Any, sign: float) -> Any:
    out, (a, b) = _run(func, args, kwargs), args
    sign *= kwargs.get("alpha", 1.0)
    with torch.no_grad():
        if isinstance(a, Dual) and isinstance(b, Dual):
            like = _wider(a, b)
            tangent = torch.add(a.tangent, b.tangent, alpha=sign)
        else:
            like, factor = (a, 1.0) if isinstance(a, Dual) else (b, sign)
            tangent = like.tangent if factor == 1.0 else like.tangent * factor
            tangent = _spread(tangent, like, out)
    return follow(func, out, tangent, like.start, like.rows)


@rule(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
def _mul(func: Any, args: Any, kwargs: Any) -> Any:
    out, (a, b) = _run(func, args, kwargs), args
    with torch.no_grad():
        if isinstance(a, Dual) and isinstance(b, Dual):
            like = _wider(a, b)
            tangent = torch.addcmul(a.tangent * tail(b), tail(a), b.tangent)
        else:
            like, other = (a, b) if isinstance(a, Dual) else (b, a)
            tangent = _spread(like.tangent * _beside(other, like, out), like, out)
    return follow(func, out, tangent, like.start, like.rows)


@rule(torch.addcmul, Tensor.addcmul)
def _addcmul(func: Any, args: Any, kwargs: Any) -> Any:
    """base + value · a · b, the modulation and the gates of a DiT: each term of the tangent in one pass."""
    out, (base, a, b), value = _run(func, args, kwargs), args, kwargs.get("value", 1)
    like = first_dual(args)
    with torch.no_grad():
        tangent = base.tangent if isinstance(base, Dual) else torch.zeros((), dtype=out.dtype, device=out.device)
        for one, other in ((a, b), (b, a)):
            if isinstance(one, Dual):
                other = tail(other) if isinstance(other, Dual) else _beside(other, like, out)
                tangent = torch.addcmul(tangent, one.tangent, other, value=value)
    return follow(func, out, _spread(tangent, like, out), like.start, like.rows)


@rule(torch.div, Tensor.div, Tensor.__truediv__)
def _div(func: Any, args: Any, kwargs: Any) -> Any:
    out, (a, b) = _run(func, args, kwargs), args
    if kwargs.get("rounding_mode"):
        raise NoRule("div with rounding_mode has no derivative")
    with torch.no_grad():
        if not isinstance(b, Dual):
            tangent = _spread(a.tangent / _beside(b, a, out), a, out)
            return follow(func, out, tangent, a.start, a.rows)
        like = _wider(a, b) if isinstance(a, Dual) else b
        quotient = tail_of(a, like) / tail(b)
        change = -quotient * b.tangent
        change = change + a.tangent if isinstance(a, Dual) else change
        return follow(func, out, change / tail(b), like.start, like.rows)


def _wider(a: Dual, b: Dual) -> Dual:
    return a if a.ndim >= b.ndim else b


def _beside(other: Any, like: Dual, out: Tensor) -> Any:
    """A plain operand on the tangent's rows; it may have more dimensions than the Dual."""
    if isinstance(other, Tensor) and other.ndim > like.ndim and like.start:
        place = like.rows + other.ndim - like.ndim
        if other.shape[place] == like.shape[like.rows] > 1:
            return other.detach().narrow(place, like.start, other.shape[place] - like.start)
    return tail_of(other, like)


def _spread(tangent: Tensor, like: Dual, out: Tensor) -> Tensor:
    """Broadcast the tangent as the output was."""
    if out.ndim == like.ndim and out.shape == like.shape:
        return tangent
    shape = list(out.shape)
    place = like.rows - like.ndim + out.ndim
    if like.start:
        shape[place] = tangent.shape[like.rows - like.ndim]
    return tangent.expand(shape)


# ---------------------------------------------------------------- matrix products


@rule(F.linear)
def _linear(func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias = bind(("input", "weight", "bias"), args, kwargs)
    if isinstance(weight, Dual) or isinstance(bias, Dual) or not isinstance(x, Dual):
        raise NoRule("linear with a weight that depends on z or t")
    out = func(primal(x), weight, bias)  # first: autocast may keep the weight that it casts, which needs its graph
    with torch.no_grad():
        tangent = F.linear(x.tangent, weight)
        if x.ndim == 2 and tangent.element_size() < 4:  # autocast; vectors for times and classes cost little, and
            tangent = tangent.float()  # all else is scaled by them: this halves the error of du/dt
        return follow(func, out, tangent, x.start, x.rows)


@rule(torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)
def _matmul(func: Any, args: Any, kwargs: Any) -> Any:
    out, (a, b) = _run(func, args, kwargs), args
    with torch.no_grad():
        if isinstance(a, Dual) and isinstance(b, Dual):
            like = _wider(a, b)
            tangent = a.tangent @ tail(b) + tail(a) @ b.tangent
        elif isinstance(a, Dual):
            like, tangent = a, a.tangent @ _factor(b, a)
        else:
            like, tangent = b, _factor(a, b) @ b.tangent
    return follow(func, out, tangent, like.start, like.rows)


def _factor(other: Tensor, like: Dual) -> Tensor:
    """A plain factor of a matrix product: its batch dimensions align with the Dual's, its last two don't."""
    return tail_of(other, like) if like.rows < like.ndim - 2 else other.detach()


@rule(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
def _conv(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, weight, bias, stride, padding, dilation, groups = bind(names, args, kwargs, (1, 0, 1, 1))
    if isinstance(weight, Dual) or isinstance(bias, Dual) or not isinstance(x, Dual):
        raise NoRule("convolution with a kernel that depends on z or t")
    out = func(primal(x), weight, bias, stride, padding, dilation, groups)
    with torch.no_grad():
        tangent = func(x.tangent, weight, None, stride, padding, dilation, groups)
    return follow(func, out, tangent, x.start, x.rows)


# ---------------------------------------------------------------- elementwise, by autograd's own kernels


def _elementwise(kernel: Callable[..., Tensor], *functions: Any) -> None:
    def body(func: Any, args: Any, kwargs: Any) -> Any:
        x, kwargs = args[0], dict(kwargs)
        if kwargs.pop("inplace", False) or (len(args) > 1 and args[1] is True):
            args = args[:1]  # computed beside instead: the primal must stay for the tangent
        out = func(primal(x), *args[1:], **kwargs)
        with torch.no_grad():
            return make(out, kernel(x.tangent, tail(x), *args[1:], **kwargs), x.start, x.rows)

    rule(*functions)(body)


_elementwise(aten.silu_backward, F.silu)
_elementwise(aten.gelu_backward, F.gelu, torch._C._nn.gelu)
_elementwise(lambda g, x: aten.threshold_backward(g, x, 0), F.relu, torch.relu, Tensor.relu)
_elementwise(lambda g, x: aten.tanh_backward(g, x.tanh()), torch.tanh, Tensor.tanh, F.tanh)
_elementwise(lambda g, x: aten.sigmoid_backward(g, x.sigmoid()), torch.sigmoid, Tensor.sigmoid, F.sigmoid)
_elementwise(lambda g, x: -g * x.sin(), torch.cos, Tensor.cos)
_elementwise(lambda g, x: g * x.cos(), torch.sin, Tensor.sin)
_elementwise(lambda g, x: g * x.exp(), torch.exp, Tensor.exp)
_elementwise(lambda g, x: -g, torch.neg, Tensor.neg, Tensor.__neg__)


# ---------------------------------------------------------------- normalisation and softmax: symmetric Jacobians


@rule(F.layer_norm, torch.layer_norm)
def _layer_norm(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    x, shape, weight, bias, eps = bind(names, args, kwargs, (1e-5,))
    out, mean, rstd = torch.native_layer_norm(primal(x), shape, weight, bias, eps)
    with torch.no_grad():
        mean, rstd = (_last(part, x) for part in (mean.detach(), rstd.detach()))
        tangent, _, _ = aten.native_layer_norm_backward(
            x.tangent.to(x.dtype), tail(x), shape, mean, rstd, None, None, [True, False, False]
        )
        tangent = tangent if weight is None else tangent * weight
    return follow(func, out, tangent, x.start, x.rows)


@rule(F.rms_norm)
def _rms_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, shape, weight, eps = bind(("input", "normalized_shape", "weight", "eps"), args, kwargs)
    out = func(primal(x), shape, weight, eps)
    with torch.no_grad():
        value, dims = tail(x), tuple(range(-len(shape), 0))
        floor = torch.finfo(x.dtype).eps if eps is None else eps
        rstd = (value.square().mean(dims, keepdim=True) + floor).rsqrt()
        unit = value * rstd
        tangent = rstd * (x.tangent - unit * (unit * x.tangent).mean(dims, keepdim=True))
        tangent = tangent if weight is None else tangent * weight
    return follow(func, out, tangent, x.start, x.rows)


@rule(F.group_norm, torch.group_norm)
def _group_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, groups, weight, bias, eps = bind(("input", "num_groups", "weight", "bias", "eps"), args, kwargs, (1e-5,))
    out = func(primal(x), groups, weight, bias, eps)
    with torch.no_grad():
        value = tail(x).to(out.dtype).contiguous()  # autocast on CUDA makes it float32
        batch, channels, size = value.shape[0], value.shape[1], math.prod(value.shape[2:])
        _, mean, rstd = torch.native_group_norm(value, None, None, batch, channels, size, groups, eps)
        change = x.tangent.to(out.dtype).contiguous()
        tangent, _, _ = aten.native_group_norm_backward(
            change, value, mean, rstd, None, batch, channels, size, groups, [True, False, False]
        )
        if weight is not None:
            tangent = tangent * weight.reshape(-1, *(1,) * (value.ndim - 2))
    return follow(func, out, tangent, x.start, x.rows)


@rule(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(func: Any, args: Any, kwargs: Any) -> Any:
    out, x = _run(func, args, kwargs), args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dim is None or kwargs.get("dtype") is not None:
        raise NoRule("softmax without a dim, or with a dtype")
    _not_over_rows(func, x, dim)
    with torch.no_grad():
        change = x.tangent.to(out.dtype)  # autocast on CUDA makes the primal float32
        tangent = aten._softmax_backward_data(change, _last(out.detach(), x), dim, out.dtype)
    return follow(func, out, tangent, x.start, x.rows)


def _last(value: Tensor, like: Dual) -> Tensor:
    """The tangent's rows of something laid out like `like`."""
    return value.narrow(like.rows, like.start, value.shape[like.rows] - like.start) if like.start else value


# ---------------------------------------------------------------- shapes


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
)
def _reshape(func: Any, args: Any, kwargs: Any) -> Any:
    """Functions that keep the order of the numbers: the batch's dimension is found by counting."""
    out, x = _run(func, args, kwargs), args[0]
    if not isinstance(x, Dual):  # x.view_as(dual)
        return out
    if isinstance(args[1] if len(args) > 1 else None, torch.dtype):
        raise NoRule("view as another dtype")
    if not x.start:
        return make(out, x.tangent.reshape(out.shape), 0, 0)
    before, size = math.prod(x.shape[: x.rows]), x.shape[x.rows]
    for place, length in enumerate(out.shape):
        fits = math.prod(out.shape[:place]) == before and length >= size and length % size == 0
        if fits and math.prod(x.shape[x.rows + 1 :]) % (length // size) == 0:
            start = x.start * (length // size)
            shape = [*out.shape[:place], length - start, *out.shape[place + 1 :]]
            return make(out, x.tangent.reshape(shape), start, place)
    raise NoRule(f"{name_of(func)} from {tuple(x.shape)} to {tuple(out.shape)} splits the rows of the batch")


def _push_alike(func: Any, args: Any, kwargs: Any) -> Any:
    """Linear functions treat a tangent just like the primal."""
    x = args[0]
    if not isinstance(x, Dual):  # x.to(dual)
        return _run(func, args, kwargs)
    out = func(primal(x), *args[1:], **kwargs)
    with torch.no_grad():
        tangent = func(x.tangent, *args[1:], **kwargs)
    if isinstance(out, Tensor):
        return follow(func, out, tangent, x.start, x.rows)
    return type(out)(follow(func, a, b, x.start, x.rows) for a, b in zip(out, tangent))


def _alike(*functions: Any) -> None:
    rule(*functions)(_push_alike)


_alike(torch.transpose, Tensor.transpose, torch.permute, Tensor.permute, torch.movedim, Tensor.movedim)
_alike(torch.swapaxes, Tensor.swapaxes, Tensor.T.__get__, Tensor.mT.__get__)  # type: ignore[attr-defined]
_alike(Tensor.contiguous, torch.clone, Tensor.clone, Tensor.float, Tensor.double, Tensor.bfloat16)
_alike(Tensor.to, Tensor.type, Tensor.type_as)
_alike(F.pad, F.avg_pool2d, F.pixel_shuffle, F.pixel_unshuffle, torch.pixel_shuffle, torch.pixel_unshuffle)


def _over_dim(default: int | None, *functions: Any) -> None:
    """Linear functions along a dimension, which must not be the batch's."""

    def body(func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0]
        place = 1 if func in (torch.mean, Tensor.mean, torch.sum, Tensor.sum, torch.unbind, Tensor.unbind) else 2
        dim = kwargs.get("dim", args[place] if len(args) > place else default)
        for one in dim if isinstance(dim, tuple | list) else (dim,):
            if one is None and x.start:
                raise NoRule(f"{name_of(func)} over the whole batch")
            if one is not None:
                _not_over_rows(func, x, one)
        return _push_alike(func, args, kwargs)

    rule(*functions)(body)


_over_dim(0, torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.unbind, Tensor.unbind)
_over_dim(None, torch.mean, Tensor.mean, torch.sum, Tensor.sum)


def _not_over_rows(func: Any, x: Dual, dim: int) -> None:
    if x.start and dim % x.ndim == x.rows:
        raise NoRule(f"{name_of(func)} along the batch")


@rule(torch.cat, torch.concat, torch.stack)
def _cat(func: Any, args: Any, kwargs: Any) -> Any:
    out, parts = _run(func, args, kwargs), args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    like = first_dual(parts)
    if func is not torch.stack:
        _not_over_rows(func, like, dim)
    with torch.no_grad():
        tangents = [p.tangent if isinstance(p, Dual) else torch.zeros_like(tail_of(p, like)) for p in parts]
        return follow(func, out, func(tangents, dim), like.start, like.rows)


@rule(Tensor.__getitem__)
def _getitem(func: Any, args: Any, kwargs: Any) -> Any:
    x, index = args
    out = func(primal(x), index)
    if x.start:
        _check_index(x, index if isinstance(index, tuple) else (index,))
    with torch.no_grad():
        return follow(func, out, func(x.tangent, index), x.start, x.rows)


def _check_index(x: Dual, index: tuple[Any, ...]) -> None:
    """Refuse an index that picks rows of the batch."""
    if any(isinstance(item, Tensor | list) for item in index):
        raise NoRule("indexing with a tensor")
    taken = sum(item is not None and item is not Ellipsis for item in index)
    place = 0
    for item in index:
        if item is Ellipsis:
            place += x.ndim - taken
        elif item is not None:
            if place == x.rows and item != slice(None):
                raise NoRule("indexing the rows of the batch")
            place += 1


@rule(Tensor.expand)
def _expand(func: Any, args: Any, kwargs: Any) -> Any:
    out = _run(func, args, kwargs)
    with torch.no_grad():
        return follow(func, out, _spread(args[0].tangent, args[0], out), args[0].start, args[0].rows)


@rule(Tensor.detach, torch.detach, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty)
def _constant(func: Any, args: Any, kwargs: Any) -> Any:
    """Functions whose output has no derivative."""
    return _run(func, args, kwargs)


@rule(F.dropout, torch.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
def _dropout(func: Any, args: Any, kwargs: Any) -> Any:
    share = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    if share and kwargs.get("training", args[2] if len(args) > 2 else True):
        raise NoRule("dropout: primal and tangent would not see the same draw; set its p to 0")
    return args[0]
