"""Tangent rules for normalisation and softmax: their Jacobians are symmetric, or nearly so."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dual import Dual, NoRule, follow, make, name_of, not_over_rows, primal, tail
from .generic import pushed
from .rules import bind, not_among, rule, run

aten = torch.ops.aten


def _plain_weights(func: Any, x: Any, *weights: Any) -> None:
    if not isinstance(x, Dual) or any(isinstance(weight, Dual) for weight in weights):
        raise NoRule(f"{name_of(func)} with a weight that depends on z or t")


@rule(F.layer_norm, torch.layer_norm)
def _layer_norm(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable")
    x, shape, weight, bias, eps, _ = bind(names, args, kwargs, (1e-5, True))
    _plain_weights(func, x, weight, bias)
    not_among(func, x, len(shape))
    out, mean, rstd = torch.native_layer_norm(primal(x), shape, weight, bias, eps)
    with torch.no_grad():
        value, mean, rstd = tail(x), _covered(mean.detach(), x), _covered(rstd.detach(), x)
        # The kernel reads the statistics as contiguous; where they are float32 beside bfloat16, it wants a weight.
        unit = None if mean.dtype == value.dtype else mean.new_ones(shape)
        tangent, _, _ = aten.native_layer_norm_backward(
            *(x.tangent.to(x.dtype), value, shape, mean.contiguous(), rstd.contiguous(), unit, None),
            [True, False, False],
        )
        tangent = tangent if weight is None else tangent * weight
    return follow(func, out, tangent, x.start, x.rows)


@rule(F.rms_norm, torch.rms_norm)
def _rms_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, shape, weight, eps = bind(("input", "normalized_shape", "weight", "eps"), args, kwargs)
    _plain_weights(func, x, weight)
    not_among(func, x, len(shape))
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
    names = ("input", "num_groups", "weight", "bias", "eps", "cudnn_enabled")
    x, groups, weight, bias, eps, _ = bind(names, args, kwargs, (1e-5, True))
    _plain_weights(func, x, weight, bias)
    not_among(func, x, 0, first=1)
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


@rule(F.batch_norm)
def _batch_norm(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    x, mean, var, weight, bias, training, momentum, eps = bind(names, args, kwargs, (False, 0.1, 1e-5))
    _plain_weights(func, x, mean, var, weight, bias)
    not_among(func, x, 0, first=1)
    if training and x.start:
        raise NoRule("batch_norm in training mode over the whole batch")
    if training:  # so that the running averages move only once
        out = func(primal(x), mean, var, weight, bias, True, momentum, eps)
        return pushed(func, (x, None, None, weight, bias, True, momentum, eps), {}, out)
    out = func(primal(x), mean, var, weight, bias, False, momentum, eps)
    with torch.no_grad():
        scale = (var + eps).rsqrt() if weight is None else (var + eps).rsqrt() * weight
        tangent = x.tangent * scale.reshape(-1, *(1,) * (x.ndim - 2))
    return follow(func, out, tangent, x.start, x.rows)


@rule(F.instance_norm)
def _instance_norm(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    x, mean, var, weight, bias, own, momentum, eps = bind(names, args, kwargs, (True, 0.1, 1e-5))
    _plain_weights(func, x, mean, var, weight, bias)
    not_among(func, x, 0, first=1)
    out = func(primal(x), mean, var, weight, bias, own, momentum, eps)
    if not own:
        raise NoRule("instance_norm by running averages")
    whole = make(tail(x), x.tangent.to(x.dtype))  # instances are independent, so the tangent's rows need no others
    change = pushed(func, (whole, None, None, weight, bias, True, momentum, eps), {}, tail(x))
    return follow(func, out, change.tangent, x.start, x.rows)


@rule(F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax)
def _softmax(func: Any, args: Any, kwargs: Any) -> Any:
    out, x = run(func, args, kwargs), args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(dim, int):
        raise NoRule("softmax without a dim")
    not_over_rows(func, x, dim)
    with torch.no_grad():
        change = x.tangent.to(out.dtype)  # autocast on CUDA makes the primal float32, and so may a dtype given
        tangent = aten._softmax_backward_data(change, _covered(out.detach(), x), dim, out.dtype)
    return follow(func, out, tangent, x.start, x.rows)


def _covered(value: Tensor, like: Dual) -> Tensor:
    """Return the tangent's rows of a value that is laid out like `like`."""
    return value.narrow(like.rows, like.start, value.shape[like.rows] - like.start) if like.start else value
