"""Tangent rules for attention: the primal by whichever kernel torch picks, flash included; the tangent by hand."""

import contextlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dual import Dual, NoRule, call, first_dual, follow, primal, tail_of
from .rules import bind, not_among, rule

aten = torch.ops.aten
CHUNK = {"cpu": 2**20, "cuda": 2**24}
"""Entries of the attention matrix that the tangent holds at a time: on a CPU as many as its caches hold, elsewhere
as keep the device busy. Batches are cut by rows, and long sequences by queries.
"""


@rule(F.scaled_dot_product_attention)
def _attention(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    q, k, v, mask, dropout, causal, scale, grouped = bind(names, args, kwargs, (0.0, False, None, False))
    if dropout:
        raise NoRule("attention with dropout: primal and tangent would not see the same draw; set it to 0")
    if isinstance(mask, Dual):
        raise NoRule("attention with a mask that depends on z or t")
    like = first_dual(q, k, v)
    not_among(func, like, 3 if grouped else 2)
    out = func(primal(q), primal(k), primal(v), mask, is_causal=causal, scale=scale, enable_gqa=grouped)
    with torch.no_grad(), _no_autocast(out.device):
        pairs = ((tail_of(x, like), x.tangent if isinstance(x, Dual) else None) for x in (q, k, v))
        parts: list[Any] = [None if x is None else x.to(out.dtype) for pair in pairs for x in pair]
        if grouped:
            parts[2:] = [_repeated(x, q.shape[-3]) for x in parts[2:]]
        parts += [_bias(tail_of(mask, like), causal, q.shape[-2], k.shape[-2], out)]
        parts += [scale if scale is not None else q.shape[-1] ** -0.5]
        tangent = attention_tangent(*parts)
    return follow(func, out, tangent, like.start, like.rows)


def _repeated(x: Tensor | None, heads: int) -> Tensor | None:
    """Repeat keys or values that several heads of queries share, once for each."""
    return None if x is None else x.repeat_interleave(heads // x.shape[-3], -3)


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Switch autocast off: the tangent chooses its own precision, product by product."""
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
    """Return the tangent of softmax(scale · q kᵀ + bias) v, without a graph.

    Args:
        q, k, v: (…, N, d), leading dimensions broadcast.
        dq, dk, dv: their tangents, or None for zero.
        bias: added to the scores, or None.
        scale: the factor of the scores.

    Returns:
        (…, N, d), in the type of q.
    """
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v)))
    if torch.compiler.is_compiling() and math.prod(lead) * q.shape[-2] * k.shape[-2] > CHUNK["cuda"]:
        return _opaque(q, dq, k, dk, v, dv, bias, scale)
    return _by_pieces(lead, q, dq, k, dk, v, dv, bias, scale)


_opaque = torch.library.custom_op("alphaflow::attention_tangent", attention_tangent, mutates_args=())
"""`attention_tangent` as one node of a compiled graph: unrolled, hundreds of pieces would take minutes to compile.
"""


@_opaque.register_fake
def _(q: Tensor, dq: Any, k: Tensor, dk: Any, v: Tensor, dv: Any, bias: Any, scale: float) -> Tensor:
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v)))
    return q.new_empty(*lead, q.shape[-2], v.shape[-1])


def _by_pieces(lead: Any, *args: Any) -> Tensor:
    """Compute the tangent piece by piece; none holds more than `CHUNK` entries of the attention matrix."""
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
    """Return a view of at most `count` slices along a dimension."""
    return None if x is None else x.narrow(dim, first, min(count, x.shape[dim] - first))


def _piece(q: Any, dq: Any, k: Any, dk: Any, v: Any, dv: Any, bias: Any, scale: float) -> Tensor:
    """Return the tangent on (H, queries, d): two products for the change of the scores, two for that of the
    output.

    Under autocast scores and weights are float32, as in flash kernels: rounded to bfloat16, the larger scores of a
    trained network would double the error of the tangent (6e-3 to 1.3e-2 where their deviation is 4).
    """
    q = q * scale
    scores = _scores(q, k, bias)
    # Where all keys are masked, torch's attention gives 0, and a plain softmax would give NaN.
    weights = scores.softmax(-1) if bias is None else aten._safe_softmax(scores, -1)
    change = torch.zeros_like(weights) if dq is None else _scores(dq * scale, k)
    if dk is not None:
        change = _scores(q, dk, change)
    change = aten._softmax_backward_data(change, weights, -1, weights.dtype)
    tangent = torch.bmm(change.to(v.dtype), v)
    return tangent if dv is None else torch.baddbmm(tangent, weights.to(v.dtype), dv)


def _scores(q: Tensor, k: Tensor, onto: Tensor | None = None) -> Tensor:
    """Return q kᵀ, plus `onto`, in float32 at least."""
    if q.element_size() >= 4:
        return torch.bmm(q, k.mT) if onto is None else torch.baddbmm(onto, q, k.mT)
    scores = torch.bmm(q, k.mT, out_dtype=torch.float32) if q.is_cuda else torch.bmm(q.float(), k.float().mT)
    return scores if onto is None else scores.add_(onto)


def _bias(mask: Tensor | None, causal: bool, queries: int, keys: int, like: Tensor) -> Tensor | None:
    if causal:
        past = torch.ones(queries, keys, dtype=torch.bool, device=like.device).tril()
        if mask is not None and mask.dtype != torch.bool:
            return mask.masked_fill(~past, -torch.inf)
        mask = past if mask is None else mask & past
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, -torch.inf)


@rule(F.multi_head_attention_forward)
def _multi_head(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through `nn.MultiheadAttention`, by the rules above."""
    names = (
        "query key value embed_dim num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p "
        "out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask "
        "use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k static_v "
        "average_attn_weights is_causal"
    ).split()
    given = dict(zip(names, args)) | kwargs
    odd = [name for name in ("bias_k", "bias_v", "static_k", "static_v") if given.get(name) is not None]
    odd += ["add_zero_attn"] if given.get("add_zero_attn") else []
    if given["dropout_p"] and given.get("training", True):
        odd.append("dropout_p")
    if odd or given["query"].ndim != 3:
        raise NoRule(f"nn.MultiheadAttention with {', '.join(odd) or 'a query without a batch'}")
    width, heads = given["embed_dim"], given["num_heads"]
    if given.get("use_separate_proj_weight"):
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = given["in_proj_weight"].chunk(3)
    biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    parts = []
    for name, weight, bias in zip(("query", "key", "value"), weights, biases):
        split = call(torch.unflatten, call(F.linear, given[name], weight, bias), -1, (heads, width // heads))
        parts.append(call(torch.permute, split, (1, 2, 0, 3)))  # (L, B, E) -> (B, heads, L, E / heads)
    mask = _both(given.get("attn_mask"), given.get("key_padding_mask"), primal(parts[0]), heads)
    shown = None
    if given.get("need_weights", True):
        shown = _weights(parts[0], parts[1], mask)
        out = call(torch.matmul, shown, parts[2])
        shown = call(torch.mean, shown, 1) if given.get("average_attn_weights", True) else shown
    else:
        out = call(F.scaled_dot_product_attention, *parts, mask)
    out = call(torch.flatten, call(torch.permute, out, (2, 0, 1, 3)), -2)
    return call(F.linear, out, given["out_proj_weight"], given["out_proj_bias"]), shown


def _weights(q: Any, k: Any, mask: Tensor | None) -> Any:
    """Return softmax(q kᵀ / √d + mask), for callers that ask for the weights."""
    scores = call(torch.matmul, call(torch.mul, q, q.shape[-1] ** -0.5), call(torch.transpose, k, -2, -1))
    return call(torch.softmax, scores if mask is None else call(torch.add, scores, mask), -1)


def _both(mask: Tensor | None, padding: Tensor | None, like: Tensor, heads: int) -> Tensor | None:
    """Return the sum of a mask of queries and keys and of one of padded keys (True: left out)."""
    if isinstance(mask, Dual) or isinstance(padding, Dual):
        raise NoRule("attention with a mask that depends on z or t")
    if mask is not None and mask.ndim == 3:
        mask = mask.unflatten(0, (-1, heads))
    parts = [mask, None if padding is None else padding[:, None, None]]
    signed = [part if part is None or part.dtype != torch.bool else _minus(part, like) for part in parts]
    kept = [part for part in signed if part is not None]
    return sum(kept[1:], kept[0]).to(like.dtype) if kept else None


def _minus(left_out: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(left_out.shape, dtype=like.dtype, device=like.device).masked_fill(left_out, -torch.inf)
