"""Torch's own list of operators, each as a network of one function, through dual tensors and through jvp.

`python tests/helpers/operators.py` prints the table that docs/derivative.md holds.
"""

import collections
import contextlib
import itertools
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from alphaflow.derivatives import fused  # noqa: F401 -- it loads the rules
from alphaflow.derivatives.dual import Dual, NoRule, make

SAMPLES = 4
CONVENTIONS = {"linalg.eigh", "triangular_solve", "linalg.cholesky", "linalg.cholesky_ex"}
"""Operators whose derivative is taken as of symmetric or triangular input, whatever is given."""
WAYS = ("all rows", "part of the rows", "in place", "in place, through a view")


def database() -> list[Any]:
    """torch's list of operators; its module wants `expecttest`, of which it needs a base class alone."""
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    stand_in.assert_expected_inline = None  # type: ignore[attr-defined]
    sys.modules.setdefault("expecttest", stand_in)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return [
        op for op in op_db if torch.float64 in op.dtypes and "empty" not in op.name and "jiterator" not in op.name
    ]


def name_of(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def apart(x: Tensor) -> Tensor:
    """The same numbers, in memory from the last dimension to the first, with gaps."""
    if x.ndim < 1:
        return x
    wide = x.new_zeros(*reversed(x.shape), 2).permute(*reversed(range(x.ndim)), x.ndim)
    wide[..., 0] = x
    return wide[..., 0]


class Case:
    """One call of an operator: f of its float tensors, at values, along tangents."""

    def __init__(self, call: Callable[..., Any], sample: Any, *, scattered: bool = False) -> None:
        leaves, self.spec = tree_flatten((sample.input, sample.args, sample.kwargs))
        self.leaves = [x.detach().clone() if isinstance(x, Tensor) else x for x in leaves]
        self.call = call
        self.places = [k for k, x in enumerate(self.leaves) if isinstance(x, Tensor) and x.dtype == torch.float64]
        source = torch.Generator().manual_seed(1)
        for k in self.places if scattered else ():
            self.leaves[k] = apart(self.leaves[k])
        self.values = [self.leaves[k] for k in self.places]
        self.tangents = [torch.randn(x.shape, generator=source, dtype=x.dtype) for x in self.values]

    def __call__(self, *values: Any) -> list[Tensor]:
        leaves = list(self.leaves)
        for place, value in zip(self.places, values):
            leaves[place] = value
        first, args, kwargs = tree_unflatten(leaves, self.spec)
        torch.manual_seed(0)
        out = self.call(first, *args, **kwargs)
        return [
            x for x in tree_flatten(out)[0] if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
        ]

    def expected(self, moved: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and their derivatives along some arguments' tangents: by jvp, or by central differences."""
        at, along = [self.values[k] for k in moved], [self.tangents[k] for k in moved]
        try:
            out, slope = torch.func.jvp(self._of(moved), tuple(at), tuple(along))
        except (NotImplementedError, RuntimeError):
            return list(self._of(moved)(*at)), self.differences(moved)
        return list(out), list(slope)

    def differences(self, moved: tuple[int, ...]) -> list[Tensor]:
        """Central differences along the tangents."""
        f, h = self._of(moved), 1e-6
        ahead, behind = (f(*(self.values[k] + s * h * self.tangents[k] for k in moved)) for s in (1, -1))
        return [(a - b) / (2 * h) for a, b in zip(ahead, behind)]

    def _of(self, moved: tuple[int, ...]) -> Callable[..., tuple[Tensor, ...]]:
        def f(*chosen: Tensor) -> tuple[Tensor, ...]:
            values = list(self.values)
            for k, x in zip(moved, chosen):
                values[k] = x
            return tuple(self(*values))

        return f


def compare(outputs: list[Tensor], plain: list[Tensor], slopes: list[Tensor]) -> None:
    """Raise AssertionError where an output or its tangent differs."""
    assert len(outputs) == len(plain)
    for ours, value, slope in zip(outputs, plain, slopes):
        primal = ours.primal if isinstance(ours, Dual) else ours
        torch.testing.assert_close(primal.detach(), value.detach(), rtol=1e-9, atol=1e-9, equal_nan=True)
        if isinstance(ours, Dual):
            covered = (
                slope.narrow(ours.rows, ours.start, slope.shape[ours.rows] - ours.start) if ours.start else slope
            )
            torch.testing.assert_close(ours.tangent.to(slope.dtype), covered, rtol=1e-5, atol=1e-7, equal_nan=True)
        else:
            assert not slope.nan_to_num().any(), "a tangent got lost"


def duals(case: Case, moved: tuple[int, ...], start: int, rows: int) -> list[Any]:
    """The arguments, those that move as Duals whose tangent covers a part of dimension `rows`."""
    values: list[Any] = list(case.values)
    for k in moved:
        tangent = case.tangents[k]
        tangent = tangent.narrow(rows, start, tangent.shape[rows] - start) if start else tangent
        values[k] = make(case.values[k].detach().requires_grad_() * 1, tangent, start, rows if start else 0)
    return values


def backwards(case: Case, moved: tuple[int, ...]) -> None:
    """Raise AssertionError unless ⟨w, J v⟩ = ⟨Jᵀ w, v⟩: tangent and graph belong to one function.

    `torch.func.jvp` alone would not do for a witness: of some functions it gives zeros without a word.
    """
    arguments = duals(case, moved, 0, 0)
    pairs = [(x.primal, x.tangent) for x in case(*arguments) if isinstance(x, Dual) and x.primal.requires_grad]
    pairs = [(out, slope) for out, slope in pairs if not out.is_complex()]
    if not pairs or any(out.element_size() < 8 or not out.isfinite().all() for out, _ in pairs):
        return  # rounded, or masked altogether
    weights = [
        torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype) for out, _ in pairs
    ]
    leaves = [arguments[k].primal for k in moved]
    try:
        pulled = torch.autograd.grad([out for out, _ in pairs], leaves, weights, allow_unused=True)
    except (NotImplementedError, RuntimeError):
        return
    if all(g is None for g in pulled):
        return
    ahead = sum((w * slope).sum() for w, (_, slope) in zip(weights, pairs))
    back = sum((g * case.tangents[k]).sum() for g, k in zip(pulled, moved) if g is not None)
    if not torch.isclose(*(torch.tensor(float(x)) for x in (back, ahead)), rtol=1e-4, atol=1e-5, equal_nan=True):
        # backward passes that stop some of the gradient, as an embedding's padding does
        for (_, slope), difference in zip(pairs, case.differences(moved)):
            torch.testing.assert_close(slope, difference.to(slope), rtol=1e-4, atol=1e-5, equal_nan=True)


def layouts(case: Case) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Which arguments move, and on which part of which dimension."""
    everything = tuple(range(len(case.values)))
    if not everything:
        return
    yield (0,), 0, 0
    if len(everything) > 1:
        yield everything, 0, 0
    first = case.values[0]
    for rows in range(first.ndim):
        size = first.shape[rows]
        alike = tuple(
            k for k in everything if case.values[k].ndim == first.ndim and case.values[k].shape[rows] == size
        )
        for start in (1,) if size > 1 else ():
            yield (0,), start, rows
            if len(alike) > 1:
                yield alike, start, rows
                yield alike[1:], start, rows


def different(op: Any) -> list[Any]:
    """A few calls of an operator that differ in their dimensions and arguments, those of more first."""
    found: dict[Any, Any] = {}
    for sample in itertools.islice(op.sample_inputs("cpu", torch.float64), 40):
        leaves = tree_flatten((sample.input, sample.args, sample.kwargs))[0]
        shapes = tuple(x.ndim if isinstance(x, Tensor) else type(x) for x in leaves)
        found.setdefault((shapes, tuple(sample.kwargs)), sample)
    return sorted(found.values(), key=lambda s: -s.input.ndim if isinstance(s.input, Tensor) else 0)[:SAMPLES]


class Tally:
    """What became of each operator, in each way."""

    def __init__(self) -> None:
        self.right: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
        self.refused: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
        self.wrong: list[str] = []
        self._jvps = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        original = torch.func.jvp

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._jvps += 1
            return original(*args, **kwargs)

        torch.func.jvp = counted
        try:
            yield
        finally:
            torch.func.jvp = original

    def run(self, name: str, way: str, case: Case, moved: tuple[int, ...], start: int, rows: int) -> None:
        """One call: right, refused or wrong."""
        before = self._jvps
        try:
            with self.counting():
                outputs = case(*duals(case, moved, start, rows))
        except NoRule as error:
            self.refused[name, way].add(str(error))
            return
        except RuntimeError as error:  # loud, if not by name: `auto` goes on from these as well
            self.refused[name, way].add(f"RuntimeError: {error}")
            return
        try:
            plain, slopes = case.expected(moved)
        except Exception:
            return
        try:
            compare(outputs, plain, slopes)
            if not start:
                backwards(case, moved)
        except AssertionError as error:
            self.wrong.append(f"{name}, {way}: {str(error).strip().splitlines()[0]}")
        else:
            self.right[name, way].add("generic" if self._jvps > before else "rule")


def examine(op: Any, tally: Tally) -> None:
    """An operator in all ways."""
    name = name_of(op)
    if name in CONVENTIONS:
        return
    for number, sample in enumerate(different(op)):
        case = Case(op.op, sample, scattered=number % 2 == 1)
        for moved, start, rows in layouts(case):
            tally.run(name, WAYS[1] if start else WAYS[0], case, moved, start, rows)
        if op.inplace_variant is not None and not sample.broadcasts_input and case.values:
            written(name, op.inplace_variant, sample, tally)


def written(name: str, function: Any, sample: Any, tally: Tally) -> None:
    """The variant in place, on a tensor and through a view of it; all that shares its memory is looked at."""

    def directly(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        x = x * 1
        seen = x.unsqueeze(0)
        out = function(x, *args, **kwargs)
        return out, x, seen

    def through(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        x = torch.stack([x, 2 * x], -1)
        part, other = x[..., 0], x.transpose(0, -1)
        function(part, *args, **kwargs)
        return x, part, other

    for way, call in ((WAYS[2], directly), (WAYS[3], through)):
        case = Case(call, sample)
        for moved, start, rows in layouts(case):
            if moved[0]:
                continue
            tally.run(name, way, case, moved, start, rows)


def table(tally: Tally) -> str:
    """By way: how many operators came out right by rule, by jvp of the one function, and how many were refused."""
    lines = [
        "| tangents | right by rule | right by the generic way | refused always | wrong |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        right = {name: by for (name, one), by in tally.right.items() if one == way}
        refused = {name for name, one in tally.refused if one == way} - right.keys()
        rule = sum("generic" not in by for by in right.values())
        wrong = len({line.split(",")[0] for line in tally.wrong if f", {way}:" in line})
        lines.append(f"| {way} | {rule} | {len(right) - rule} | {len(refused)} | {wrong} |")
    return "\n".join(lines)


def went_through(parts: int = 1, part: int = 0) -> Tally:
    """Every so-manieth operator, beginning with one of the first."""
    tally = Tally()
    for op in database()[part::parts]:
        examine(op, tally)
    return tally


def seen_with_faults() -> Tally:
    """What is said of three operators whose rules lose a tangent, mix rows, or miss what views see."""
    from alphaflow.derivatives import dual
    from alphaflow.derivatives import kinds as dual_kinds
    from alphaflow.derivatives import writes as dual_writes

    dual.RULES[torch.erf] = lambda func, args, kwargs: func(*dual.primal(args), **kwargs)
    dual_kinds.KINDS[torch.flip] = dual_kinds.KINDS[torch.erfc]
    dual_writes._owner = lambda x: x
    operators = {name_of(op): op for op in database()}
    tally = Tally()
    for name in ("erf", "flip", "expm1"):
        examine(operators[name], tally)
    return tally


def main() -> None:
    tally, operators = went_through(), database()
    names = {name for name, _ in (*tally.right, *tally.refused)}
    print(f"{len(operators)} operators, {len(names)} called with a tangent")
    print(table(tally))
    print(*tally.wrong, sep="\n")


if __name__ == "__main__":
    main()
