"""The total derivative du/dt of the average velocity along a path, by several ways behind one call.

du/dt = v · ∂u/∂z + ∂u/∂t        tangent (v, 0, 1) in (z, r, t); MeanFlow (arXiv 2505.13447), equation 8

fused        one pass of dual tensors (`alphaflow.dual`): in training, u with its graph comes out of the same pass
forward      one forward pass with torch.func.jvp; attention runs on the math backend
reverse      two backward passes (the double-VJP trick); for networks whose ops lack forward rules
difference   central difference; any network, even one that is no PyTorch graph; about 5 digits in float32
auto         the first of these that the network supports; logged once, with the reason
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import choose
from .fused import dual_forward
from .path import Network
from .rng import seeded

Method = Literal["auto", "fused", "forward", "reverse", "difference"]
METHODS: tuple[str, ...] = get_args(Method)
log = logging.getLogger("alphaflow")

_chosen: "WeakKeyDictionary[object, str]" = WeakKeyDictionary()


class DerivativeError(RuntimeError):
    """The derivative in use disagrees with central differences; the message holds the figures."""


def total_derivative(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    y: Tensor | None = None,
    *,
    method: Method = "auto",
) -> tuple[Tensor, Tensor]:
    """u(z, r, t, y) and du/dt along (v, 0, 1), neither with a gradient to the weights.

    Args:
        net: the network u(z, r, t, y). z, v: (B, *shape). r, t: (B,), r <= t. y: classes (B,) or None.
        method: one of the ways in the docstring of `alphaflow.derivative`.

    Returns:
        u and du/dt, each (B, *shape); du/dt in units of u per unit of t.

    Raises:
        UserError: (a ValueError) an unknown method.
        NotImplementedError: (RuntimeError from some functions of torch) the network calls something that this
            method cannot differentiate; `auto` goes on to the next one instead.
    """
    choose("derivative", method, METHODS)
    if method == "auto":
        method = choose_method(net, z, v, r, t, y)
    return _WAYS[method](lambda z, t: net(z, r, t, y), z, v, t)


def choose_method(net: Network, z: Tensor, v: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Method:
    """What `auto` means for this network: tried once on two rows, remembered, and logged with the reason."""
    with suppress(TypeError):  # neither hashable nor weakly referable: try anew each time
        if net in _chosen:
            return _chosen[net]  # type: ignore[return-value]
    reason = ""
    labels = None if y is None else y[:2]
    method: Method
    for method, way in _WAYS.items():  # type: ignore[assignment]
        try:
            way(lambda z, t: net(z, r[:2], t, labels), z[:2], v[:2], t[:2])
            if method == "fused" and len(z) > 1:  # in training, tangents cover a part of the batch
                dual_forward(lambda z, t: net(z, r[:2], t, labels), z[:2], v[1:2], t[:2], start=1)
            if method in ("fused", "reverse"):  # an opaque op can drop out of these without an error
                check_derivative(net, z[:2], v[:2], r[:2], t[:2], labels, method=method)
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or method == "difference":
                raise
            reason += f"; not {method}: {str(error).strip().splitlines()[0][:120]}"
            continue
        name = getattr(net, "__name__", type(net).__name__)
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "du/dt of %s: %s%s", name, method, reason or " (the cheapest way it supports)")
        with suppress(TypeError):
            _chosen[net] = method
        return method
    raise AssertionError("the last way has no fallback")


def _fused(u: Callable[[Tensor, Tensor], Tensor], z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return dual_forward(u, z, v, t)


def _forward(u: Callable[[Tensor, Tensor], Tensor], z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), _math_attention():
        z, t = (x.detach().clone() for x in (z, t))  # of a view of rows, a compiled loss cannot take the jvp
        tangents = (v.detach().to(z.dtype), torch.ones_like(t))
        out, pushed = torch.func.jvp(u, (z, t), tangents)  # type: ignore[misc]
        return out, pushed


def _reverse(u: Callable[[Tensor, Tensor], Tensor], z: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad(), _math_attention():
        z, t = z.detach().requires_grad_(), t.detach().requires_grad_()
        out = u(z, t)
        # Jᵀw is linear in w; its own transpose applied to the tangent is J·tangent.
        w = torch.zeros_like(out, requires_grad=True)
        pulled = torch.autograd.grad(out, (z, t), w, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, w, (v.detach().to(z.dtype), torch.ones_like(t)))
    return out.detach(), pushed


def _difference(
    u: Callable[[Tensor, Tensor], Tensor], z: Tensor, v: Tensor, t: Tensor, finer: int = 1
) -> tuple[Tensor, Tensor]:
    # h = eps^(1/3) balances truncation (h²) and rounding (eps / h). Half precision would drown it.
    h = torch.finfo(z.dtype).eps ** (1 / 3) / finer
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False), full_precision():
        ahead, behind = u(z + h * v, t + h), u(z - h * v, t - h)
        return u(z, t), (ahead - behind) / (2 * h)


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products with all of their 23 bits: TF32's 10 would put a difference quotient off by a tenth.

    Compiled code cannot switch; what calls it has to.
    """
    if torch.compiler.is_compiling():
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _math_attention() -> AbstractContextManager[None]:
    return sdpa_kernel(SDPBackend.MATH)  # the others have no forward-mode and no second derivative


