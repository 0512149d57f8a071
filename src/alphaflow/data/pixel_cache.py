"""Decoded images in a file of the cache, for sets that are larger than memory.

Random rows of a mapped file cost a page fault each; decoding them anew at every visit costs the whole decoder. So
images are decoded once. The file has a row for every image of the source, broken or not, hence workers and a
run that goes on after a kill need not agree on anything.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alphaflow.data.sources import Crop, Source
from alphaflow.data.sources.cache import key_of
from alphaflow.data.sources.decoding import DECODER
from alphaflow.errors import UserError
from alphaflow.files import beside, cache_folder, locked

Skipped = list[tuple[int, str]]
Decode = Callable[[Source, NDArray[np.uint8], Crop, Sequence[int]], Skipped]
_CHUNK = 8192  # images between two notes of what is done


class Decoded(NamedTuple):
    """Decoded images of a source, in a file of the cache."""

    pixels: NDArray[np.uint8]
    """Pixels, uint8 (N, 3, size, size), mapped from the file."""
    skipped: Skipped
    """The images that cannot be decoded; their rows are zero."""
    folder: Path
    """The folder of the file."""

    def remember(self, what: str, compute: Callable[[], str]) -> str:
        """Return a word about these pixels that takes long to compute, and is therefore computed once and kept."""
        file = self.folder / f"{key_of(what)}.txt"
        if not file.exists():
            with beside(file) as temporary:
                temporary.write_text(compute())
        return file.read_text()


def decoded_file(source: Source, size: int, crop: Crop, decode: Decode) -> Decoded:
    """Return the decoded images of a source in a file of the cache.

    The first process to come decodes; others wait for it. What an interrupted one has done is kept.

    Raises:
        UserError: the disk has no room.
    """
    folder = cache_folder("pixels") / key_of(source.digest, source.stamp, len(source), size, crop, DECODER)
    file, notes = folder / "pixels.u8", folder / "done.jsonl"
    shape = (len(source), 3, size, size)
    with locked(folder / "lock"):
        reserve(file, int(np.prod(shape)))
        done, skipped = _read_notes(notes)
        if done < len(source):
            pixels = np.memmap(file, np.uint8, "r+", shape=shape)
            for start in range(done, len(source), _CHUNK):
                which = range(start, min(start + _CHUNK, len(source)))
                bad = decode(source, pixels, crop, which)
                pixels.flush()
                _note(notes, which.stop, bad)
                skipped += bad
    return Decoded(np.memmap(file, np.uint8, "c", shape=shape), skipped, folder)


def reserve(file: Path, size: int) -> None:
    """Make the file as large as it will be. Writing into a mapped file for which the disk has no room would end
    the process without a word."""
    with file.open("ab") as handle:
        try:
            if handle.tell() < size:
                os.posix_fallocate(handle.fileno(), 0, size)
        except OSError as error:
            os.ftruncate(handle.fileno(), 0)
            raise UserError(
                f"the decoded images need {size / 1e9:.1f} GB at {file.parent} ({error.strerror}): set "
                "ALPHAFLOW_CACHE to a folder on a larger disk, or choose a smaller size"
            ) from None


def _read_notes(notes: Path) -> tuple[int, Skipped]:
    done, skipped = 0, []
    for line in notes.read_text().splitlines() if notes.exists() else ():
        try:
            note = json.loads(line)
        except ValueError:  # a line cut short by a kill
            continue
        done = note["done"]
        skipped += [(index, reason) for index, reason in note["skipped"]]
    return done, skipped


def _note(notes: Path, done: int, skipped: Skipped) -> None:
    with notes.open("a") as file:
        file.write("\n" * bool(file.tell()) + json.dumps({"done": done, "skipped": skipped}))
        file.flush()
        os.fsync(file.fileno())
