"""What a recipe states."""

from dataclasses import dataclass, field

from ..training.config import Config


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration with what a reader wants to know before starting it.

    command: the exact words. cost: time and machine, measured. expected: the result, measured; `bounds` are
    the figures that a test holds the recipe to, as metric -> (worst allowed at 1 NFE).
    """

    name: str
    summary: str
    command: str
    cost: str
    expected: str
    config: Config
    bounds: dict[str, float] = field(default_factory=dict)
