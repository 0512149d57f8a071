"""Sample pictures while training goes on, always from the same noise."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from ..data import Dataset
from ..figures import picture
from ..generate import choose_labels, draw
from ..pixels import false_colours, to_uint8
from .observers import Observer, RunView

_SHOWN: dict[str, Any] = {"image": to_uint8, "video": to_uint8, "latent": false_colours, "points": Tensor.numpy}


class Snapshots(Observer):
    """A picture of one-step samples of the average in the run's folder."""

    name = "snapshots"

    def __init__(self, every: int) -> None:
        self.every = every

    def observe(self, run: RunView) -> Mapping[str, float]:
        folder = run.folder.samples if run.parallel.main else None
        save_snapshot(run.ema, run.dataset, folder, run.step, run.seed)
        return {}


def save_snapshot(net: nn.Module, dataset: Dataset, folder: Path | None, step: int, seed: int) -> None:
    """Write `step-00000600.png`: one-step samples, a column for each class (of videos a row).

    Training's draws stay as they are.

    Latents are shown in false colours: decoding them would need the autoencoder's memory beside the training's.

    folder: None where another process writes and this one only computes along.
    """
    classes = dataset.num_classes
    columns = classes * max(1, 8 // classes) if 0 < classes <= 16 else 8
    count = 64 // columns * columns if dataset.kind != "points" else 4096
    count = columns if len(dataset.shape) == 4 else count
    device = next(net.parameters()).device
    labels = choose_labels("balanced", count, dataset.num_classes) if dataset.num_classes else None
    samples = draw(net, dataset.shape, labels, count=count, seed=seed, device=device)
    if folder is None:
        return
    make: Callable[[Tensor], NDArray[Any]] = _SHOWN[dataset.kind]
    folder.mkdir(exist_ok=True)
    picture(make(samples), columns).save(folder / f"step-{step:08d}.png")
