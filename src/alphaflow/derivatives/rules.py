"""Tangent rules for arithmetic, matrix products and activations. Importing this module fills `dual.RULES`.

A rule gets (func, args, kwargs) as torch would call it. The primal is computed once, by the function itself, in
the graph; the tangent without one, on its rows only. Elementwise functions and those with a symmetric Jacobian
(softmax, normalisation) push a tangent forward by the very kernel with which autograd pulls a gradient back.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dual import (
    RULES,
    Dual,
    NoRule,
    check_aligned,
    first_dual,
    follow,
    make,
    name_of,
    not_over_rows,
    primal,
    tail,
    tail_of,
)
from .generic import generic, pushed

aten = torch.ops.aten


def rule(*functions: Any) -> Callable[[Any], Any]:
    """Register a rule for functions."""

    def register(body: Any) -> Any:
        for function in functions:
            RULES[function] = body
        return body

    return register


def bind(names: tuple[str, ...], args: Any, kwargs: Any, defaults: tuple[Any, ...] = ()) -> list[Any]:
    """Return arguments in the order of `names`; the last ones default to `defaults`, the others to None."""
    blank = dict(zip(names, [None] * (len(names) - len(defaults)) + list(defaults)))
    given = dict(zip(names, args)) | kwargs
    if len(args) > len(names) or not given.keys() <= blank.keys():
        raise NoRule(f"arguments {', '.join(sorted(given.keys() - blank.keys()))} beyond those that are known")
    return list((blank | given).values())


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute the primal."""
    if kwargs:
        if kwargs.get("out") is not None:
            raise NoRule(f"{name_of(func)} with out=, which writes into a tensor without a tangent")
        return func(*primal(args), **{key: primal(value) for key, value in kwargs.items()})
    return func(*primal(args))


# ---------------------------------------------------------------- arithmetic


