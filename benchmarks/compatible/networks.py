"""A network under MeanFlow: which way `auto` takes, and what is off against float64 and two passes."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import alphaflow as af
from alphaflow.derivatives.total import choose_method
from alphaflow.derivatives.ways import quotient
from alphaflow.method.weighting import Weight
from alphaflow.path import Points

from .entry import Entry

ROWS, FLOW = 6, 2
"""Rows of a batch, and how many of them have r = t."""
STEP = 1e-6
"""Of the central differences in float64: networks that multiply their times by 1000 turn fast."""
Gradient = dict[str, Tensor | None]


def measure(entry: Entry) -> dict[str, Any]:
    """All cells of a network's row; a cell that cannot be taken holds the error's words."""
    net = entry.network()
    x, y = entry.batch(ROWS)
    points = objective().draw(net, x, y, generator=torch.Generator().manual_seed(2), flow_rows=FLOW)
    row: dict[str, Any] = {"weights": sum(weight.numel() for weight in net.parameters())}
    row["way"], row["why"] = chosen(net, points)
    reference = Reference(net, points)
    for name, cell in CELLS.items():
        row[name] = tried(partial(cell, copy.deepcopy(net), points, reference, row["way"]))
    return row


def objective(way: Any = "auto") -> af.AlphaFlow:
    return af.MeanFlow(weight=Weight(kind="uniform"), derivative=way)


def tried(cell: Callable[[], Any]) -> Any:
    try:
        return cell()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def chosen(net: nn.Module, points: Points) -> tuple[str, str]:
    """What `auto` takes, and what it said of those it passed over."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("alphaflow")
    log.addHandler(handler)
    try:
        way = choose_method(net, points, start=FLOW)
    finally:
        log.removeHandler(handler)
    return way, "; ".join(part for line in said for part in line.split("; ")[1:])


class Reference:
    """u, du/dt on the rows r < t by differences, and the gradient by a second pass, in float64."""

    def __init__(self, net: nn.Module, points: Points) -> None:
        self.net = copy.deepcopy(net).double()
        self.points = points.map(lambda part: part.double() if part.is_floating_point() else part)
        later = self.points.rows(FLOW)
        self.later = later
        with in_double():
            half, full = (quotient(self.u, later.z, later.v, later.t, h) for h in (STEP, 2 * STEP))
            self.slope = (4 * half - full) / 3
            target = self.points.v.clone()
            target[FLOW:] -= spread(later.t - later.r, later.z) * self.slope
            out = self.net(self.points.z, self.points.r, self.points.t, self.points.y)
            (out - target).square().flatten(1).mean(1).mean().backward()
        self.out = out.detach()
        self.gradient = gradient(self.net)

    def u(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(z, self.later.r, t, self.later.y)

    def against(self, found: Gradient) -> float:
        """How far a gradient is off, over all weights that have one in the reference."""
        pairs = [(self.gradient[name], value) for name, value in found.items() if self.gradient[name] is not None]
        ours = [torch.zeros_like(theirs) if value is None else value for theirs, value in pairs]
        return off(flat(ours), flat([theirs for theirs, _ in pairs]))


def compared(net: nn.Module, points: Points, reference: Reference, way: Any) -> dict[str, float]:
    """u, du/dt and the gradient of a step, each against the reference."""
    later = points.rows(FLOW)
    u, slope = af.total_derivative(net, later.z, later.v, later.r, later.t, later.y, method=way)
    return {
        "u": off(u, reference.out[FLOW:]),
        "du/dt": off(slope, reference.slope),
        "gradient": reference.against(step(net, points, way)),
    }


def in_bfloat16(net: nn.Module, points: Points, reference: Reference, way: Any) -> dict[str, float]:
    with torch.autocast("cpu", torch.bfloat16):
        return compared(net, points, reference, way)


def checkpointed(net: nn.Module, points: Points, reference: Reference, way: Any) -> dict[str, float] | None:
    """The gradient with the network's own checkpointing of activations; None: it has none."""
    parts = [part for part in net.modules() if hasattr(part, "gradient_checkpointing")]
    calls: list[int] = []

    def counted(*args: Any, **words: Any) -> Any:
        calls.append(1)
        return checkpoint(*args, use_reentrant=False, **words)

    for part in parts:
        part.gradient_checkpointing, part._gradient_checkpointing_func = True, counted
        part.training = True  # transformers checkpoints in training mode alone; its dropout stays as it was
    error = reference.against(step(net, points, way)) if parts else 0.0
    return {"gradient": error} if calls else None


def frozen(net: nn.Module, points: Points, reference: Reference, way: Any) -> dict[str, float]:
    """The gradient where every second weight is frozen."""
    for number, weight in enumerate(net.parameters()):
        weight.requires_grad_(number % 2 == 1)
    found = step(net, points, way)
    left = [name for name, weight in net.named_parameters() if not weight.requires_grad]
    assert all(found.pop(name) is None for name in left), "a frozen weight has a gradient"
    return {"gradient": reference.against(found)}


def accumulated(net: nn.Module, points: Points, reference: Reference, way: Any) -> dict[str, float]:
    """The gradient of two halves of the batch, one after the other."""
    half = ROWS // 2
    for part in (points.rows(0, half), points.rows(half)):
        (objective(way).evaluate(net, part).loss / 2).backward()
    return {"gradient": reference.against(gradient(net))}


CELLS: dict[str, Callable[[nn.Module, Points, Reference, Any], Any]] = {
    "float32": compared,
    "bfloat16": in_bfloat16,
    "checkpointing": checkpointed,
    "frozen": frozen,
    "accumulated": accumulated,
}


def step(net: nn.Module, points: Points, way: Any) -> Gradient:
    objective(way).evaluate(net, points).loss.backward()
    return gradient(net)


def gradient(net: nn.Module) -> Gradient:
    return {name: weight.grad for name, weight in net.named_parameters()}


def flat(parts: list[Any]) -> Tensor:
    return torch.cat([part.double().flatten() for part in parts])


def spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def off(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖."""
    return float((a.detach().double() - b).norm() / b.norm())


@contextmanager
def in_double() -> Iterator[None]:
    """For a while, casts to float32 leave float64 as it is: networks of diffusers round their times there."""
    to, plain_type, softmax = Tensor.to, Tensor.type, torch.nn.functional.softmax

    def wide(dtype: Any) -> Any:
        return torch.float64 if dtype is torch.float32 else dtype

    def cast(tensor: Tensor, *args: Any, **words: Any) -> Tensor:
        if tensor.dtype == torch.float64:
            args, words = tuple(map(wide, args)), {key: wide(value) for key, value in words.items()}
        return to(tensor, *args, **words)

    def same_type(tensor: Tensor, *args: Any, **words: Any) -> Any:
        return (
            plain_type(tensor, *map(wide, args), **words)
            if tensor.dtype == torch.float64
            else plain_type(tensor, *args, **words)
        )

    def soft(tensor: Tensor, *args: Any, dtype: Any = None, **words: Any) -> Tensor:
        return softmax(tensor, *args, dtype=wide(dtype) if tensor.dtype == torch.float64 else dtype, **words)

    def float_(tensor: Tensor) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else to(tensor, torch.float32)

    with (
        patch.object(Tensor, "to", cast),
        patch.object(Tensor, "type", same_type),
        patch.object(Tensor, "float", float_),
        patch.object(torch.nn.functional, "softmax", soft),
    ):
        yield
