"""What a recipe states."""

from dataclasses import dataclass, field

from ..runs.config import Config


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration with what a reader wants to know before starting it."""

    name: str
    summary: str
    command: str
    """The exact words; those in capitals stand for the user's own."""
    cost: str
    """Time and machine."""
    expected: str
    """The result, measured or with its source."""
    config: Config
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The lowest and highest value at one evaluation, by metric, to which a test holds it."""
    twin_of: str = ""
    """The recipe from which this one differs in the objective only."""
    shape: tuple[int, ...] | None = None
    """What a sample is expected to be, for a plan without the data; None where the package has them."""
    num_classes: int = 0
