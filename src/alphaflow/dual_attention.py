"""Tangent rules for attention: the primal by whichever kernel torch picks, flash included; the tangent by hand."""

import contextlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dual import Dual, NoRule, call, first_dual, follow, primal, tail, tail_of
from .dual_rules import bind, rule

aten = torch.ops.aten
CHUNK = {"cpu": 2**20, "cuda": 2**24}
"""Entries of the attention matrix that the tangent holds at a time: on a CPU what its caches hold, elsewhere what
keeps the device busy. Batches go by rows, and long sequences by queries."""


@rule(F.scaled_dot_product_attention)
def _attention(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    q, k, v, mask, dropout, causal, scale, grouped = bind(names, args, kwargs, (0.0, False, None, False))
    if dropout:
        raise NoRule("attention with dropout: primal and tangent would not see the same draw; set it to 0")
    if grouped or isinstance(mask, Dual):
        raise NoRule("attention with grouped queries, or with a mask that depends on z or t")
    out = func(primal(q), primal(k), primal(v), mask, is_causal=causal, scale=scale)
    like = first_dual(q, k, v)
    with torch.no_grad(), _no_autocast(out.device):
        pairs = ((tail(x), x.tangent) if isinstance(x, Dual) else (tail_of(x, like), None) for x in (q, k, v))
        parts: list[Any] = [None if x is None else x.to(out.dtype) for pair in pairs for x in pair]
        parts += [_bias(tail_of(mask, like), causal, q.shape[-2], k.shape[-2], out)]
        parts += [scale if scale is not None else q.shape[-1] ** -0.5]
        tangent = attention_tangent(*parts)
    return follow(func, out, tangent, like.start, like.rows)


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The tangent chooses its own precision, product by product."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def attention_tangent(
    q: Tensor,
    dq: Tensor | None,
    k: Tensor,
    dk: Tensor | None,
    v: Tensor,
    dv: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """The tangent of softmax(scale · q kᵀ + bias) v, without a graph.

    Args:
        q, k, v: (…, N, d), leading dimensions broadcast. dq, dk, dv: their tangents, or None for zero.
        bias: added to the scores, or None.

    Returns:
        (…, N, d), in the type of q.
    """
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v)))
    if torch.compiler.is_compiling() and math.prod(lead) * q.shape[-2] * k.shape[-2] > CHUNK["cuda"]:
        return _opaque(q, dq, k, dk, v, dv, bias, scale)
    return _by_pieces(lead, q, dq, k, dk, v, dv, bias, scale)


_opaque = torch.library.custom_op("alphaflow::attention_tangent", attention_tangent, mutates_args=())
"""The same, as one node of a compiled graph: unrolled, hundreds of pieces would take minutes to compile."""


@_opaque.register_fake
def _(q: Tensor, dq: Any, k: Tensor, dk: Any, v: Tensor, dv: Any, bias: Any, scale: float) -> Tensor:
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v)))
    return q.new_empty(*lead, q.shape[-2], v.shape[-1])


def _by_pieces(lead: Any, *args: Any) -> Tensor:
    """Piece by piece; none holds more than `CHUNK` entries of the attention matrix."""
    *parts, bias, scale = args
    done: list[Tensor] = []
    queries, keys = parts[0].shape[-2], parts[2].shape[-2]
    parts = [None if x is None else x.expand(*lead, *x.shape[-2:]) for x in parts]
    bias = None if bias is None else bias.expand(*lead, queries, keys)
    most = CHUNK["cpu" if parts[0].is_cpu and not torch.compiler.is_compiling() else "cuda"]
    rows = max(1, most // max(1, math.prod(lead[1:]) * queries * keys))
    block = max(1, most // max(1, math.prod(lead[1:]) * keys))
    for row in range(0, lead[0], rows):
        cut = (_cut(x, 0, row, rows) for x in (*parts, bias))
        q, dq, k, dk, v, dv, few = (None if x is None else x.flatten(0, -3) for x in cut)
        pieces = []
        for i in range(0, queries, block):
            near, dnear, mask = (_cut(x, 1, i, block) for x in (q, dq, few))
            pieces.append(_piece(near, dnear, k, dk, v, dv, mask, scale))
        done.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1))
    return (done[0] if len(done) == 1 else torch.cat(done)).view(*lead, queries, -1)


