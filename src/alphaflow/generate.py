"""From a trained run to samples.

Sample i of a seed is the same whatever is asked for beside it: its noise is keyed by (seed, i), and it is always
computed at place i mod 64 of a batch of 64, since a network's rounding errors depend on the size of the batch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import portable
from .decoder import Decoder
from .errors import UserError
from .guidance import Guided, Told
from .interop import hub
from .path import Network
from .pixels import to_uint8
from .rng import KeyedRandom, hash_key
from .sampling import grid, sample
from .training import checkpoint
from .training.averages import make_average
from .training.build import build_model
from .training.devices import choose_device
from .training.log import ProgressBar
from .training.run import RunFolder

CHUNK = 64
WHOLE = (0.0, 1.0)
"""All times: guidance is not confined to an interval."""


def draw_chunks(
    net: Network,
    shape: Sequence[int],
    labels: Tensor | None,
    *,
    count: int,
    times: Sequence[float] = (1.0, 0.0),
    method: str | Sequence[str] = "ode",
    seed: int = 0,
    device: torch.device | str = "cpu",
    firsts: Iterable[int] | None = None,
    chunk: int = CHUNK,
) -> Iterator[Tensor]:
    """Samples 0 … count-1 of `seed`, 64 at a time and the rest, (B, *shape) float32 on the CPU.

    labels: (count,) int64 or None. firsts: draw only the blocks of 64 that begin with these, multiples of 64.
    chunk: rows that are computed at a time, instead of 64; samples then differ by the network's rounding errors.
    """
    for first in range(0, count, chunk) if firsts is None else firsts:
        index = torch.arange(first, first + chunk)
        random = KeyedRandom(hash_key(seed, "sample"), index)
        noise = random.normal("start", shape, device)
        y = None
        if labels is not None:
            y = torch.zeros(chunk, dtype=torch.int64, device=device)
            given = labels[first : first + chunk]
            y[: len(given)] = given.to(device)
        z = sample(net, noise, y, times=times, method=method, generator=random)
        yield z[: count - first].float().cpu()


def draw(net: Network, shape: Sequence[int], labels: Tensor | None, *, count: int, **options: Any) -> Tensor:
    """All of `draw_chunks`, (count, *shape)."""
    return _joined(draw_chunks(net, shape, labels, count=count, **options), shape, count)


def _joined(chunks: Iterable[Tensor], shape: Sequence[int], count: int) -> Tensor:
    parts, done = [], 0
    with ProgressBar("sampling", 0, count, unit="samples") as bar:
        for part in chunks:
            parts.append(part)
            done += len(part)
            bar.update(done)
    return torch.cat(parts) if parts else torch.empty(0, *shape)


@dataclass(frozen=True)
class Generator:
    """A trained network with what is needed to sample from it. Made by `load`; call it for images.

    net: u(z, r, t, y), in evaluation mode, with the averaged weights, on `device`.
    shape: of a sample: (C, H, W), (C, T, H, W) for videos, (D,) for points. kind: "image", "video", "latent" or
        "points".
    num_classes, class_names: of the data; 0 and none without classes.
    step: how many steps it was trained.
    weights: which ones these are, in words.
    decoder: makes pictures of samples, where they are latents.
    guides: the times between which labels were dropped in training, so that plain guidance can be applied; None:
        none were.
    scales: of guidance that the network takes as an input, the least and the largest; None: it takes none.
        intervals: it takes an interval of t as well.
    """

    net: nn.Module
    shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...]
    kind: str
    step: int
    device: torch.device
    weights: str = "ema"
    decoder: Decoder | None = None
    guides: tuple[float, float] | None = None
    scales: tuple[float, float] | None = None
    intervals: bool = False

    def __call__(
        self,
        labels: Sequence[int] | NDArray[Any] | Tensor | int,
        nfe: int = 1,
        seed: int = 0,
        method: str | Sequence[str] = "ode",
        times: Sequence[float] | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] = WHOLE,
    ) -> NDArray[np.uint8]:
        """Images uint8 (N, H, W, C), or videos (N, T, H, W, C), one for each label; see `samples`."""
        if self.kind == "points":
            raise UserError("this run generates points, not images: use generator.samples(...)")
        return self.pictures(self.samples(labels, nfe, seed, method, times, guidance, interval))

    def pictures(self, samples: Tensor) -> NDArray[Any]:
        """Samples as they are shown: images uint8 (N, H, W, C), videos (N, T, H, W, C), decoded where they are
        latents; points (N, 2)."""
        if self.kind == "points":
            return samples.numpy()
        return to_uint8(self.decoder(samples) if self.decoder else samples)

    def samples(
        self,
        labels: Sequence[int] | NDArray[Any] | Tensor | int,
        nfe: int = 1,
        seed: int = 0,
        method: str | Sequence[str] = "ode",
        times: Sequence[float] | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] = WHOLE,
    ) -> Tensor:
        """Samples as the network makes them, (N, *shape) float32.

        Args:
            labels: a class for each sample, 0 … num_classes (that last one: no class); or how many samples,
                which then have no class.
            nfe: network evaluations, on an even time grid. seed: sample i of a seed is always the same.
            method: see `alphaflow.sampling`. times: a grid of one's own, instead of `nfe`.
            guidance: its scale, 1 for none. A network that takes it as an input is told it; others are evaluated
                twice, with and without the class.
            interval: told beside the scale: the times between which to guide.

        Raises:
            UserError: labels out of range, a time grid or method that doesn't fit, guidance of a network that was
                not trained for it, or not for this scale or interval.
        """
        count = int(labels) if isinstance(labels, int | np.integer) else len(torch.as_tensor(labels).reshape(-1))
        return _joined(
            self.chunks(labels, nfe, seed, method, times, guidance, interval=interval), self.shape, count
        )

    def chunks(
        self,
        labels: Sequence[int] | NDArray[Any] | Tensor | int,
        nfe: int = 1,
        seed: int = 0,
        method: str | Sequence[str] = "ode",
        times: Sequence[float] | None = None,
        guidance: float = 1.0,
        firsts: Iterable[int] | None = None,
        interval: tuple[float, float] = WHOLE,
    ) -> Iterator[Tensor]:
        """The same samples, 64 at a time, for those who need not hold them all.

        firsts: draw only the blocks of 64 that begin with these samples, multiples of 64.
        """
        count, y = self._labels(labels)
        net = self.guided(guidance, interval)
        try:
            steps = tuple(times) if times is not None else grid(nfe)
            yield from draw_chunks(
                net,
                self.shape,
                y,
                count=count,
                times=steps,
                method=method,
                seed=seed,
                device=self.device,
                firsts=firsts,
            )
        except UserError:
            raise
        except ValueError as error:
            raise UserError(str(error), status=2) from None

    def guided(self, scale: float, interval: tuple[float, float] = WHOLE) -> Network:
        """The network told of guidance, or where it takes no such input, under plain guidance; itself at scale 1.

        Raises:
            UserError: it was not trained for that, or the scale is below 0.
        """
        if tuple(interval) != WHOLE and (not self.intervals or scale == 1):
            reason = "a scale: 1 guides nothing"
            if not self.intervals:
                reason = "a network trained with --model.guided --objective.scales 1 4 --objective.intervals"
            start, end = interval
            raise UserError(f"guidance between {start:g} and {end:g} needs {reason}", status=2)
        if scale == 1:
            return self.net
        if self.scales is not None:
            return self._told(scale, interval)
        if not scale >= 0:
            raise UserError(f"guidance {scale:g} must be at least 0: 1 guides nothing", status=2)
        if self.guides is None:
            reason = "its data have no classes" if self.num_classes == 0 else "it was trained without label_drop"
            raise UserError(
                f"guidance {scale:g} needs a network that knows samples without a class, and {reason}: leave "
                "--guidance out, or train with --objective.label-drop 0.1",
                status=2,
            )
        return Guided(self.net, self.num_classes, scale, *self.guides)

    def _told(self, scale: float, interval: tuple[float, float]) -> Told:
        assert self.scales is not None
        (least, largest), (start, end) = self.scales, interval
        if not least <= scale <= largest:
            raise UserError(
                f"guidance {scale:g} lies outside {least:g} … {largest:g}, the scales that this network was "
                "trained for: choose one of them, or train with other --objective.scales",
                status=2,
            )
        if not 0 <= start <= 0.5 <= end <= 1:
            raise UserError(
                f"guidance between {start:g} and {end:g} is none that this network was trained for: begin between "
                "0 and 0.5, and end between 0.5 and 1",
                status=2,
            )
        return Told(self.net, self.num_classes, scale, start, end)

    def _labels(self, labels: Any) -> tuple[int, Tensor | None]:
        if isinstance(labels, int | np.integer):
            if labels < 0:
                raise UserError(f"cannot make {labels} samples: give a number of at least 0")
            null = torch.full((int(labels),), self.num_classes)
            return int(labels), null if self.num_classes else None
        y = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        if self.num_classes == 0:
            return len(y), None
        bad = y[(y < 0) | (y > self.num_classes)]
        if len(bad):
            raise UserError(
                f"label {int(bad[0])} is out of range: classes are 0 … {self.num_classes - 1}, "
                f"and {self.num_classes} means no class"
            )
        return len(y), y


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    ema: float | None = None,
    vae: str | None = None,
) -> Generator:
    """Open a run's newest checkpoint (its EMA weights), or an exported or imported model, for sampling.

    Args:
        path: the folder of a run, as `alphaflow train --out` made it; or of a model, as `alphaflow export` and
            `alphaflow import` make it, here or on the Hugging Face hub: `hf://OWNER/NAME`.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        ema: average the weights over this share of the run instead, 0.08 for instance; the run must have stored
            averages (`ema.profiles`).
        vae: of a run on latents alone: where the autoencoder is, if not where it was. Its weights are compared.

    Returns:
        The generator: `load(path)(labels=[0, 1], nfe=1, seed=0)` gives uint8 images (2, H, W, C).

    Raises:
        UserError: the folder is no run, or holds no checkpoint; or a model's files do not fit each other.
    """
    where = choose_device(str(device))
    if hub.is_address(path) or portable.is_model(Path(path)):
        return _load_model(path, where, ema, vae)
    folder = RunFolder(Path(path))
    config, data = folder.read_config(), folder.read_record()["data"]
    net = build_model(config.model, data["shape"], data["num_classes"])
    if ema is None:
        stored = checkpoint.newest(folder.checkpoints)
        step, weights = stored.step, stored.whole("ema")
    else:
        average = make_average(folder, ema)
        step, weights = average.step, average.weights
    net.load_state_dict(weights)
    net = net.to(where).eval().requires_grad_(False)
    generator = _generator(net, data, step, where, "ema" if ema is None else f"ema {ema:g}", vae)
    ours = config.objective
    return replace(
        generator,
        guides=(ours.guide_from, ours.guide_to) if ours.label_drop else None,
        scales=(ours.scales[0], ours.scales[1]) if ours.scales else None,
        intervals=ours.intervals,
    )


def _load_model(path: str | Path, device: torch.device, ema: float | None, vae: str | None) -> Generator:
    folder = portable.folder_of(path)
    record = portable.read_record(folder)
    if ema is not None:
        raise UserError(
            f"{path} holds one set of weights ({record.weights}): --ema goes with a run's folder", status=2
        )
    net = portable.load_network(folder, record, device)
    generator = _generator(net, record.data, record.step, device, record.weights, vae)
    return replace(
        generator,
        guides=(record.guides[0], record.guides[1]) if record.guides else None,
        scales=(record.scales[0], record.scales[1]) if record.scales else None,
        intervals=record.intervals,
    )


def _generator(
    net: nn.Module, data: Mapping[str, Any], step: int, device: torch.device, weights: str, vae: str | None
) -> Generator:
    if vae and "latents" not in data:
        raise UserError(
            f"vae {vae!r} is for models of latents, and this one makes {data['kind']}s: leave it out", status=2
        )
    return Generator(
        net=net,
        shape=tuple(data["shape"]),
        num_classes=data["num_classes"],
        class_names=tuple(data["class_names"]),
        kind=data["kind"],
        step=step,
        device=device,
        weights=weights,
        decoder=Decoder(data["latents"], device, vae) if "latents" in data else None,
    )


def choose_labels(words: str, count: int, num_classes: int, seed: int = 0) -> Tensor:
    """Labels (count,) int64: `balanced` (i mod classes), `random` (by seed and i), or a list to go round in.

    Without classes all are 0.
    """
    index = torch.arange(count)
    if num_classes == 0:
        return torch.zeros(count, dtype=torch.int64)
    if words == "balanced":
        return index % num_classes
    if words == "random":
        share = KeyedRandom(hash_key(seed, "labels"), index).uniform("label")
        return (share * num_classes).long()
    try:
        listed = torch.tensor([int(word) for word in words.split(",")])
    except ValueError:
        raise UserError(f"labels {words!r}: give balanced, random, or numbers like 0,1,2", status=2) from None
    return listed[index % len(listed)]
