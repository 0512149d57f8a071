"""What a Fréchet distance owes to its protocol: one network, one detector, one thing changed at a time.

    alphaflow train digits --out runs/digits --ema.profiles 0.05 0.1
    python benchmarks/protocols.py runs/digits            # writes benchmarks/results/protocols.json

Whatever needs a source larger than the target has no network in it: the very same pictures, brought to the
target's size in two ways, are compared with each other. The digits' bitmaps are made so that the box filter gives
the digits back: of each 4 × 4 block as many pixels are on as its level says, as in the bitmaps of which the data
are counts.
"""

import argparse
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, machine
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from alphaflow import load, metrics
from alphaflow.data import Digits
from alphaflow.data.sources.decoding import decode
from alphaflow.generation.generator import Generator, choose_labels
from alphaflow.metrics.frechet import FrechetTo
from alphaflow.metrics.statistics import Moments, merged
from alphaflow.pixels import to_uint8
from alphaflow.rng import seeded
from alphaflow.runs import checkpoint
from alphaflow.runs.folder import RunFolder

Pictures = NDArray[np.uint8]
Row = dict[str, object]

COUNT = 10_240
PIECES, SIZE = 4096, 16
"""Pieces of photographs, and the side to which they are brought."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run on the digits, with --ema.profiles 0.05 0.1")
    parser.add_argument("--count", type=int, default=COUNT, help="samples of each row")
    parser.add_argument("--pieces", type=int, default=PIECES, help="pieces of photographs")
    parser.add_argument("--out", type=Path, default=RESULTS / "protocols.json")
    known = parser.parse_args()
    rows = []
    for row in [*network_rows(known.run, known.count), *digit_rows(), *photo_rows(known.pieces)]:
        print(json.dumps(row), flush=True)
        rows.append(row)
    record = {"machine": machine(), "count": known.count, "pieces": known.pieces, "rows": rows}
    known.out.write_text(json.dumps(record, indent=1) + "\n")


# ---------------------------------------------------------------------- one network, many protocols


class Against:
    """Makes rows of features that are compared with one set of real ones; says how far each is from the first.

    Sample i has the same noise in all rows, so the interval of the difference is narrower than those of the two.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = metrics.statistics_of(real)
        self._first: list[float] = []

    def row(self, part: str, setting: str, features: Tensor) -> Row:
        groups = _groups(features)
        found = metrics.frechet_estimate(self.real, groups).distance
        row: Row = {"part": part, "setting": setting, "count": len(features), "frechet": found.value}
        row |= {"low": found.low, "high": found.high}
        distance = FrechetTo(self.real.mean, self.real.cov)
        values = [found.value]
        for k in range(len(groups)):
            left = merged([group for j, group in enumerate(groups) if j != k]).statistics()
            values.append(distance(left.mean, left.cov))
        if not self._first:
            self._first = values
            return row
        value, *without = (b - a for a, b in zip(self._first, values))
        difference = metrics.jackknife(value, without, [group.count for group in groups])
        return row | {"difference": difference.value, "from": difference.low, "to": difference.high}


def network_rows(run: Path, count: int) -> Iterator[Row]:
    """The run's samples in one evaluation, against the digits."""
    generator, data, detector = load(run), Digits(), metrics.load_digits_detector()
    x, y = data.batch(torch.randperm(len(data), generator=seeded("real")))
    real = detector(to_uint8(x)).features
    labels = y[torch.arange(count) % len(y)]

    def seen(samples: Tensor) -> Tensor:
        return detector(to_uint8(samples)).features

    samples, digits = generator.samples(labels), Against(real)
    base = seen(samples)
    yield digits.row("base", "labels of the data, EMA, float32, uint8, seed 0", base)
    for seed in (1, 2):
        yield digits.row("seed", f"seed {seed}", seen(generator.samples(labels, seed=seed)))
    for words in ("balanced", "random"):
        chosen = choose_labels(words, count, generator.num_classes)
        yield digits.row("labels", words, seen(generator.samples(chosen)))
    yield digits.row("labels", "only nine of the ten classes", seen(generator.samples(labels % 9)))
    yield from _skewed(generator, real, y, count, seen)
    with torch.autocast("cpu", torch.bfloat16):
        rough = generator.samples(labels)
    yield digits.row("precision", "network in bfloat16", seen(rough))
    found = {"frechet": _in_float32(base, real)}
    yield {"part": "precision", "setting": "mean and covariance in float32", "count": count} | found
    yield digits.row("rounding", "no rounding to uint8", detector.network(samples)[0].detach())
    for name, other in _averages(run):
        yield digits.row("EMA", name, seen(other.samples(labels)))
    yield from _numbers(base, real)
    picked = torch.from_numpy(np.random.default_rng(0).integers(0, len(real), count))
    yield Against(real).row("perfect", "real digits, drawn with replacement", real[picked])


