"""Kinds of torch's functions: those that keep the rows of a batch apart, have no derivative, or draw random
numbers.

A tangent on part of the batch may only go through a function whose later rows do not depend on earlier ones.
Shapes cannot tell that (`x.flip(0)` has the right one), so functions are listed, by how they treat their
dimensions. What is not listed is refused there.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dual import Dual, NoRule, check_aligned, flatten, name_of, not_over_rows, tail_of

Narrow = Callable[[Any], Any]
"""A function that takes an argument that is no Dual to the rows that the tangent covers."""
KINDS: dict[Any, Callable[[Any, Any, Any, Dual], Narrow]] = {}
"""A check for each function: check(func, args, kwargs, like) -> Narrow, which raises where the call mixes rows."""

HOMES = (torch, Tensor, F, torch.special, torch.linalg)


def found(names: str, homes: Iterable[Any] = HOMES) -> set[Any]:
    """Return all torch functions of these names in `homes`."""
    every = (getattr(home, name, None) for home in homes for name in names.split())
    return {one for one in every if callable(one) and not inspect.isclass(one)}


# ---------------------------------------------------------------- what broadcasts, and works number by number

ELEMENTWISE = found(
    "abs absolute acos acosh addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh "
    "asin asinh atan atan2 atanh ceil celu clamp clamp_max clamp_min clip complex conj conj_physical "
    "copysign cos cosh deg2rad digamma div divide elu entr erf erfc erfcx erfinv exp exp2 expit expm1 fix "
    "float_power floor fmax fmin fmod frac gammaln gelu hardshrink hardsigmoid hardswish hardtanh "
    "heaviside hypot i0 i0e i1 i1e imag ldexp leaky_relu lerp lgamma log log10 log1p log2 log_ndtr "
    "logaddexp logaddexp2 logit logsigmoid masked_fill maximum minimum mish mul multiply mvlgamma "
    "nan_to_num ndtr ndtri neg negative polar polygamma positive pow psi rad2deg real reciprocal relu "
    "relu6 remainder resolve_conj resolve_neg round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh "
    "softplus softshrink softsign sqrt square sub subtract tan tanh tanhshrink threshold true_divide "
    "trunc where xlog1py xlogy __abs__ __mod__ __neg__ __pos__ __pow__ __rdiv__ __rmod__ __rpow__ "
    "__rsub__ __rtruediv__"
)


def _elementwise(func: Any, args: Any, kwargs: Any, like: Dual) -> Narrow:
    for leaf in flatten((args, kwargs)):
        if isinstance(leaf, Dual):
            check_aligned(leaf, like)
    return lambda value: tail_of(value, like)


KINDS |= dict.fromkeys(ELEMENTWISE, _elementwise)


# ---------------------------------------------------------------- what works along some dimensions

_ALONG = {
    "log_softmax softmin softmax": (1, None),
    "cumsum cumprod logcumsumexp cummax cummin": (1, None),
    "logsumexp amax amin nansum nanmean mean sum prod var std var_mean std_mean all any argmax argmin": (1, None),
    "max min median nanmedian mode": (1, None),
    "norm vector_norm": (2, None),
    "quantile nanquantile kthvalue": (2, None),
    "topk": (2, -1),
    "sort": (1, -1),
    "flip": (1, None),
    "fliplr": (9, 1),
    "flipud": (9, 0),
    "roll": (2, None),
    "diff": (2, -1),
    "glu": (1, -1),
    "normalize": (2, 1),
    "cosine_similarity": (2, 1),
    "gather index_select narrow select index_fill select_scatter": (1, None),
    "slice_scatter": (2, 0),
    "scatter scatter_add scatter_reduce index_add index_copy index_reduce": (1, None),
    "take_along_dim repeat_interleave": (2, None),
    "cross": (9, -1),
    "tensor_split unsafe_chunk unsafe_split split_with_sizes": (2, 0),
    "cumulative_trapezoid trapezoid trapz": (2, -1),
}


def _along(place: int, default: int | None) -> Callable[[Any, Any, Any, Dual], Narrow]:
    def check(func: Any, args: Any, kwargs: Any, like: Dual) -> Narrow:
        if not args or not isinstance(args[0], Tensor):
            raise NoRule(f"{name_of(func)} called by keywords")
        dim = kwargs.get("dim", kwargs.get("dims", args[place] if len(args) > place else default))
        if func is Tensor.flip and len(args) > 2:
            dim = args[1:]
        if isinstance(dim, bool | Tensor | float | str):  # x.var(True), torch.max(x, y): another overload
            raise NoRule(f"{name_of(func)} in a form that is not known to keep rows apart")
        not_over_rows(func, like, dim)

        def narrow(value: Any) -> Any:
            """Cut operands beside the first to the tangent's rows: they are laid out like it (indices, sources),
            or list places."""
            if not isinstance(value, Tensor) or value.ndim <= 1 < like.ndim:
                return value
            if value.ndim != like.ndim or value.shape[like.rows] != like.shape[like.rows]:
                raise NoRule(f"{name_of(func)} with operands of unequal batches")
            return value.detach().narrow(like.rows, like.start, value.shape[like.rows] - like.start)

        for leaf in flatten((args, kwargs)):
            if isinstance(leaf, Dual) and (leaf.ndim, leaf.rows) != (like.ndim, like.rows):
                raise NoRule(f"{name_of(func)} with operands whose batches lie in different dimensions")
            if isinstance(leaf, Dual):
                check_aligned(leaf, like)
        return narrow

    return check


for _names, (_place, _default) in _ALONG.items():
    KINDS |= dict.fromkeys(found(_names), _along(_place, _default))
KINDS |= dict.fromkeys(found("fft ifft rfft irfft hfft ihfft", (torch.fft,)), _along(2, -1))
KINDS |= dict.fromkeys(found("fft2 ifft2 rfft2 irfft2 hfft2 ihfft2", (torch.fft,)), _along(2, (-2, -1)))  # type: ignore[arg-type]
KINDS |= dict.fromkeys(found("fftn ifftn rfftn irfftn", (torch.fft,)), _along(2, None))
KINDS |= dict.fromkeys(found("fftshift ifftshift", (torch.fft,)), _along(1, None))
KINDS |= dict.fromkeys(found("unfold", (Tensor,)), _along(1, None))


# ---------------------------------------------------------------- what takes a batch in its first dimension

_FIRST = {
    # names -> (dimensions of a batched input, how many leading arguments are batches); 0: any number of dimensions
    "conv_transpose1d max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d lp_pool1d": (3, 1),
    "conv_transpose2d max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d lp_pool2d": (4, 1),
    "conv_transpose3d max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d lp_pool3d": (5, 1),
    "interpolate upsample upsample_nearest upsample_bilinear local_response_norm": (0, 1),
    "max_pool1d_with_indices adaptive_max_pool1d_with_indices": (3, 1),
    "max_pool2d_with_indices adaptive_max_pool2d_with_indices": (4, 1),
    "max_pool3d_with_indices adaptive_max_pool3d_with_indices": (5, 1),
    "grid_sample grid_sampler": (0, 2),
    "unfold": (4, 1),
    "fold": (3, 1),
    "channel_shuffle native_channel_shuffle prelu": (0, 1),
}


def _first(dims: int, many: int) -> Callable[[Any, Any, Any, Dual], Narrow]:
    def check(func: Any, args: Any, kwargs: Any, like: Dual) -> Narrow:
        batched = args[:many]
        if len(batched) < many or not all(isinstance(x, Tensor) for x in batched):
            raise NoRule(f"{name_of(func)} called by keywords")
        fits = all(len(x) == like.shape[0] and x.ndim in ((dims,) if dims else (2, 3, 4, 5)) for x in batched)
        if not fits or like.rows:
            raise NoRule(f"{name_of(func)} of tensors whose batch is not the first dimension")
        for leaf in flatten((args, kwargs)):
            if isinstance(leaf, Dual) and not any(leaf is x for x in batched):
                raise NoRule(f"{name_of(func)} with a weight that depends on z or t")
            if isinstance(leaf, Dual) and (leaf.start, leaf.rows) != (like.start, 0):
                raise NoRule(f"{name_of(func)} with operands whose batches lie in different dimensions")

        def narrow(value: Any) -> Any:
            if any(value is x for x in batched):
                return value.detach().narrow(0, like.start, len(value) - like.start)
            return value

        return narrow

    return check


for _names, _pair in _FIRST.items():
    KINDS |= dict.fromkeys(found(_names, (torch, F)), _first(*_pair))


# ---------------------------------------------------------------- what works on the last dimensions


_LAST = {
    "tril triu matrix_exp inverse inv pinv pinverse det logdet slogdet cholesky cholesky_ex qr svd svdvals eigh "
    "eigvalsh matrix_norm lu lu_factor inv_ex cond matrix_power": 2,
    "diag_embed": 1,
}


def _last(many: int) -> Callable[[Any, Any, Any, Dual], Narrow]:
    def check(func: Any, args: Any, kwargs: Any, like: Dual) -> Narrow:
        rest = [leaf for leaf in flatten((args[1:], kwargs)) if isinstance(leaf, Tensor)]
        odd = [key for key in ("dim", "dims", "dim1", "dim2", "offset") if key in kwargs]
        if rest or odd or not args or args[0] is not like or like.rows >= like.ndim - many:
            raise NoRule(f"{name_of(func)} in a form that is not known to keep rows apart")
        return lambda value: value

    return check


for _names, _many in _LAST.items():
    KINDS |= dict.fromkeys(found(_names, (torch, Tensor, torch.linalg)), _last(_many))


# ---------------------------------------------------------------- what has no derivative, what draws, what escapes

BLANK = dict.fromkeys(found("new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like"))
"""Functions that give a tensor of a Dual's kind for the network to write into."""

