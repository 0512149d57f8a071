"""An objective whose tensor part is compiled: draws and schedules stay on the host."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .derivative import DerivativeError, Method, choose_method, full_precision, total_derivative
from .objectives import AlphaFlow, Draw, Output
from .path import Network
from .rng import Random
from .schedules import Schedule

SPLITS = 8
"""A scheduled share of r = t rows is rounded to this many parts: each of its values is a graph of its own."""


class Compiled:
    """Called like the objective, and equal to it to rounding.

    There is one graph for each of α = 0, 0 < α < 1 (there α is a tensor and may move) and α = 1, without breaks,
    and another when the batch's shape or its flow ratio changes; the first call of each compiles (tens of
    seconds). A schedule of the flow ratio moves in steps of 1 / `SPLITS`.

    With the fused derivative the network must leave activation checkpointing to the compiler
    (`torch._functorch.config.activation_memory_budget`), and take tensors apart by `unbind`, not by iteration.

    Args:
        objective: what to compile; `derivative="reverse"` cannot be.
        options: passed on to `torch.compile`, for instance `mode` or `backend`.
    """

    def __init__(self, objective: AlphaFlow, **options: Any) -> None:
        if callable(objective.flow_ratio):
            objective = replace(objective, flow_ratio=_Rounded(objective.flow_ratio))
        self.objective = objective
        self._options = {"fullgraph": True, "dynamic": False, "isolate_recompiles": True, **options}
        self._compiled: dict[tuple[Method, int], Callable[..., Output]] = {}
        self._confirmed = False

    def __call__(
        self,
        net: Network,
        x: Tensor,
        y: Tensor | None = None,
        *,
        step: int = 0,
        generator: torch.Generator | Random | None = None,
        flow_rows: int | None = None,
    ) -> Output:
        """Evaluate the objective on a batch; see `AlphaFlow`.

        Raises:
            ValueError: the derivative that the network needs, or that was asked for, cannot be compiled.
            DerivativeError: the first evaluation with the fused derivative differs from an uncompiled one.
        """
        draw = self.objective.draw(net, x, y, step=step, generator=generator, flow_rows=flow_rows)
        differentiates = not isinstance(draw.alpha, Tensor) and draw.alpha == 0 and draw.flow_rows < len(x)
        method = self._method(net, draw) if differentiates else self.objective.derivative
        objective = replace(self.objective, derivative=method)
        key = method, draw.flow_rows  # Dynamo limits how many graphs one function may have
        if key not in self._compiled:
            self._compiled[key] = torch.compile(objective.evaluate, **self._options)
        with full_precision() if method == "difference" else nullcontext():
            output = self._compiled[key](net, _with_tensor_alpha(draw))
        if differentiates and method == "fused" and not self._confirmed:
            _confirm(output, objective, net, draw)
            self._confirmed = True
        return output

    def flow_rows(self, batch: int, step: int) -> int:
        """The number of rows with r = t."""
        return self.objective.flow_rows(batch, step)

    def _method(self, net: Network, draw: Draw) -> Method:
        """How du/dt is to be taken: found, or tried, on two rows and uncompiled, where errors name the cause."""
        method, rows = self.objective.derivative, slice(-2, None)
        labels = None if draw.y is None else draw.y[rows]
        points = (draw.z[rows], draw.v[rows], draw.r[rows], draw.t[rows], labels)
        if method == "auto":
            method = choose_method(net, *points)
        elif method == "fused" and not self._confirmed:
            total_derivative(net, *points, method=method)
        if method == "reverse":
            raise ValueError("derivative 'reverse' cannot be compiled: use 'fused', 'forward' or 'difference'")
        return method


@dataclass(frozen=True)
class _Rounded:
    """A schedule whose values are multiples of 1 / `SPLITS`."""

    schedule: Schedule

    def __call__(self, step: int) -> float:
        return round(self.schedule(step) * SPLITS) / SPLITS


def _with_tensor_alpha(draw: Draw) -> Draw:
    """α strictly between 0 and 1 as a tensor: as a number, each value would be a graph of its own."""
    if isinstance(draw.alpha, Tensor) or draw.alpha in (0, 1):
        return draw
    return replace(draw, alpha=torch.full((), draw.alpha, dtype=draw.t.dtype, device=draw.t.device))


@torch.no_grad()
def _confirm(output: Output, objective: AlphaFlow, net: Network, draw: Draw) -> None:
    """Compare residuals with those of an uncompiled evaluation: Dynamo may lose a tangent (see `dual.make`)."""
    expected = objective.evaluate(net, draw).residual
    lowered = torch.is_autocast_enabled(draw.z.device.type) or draw.z.element_size() < 4
    tolerance = 1e-1 if lowered else 1e-3 if torch.get_float32_matmul_precision() == "highest" else 1e-2
    error = ((output.residual - expected).double().norm() / expected.double().norm()).item()
    if not error <= tolerance:
        raise DerivativeError(
            f"the compiled objective differs from the uncompiled one by {error:.3g} (allowed: {tolerance:g}): "
            "the network calls something on its tensors that torch.compile hides from the fused derivative, such "
            "as the builtin abs(); write it as a torch function, or use derivative='forward'"
        )
