"""An objective whose tensor part is compiled: draws and schedules stay on the host."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..condition import Condition
from ..derivatives.behind import look_behind, standing_in
from ..derivatives.total import DerivativeError, Method, choose_method, du_dt, full_precision
from ..derivatives.trial import draws, is_lowered
from ..derivatives.ways import eager
from ..errors import UserError
from ..path import Network, Points
from ..rng import Random, set_apart
from .objective import AlphaFlow, Output
from .schedules import Schedule
from .targets import differentiated

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

    Raises:
        UserError: (a ValueError) an objective with `full_gradient`, TVM's.
    """

    def __init__(self, objective: AlphaFlow, **options: Any) -> None:
        if objective.full_gradient:
            raise UserError(
                "a gradient through ∂u/∂r (tvm) is not compiled whole: leave compile out, or take another member",
                status=2,
            )
        if callable(objective.flow_ratio):
            objective = replace(objective, flow_ratio=_Rounded(objective.flow_ratio))
        self.objective = objective
        self._options = {"fullgraph": True, "dynamic": False, "isolate_recompiles": True, **options}
        self._compiled: dict[tuple[Method, int], Callable[..., Output]] = {}
        self._confirmed = self._looked = False

    def __call__(
        self,
        net: Network,
        x: Tensor,
        y: Condition | None = None,
        *,
        step: int = 0,
        generator: torch.Generator | Random | None = None,
        flow_rows: int | None = None,
        noise: Tensor | None = None,
    ) -> Output:
        """Evaluate the objective on a batch; see `AlphaFlow`.

        Raises:
            ValueError: the derivative that the network needs, or that was asked for, cannot be compiled; the
                network draws random numbers, which u and du/dt would not share.
            DerivativeError: the first evaluation with the fused derivative differs from an uncompiled one.
        """
        points = self.objective.draw(net, x, y, step=step, generator=generator, flow_rows=flow_rows, noise=noise)
        differentiates = points.regime == "derivative"
        method = self._method(net, points) if differentiates else self.objective.derivative
        objective = replace(self.objective, derivative=method)
        key = method, points.flow_rows  # Dynamo limits how many graphs one function may have
        if key not in self._compiled:
            self._compiled[key] = torch.compile(objective.evaluate, **self._options)
        with full_precision() if method == "difference" else nullcontext():
            output = self._compiled[key](net, _with_tensors(points))
        if differentiates and method == "fused" and not self._confirmed:
            _confirm(output, objective, net, points)
            self._confirmed = True
        return output

    def flow_rows(self, batch: int, step: int) -> int:
        """Return the number of rows with r = t."""
        return self.objective.flow_rows(batch, step)

    def _method(self, net: Network, points: Points) -> Method:
        """How du/dt is to be taken: found, or tried, on two rows and uncompiled, where errors name the cause."""
        shift = self.objective.shift
        method, few = self.objective.derivative, points.rows(max(0, len(points.z) - 2))
        if method == "auto":
            method = choose_method(*differentiated(net, points, shift), start=points.flow_rows)
        elif method == "fused" and not self._confirmed:
            with torch.no_grad():
                du_dt(*differentiated(net, few, shift), method)
        if method != "fused" and not self._looked and draws(net, few):  # fused refuses by itself
            raise UserError(
                "the network draws random numbers, and compiled u and du/dt would not see the same: turn dropout "
                "off (net.eval()), or do not compile"
            )
        if method == "forward" and not self._looked:
            _refuse_norms(net, few)
        self._looked = True
        if method == "reverse":
            raise ValueError("derivative 'reverse' cannot be compiled: use 'fused', 'forward' or 'difference'")
        return method


class _Weighted(TorchDispatchMode):
    """Notes the normalisations with weights that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        place = 2 if "layer_norm" in name else 1 if "group_norm" in name or "batch_norm" in name else None
        if place is not None and len(args) > place and isinstance(args[place], Tensor):
            self.norms.add(name.removeprefix("native_"))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _refuse_norms(net: Network, points: Points) -> None:
    """Before torch.compile fails on their forward mode, by an assertion that leaves its own state in disorder."""
    modules, _ = look_behind(net)
    with standing_in(modules), set_apart(points.z.device), eager(), _Weighted() as seen:
        net(points.z, points.r, points.t, points.y)
    if seen.norms:
        raise UserError(
            f"derivative 'forward' cannot be compiled for this network: torch.compile fails on forward mode of "
            f"{' and '.join(sorted(seen.norms))} with weights; use derivative='fused' or 'difference', norms "
            "without weights, or do not compile"
        )


@dataclass(frozen=True)
class _Rounded:
    """A schedule whose values are multiples of 1 / `SPLITS`."""

    schedule: Schedule

    def __call__(self, step: int) -> float:
        return round(self.schedule(step) * SPLITS) / SPLITS


def _with_tensors(points: Points) -> Points:
    """α strictly between 0 and 1, and trust below 1, as tensors: each number would be a graph of its own."""

    def tensor(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=points.t.dtype, device=points.t.device)

    alpha = tensor(points.alpha) if points.regime == "between" else points.alpha
    return replace(points, alpha=alpha, trust=points.trust if points.trust == 1 else tensor(points.trust))


@torch.no_grad()
def _confirm(output: Output, objective: AlphaFlow, net: Network, points: Points) -> None:
    """Compare residuals with those of an uncompiled evaluation: Dynamo may lose a tangent (see `dual.make`)."""
    expected = objective.evaluate(net, points).residual
    lowered = is_lowered(points.z)
    tolerance = 1e-1 if lowered else 1e-3 if torch.get_float32_matmul_precision() == "highest" else 1e-2
    error = ((output.residual - expected).double().norm() / expected.double().norm()).item()
    if not error <= tolerance:
        raise DerivativeError(
            f"the compiled objective differs from the uncompiled one by {error:.3g} (allowed: {tolerance:g}): "
            "the network calls something on its tensors that torch.compile hides from the fused derivative, such "
            "as the builtin abs(); write it as a torch function, or use derivative='forward'"
        )