@rule(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
def _add(func: Any, args: Any, kwargs: Any) -> Any:
    return _sum(func, args, kwargs, 1.0)


@rule(torch.sub, Tensor.sub, Tensor.__sub__)
def _sub(func: Any, args: Any, kwargs: Any) -> Any:
    return _sum(func, args, kwargs, -1.0)


def _sum(func: Any, args: Any, kwargs: Any, sign: float) -> Any:
    out, (a, b) = run(func, args, kwargs), args
    alpha = kwargs.get("alpha", 1.0)
    if isinstance(alpha, Tensor):
        raise NoRule(f"{name_of(func)} with a tensor for alpha")
    sign *= alpha
    with torch.no_grad():
        if isinstance(a, Dual) and isinstance(b, Dual):
            like = _wider(a, b)
            tangent = torch.add(a.tangent, b.tangent, alpha=sign)
        else:
            like, factor = (a, 1.0) if isinstance(a, Dual) else (b, sign)
            tangent = like.tangent if factor == 1.0 else like.tangent * factor
            tangent = spread(tangent, like, out)
    return follow(func, out, tangent, like.start, like.rows)


@rule(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
def _mul(func: Any, args: Any, kwargs: Any) -> Any:
    out, (a, b) = run(func, args, kwargs), args
    with torch.no_grad():
        if isinstance(a, Dual) and isinstance(b, Dual):
            like = _wider(a, b)
            if out.is_complex():
                tangent = a.tangent * tail(b) + tail(a) * b.tangent
            else:
                tangent = torch.addcmul(a.tangent * tail(b), tail(a), b.tangent)
        else:
            like, other = (a, b) if isinstance(a, Dual) else (b, a)
            tangent = spread(like.tangent * _beside(other, like, out), like, out)
    return follow(func, out, tangent, like.start, like.rows)


@rule(torch.addcmul, Tensor.addcmul)
def _addcmul(func: Any, args: Any, kwargs: Any) -> Any:
    """Push a tangent through base + value · a · b, the modulation and the gates of a DiT: each term in one
    pass."""
    if len(args) != 3 or not all(isinstance(arg, Tensor) for arg in args):
        raise NoRule(f"{name_of(func)} in an old form")
    out, (base, a, b), value = run(func, args, kwargs), args, kwargs.get("value", 1)
    like = first_dual(args)
    with torch.no_grad():
        tangent = base.tangent if isinstance(base, Dual) else torch.zeros((), dtype=out.dtype, device=out.device)
        if isinstance(base, Dual):
            check_aligned(base, like)
        for one, other in ((a, b), (b, a)):
            if isinstance(one, Dual):
                check_aligned(one, like)
                other = tail(other) if isinstance(other, Dual) else _beside(other, like, out)
                tangent = torch.addcmul(tangent, one.tangent, other, value=value)
    return follow(func, out, spread(tangent, like, out), like.start, like.rows)


@rule(torch.div, Tensor.div, Tensor.__truediv__)
def _div(func: Any, args: Any, kwargs: Any) -> Any:
    if kwargs.get("rounding_mode"):
        return generic(func, args, kwargs)
    out, (a, b) = run(func, args, kwargs), args
    with torch.no_grad():
        if not isinstance(b, Dual):
            tangent = spread(a.tangent / _beside(b, a, out), a, out)
            return follow(func, out, tangent, a.start, a.rows)
        like = _wider(a, b) if isinstance(a, Dual) else b
        quotient = (tail(a) if isinstance(a, Dual) else _beside(a, b, out)) / tail(b)
        change = -quotient * b.tangent
        change = change + a.tangent if isinstance(a, Dual) else change
        return follow(func, out, spread(change / tail(b), like, out), like.start, like.rows)


def _wider(a: Dual, b: Dual) -> Dual:
    if a.start or b.start:
        check_aligned(a, b)
    return a if a.ndim >= b.ndim else b


def _beside(other: Any, like: Dual, out: Tensor) -> Any:
    """Return a plain operand on the tangent's rows; it may have more dimensions than the Dual."""
    if isinstance(other, Tensor) and other.ndim > like.ndim and like.start:
        place = like.rows + other.ndim - like.ndim
        if other.shape[place] == like.shape[like.rows] > 1:
            return other.detach().narrow(place, like.start, other.shape[place] - like.start)
    return tail_of(other, like)


def spread(tangent: Tensor, like: Dual, out: Tensor) -> Tensor:
    """Broadcast the tangent as the output was."""
    if out.ndim == like.ndim and out.shape == like.shape:
        return tangent
    shape = list(out.shape)
    place = like.rows - like.ndim + out.ndim
    if like.start:
        if out.shape[place] != like.shape[like.rows]:
            raise NoRule("broadcasting along the batch")
        shape[place] -= like.start
    return tangent.expand(shape)


# ---------------------------------------------------------------- matrix products


def autocasts(x: Tensor) -> bool:
    """Return whether products of such tensors are cast to a lower precision."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


@rule(F.linear)
def _linear(func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias = bind(("input", "weight", "bias"), args, kwargs)
    if isinstance(weight, Dual) or isinstance(bias, Dual):
        if any(part.start for part in (x, weight, bias) if isinstance(part, Dual)):
            raise NoRule("linear with a weight that depends on z or t")
        return generic(func, args, kwargs)
    not_among(func, x, 1)
    out = func(primal(x), weight, bias)  # first: autocast may keep the weight that it casts, which needs its graph
    with torch.no_grad():
        change, cast = x.tangent, autocasts(out)
        tangent = F.linear(change if cast else change.to(weight.dtype), weight)
        if cast and x.ndim == 2 and tangent.element_size() < 4:  # vectors for times and classes cost little, and
            tangent = tangent.float()  # all else is scaled by them: this halves the error of du/dt
        return follow(func, out, tangent, x.start, x.rows)


def not_among(func: Any, x: Dual, last: int, first: int = 0) -> None:
    """Raise where the batch lies in the last dimensions, or beyond the first ones, which the function mixes."""
    if x.start and (x.rows >= x.ndim - last or (first and x.rows >= first)):
        raise NoRule(f"{name_of(func)} along the batch")


@rule(torch.matmul, torch.bmm, torch.mm, torch.mv, Tensor.matmul, Tensor.bmm, Tensor.mm, Tensor.mv)
@rule(Tensor.__matmul__, Tensor.__rmatmul__)
def _matmul(func: Any, args: Any, kwargs: Any) -> Any:
    out, (a, b) = run(func, args, kwargs), args
    if func is Tensor.__rmatmul__:
        a, b = b, a
    with torch.no_grad():
        if isinstance(a, Dual) and isinstance(b, Dual):
            like = _wider(a, b)
            not_among(func, like, 2)
            change = _product(a.tangent, tail(b)) + _product(tail(a), b.tangent)
        elif isinstance(a, Dual):
            like, change = a, _product(a.tangent, _factor(func, b, a, contracted=-1))
        else:
            like, change = b, _product(_factor(func, a, b, contracted=-2 if b.ndim > 1 else -1), b.tangent)
    return follow(func, out, change, like.start, like.rows)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply in one type, without autocast as well."""
    if a.dtype != b.dtype and not autocasts(a):
        kind = torch.promote_types(a.dtype, b.dtype)
        a, b = a.to(kind), b.to(kind)
    return a @ b


def _factor(func: Any, other: Tensor, like: Dual, contracted: int) -> Tensor:
    """Return a plain factor of a matrix product: its batch dimensions align with the Dual's, its last two
    don't."""
    if like.start and like.rows == like.ndim + contracted:
        raise NoRule(f"{name_of(func)} along the batch")
    return tail_of(other, like) if like.rows < like.ndim - 2 and other.ndim > 2 else other.detach()


@rule(torch.addmm, torch.baddbmm, torch.addmv, Tensor.addmm, Tensor.baddbmm, Tensor.addmv)
def _addmm(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through beta · base + alpha · a b: the primal by the function, the tangent as the sum's."""
    base, a, b, beta, alpha = bind(
        ("input", "mat1", "mat2", "beta", "alpha"), _named_mats(args, kwargs), {}, (1, 1)
    )
    out = run(func, args, kwargs)
    detached = [x.detach() if isinstance(x, Tensor) and not isinstance(x, Dual) else x for x in (base, a, b)]
    with torch.no_grad():
        terms = []
        if isinstance(a, Dual) or isinstance(b, Dual):
            terms.append(_scaled(_matmul(torch.matmul, tuple(detached[1:]), {}), alpha))
        if isinstance(base, Dual):
            terms.append(_scaled(base, beta))
        if len(terms) == 2:
            check_aligned(*terms)
        like = max(terms, key=lambda term: term.ndim)
        tangent = terms[0].tangent if len(terms) == 1 else terms[0].tangent + terms[1].tangent
    return follow(func, out, spread(tangent, like, out), like.start, like.rows)


def _named_mats(args: Any, kwargs: Any) -> tuple[Any, ...]:
    names = ("mat1", "mat2", "batch1", "batch2", "mat", "vec")
    given = [*args, *(kwargs[name] for name in names if name in kwargs)]
    return (*given, kwargs.get("beta", 1), kwargs.get("alpha", 1))


def _scaled(x: Dual, factor: float) -> Dual:
    return x if factor == 1 else make(x.primal, x.tangent * factor, x.start, x.rows)


@rule(torch.outer, torch.ger, Tensor.outer, Tensor.ger)
def _outer(func: Any, args: Any, kwargs: Any) -> Any:
    out, (a, b) = run(func, args, kwargs), bind(("input", "vec2"), args, kwargs)
    with torch.no_grad():
        if isinstance(a, Dual) and isinstance(b, Dual):
            if a.start:
                raise NoRule(f"{name_of(func)} along the batch")
            change = torch.outer(a.tangent, tail(b)) + torch.outer(tail(a), b.tangent)
            return make(out, change)
        if isinstance(a, Dual):
            return follow(func, out, torch.outer(a.tangent, b.detach()), a.start, 0)
        return follow(func, out, torch.outer(a.detach(), b.tangent), b.start, 1)


@rule(torch.tensordot)
def _tensordot(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through a sum over some dimensions of both; those of the first that are left come first."""
    out = run(func, args, kwargs)
    a, b, dims, _ = bind(("a", "b", "dims", "out"), args, kwargs, (2, None))
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        dims = (list(range(-dims, 0)), list(range(dims)))
    start = max(x.start for x in (a, b) if isinstance(x, Dual))
    for x, summed in zip((a, b), dims):
        if isinstance(x, Dual) and start:
            if isinstance(a, Dual) and isinstance(b, Dual):
                raise NoRule("tensordot of two tensors that depend on z or t")
            not_over_rows(func, x, tuple(summed))
    with torch.no_grad():
        terms = [func(a.tangent, tail(b) if isinstance(b, Dual) else b, dims)] if isinstance(a, Dual) else []
        terms += [func(tail(a) if isinstance(a, Dual) else a, b.tangent, dims)] if isinstance(b, Dual) else []
        tangent = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    return follow(func, out, tangent, start, 0)


@rule(torch.einsum)
def _einsum(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through a product of many: a term for each Dual among them, with all the others as they
    are."""
    out, words = run(func, args, kwargs), args[0]
    parts = list(args[1]) if len(args) == 2 and isinstance(args[1], tuple | list) else list(args[1:])
    duals = [part for part in parts if isinstance(part, Dual)]
    start = max(dual.start for dual in duals)
    if start and not isinstance(words, str):
        raise NoRule("einsum by lists, with tangents on part of the batch")
    narrowed = parts if not start else _einsum_rows(words, parts, duals)
    rest = [tail(x) if isinstance(x, Dual) else x.detach() for x in narrowed]
    if not start and not isinstance(words, str):
        return pushed(func, args, kwargs, out)
    with torch.no_grad():
        terms = [
            func(words, *rest[:k], x.tangent.to(x.dtype), *rest[k + 1 :])
            for k, x in enumerate(parts)
            if isinstance(x, Dual)
        ]
        tangent = terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)
    return follow(func, out, tangent, start, 0)


def _einsum_rows(words: str, parts: list[Any], duals: list[Dual]) -> list[Any]:
    """Return the operands, with plain ones cut to the tangent's rows where they carry the batch's own letter."""
    operands, _, result = words.replace(" ", "").partition("->")
    letters = []
    spare = [chr(code) for code in range(0x100, 0x140)]  # letters for an ellipsis, counted from the right
    for word, part in zip(operands.split(","), parts):
        many = part.ndim - (len(word) - 3)
        letters.append(word.replace("...", "".join(spare[len(spare) - many :])) if "..." in word else word)
    batch = {letter[part.rows] for letter, part in zip(letters, parts) if isinstance(part, Dual)}
    same = len({(dual.start, dual.shape[dual.rows]) for dual in duals}) == 1
    (row,) = batch if len(batch) == 1 else (None,)
    kept = row is not None and ("..." in result if row in spare else row in result)
    if row is None or not same or not kept or "->" not in words or any(word.count(row) > 1 for word in letters):
        raise NoRule("einsum that mixes the rows of the batch")
    start, size = duals[0].start, duals[0].shape[duals[0].rows]
    cut = []
    for letter, part in zip(letters, parts):
        if not isinstance(part, Dual) and row in letter and part.shape[letter.index(row)] == size:
            part = part.detach().narrow(letter.index(row), start, size - start)
        cut.append(part)
    return cut


@rule(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
def _conv(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, weight, bias, stride, padding, dilation, groups = bind(names, args, kwargs, (1, 0, 1, 1))
    if isinstance(weight, Dual) or isinstance(bias, Dual):
        if any(part.start for part in (x, weight, bias) if isinstance(part, Dual)):
            raise NoRule("convolution with a kernel that depends on z or t")
        return generic(func, args, kwargs)
    if x.start and x.ndim != weight.ndim:
        raise NoRule("convolution of a tensor without a batch")
    not_among(func, x, 0, first=1)
    out = func(primal(x), weight, bias, stride, padding, dilation, groups)
    with torch.no_grad():
        cast = autocasts(out)
        change = x.tangent if cast else x.tangent.to(weight.dtype)
        tangent = func(change, weight, None, stride, padding, dilation, groups)
    return follow(func, out, tangent, x.start, x.rows)


# ---------------------------------------------------------------- elementwise, by autograd's own kernels


def _elementwise(kernel: Callable[..., Tensor], *functions: Any) -> None:
    def body(func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0]
        if kwargs.get("inplace") or (len(args) > 1 and args[1] is True) or kwargs.get("out") is not None:
            return generic(func, args, kwargs)
        if x.is_complex():
            return pushed(func, args, kwargs, run(func, args, kwargs))
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        out = func(primal(x), *args[1:], **kwargs)
        if args[1:2] == (False,):
            args = args[:1]
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
