"""The record of a set of latents: `manifest.json`, and in it the fingerprint.

The fingerprint holds everything that decides what the numbers mean. Training records it, and later steps
(resumption, sampling, evaluation) compare: latents of vae-ema decoded by vae-mse, or scaled by 0.18125 instead of
0.18215, look almost right and cost a week.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, one_line
from alphaflow.files import write_whole

FORMAT = "alphaflow latents 1"
MANIFEST = "manifest.json"
STATISTICS = "statistics.safetensors"
SKIPPED = "skipped.txt"
_REMARKS = ("vae_name", "vae_class", "address", "code")  # what a person wants to know, and what changes no number
_ADDED: dict[str, Any] = {"second": "", "multiplied": 1.0, "contents": "", "own_mean": (), "own_std": ()}
# since sets were first made: what older ones don't say


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The settings that decide the numbers of a set of latents, and where they come from."""

    vae: str
    """16 hexadecimal digits of the autoencoder's weights; "unknown" for latents that others made."""
    vae_name: str
    """The autoencoder's name as it was asked for: a folder, or an id of the Hugging Face hub."""
    scale: str
    """"statistics": x = (latent - mean) / std of each channel, over this set; "places": of each place of each
    channel. "own": x = (latent - own_mean) / own_std. A number such as "0.18215": x = (latent - shift) ·
    number."""
    shift: float
    """Subtracted before a scale that is a number; 0 for the autoencoders of Stable Diffusion 1 and 2."""
    crop: str
    """The crop that made images squares: lanczos or box."""
    size: int
    """Side of the images in pixels; 0 where it is not known."""
    flips: str
    """"stored": every image also mirrored; "drawn": half of them mirrored, once and for all; "none"."""
    precision: str
    """Precision of the autoencoder's arithmetic: bf16 or fp32."""
    source: str
    """Digest of the images' names, sizes and labels."""
    address: str
    """The images' address."""
    class_names: tuple[str, ...]
    """One name a class, in the order of the labels."""
    count: int
    """Number of images."""
    code: str
    """Version of alphaflow that wrote the set."""
    second: str = _ADDED["second"]
    """For latents that others made, what the second half of the channels was: logvar, std or none."""
    multiplied: float = _ADDED["multiplied"]
    """The factor that latents which others made had been multiplied by, and were divided by."""
    contents: str = _ADDED["contents"]
    """Digest of the stored numbers and labels; "" for sets that were made before it was kept."""
    vae_class: str = ""
    """The autoencoder's class in diffusers; "" where it is not known, and in sets that were made before it was
    kept. The weights tell autoencoders apart, so this is a remark."""
    own_mean: Any = _ADDED["own_mean"]
    """The means that the autoencoder's makers subtract, where these are no single number: (C,) of each channel, or
    (C, p, q) of each place of a pattern of p × q that repeats (FLUX.2); else ()."""
    own_std: Any = _ADDED["own_std"]
    """The deviations by which they divide, in the same shape."""

    def fields(self) -> dict[str, Any]:
        """Return all fields as JSON takes them, without the last three where they say nothing, as older sets are
        written."""
        held = {key: _plain(value) for key, value in dataclasses.asdict(self).items()}
        return {
            key: value for key, value in held.items() if value or key not in ("vae_class", "own_mean", "own_std")
        }

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of all fields but the remarks (`vae_name`, `vae_class`, `address`, `code`), and
        but those that were added later where they have their defaults, so that older sets keep theirs.
        """
        fields = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in _REMARKS and not (key in _ADDED and value == _ADDED[key])
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the fields of two fingerprints (as dictionaries) that differ, each in words with both values.

    A field that one of the two does not have, because it is older, is no difference.
    """
    fields = [f.name for f in dataclasses.fields(Fingerprint) if f.name not in _REMARKS]
    fields = [name for name in fields if name not in _ADDED or (name in ours and name in theirs)]
    return [
        f"{name} {_short(ours.get(name))} here, {_short(theirs.get(name))} there"
        for name in fields
        if _plain(ours.get(name)) != _plain(theirs.get(name))
    ]


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def tuples(value: Any) -> Any:
    """Return nested lists as nested tuples."""
    return tuple(tuples(one) for one in value) if isinstance(value, tuple | list) else value


