"""Images decoded a second: ours beside Pillow alone on the same cores; and what a mapped set saves at every visit.

python benchmarks/images.py                  # writes benchmarks/results/images.json
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, machine
from PIL import Image

from alphaflow.data import Images
from alphaflow.data.images import decode_range
from alphaflow.data.sources import open_source

COUNT = 200
ROUNDS = 5
REPEATS = 4  # of the files in a round, or starting the threads would weigh
BATCH = 128
CASES = {"256x256": ((256, 256), 256), "500x375 to 256": ((500, 375), 256), "500x375 to 64": ((500, 375), 64)}


def write_jpegs(folder: Path, size: tuple[int, int], count: int = COUNT) -> None:
    """Pictures with detail at all scales, so that they pack like photographs: 1/f noise, quality 90."""
    source = np.random.default_rng(0)
    height, width = size[1], size[0]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / width)
    for k in range(count):
        noise = source.standard_normal((3, *amplitude.shape)) + 1j * source.standard_normal((3, *amplitude.shape))
        noise[1:] = 0.9 * noise[:1] + 0.2 * noise[1:]
        picture = np.fft.irfft2(noise * amplitude, (height, width))
        picture = 128 + 48 * (picture - picture.mean()) / picture.std()
        path = folder / str(k % 8) / f"{k:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(path, quality=90)


def pillow(path: Path, size: int) -> None:
    """Open, decode, crop and resize: nothing that is not Pillow's."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def rates(work: Callable[[], object], count: int) -> tuple[float, float]:
    """Images a second, and images a second of processor time, which tells more on a busy machine."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return count / (time.perf_counter() - start), count / (time.process_time() - used)


def compare(folder: Path, size: int) -> dict[str, float]:
    source = open_source(str(folder))
    which = list(range(len(source))) * REPEATS
    paths = [Path(source.name(k)) for k in which]
    pixels = np.zeros((len(source), 3, size, size), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def some(block: list[Path]) -> None:
            for path in block:
                pillow(path, size)

        def alone() -> None:
            list(pool.map(some, (paths[k : k + 8] for k in range(0, len(paths), 8))))

        def ours() -> None:
            assert not decode_range(source, pixels, "lanczos", which)

        ours(), alone()
        mine, theirs = np.array(
            [(rates(ours, len(paths)), rates(alone, len(paths))) for _ in range(ROUNDS)]  # in turn
        ).swapaxes(0, 1)
    ratio = np.median(mine / theirs, axis=0)
    return {
        "ours, images/s": float(np.median(mine[:, 0])),
        "Pillow alone, images/s": float(np.median(theirs[:, 0])),
        "ratio": float(ratio[0]),
        "ratio of processor time": float(ratio[1]),
    }


def visits(folder: Path, size: int) -> dict[str, float]:
    """Batches in a random order from a mapped file whose pages are in memory, and decoded at each visit."""
    data = Images(str(folder), size, memory=0)
    order = torch.randperm(len(data)).split(BATCH)[:-1]
    source, pixels = data.source, np.zeros((len(data), 3, size, size), np.uint8)
    count = len(order) * BATCH

    def mapped() -> None:
        for rows in order:
            data.batch(rows)

    def decoded() -> None:
        for rows in order:
            decode_range(source, pixels, "lanczos", rows.tolist())

    mapped()
    return {
        "mapped, images/s": statistics.median(rates(mapped, count)[0] for _ in range(ROUNDS)),
        "decoded at each visit, images/s": rates(decoded, count)[0],
    }


def main() -> None:
    record: dict[str, object] = {"machine": machine(), "jpegs": COUNT}
    with tempfile.TemporaryDirectory() as place:
        os.environ["ALPHAFLOW_CACHE"] = f"{place}/cache"
        for name, (shape, size) in CASES.items():
            folder = Path(place) / "x".join(map(str, shape))
            if not folder.exists():
                write_jpegs(folder, shape)
            figures = compare(folder, size)
            record[name] = figures
            print(f"{name:16}" + "".join(f"  {what} {value:.3g}" for what, value in figures.items()))
        for size in (64, 256):
            figures = visits(Path(place) / "256x256", size)
            record[f"visits at {size}"] = figures
            print(f"visits at {size:<6}" + "".join(f"  {what} {value:.4g}" for what, value in figures.items()))
    (RESULTS / "images.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