def _skewed(
    generator: Generator, real: Tensor, y: Tensor, count: int, seen: Callable[[Tensor], Tensor]
) -> Iterator[Row]:
    """Against data in which the digits 5 to 9 are four times as rare: most data are not as even as these."""
    kept = (y < 5) | (torch.arange(len(y)) % 4 == 0)
    skewed, labels = Against(real[kept]), y[kept][torch.arange(count) % int(kept.sum())]
    for words in ("labels of the data", "balanced"):
        y = labels if words != "balanced" else choose_labels(words, count, generator.num_classes)
        yield skewed.row("labels, uneven data", words, seen(generator.samples(y)))


def _numbers(base: Tensor, real: Tensor) -> Iterator[Row]:
    """Fewer samples, fewer real ones, and what the distance tends to with ever more samples."""
    for n in (256, 512, 1024, len(real), 4096):
        if n < len(base):
            yield Against(real).row("N", f"{n} samples", base[:n])
    for n in sorted({min(len(real), len(base)), len(base)}):
        limit = metrics.frechet_estimate(metrics.statistics_of(real), _groups(base[:n]), limit=True).limit
        yield {"part": "N", "setting": f"the limit, told from {n} samples", "count": n, "frechet": limit}
    half = len(real) // 2
    yield Against(real[:half]).row("real", f"the first {half} real digits", base)


def _groups(features: Tensor) -> list[Moments]:
    accumulator = metrics.Accumulator()
    accumulator.update(features)
    return accumulator.groups()


def _in_float32(features: Tensor, real: Tensor) -> float:
    """Sums of x and of x xᵀ in float32, as if memory mattered: the mean's square is taken off at the end."""
    both = []
    for x in (features.float(), real.float()):
        mean = x.sum(0) / len(x)
        both += [mean, (x.T @ x - len(x) * torch.outer(mean, mean)) / (len(x) - 1)]
    mean_a, cov_a, mean_b, cov_b = both
    return metrics.frechet_distance(mean_a, cov_a, mean_b, cov_b)


def _averages(run: Path) -> Iterator[tuple[str, Generator]]:
    raw = load(run)
    raw.net.load_state_dict(checkpoint.newest(RunFolder(run).checkpoints).whole("model"))
    yield "none: the weights of the last step", raw
    for std in (0.05, 0.1):
        yield f"power function, width {std:g} of the run", load(run, ema=std)


# ---------------------------------------------------------------------- the same pictures, many ways to the target

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear, antialiased": Image.Resampling.BILINEAR,
    "bicubic, antialiased": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
PLAIN = "bilinear, not antialiased"
"""What torch's `interpolate` and OpenCV's `resize` do unless told otherwise."""


def digit_rows() -> Iterator[Row]:
    """Bitmaps of 32 × 32 to 8 × 8, seen by the digits' detector, against the digits; and the digits as JPEG."""
    x, _ = Digits().batch(torch.arange(len(Digits())))
    digits, detector = to_uint8(x)[..., 0], metrics.load_digits_detector()
    bitmaps = _bitmaps(x[:, 0])
    whole = detector(digits[..., None]).features

    def row(part: str, setting: str, pictures: Pictures) -> Row:
        found = metrics.frechet_from_features(whole, detector(pictures[..., None]).features)
        return {"part": part, "setting": setting, "count": len(pictures), "frechet": found}

    for name, kind in FILTERS.items():
        small = [np.asarray(Image.fromarray(one).resize((8, 8), kind)) for one in bitmaps]
        yield row("filter, digits", name, np.stack(small))
    yield row("filter, digits", PLAIN, _plain(bitmaps[..., None], 8)[..., 0])
    for quality in (95, 90, 75):
        yield row("file, digits", f"JPEG, quality {quality}", np.stack([_jpeg(one, quality) for one in digits]))


