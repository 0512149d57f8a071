"""What a recipe states."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from ..runs.config import Config, with_changes


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
    members: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What a member needs on these data beside what it prescribes: settings by their dotted names."""
    twin_of: str = ""
    """The recipe from which this one differs in the objective only."""
    shape: tuple[int, ...] | None = None
    """What a sample is expected to be, for a plan without the data; None where the package has them."""
    num_classes: int = 0
    planned: bool = False
    """Whether the size of the samples, the network and the steps are chosen when it starts, so far as nothing is
    said of them: by `costs/own_pictures.py`."""

    def for_member(self, name: str) -> Config:
        """Return the configuration for another member of the family, as `--objective.name NAME` trains it here.

        The member comes as it was published, with what `members` says of it; with the recipe's own name nothing
        changes.
        """
        config = replace(self.config, objective=self.config.objective.of_member(name))
        return with_changes(config, self.members.get(name, {}))

    def told(self, config: Config) -> str:
        """Return in one line what a run has of `members` beside its objective; empty where it is nothing."""
        settings = {
            name: value
            for name, value in self.members.get(config.objective.name, {}).items()
            if not name.startswith("objective.") and value == attrgetter(name)(config)
        }
        own = ", ".join(f"{name} {value} [{attrgetter(name)(self.config)}]" for name, value in settings.items())
        return own and f"{self.name} for {config.objective.name} [in the place of]: {own}"
