"""The samplers of an evaluation: every combination of what is listed."""

import itertools
from collections.abc import Sequence

from ..errors import UserError
from ..generation.generator import Generator
from ..generation.sampler import Sampler


def settings(
    nfes: Sequence[int] = (1, 2),
    methods: Sequence[str | Sequence[str]] = ("ode",),
    times: Sequence[float] | None = None,
    midpoints: Sequence[float] = (),
    guidance: Sequence[float] = (1.0,),
    seed: int = 0,
) -> list[Sampler]:
    """List the samplers of a sweep: each method at each number of evaluations and with two around each
    midpoint, or at `times`; all of that under each scale of `guidance`."""
    for middle in midpoints:
        if not 0 < middle < 1:
            raise UserError(f"midpoint {middle:g} must lie between 0 and 1, where data and noise are", status=2)
    grids: list[tuple[int, tuple[float, ...] | None]] = [(nfe, None) for nfe in nfes]
    if times is not None:
        grids = [(len(times) - 1, tuple(times))]
    grids += [(2, (1.0, middle, 0.0)) for middle in midpoints]
    samplers = [
        Sampler(nfe, seed, method if isinstance(method, str) else tuple(method), grid, scale)
        for method, (nfe, grid), scale in itertools.product(methods, grids, guidance)
    ]
    return list(dict.fromkeys(samplers))


def sampler_words(sampler: Sampler, generator: Generator) -> str:
    """Word a sampler for the progress bar."""
    scale = f", guidance {sampler.guidance:g}" if sampler.guidance != 1 else ""
    return f"{sampler.nfe} NFE, {sampler.method}{scale}, {generator.weights}"
