"""Small copies of published sets of images, and what a source must hold of them."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def pixels(count: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, *shape), np.uint8)


def assert_holds(source, images, labels, names):
    assert len(source) == len(images)
    assert all((source.read(k) == images[k]).all() for k in range(len(images)))
    assert source.class_names == tuple(names)
    assert source.labels.tolist() == list(labels)


def pack_tar(path: Path, files: dict[str, bytes]) -> None:
    mode = {"gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz", "tgz": "w:gz"}.get(path.suffix[1:], "w")
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


def tar_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def packed(path: Path, files: dict[str, bytes], form: str) -> str:
    """Lay files out as a folder, a zip or a tar; return its address."""
    if form == "folder":
        return str(unpack(path, files))
    path = path.with_name(f"{path.name}.{form}")
    if form == "zip":
        path.write_bytes(zip_of(files))
    else:
        pack_tar(path, files)
    return str(path)


def jpeg(level: int) -> bytes:
    """A JPEG of 8 × 8 pixels, another for each level."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level % 256, np.uint8)).save(file, "JPEG")
    return file.getvalue()