CONSTANT = dict.fromkeys(BLANK) | dict.fromkeys(
    found(
        "new_tensor new_empty_strided rand_like randn_like randint_like is_same_size equal allclose isclose "
        "register_hook retain_grad"
    )
)
"""Functions whose output does not depend on the numbers of their tensors, as far as a derivative goes."""

DRAWS = found(
    "bernoulli multinomial normal poisson binomial gumbel_softmax rrelu feature_alpha_dropout native_dropout "
    "feature_dropout fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d "
    "fractional_max_pool3d_with_indices "
    "normal_ uniform_ exponential_ bernoulli_ random_ cauchy_ geometric_ log_normal_ rrelu_ dropout_ "
    "alpha_dropout_ feature_alpha_dropout_ feature_dropout_"
)
"""Functions that draw random numbers: if they ran twice, primal and tangent would not see the same."""

ESCAPES = found(
    "numpy tolist item __array__ __array_wrap__ __float__ __complex__ data_ptr untyped_storage storage "
    "_typed_storage storage_type __dlpack__ __dlpack_device__ set_ resize_ resize_as_ resize resize_as as_strided "
    "as_strided_ as_strided_scatter as_strided_copy backward apply_ map_ map2_ __deepcopy__ __reduce_ex__ "
    "__setstate__ share_memory_ requires_grad_ detach_ as_subclass squeeze_ unsqueeze_ transpose_ t_ swapdims_ "
    "swapaxes_ swapdims_ unflatten_ embedding_renorm_ batch_norm instance_norm to_mkldnn dequantize "
    "batch_norm_elemt native_batch_norm batch_norm_stats _native_batch_norm_legit to_sparse to_sparse_coo "
    "to_sparse_csr to_sparse_csc to_sparse_bsr to_sparse_bsc sparse_mask values crow_indices "
    "sparse_resize_ sparse_resize_and_clear_ fake_quantize_per_tensor_affine fake_quantize_per_channel_affine "
    "quantize_per_tensor quantize_per_channel linear_cross_entropy"
) | {torch.autograd.grad, torch.autograd.backward, Tensor.data.__get__, Tensor._base.__get__}  # type: ignore[attr-defined, union-attr]
"""Functions that hand out, or change, a tensor's numbers without its tangent."""

SILENT = found("scatter_reduce scatter_reduce_")
"""Functions whose jvp is silently zero in torch 2.13 for products (their backward pass is right)."""

PLAIN = (bool, int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, slice)
"""Types that may come out of a function without a tangent, since no derivative could pass through them."""


@functools.cache
def is_torchs(func: Any) -> bool:
    """Return whether a function is one of torch's own. The jvp of others, such as custom operators, may be
    zero."""
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return False
    if inspect.isfunction(func) or inspect.ismethod(func):
        return str(func.__module__).split(".")[0] == "torch" and not func.__module__.startswith("torch.nn.init")
    return inspect.isbuiltin(func) or inspect.isroutine(func) or hasattr(func, "__objclass__")


@functools.cache
def place_of_inplace(func: Any) -> int | None:
    """Return the position at which a function takes `inplace`, or None."""
    if not inspect.isfunction(func) or func.__module__ != F.__name__:
        return None
    names = list(inspect.signature(func).parameters)
    return names.index("inplace") if "inplace" in names else None
