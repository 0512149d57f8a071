"""A trial of the ways to take du/dt of a network, on stand-ins for its weights and buffers."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..path import Network, Points, checked, predict
from ..rng import global_state, is_same, replayed, seeded, set_apart
from .agreement import CEILING, LOWERED, DerivativeError, Finding, along_t, along_z, compare
from .behind import look_behind, standing_in
from .fused import dual_forward
from .graphed import graphed_slope
from .ways import WAYS, Function, Method, eager, full_precision, quotient, usual_step

_LARGEST = 2**33
"""Bytes of float64 weights beyond which the check in float64 is left out."""


class Trial:
    """One network on one batch, and on two rows of it.

    Args:
        net: the network u(z, r, t, y).
        modules: the modules behind it.
        points: the batch.
        start: the first row on which training takes tangents.
        tolerance: of the comparison with differences; None: as they allow.

    Raises:
        UserError: (a ValueError) the network's output is not like z.
        DerivativeError: the network draws random numbers that no two evaluations can share.
        Exception: whatever the network itself raises when it is simply called.
    """

    def __init__(
        self,
        net: Network,
        modules: list[nn.Module],
        points: Points,
        start: int = 0,
        *,
        tolerance: float | None = None,
    ) -> None:
        self.net, self.modules, self.start, self.tolerance = net, modules, start, tolerance
        # Nearer to 0, u = (z - f) / t of data prediction is too curved for a difference.
        self.batch = replace(points.map(Tensor.detach), t=points.t.detach().clamp(min=0.1))
        first = max(0, min(start, len(points.z) - 2))
        self.few = self.batch.rows(first, first + 2)
        self.device = points.z.device
        self.lowered = is_lowered(points.z)
        self.buffers = any(module._buffers for root in modules for module in root.modules())
        self.state = global_state(self.device)
        self.random = self._draws()
        self._exact = self._in_float64()

    # ------------------------------------------------------------------ what is evaluated

    def _function(self, points: Points) -> Function:
        """Return u(z, t) at the points' r and y. Each evaluation has the same buffers and the same random
        state."""
        r, y = points.r, points.y
        net = replayed(self.net, self.state, self.device) if self.random else self.net

        def u(z: Tensor, t: Tensor) -> Tensor:
            if not self.buffers:
                return net(z, r, t, y)
            with standing_in(self.modules):
                return net(z, r, t, y)

        return u

    @contextmanager
    def _aside(self, *, double: bool = False, noisy: bool = True) -> Iterator[None]:
        """For a while, compute with stand-ins for weights and buffers, generators set apart, and float32 in
        full."""
        weight = _disturbed if noisy else None
        dtype = torch.float64 if double else None
        quiet = torch.autocast(self.device.type, enabled=False) if double else torch.no_grad()
        with (
            set_apart(self.device),
            full_precision(),
            standing_in(self.modules, weight=weight, dtype=dtype),
            quiet,
            eager(),
        ):
            yield

    def _draws(self) -> bool:
        """Return whether the network draws random numbers; refuse those that cannot be drawn again."""
        with set_apart(self.device), torch.no_grad(), eager():
            u = checked(self._once(), self.few.z)
            random = not is_same(self.state, global_state(self.device))
            again = replayed(self._once, self.state, self.device)()
        off = _relative(again, u)
        if not off <= (LOWERED if self.lowered else 1e-3) and bool(u.isfinite().all()):
            raise DerivativeError(
                f"the network gives another output when it is called again (off by {off:.3g}), with torch's "
                "generators set back: it draws from a generator of its own, or changes as it is called, and u and "
                "du/dt would not belong together; let it draw from torch's global generators, or stand still"
            )
        return random

    def _once(self) -> Tensor:
        few = self.few
        with standing_in(self.modules):
            return self.net(few.z, few.r, few.t, few.y)

    def _in_float64(self) -> Points | None:
        """Return the two rows in float64, if the network takes them and draws no random numbers, which would
        differ there."""
        weights = sum(weight.numel() for root in self.modules for weight in root.parameters())
        if self.random or 8 * weights > _LARGEST:
            return None
        few = _doubled(self.few)
        try:
            with self._aside(double=True), torch.no_grad():
                u = self._function(few)(few.z, few.t)
        except Exception:
            return None
        return few if u.dtype == torch.float64 and bool(u.isfinite().all()) else None

    # ------------------------------------------------------------------ what is compared

    def attempt(self, method: str) -> None:
        """Take du/dt of the two rows as they are, and raise what says why it cannot be taken."""
        few = self.few
        with self._aside(noisy=False):
            WAYS[method](self._function(few), few.z, few.v, few.t)

    def attempt_gradient(self, method: Method) -> None:
        """Go back through ∂u/∂t of the two rows, and raise what says why that fails or differs from differences.

        A second derivative may be wrong where the first is right.
        """
        few = self.few if self._exact is None else self._exact
        gradients = []
        with self._aside(double=self._exact is not None):
            weights = {id(one): one.requires_grad_() for root in self.modules for one in root.parameters()}
            for way in (method, "difference"):
                with torch.enable_grad():
                    _, slope = graphed_slope(partial(self._function(few), few.z), few.t, way)
                    if not (weights and slope.requires_grad):
                        return
                    parts = torch.autograd.grad(slope.square().sum(), [*weights.values()], allow_unused=True)
                whole = [torch.zeros_like(w) if part is None else part for w, part in zip(weights.values(), parts)]
                gradients.append(torch.cat([part.flatten() for part in whole]))
        off, allowed = _relative(*gradients), 1e-4 if self._exact is not None else self._ceiling
        if not off <= allowed:
            raise DerivativeError(
                f"the gradient through ∂u/∂t by {method!r} is off by {off:.3g} relative to that by differences "
                f"(allowed: {allowed:g})"
            )

    def examine(self, method: str, *, whole: bool = True) -> float | None:
        """Raise an error that says why not this way, if it fails or is wrong; return `examine_whole`, if asked.

        Args:
            method: the way.
            whole: whether `fused` is tried on the whole batch, too, since it may depend on how many rows there
                are.
        """
        self.attempt(method)
        exact: dict[str, Tensor] = {}
        if self._exact is not None:
            with self._aside(double=True):
                exact = self._along_each(method, self._exact)
        with self._aside():
            self._along_each(method, self.few, exact)
        return self.examine_whole(method) if whole and method == "fused" else None

    def _along_each(
        self, method: str, points: Points, exact: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compare du/dt along z and t, along each alone, and u; return du/dt. exact: right values, if any."""
        z, v, r, t = points.z, points.v, points.r, points.t
        u, slopes = self._function(points), {}
        kinds = {"": u, " along z alone": along_z(u, t), " along t alone": along_t(u, z)}
        for kind, function in kinds.items():
            value, slope = WAYS[method](function, z, v, t)
            plain = self._same_u(method, value, u, z, t)
            slopes[kind] = slope
            if exact:
                finding = _against(slope, exact[kind], self._ceiling)
            else:
                finding = self._compared(slope, plain, function, z, v, t)
            self._refuse(method, finding, kind, r, t)
        if method == "fused" and len(z) > 1:  # in training, tangents cover a part of the batch
            with torch.no_grad():
                value, slope = dual_forward(u, z, v[1:], t, start=1)
            self._same_u(method, value, u, z, t)
            self._refuse(method, _against(slope, slopes[""][1:], self._ceiling), " with tangents on a part", r, t)
        return slopes

    def _same_u(self, method: str, ours: Tensor, u: Function, z: Tensor, t: Tensor) -> Tensor:
        """Return the plain network's u, once `ours` is seen to be the same."""
        with torch.no_grad():
            plain = u(z, t)
        off = _relative(checked(ours, z), plain)
        allowed = LOWERED if self.lowered else 1e-6 if z.dtype == torch.float64 else 1e-3
        if not off <= allowed:
            raise DerivativeError(
                f"u by {method!r} is off by {off:.3g} relative to the plain network's (allowed: {allowed:g}): it "
                "writes in place where it must not, or draws random numbers; try another `derivative`"
            )
        return plain

    @property
    def _ceiling(self) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return LOWERED if self.lowered else CEILING

    def _compared(
        self, slope: Tensor, value: Tensor, u: Function, z: Tensor, v: Tensor, t: Tensor, start: int = 0
    ) -> Finding:
        floor = self._ceiling if self.lowered or self.tolerance is not None else None
        return compare(slope, value, u, z, v, t, start=start, floor=floor, ceiling=self._ceiling)

    def examine_whole(self, method: str) -> float:
        """Compare du/dt of the batch, as training takes it, and u; return the relative error of du/dt.

        A network that multiplies its times, as by 1000, may be too rough for differences in float32. So what they
        refuse is compared with du/dt in float64, where that is there and differences bear it out.
        """
        slope, finding = self._whole(method, self.batch)
        if not finding.agrees and self._exact is not None:
            try:
                exact, borne_out = self._whole(method, _doubled(self.batch), double=True)
            except torch.OutOfMemoryError:
                borne_out = finding
            if borne_out.agrees:
                finding = _against(slope, exact, self._ceiling)
        start = self.start if method == "fused" else 0
        self._refuse(method, finding, "", self.batch.r, self.batch.t, start)
        return finding.off

    def _whole(self, method: str, points: Points, *, double: bool = False) -> tuple[Tensor, Finding]:
        """Return du/dt of all rows that training takes it of, and what differences say of it."""
        z, v, t = points.z, points.v, points.t
        u, start = self._function(points), self.start if method == "fused" else 0
        with self._aside(double=double):
            if method == "fused":
                with torch.no_grad():
                    value, slope = dual_forward(u, z, v[start:], t, start=start)
            else:
                value, slope = WAYS[method](u, z, v, t)
            plain = self._same_u(method, value, u, z, t)
            return slope, self._compared(slope, plain, u, z, v, t, start)

    def examine_difference(self) -> float:
        """Compare the usual difference with one of a quarter of its step."""
        z, v, r, t = self.batch.z, self.batch.v, self.batch.r, self.batch.t
        u = self._function(self.batch)
        with self._aside():
            _, slope = WAYS["difference"](u, z, v, t)
            finer = quotient(u, z, v, t, usual_step(z.dtype) / 4)
        finding = _against(slope, finer, self._ceiling)
        self._refuse("difference", finding, "", r, t)
        return finding.off

    def _refuse(self, method: str, finding: Finding, kind: str, r: Tensor, t: Tensor, start: int = 0) -> None:
        if finding.agrees:
            return
        worst = start + finding.worst
        cause = (
            "The network is too rough in t for differences"
            if method == "difference"
            else "An op of the network has a wrong derivative, or its output is not smooth in t"
        )
        raise DerivativeError(
            f"du/dt by {method!r} is off by {finding.off:.3g} relative to central differences{kind} (allowed: "
            f"{finding.allowed:.2g}); norms {finding.ours:.4g} and {finding.size:.4g}; worst row {worst} at "
            f"r={r[worst].item():.4f}, t={t[worst].item():.4f}. {cause}; try another `derivative`"
        )