def photo_rows(pieces: int) -> Iterator[Row]:
    """Rectangles of scikit-learn's photographs to squares, compared by their 768 numbers in [-1, 1]."""
    found = _pieces(pieces, seed=0)
    base = _each(found, _lanczos)

    def row(part: str, setting: str, pictures: Pictures) -> Row:
        values = [torch.from_numpy(x.reshape(len(x), -1) / 127.5 - 1) for x in (base, pictures)]
        distance = metrics.frechet_from_features(*values)
        return {"part": part, "setting": setting, "count": len(pictures), "frechet": distance}

    yield row("scale, photographs", "other pieces, treated alike", _each(_pieces(pieces, seed=1), _lanczos))
    for name, kind in FILTERS.items():
        if kind != Image.Resampling.LANCZOS:
            yield row("filter, photographs", name, _each(found, lambda one, kind=kind: _square(one, kind)))
    yield row("filter, photographs", PLAIN, _plain(_each(found, _centre), SIZE))
    ways: dict[str, Callable[[Pictures], Pictures]] = {
        "ADM's: halved by box, then bicubic": lambda one: decode(one, SIZE, "box").transpose(1, 2, 0),
        "squeezed to a square": lambda one: _resized(one, (SIZE, SIZE)),
        "short side 9/8 of the target, its middle": _closer,
        "left square instead of the middle": lambda one: _resized(one[:, : len(one)], (SIZE, SIZE)),
    }
    for name, way in ways.items():
        yield row("crop, photographs", name, _each(found, way))
    for quality in (95, 90, 75):
        yield row(
            "file, photographs", f"JPEG, quality {quality}", _each(list(base), lambda x, q=quality: _jpeg(x, q))
        )


def _bitmaps(digits: Tensor) -> Pictures:
    """Black and white (N, 32, 32) of digits (N, 8, 8) in [-1, 1]: in each block those pixels are on where the
    digit, enlarged smoothly, is brightest."""
    smooth = interpolate(digits[:, None], scale_factor=4, mode="bicubic")[:, 0]
    blocks = smooth.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)  # (N, 8, 8, 16)
    rank = blocks.argsort(dim=3, descending=True, stable=True).argsort(dim=3)
    on = rank < ((digits + 1) * 8).round()[..., None]
    pixels = on.unflatten(3, (4, 4)).permute(0, 1, 3, 2, 4).reshape(-1, 32, 32)
    return np.ascontiguousarray(pixels.numpy().astype(np.uint8) * 255)


def _pieces(count: int, seed: int) -> list[Pictures]:
    """Rectangles (136, 184, 3) from random places of both photographs."""
    from sklearn.datasets import load_sample_images

    photos, rng = load_sample_images().images, np.random.default_rng(seed)
    found = []
    for k in range(count):
        photo = photos[k % len(photos)]
        top, left = (int(rng.integers(0, photo.shape[axis] - side)) for axis, side in ((0, 136), (1, 184)))
        found.append(np.ascontiguousarray(photo[top : top + 136, left : left + 184]))
    return found


def _each(pictures: list[Pictures], way: Callable[[Pictures], Pictures]) -> Pictures:
    return np.stack([way(one) for one in pictures])


def _centre(one: Pictures) -> Pictures:
    left = (one.shape[1] - len(one)) // 2
    return one[:, left : left + len(one)]


def _lanczos(one: Pictures) -> Pictures:
    """This package's own way, α-Flow's."""
    return decode(one, SIZE).transpose(1, 2, 0)


def _square(one: Pictures, kind: Image.Resampling) -> Pictures:
    return _resized(_centre(one), (SIZE, SIZE), kind)


def _resized(one: Pictures, size: tuple[int, int], kind: Image.Resampling = Image.Resampling.LANCZOS) -> Pictures:
    return np.asarray(Image.fromarray(np.ascontiguousarray(one)).resize(size, kind))


def _closer(one: Pictures) -> Pictures:
    larger = SIZE * 9 // 8
    edge = (larger - SIZE) // 2
    return _resized(_centre(one), (larger, larger))[edge : edge + SIZE, edge : edge + SIZE]


def _plain(pictures: Pictures, size: int) -> Pictures:
    """(N, H, W, C) to (N, size, size, C), each pixel from the four nearest of its source."""
    x = torch.from_numpy(pictures).movedim(-1, 1).float()
    small = interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()


def _jpeg(one: Pictures, quality: int) -> Pictures:
    memory = io.BytesIO()
    Image.fromarray(one).save(memory, "JPEG", quality=quality)
    with Image.open(memory) as opened:
        return np.asarray(opened)


if __name__ == "__main__":
    main()