def _cut(x: Tensor | None, dim: int, first: int, count: int) -> Tensor | None:
    """A view of at most `count` slices along a dimension."""
    return None if x is None else x.narrow(dim, first, min(count, x.shape[dim] - first))


def _piece(q: Any, dq: Any, k: Any, dk: Any, v: Any, dv: Any, bias: Any, scale: float) -> Tensor:
    """The tangent on (H, queries, d): two products for the change of the scores, two for that of the output.

    Under autocast scores and weights are float32, as in flash kernels: rounded to bfloat16, the larger scores of a
    trained network would double the error of the tangent (6e-3 to 1.3e-2 where their deviation is 4).
    """
    q = q * scale
    weights = _scores(q, k, bias).softmax(-1)
    change = torch.zeros_like(weights) if dq is None else _scores(dq * scale, k)
    if dk is not None:
        change = _scores(q, dk, change)
    change = aten._softmax_backward_data(change, weights, -1, weights.dtype)
    tangent = torch.bmm(change.to(v.dtype), v)
    return tangent if dv is None else torch.baddbmm(tangent, weights.to(v.dtype), dv)


def _scores(q: Tensor, k: Tensor, onto: Tensor | None = None) -> Tensor:
    """q kᵀ, plus `onto`, in float32 at least."""
    if q.element_size() >= 4:
        return torch.bmm(q, k.mT) if onto is None else torch.baddbmm(onto, q, k.mT)
    scores = torch.bmm(q, k.mT, out_dtype=torch.float32) if q.is_cuda else torch.bmm(q.float(), k.float().mT)
    return scores if onto is None else scores.add_(onto)


def _bias(mask: Tensor | None, causal: bool, queries: int, keys: int, like: Tensor) -> Tensor | None:
    if causal:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=like.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, -torch.inf)


@rule(F.multi_head_attention_forward)
def _multi_head(func: Any, args: Any, kwargs: Any) -> Any:
    """`nn.MultiheadAttention` in its usual form, by the rules above."""
    names = (
        "query key value embed_dim num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p "
        "out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask "
        "use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k static_v "
        "average_attn_weights is_causal"
    ).split()
    given = dict(zip(names, args)) | kwargs
    plain = ("bias_k", "bias_v", "key_padding_mask", "attn_mask", "static_k", "static_v")
    odd = [name for name in plain if given.get(name) is not None]
    odd += [name for name in ("add_zero_attn", "use_separate_proj_weight") if given.get(name)]
    if given["dropout_p"] and given.get("training", True):
        odd.append("dropout_p")
    if odd:
        raise NoRule(f"nn.MultiheadAttention with {', '.join(odd)}")
    width, heads = given["embed_dim"], given["num_heads"]
    weights, biases = given["in_proj_weight"].chunk(3), given["in_proj_bias"]
    biases = biases.chunk(3) if biases is not None else (None, None, None)
    parts = []
    for name, weight, bias in zip(("query", "key", "value"), weights, biases):
        split = call(torch.unflatten, call(F.linear, given[name], weight, bias), -1, (heads, width // heads))
        parts.append(call(torch.permute, split, (1, 2, 0, 3)))  # (L, B, E) -> (B, heads, L, E / heads)
    out = call(torch.permute, call(F.scaled_dot_product_attention, *parts), (2, 0, 1, 3))
    return call(F.linear, call(torch.flatten, out, -2), given["out_proj_weight"], given["out_proj_bias"]), None