def by_place(table: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Return a table of a scale so that it goes with latents (C, h, w).

    Numbers of each channel, (C,), become (C, 1, 1); a pattern (C, p, q) is repeated to (C, h, w), which those of
    each place are already.
    """
    if table.ndim == 1:
        return table[:, None, None]
    return np.tile(table, (1, height // table.shape[1], width // table.shape[2]))


def from_json(about: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint that `Fingerprint.fields` and JSON made a dictionary of.

    Raises:
        TypeError: a field is not known, or one is missing.
    """
    return Fingerprint(**{key: tuples(value) for key, value in about.items()})


def _short(value: Any) -> str:
    if not isinstance(value, tuple | list):
        return str(value) or "unknown"
    if value and isinstance(value[0], tuple | list):
        return f"{len(value)} × {len(value[0])} × {len(value[0][0])} numbers"
    names = ", ".join(map(str, value[:4])) + (", …" if len(value) > 4 else "")
    return f"{len(value)} ({names})" if value else "none"


Table = tuple[tuple[tuple[float, ...], ...], ...]
"""Numbers (C, h, w)."""


def table(numbers: Any) -> Table:
    """Return nested lists as tuples; raise a `TypeError` for what is not nested three deep."""
    return tuple(tuple(tuple(map(float, row)) for row in channel) for channel in numbers)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished set: its fingerprint, its files and the scale of its numbers."""

    fingerprint: Fingerprint
    shape: tuple[int, int, int]
    """(C, h, w) of a latent."""
    variance: bool
    """Whether the log-variance is kept beside the mean, so that a latent is drawn anew at each visit."""
    versions: int
    """2 where every image is there also mirrored, else 1."""
    dtype: str
    """Type of the numbers on disk: float16 or float32."""
    shards: tuple[tuple[str, int], ...]
    """File and number of images of each shard, in the order of the rows."""
    mean: tuple[float, ...]
    """Mean of each channel over all images, versions and positions."""
    std: tuple[float, ...]
    """Standard deviation of each channel, of the latents as they are drawn."""
    skipped: int
    """Images that could not be read."""
    places: tuple[Table, Table] | None = None
    """Mean and standard deviation of each place, (C, h, w), where the scale is "places"."""

    @property
    def scaling(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return offset and divisor, of each channel (C,), of each place (C, h, w), or of each place of a pattern
        (C, p, q) that repeats (see `by_place`): x = (latent - offset) / divisor."""
        if self.places is not None:
            return np.array(self.places[0], np.float32), np.array(self.places[1], np.float32)
        if self.fingerprint.scale == "own":
            return np.array(self.fingerprint.own_mean, np.float32), np.array(self.fingerprint.own_std, np.float32)
        return scaling(self.fingerprint.scale, self.fingerprint.shift, self.mean, self.std)

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of the manifest: the fingerprint, and what turns samples back into latents."""
        offset, divisor = self.scaling
        own = self.fingerprint.fields()
        own.pop("class_names")  # the run has them already
        return {**own, "offset": offset.tolist(), "divisor": divisor.tolist()}

    def text(self) -> str:
        """Return the fingerprint and the numbers of the set as text for people."""
        about = self.fingerprint
        fields = {field.name: getattr(about, field.name) for field in dataclasses.fields(about)}
        numbers = self.versions * int(np.prod(self.shape)) * (2 if self.variance else 1)
        gigabytes = about.count * numbers * np.dtype(self.dtype).itemsize / 1e9
        drawn = "drawn anew at each visit" if self.variance else "fixed"
        fields |= {
            "latent": f"{' × '.join(map(str, self.shape))}, {drawn}",
            "stored": f"{self.dtype}, {len(self.shards)} shards, {gigabytes:.2f} GB",
            "mean": " ".join(f"{value:.4f}" for value in self.mean),
            "std": " ".join(f"{value:.4f}" for value in self.std),
            "skipped": f"{self.skipped} images{f', listed in {SKIPPED}' if self.skipped else ''}",
            "fingerprint": about.digest,
        }
        return "\n".join(f"{name:12} {_short(value)}" for name, value in fields.items())

    def write(self, root: Path) -> None:
        """Write the manifest into `root`, atomically."""
        content = {"format": FORMAT, "digest": self.fingerprint.digest, **dataclasses.asdict(self)}
        content["fingerprint"] = self.fingerprint.fields()
        if self.places is None:
            content.pop("places")
        write_whole(root / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def scaling(
    scale: str, shift: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return offset and divisor of each channel under the convention `scale`; see `Fingerprint.scale`."""
    if scale == "statistics":
        return np.array(mean, np.float32), np.array(std, np.float32)
    ones = np.ones(len(mean), np.float32)
    return shift * ones, ones / np.float32(float(scale))


def read_manifest(root: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of the set in the folder `root`.

    Raises:
        UserError: there is no such folder or no set in it, or the set is unfinished or its manifest cannot be
            understood.
    """
    path = Path(root) / MANIFEST
    if not path.is_file():
        raise UserError(_why_none(Path(root)))
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise ValueError(f"it is not of the form {FORMAT!r}")
        digest = content.pop("digest")
        about = content.pop("fingerprint")
        places = content.pop("places", None)
        manifest = Manifest(
            fingerprint=from_json(about),
            shape=tuple(content.pop("shape")),
            shards=tuple((_plain_name(name), count) for name, count in content.pop("shards")),
            places=places and (table(places[0]), table(places[1])),
            mean=tuple(content.pop("mean")),
            std=tuple(content.pop("std")),
            **content,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot understand {path} ({one_line(error)}): encode the set anew") from None
    if manifest.fingerprint.digest != digest:
        raise UserError(f"{path} has been changed by hand: its fingerprint does not match its digest {digest}")
    return manifest


def _plain_name(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"shard {name!r} lies outside of the set")
    return name


def _why_none(root: Path) -> str:
    if not root.exists():
        return f"no set of latents at {root}: make one with `alphaflow encode SRC {root} --vae sd-vae-ft-ema`"
    if any(root.glob("shard-*.safetensors")) or (root / "plan.json").exists():
        return f"the latents in {root} are not finished: give the same `alphaflow encode` command again"
    return f"{root} holds no latents (no {MANIFEST}): give the DST of `alphaflow encode`"
