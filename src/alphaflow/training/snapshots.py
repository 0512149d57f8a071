"""Sample pictures while training goes on, always from the same noise."""

from pathlib import Path

from torch import nn

from ..data import Dataset
from ..figures import picture
from ..generate import choose_labels, draw
from ..pixels import to_uint8


def save_snapshot(net: nn.Module, dataset: Dataset, folder: Path | None, step: int, seed: int) -> None:
    """Write `step-00000600.png`: one-step samples, a column for each class (of videos a row).

    Training's draws stay as they are.

    folder: None where another process writes and this one only computes along.
    """
    classes = dataset.num_classes
    columns = classes * max(1, 8 // classes) if 0 < classes <= 16 else 8
    count = {"image": 64 // columns * columns, "video": columns}.get(dataset.kind, 4096)
    device = next(net.parameters()).device
    labels = choose_labels("balanced", count, dataset.num_classes) if dataset.num_classes else None
    samples = draw(net, dataset.shape, labels, count=count, seed=seed, device=device)
    if folder is None:
        return
    shown = to_uint8(samples) if samples.ndim > 2 else samples.numpy()
    folder.mkdir(exist_ok=True)
    picture(shown, columns).save(folder / f"step-{step:08d}.png")
