"""What a recipe states."""

from dataclasses import dataclass, field

from ..training.config import Config


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration with what a reader wants to know before starting it.

    command: the exact words; words in capitals stand for the user's own. cost: time and machine. expected: the
    result, measured or with its source. bounds: lowest and highest figure at one evaluation, by metric, to which
    `tests/test_recipes.py` holds the recipe.
    twin_of: the recipe of which this one differs in the objective only.
    shape, num_classes: what its data are expected to be, for a plan without them; None where the package has them.
    """

    name: str
    summary: str
    command: str
    cost: str
    expected: str
    config: Config
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    twin_of: str = ""
    shape: tuple[int, ...] | None = None
    num_classes: int = 0
