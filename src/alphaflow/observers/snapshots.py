"""Sample pictures while training goes on, always from the same noise."""

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from ..data import Dataset, vocabulary_of
from ..files import write_whole
from ..generation.generator import choose_labels, draw
from ..generation.pictures import picture
from ..generation.sampler import Sampler
from ..pixels import false_colours, to_uint8
from .base import Observer, RunView

log = logging.getLogger("alphaflow")

_SHOWN: dict[str, Any] = {"image": to_uint8, "video": to_uint8, "latent": false_colours, "points": Tensor.numpy}


class Snapshots(Observer):
    """A picture of one-step samples of the average in the run's folder."""

    name = "snapshots"

    def __init__(self, every: int) -> None:
        self.every = every

    def observe(self, run: RunView) -> Mapping[str, float]:
        samples = sample_for_picture(run.ema, run.dataset, run.seed)
        if not run.parallel.main:
            return {}
        if bool(samples.isfinite().all()):
            run.notes.attempt(
                f"samples to {run.folder.samples}",
                lambda: save_picture(samples, run.dataset, run.folder.samples, run.step),
            )
        else:
            log.warning("no picture of step %d: the averaged weights' samples are not finite", run.step)
        return {}


def sample_for_picture(net: nn.Module, dataset: Dataset, seed: int) -> Tensor:
    """One-step samples, always of the same noise; all processes must call. Training's draws stay as they are."""
    count = _columns(dataset) if len(dataset.shape) == 4 else 64 // _columns(dataset) * _columns(dataset)
    count = count if dataset.kind != "points" else 4096
    device = next(net.parameters()).device
    labels = choose_labels("balanced", count, dataset.num_classes) if dataset.num_classes else None
    if vocabulary := vocabulary_of(dataset):
        labels = vocabulary.encode([vocabulary.examples[k % len(vocabulary.examples)] for k in range(count)])
    return draw(net, dataset.shape, labels, Sampler(seed=seed), count=count, device=device)


def save_picture(samples: Tensor, dataset: Dataset, folder: Path, step: int) -> None:
    """Write `step-00000600.png`: a column for each class (of videos a row), or for each of the captions' examples.

    Latents are shown in false colours: decoding them would need the autoencoder's memory beside the training's.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    make: Callable[[Tensor], NDArray[Any]] = _SHOWN[dataset.kind]
    memory = io.BytesIO()
    picture(make(samples), _columns(dataset)).save(memory, format="png")
    folder.mkdir(exist_ok=True)
    write_whole(folder / f"step-{step:08d}.png", memory.getvalue())


def _columns(dataset: Dataset) -> int:
    vocabulary = vocabulary_of(dataset)
    classes = len(vocabulary.examples) if vocabulary else dataset.num_classes
    return classes * max(1, 8 // classes) if 0 < classes <= 16 else 8
