"""Small copies of published sets of images, and what a source must hold of them."""

import io
import tarfile
from pathlib import Path

import numpy as np

RNG = np.random.default_rng(0)


def pixels(count: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, *shape), np.uint8)


def assert_holds(source, images, labels, names):
    assert len(source) == len(images)
    assert all((source.read(k) == images[k]).all() for k in range(len(images)))
    assert source.class_names == tuple(names)
    assert source.labels.tolist() == list(labels)


def pack_tar(path: Path, files: dict[str, bytes]) -> None:
    mode = {"gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(path.suffix[1:], "w")
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
