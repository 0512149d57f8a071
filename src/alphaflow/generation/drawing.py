"""`alphaflow sample` writes what a generator draws into a file, 64 samples at a time."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..progress import ProgressBar
from .generator import Generator
from .outputs import ENDINGS, VIDEO_ENDINGS, Write, check_folder, check_samples, ending_of, samples_into
from .sampler import Sampler
from .videos import check_videos, videos_into

log = logging.getLogger("alphaflow")

MOST = 100_000_000
"""The largest number of samples in one draw; their classes alone take 800 MB."""


def check_draw(
    data: Mapping[str, Any], out: str, count: int, *, columns: int | None = None, rate: float | None = None
) -> None:
    """Check that so many samples can be written to `out`, before a network is loaded.

    data: the record that `data_record` returns. rate: the frames a second of videos.

    Raises:
        UserError: see `check_samples`, `check_videos`; or a rate was given for samples that do not move.
    """
    channels, *sides = data["shape"]
    videos = len(sides) == 3
    if rate is not None and not videos:
        raise UserError(
            f"--rate {rate:g} is for videos, and this model makes {data['kind']}s: leave it out", status=2
        )
    if "latents" in data:  # how large they are once decoded is not known yet
        if not ending_of(out, VIDEO_ENDINGS if videos else ENDINGS):
            check_folder(Path(out), count)
    elif videos:
        check_videos(out, (*sides, channels), count, columns, rate=8.0 if rate is None else rate)
    else:
        check_samples(out, (*sides, channels), count, columns)


def draw_into(
    generator: Generator,
    labels: Tensor,
    out: str,
    sampler: Sampler,
    *,
    prompts: Sequence[str] = (),
    columns: int | None = None,
    rate: float = 8.0,
) -> None:
    """Draw a sample for each label, and write each block of samples at once; the file names the runtime, where one
    was chosen.

    prompts: in words, what the labels say in numbers; none of a model that is told no words.
    out, columns, rate: see `samples_into`, `videos_into`.

    Raises:
        UserError: see `samples_into`, `videos_into`, `Generator.samples`.
    """
    write: Write | None = None
    with ProgressBar("sampling", 0, len(labels), unit="samples") as bar, contextlib.ExitStack() as opened:
        for chunk in generator.chunks(labels, sampler):
            shown = generator.pictures(chunk)
            if write is None:
                rows = (labels.numpy(), prompts)
                file = _file(out, shown.shape[1:], *rows, columns, rate, generator.runtime)
                write = opened.enter_context(file)
            write(shown)
            bar.update(bar.done + len(shown))


def _file(
    out: str,
    shape: Sequence[int],
    labels: Any,
    prompts: Sequence[str],
    columns: int | None,
    rate: float,
    runtime: str,
) -> Any:
    if prompts:
        none = np.zeros(len(labels), np.int64)
        return samples_into(out, shape, none, columns, prompts=prompts, runtime=runtime)
    if len(shape) == 4:
        return videos_into(out, shape, labels.astype(np.int64), columns, rate=rate, runtime=runtime)
    return samples_into(out, shape, labels.astype(np.int64), columns, runtime=runtime)
