"""Tangent rules for attention: the primal by whichever kernel torch picks, flash included; the tangent by hand."""

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
    with torch.no_grad():
        parts = [(tail(x), x.tangent) if isinstance(x, Dual) else (tail_of(x, like), None) for x in (q, k, v)]
        bias = _bias(tail_of(mask, like), causal, q.shape[-2], k.shape[-2], out)
        tangent = _attention_tangent(parts, bias, scale if scale is not None else q.shape[-1] ** -0.5)
    return follow(func, out, tangent.to(out.dtype), like.start, like.rows)


def _attention_tangent(parts: list[Any], bias: Tensor | None, scale: float) -> Tensor:
    """d softmax(q kᵀ) v, piece by piece; no piece holds more than `CHUNK` entries of the attention matrix."""
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x, _ in parts))
    queries, keys = parts[0][0].shape[-2], parts[1][0].shape[-2]
    parts = [tuple(None if x is None else x.expand(*lead, *x.shape[-2:]) for x in pair) for pair in parts]
    bias = None if bias is None else bias.expand(*lead, queries, keys)
    most = CHUNK["cpu" if parts[0][0].is_cpu and not torch.compiler.is_compiling() else "cuda"]
    rows = max(1, most // max(1, math.prod(lead[1:]) * queries * keys))
    block = max(1, most // max(1, math.prod(lead[1:]) * keys))
    done = []
    for row in range(0, lead[0], rows):
        (q, dq), k, v = (tuple(_cut(x, row, rows) for x in pair) for pair in parts)
        few = _cut(bias, row, rows)
        pieces = []
        for i in range(0, queries, block):
            near, dnear, mask = (None if x is None else x[:, i : i + block] for x in (q, dq, few))
            pieces.append(_piece((near, dnear), k, v, mask, scale))
        done.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1))
    return (done[0] if len(done) == 1 else torch.cat(done)).view(*lead, queries, -1)


def _cut(x: Tensor | None, row: int, rows: int) -> Tensor | None:
    """Some rows of the batch, all leading dimensions in one: a view where it can be."""
    return None if x is None else x[row : row + rows].flatten(0, -3)


def _piece(query: Any, key: Any, value: Any, bias: Tensor | None, scale: float) -> Tensor:
    """The tangent on (H, queries, d): two products for the change of the scores, two for that of the output.

    query, key, value: each a tensor and its tangent, or None.
    """
    (q, dq), (k, dk), (v, dv) = query, key, value
    q, keys = q * scale, k.mT
    scores = torch.bmm(q, keys) if bias is None else torch.baddbmm(bias, q, keys)
    weights = scores.softmax(-1)
    change = torch.zeros_like(scores) if dq is None else torch.bmm(dq * scale, keys)
    if dk is not None:
        change = torch.baddbmm(change, q, dk.mT)
    change = aten._softmax_backward_data(change, weights, -1, weights.dtype)
    tangent = torch.bmm(change, v)
    return tangent if dv is None else torch.baddbmm(tangent, weights, dv)


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
