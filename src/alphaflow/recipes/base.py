"""What a recipe states."""

from dataclasses import dataclass, field

from ..training.config import Config


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration with what a reader wants to know before starting it.

    command: the exact words. cost: time and machine, measured. expected: the result, measured. bounds: lowest and
    highest figure at one evaluation, by metric, to which `tests/test_recipes.py` holds the recipe.
    """

    name: str
    summary: str
    command: str
    cost: str
    expected: str
    config: Config
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
