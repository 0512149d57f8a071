"""This process among those of one launch: its rank and their number, which torchrun says in the environment."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from .errors import UserError


def environment_number(name: str, default: int, *, least: int = 0) -> int:
    """Return what torchrun sets, or `default` without it; an error where it is set to no such number."""
    word = os.environ.get(name, str(default))
    if not word.strip().isdecimal() or int(word) < least:
        raise UserError(
            f"the environment's {name} is {word!r}, not a whole number of at least {least}: unset it, or launch "
            "with torchrun"
        )
    return int(word)


@dataclass(frozen=True)
class Processes:
    """One process of several that share a piece of work; one that is alone by default."""

    rank: int = 0
    """The number of this process, from 0."""
    world: int = 1
    """How many processes there are."""

    @classmethod
    def launched(cls) -> "Processes":
        """Return this process as torchrun has launched it.

        Raises:
            UserError: the environment's RANK and WORLD_SIZE are no such numbers.
        """
        world, rank = environment_number("WORLD_SIZE", 1, least=1), environment_number("RANK", 0)
        if rank >= world:
            raise UserError(f"RANK {rank} is none of the WORLD_SIZE {world} processes: launch them with torchrun")
        return cls(rank, world)

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def own_device(self, chosen: torch.device) -> torch.device:
        """Return this process's own GPU where several share a machine; else the chosen device."""
        if self.world == 1 or chosen.type != "cuda":
            return chosen
        return torch.device("cuda", environment_number("LOCAL_RANK", 0))

    def exchange(self, value: Any) -> list[Any]:
        """Return what each process says, in the order of ranks; values must be JSON's. Here, of one alone."""
        return [value]
