"""Words as numbers: those that captions are made of have one each, and any other is spelt in bytes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from alphaflow.data.dataset import Dataset
from alphaflow.errors import UserError

BLANK = 0
"""The number at every place behind the words; a prompt of blanks alone is no prompt."""
BYTES = 257
"""Numbers 1 … 256 are bytes; words begin here."""
_PIECES = re.compile(r"\w+|[^\w\s]", re.UNICODE)


@dataclass(frozen=True)
class Vocabulary:
    """The words that a network reads, and how many at most.

    words: each once, in lower case, in the order of their numbers. length: places of a prompt; a word that is not
    among `words` takes one for each byte of it. examples: some captions, to show and to begin with.
    """

    words: tuple[str, ...]
    length: int
    examples: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, captions: Iterable[str], length: int = 0, most: int = 4096) -> "Vocabulary":
        """Return the vocabulary of captions: their `most` most frequent words, the first in the alphabet before
        others as frequent; length 0: that of the longest caption."""
        counts: dict[str, int] = {}
        longest = 1
        for caption in captions:
            pieces = split(caption)
            longest = max(longest, len(pieces))
            for piece in pieces:
                counts[piece] = counts.get(piece, 0) + 1
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
        return cls(tuple(sorted(frequent)), length or longest)

    @property
    def size(self) -> int:
        """How many numbers there are: the blank, 256 bytes and the words."""
        return BYTES + len(self.words)

    @cached_property
    def _known(self) -> dict[str, int]:
        return {word: BYTES + k for k, word in enumerate(self.words)}

    def numbers(self, prompt: str) -> list[int]:
        """Return the numbers of a prompt, without blanks; as many as it takes."""
        found: list[int] = []
        for piece in split(prompt):
            number = self._known.get(piece)
            found += [1 + byte for byte in piece.encode()] if number is None else [number]
        return found

    def encode(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:
        """Return the prompts as the network reads them, int64 (N, length); an empty one is all blanks.

        cut: leave out what is too long, rather than refuse it.

        Raises:
            UserError: one has more words than there are places.
        """
        rows = torch.full((len(prompts), self.length), BLANK, dtype=torch.int64)
        seen: dict[str, Tensor] = {}
        for row, prompt in zip(rows, prompts):
            if prompt not in seen:
                seen[prompt] = self._row(prompt, cut)
            row[: len(seen[prompt])] = seen[prompt]
        return rows

    def _row(self, prompt: str, cut: bool) -> Tensor:
        numbers = self.numbers(prompt)
        if cut:
            numbers = numbers[: self.length]
        if len(numbers) > self.length:
            strange = [piece for piece in split(prompt) if piece not in self._known]
            spelt = f", of which {', '.join(strange[:3])} are spelt letter by letter" if strange else ""
            shown = prompt if len(prompt) <= 60 else prompt[:57] + "…"
            raise UserError(
                f"the prompt {shown!r} takes {len(numbers)} places{spelt}, and this model reads {self.length}: "
                "say it in fewer words",
                status=2,
            )
        return torch.tensor(numbers, dtype=torch.int64)

    def record(self) -> dict[str, Any]:
        """Return what config.yaml and alphaflow.json record."""
        return {"words": list(self.words), "length": self.length, "examples": list(self.examples)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> "Vocabulary | None":
        """Return the vocabulary that `record` gave; None of None."""
        if record is None:
            return None
        return cls(tuple(record["words"]), record["length"], tuple(record["examples"]))


def split(prompt: str) -> list[str]:
    """Return the words and signs of a prompt, in lower case."""
    return _PIECES.findall(prompt.lower())


Told: TypeAlias = int | Vocabulary
"""What a network is told of its samples: one of so many classes (0: nothing), or captions."""


def vocabulary_of(dataset: object) -> Vocabulary | None:
    """Return the vocabulary of a data set's captions; None where it has none."""
    found = getattr(dataset, "vocabulary", None)
    return found if isinstance(found, Vocabulary) else None


def told_of(dataset: Dataset) -> Told:
    """Return what a network is told of the samples of a data set."""
    return vocabulary_of(dataset) or dataset.num_classes


def told_in(record: Mapping[str, Any]) -> Told:
    """Return the same of what a run or a model records of its data."""
    return Vocabulary.from_record(record.get("vocabulary")) or int(record["num_classes"])


def some_condition(told: Told, rows: int, device: torch.device | str = "cpu") -> Tensor | None:
    """Return a condition of so many rows, for those who only ask what a network costs: classes in turn, or no
    words; None where nothing is told."""
    if isinstance(told, Vocabulary):
        return torch.full((rows, told.length), BLANK, dtype=torch.int64, device=device)
    return torch.arange(rows, device=device) % told if told else None