def _doubled(points: Points) -> Points:
    return points.map(lambda part: part.double() if part.is_floating_point() else part)


@torch.no_grad()
def draws(net: Network, points: Points) -> bool:
    """Return whether the network draws random numbers from torch's generators."""
    modules, _ = look_behind(net)
    device = points.z.device
    with set_apart(device), eager(), standing_in(modules):
        before = global_state(device)
        predict(net, points.z, points.r, points.t, points.y)
        return not is_same(before, global_state(device))


def is_lowered(z: Tensor) -> bool:
    """Return whether the network computes in fewer bits than float32 has."""
    return torch.is_autocast_enabled(z.device.type) or z.element_size() < 4


def _disturbed(name: str, weight: Tensor) -> Tensor:
    noise = torch.randn(weight.shape, generator=seeded("probe", name)).to(weight)
    zeroed = weight.ndim > 1 and not weight.any()  # a gate or output layer that would hide what lies before it
    return weight + (weight[0].numel() ** -0.5 if zeroed else 0.02) * noise


def _relative(ours: Tensor, right: Tensor) -> float:
    a, b = ours.detach().double(), right.detach().double()
    return ((a - b).norm() / b.norm().clamp(min=1e-12)).item()


def _against(ours: Tensor, right: Tensor, allowed: float) -> Finding:
    """Compare a derivative with one that is known to be right."""
    a, b = ours.double(), right.double()
    gaps, size = (a - b).flatten(1).norm(dim=1), b.norm().item()
    gap = gaps.norm().item()
    off = 0.0 if gap <= 1e-9 else gap / max(size, 1e-12)
    worst = int(gaps.nan_to_num(math.inf).argmax())
    return Finding(off if math.isfinite(off) else math.inf, allowed, a.norm().item(), size, worst)