_WAYS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "fused": _fused,
    "forward": _forward,
    "reverse": _reverse,
    "difference": _difference,
}


def check_derivative(
    net: Network,
    z: Tensor,
    v: Tensor,
    r: Tensor,
    t: Tensor,
    y: Tensor | None = None,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
) -> float:
    """Compare du/dt by `method` with central differences on a batch, which any network allows.

    Where they disagree, finer differences have their say: of a network that multiplies its times by 1000, the
    usual step spans several waves. To agree with any of them by chance is next to impossible. `difference` itself,
    which trains with the usual step, is compared with one of a quarter.

    Zero-initialised networks (adaLN-zero) have du/dt = 0 at the start, where any derivative looks right; so the
    comparison runs on a copy of the weights with a little noise added, and random matrices in place of zero ones.
    The weights themselves stay as they are.

    Args:
        net, z, v, r, t, y, method: as in `total_derivative`.
        tolerance: on ‖a - b‖ / ‖b‖ over the batch; None: 2e-2, or 1e-1 under autocast.

    Returns:
        ‖a - b‖ / ‖b‖, a by `method` and b by central differences, of the step that fits best.

    Raises:
        DerivativeError: the two disagree, that is, differ by more than the tolerance.
    """
    if tolerance is None:
        tolerance = 1e-1 if torch.is_autocast_enabled(z.device.type) else 2e-2
    t = t.clamp(min=0.1)  # nearer to 0 the u = (z - f) / t of data prediction bends within a central difference
    if method == "auto":
        method = choose_method(net, z, v, r, t, y)
    probe = _perturbed(net) if isinstance(net, nn.Module) else net
    if method == "fused":  # as training runs it: tangents on the later rows only
        first = max(len(z) // 4, min(1, len(z) - 1))
        _, ours = dual_forward(lambda z, t: probe(z, r, t, y), z, v[first:], t, start=first)
    else:
        first = 0
        _, ours = total_derivative(probe, z, v, r, t, y, method=method)
    tried: list[tuple[float, float, int]] = []
    for finer in (4,) if method == "difference" else (1, 16, 128):
        _, reference = _difference(lambda z, t: probe(z, r, t, y), z, v, t, finer)
        gaps = (ours.double() - reference[first:].double()).flatten(1).norm(dim=1)
        size = reference[first:].double().norm().item()
        error = gaps.norm().item() / max(size, 1e-12)
        if tried and size <= 1e-9:  # too fine to see anything: a network that rounds
            break
        if error <= tolerance or size <= 1e-9:
            return error
        tried.append((error, size, first + int(gaps.argmax())))
    error, size, worst = min(tried)
    cause = (
        "The network is too rough in t for differences"
        if method == "difference"
        else "An op of the network has a wrong derivative, or its output is not smooth in t"
    )
    raise DerivativeError(
        f"du/dt by {method!r} is off by {error:.3g} relative to central differences (allowed: {tolerance:g}); "
        f"norms {ours.double().norm().item():.4g} and {size:.4g}; worst row {worst} at r={r[worst].item():.4f}, "
        f"t={t[worst].item():.4f}. {cause}; try another `derivative`"
    )


def _perturbed(net: nn.Module) -> Network:
    weights = {}
    for name, weight in net.named_parameters():
        noise = torch.randn(weight.shape, generator=seeded("probe", name)).to(weight)
        zeroed = weight.ndim > 1 and not weight.any()  # a gate or output layer that would hide what lies before it
        weights[name] = weight.detach() + (weight[0].numel() ** -0.5 if zeroed else 0.02) * noise
    return lambda z, r, t, y: torch.func.functional_call(net, weights, (z, r, t, y))
