"""How large a person's own pictures are as samples, in what patches, and at what times they are seen."""

import math
from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from .asked import HOUR, Asked

TOKENS = (49, 256)
"""The least and the most patches of a picture."""
LARGEST = {"cpu": (32, 64), "cuda": (64, 128)}
"""The largest side of pictures, within a budget below two hours and from there on."""
LONG = 2 * HOUR


def time_shift_of(shape: Sequence[int]) -> float:
    """Return the factor by which the digits' law of times moves towards the noise for samples of D numbers.

    It is √(D / 64), in the objective's `time_shift`. The digits' law was tuned at D = 64, and a picture of more
    pixels shows itself through more noise: averaging n numbers that say the same divides the noise's deviation by
    √n, and the shift multiplies t / (1 - t), the noise's share to the data's, by as much (SD3, arXiv 2403.03206,
    section 5.3.2). Neighbouring pixels do not say quite the same, so this is the most that it could be.
    """
    return math.sqrt(math.prod(shape) / 64)


def of_pictures(asked: Asked) -> dict[str, Any]:
    """Return what follows from the pictures and the device alone, by dotted names.

    Raises:
        UserError: with status 2: pictures of the size that was said cannot be cut into patches.
    """
    config, said = asked.config, asked.said
    grey = config.data.grey if "data.grey" in said else asked.look.grey
    size = config.data.size if "data.size" in said else _size(asked)
    changes: dict[str, Any] = {
        "data.grey": grey,
        "data.size": size,
        "model.patch": config.model.patch if "model.patch" in said else _patch(size, asked.device),
        "batch_size": 64 if asked.device == "cpu" else 128,
    }
    if config.objective.name == "alphaflow" and "objective.t_law" not in said:  # the others' laws are published
        changes["objective.time_shift"] = round(time_shift_of((1 if grey else 3, size, size)), 4)
    return changes


def _size(asked: Asked) -> int:
    """Return the side of the pictures: their own where it is small and all have it, else a power of two."""
    largest = LARGEST[asked.device][asked.budget >= LONG]
    side = asked.look.side
    powers = [power for power in (128, 64, 32, 16, 8) if power <= min(largest, max(side, 8))]
    sizes = [side, *powers] if asked.look.alike and 8 <= side <= largest else powers
    if "model.patch" in asked.said:
        patch = asked.config.model.patch
        whole = max(1, min(largest, side) // patch) * patch
        return next((size for size in sizes if size % patch == 0), whole)
    return next(size for size in sizes if _patches(size))


def _patches(size: int) -> list[int]:
    """Return the patches that cut a picture into as many as it may have, the smallest first."""
    least, most = TOKENS
    return [one for one in range(1, size + 1) if size % one == 0 and least <= (size // one) ** 2 <= most]


def _patch(size: int, device: str) -> int:
    """Return the patch: about 64 of a picture on a CPU, as many as may be on a GPU."""
    if size**2 < TOKENS[0]:
        return 1
    fitting = _patches(size)
    if not fitting:
        raise UserError(
            f"data.size {size}: pictures of {size}×{size} cannot be cut into {TOKENS[0]} to {TOKENS[1]} patches: "
            "give 16, 28, 32, 64 or another size with more divisors, or say --model.patch",
            status=2,
        )
    if device == "cuda":
        return fitting[0]
    return min(fitting, key=lambda one: abs(math.log((size // one) ** 2 / 64)))
