"""`alphaflow encode`."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from . import Parser
from .words import number, options_called

if TYPE_CHECKING:
    from ..data.sources import Source


def run(words: list[str]) -> None:
    """Encode images into a set of latents, or tell what that would take."""
    known = _parser().parse_args(words)
    _check(known)

    from ..devices import choose_device
    from ..encoding import EncodingSettings, convert, encode, open_foreign, preview
    from ..encoding.foreign_shards import Shards
    from ..encoding.vae import load_vae
    from ..processes import Processes

    settings = EncodingSettings(
        size=known.size,
        crop=known.crop,
        flips=known.flips,
        scale=known.scale or "statistics",
        precision=known.precision,
        tolerance=known.tolerance,
        shard_images=known.shard_images,
    )
    processes = Processes.launched()
    device = processes.own_device(choose_device(known.device))
    vae = load_vae(known.vae, device, settings.precision) if known.vae else None
    if known.kind == "latents":
        foreign = open_foreign(known.source, known.labels or "auto")
        if known.scale is None and isinstance(foreign, Shards) and foreign.own_scale()[1]:
            settings = dataclasses.replace(settings, scale="own")  # as the code does that made them
        manifest = convert(
            foreign,
            known.out,
            settings,
            vae=vae,
            second=known.second,
            multiplied=known.multiplied,
            processes=processes,
        )
    else:
        assert vae is not None
        source = _open(known)
        if not known.frames and processes.rank == 0:
            _tell(source)
        if known.dry_run:
            print(preview(source, vae, settings, batch_size=known.batch_size).text(processes.world))
            return
        manifest = encode(source, known.out, vae, settings, batch_size=known.batch_size, processes=processes)
    if manifest:
        skipped = f", {manifest.skipped} skipped (see {known.out / 'skipped.txt'})" if manifest.skipped else ""
        about = manifest.fingerprint
        some = ", ".join(about.class_names[:4]) + (", …" if len(about.class_names) > 4 else "")
        classes = f"{len(about.class_names)} classes ({some})" if some else "no classes"
        print(f"{known.out}: {about.count} latents{skipped}, fingerprint {about.digest}, {classes}")


def _open(known: argparse.Namespace) -> "Source":
    """Open the images, or the frames of clips."""
    from ..data.sources import open_source
    from ..data.videos.latents import ClipFrames

    with options_called({"--data.path ": "", "--data.labels": "--labels"}):
        if not known.frames:
            return open_source(known.source, labels=known.labels)
        return ClipFrames(known.source, frames=known.frames, rate=known.rate, size=known.size)


def _tell(source: "Source") -> None:
    """Say what was found."""
    from ..data.sources.words import found_words

    found = found_words(
        source.address,
        len(source),
        source.class_names,
        origin=getattr(source, "origin", ""),
        passed_over=getattr(source, "passed_over", ()),
    )
    print(found, file=sys.stderr)


_OF_IMAGES = {
    "size": 256,
    "crop": "lanczos",
    "flips": "stored",
    "precision": "fp32",
    "batch_size": 32,
    "rate": 8.0,
}
"""What says how images are encoded, with its value where it is not given."""
_LABELS = ("folders", "samples", "none")


def _check(known: argparse.Namespace) -> None:
    """Refuse options that do not go together, or would have no effect, before anything heavy loads."""
    given = [name for name in (*_OF_IMAGES, "frames") if getattr(known, name) is not None]
    if known.kind == "latents" and (given or known.dry_run):
        option = f"--{given[0].replace('_', '-')}" if given else "--dry-run"
        raise UserError(f"{option} is for images, and --from latents says that they are encoded already", status=2)
    if known.kind == "latents" and known.labels not in (None, *_LABELS):
        raise UserError(f"--labels {known.labels} is for images: of latents {', '.join(_LABELS)}", status=2)
    if known.frames is None and known.rate is not None:
        raise UserError(f"--rate {known.rate:g} is for videos: add --frames, how many of each", status=2)
    if known.frames is not None and known.crop is not None:
        raise UserError(f"--crop {known.crop} is for images: of videos the central square is taken", status=2)
    for name, value in _OF_IMAGES.items():
        if getattr(known, name) is None:
            setattr(known, name, value)
    for name in ("batch_size", "rate"):
        if not 0 < getattr(known, name) < float("inf"):
            option = name.replace("_", "-")
            raise UserError(f"--{option} {getattr(known, name)} must be a number above 0", status=2)
    if known.kind == "images" and not known.vae:
        raise UserError("no autoencoder given: add --vae sd-vae-ft-ema, or a folder of yours", status=2)
    if known.frames is not None and (known.frames < 1 or known.flips == "drawn" or known.labels):
        raise UserError(
            f"--frames {known.frames} must be at least 1, and goes with neither --flips drawn, which would mirror "
            "single frames, nor --labels",
            status=2,
        )
    if known.kind == "images" and (known.second or known.multiplied is not None):
        raise UserError("--second and --multiplied are for --from latents", status=2)


def _parser() -> Parser:
    parser = Parser(
        prog="alphaflow encode",
        description="Turn images into latents of an autoencoder. A command that was killed can be given again; "
        "with torchrun the work is shared.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="the images: a folder with one sub-folder a class, an archive, …"
    )
    parser.add_argument("out", metavar="DST", type=Path, help="the folder of the set")
    parser.add_argument("--vae", help="sd-vae-ft-ema, sd-vae-ft-mse, a folder as diffusers saves it, or a hub id")
    parser.add_argument(
        "--from",
        dest="kind",
        choices=("images", "latents"),
        default="images",
        help="latents: SRC holds latents already: a folder or zip of .npy, .npz, .pt or .pkl files, an LMDB, or "
        "a folder of safetensors shards",
    )
    parser.add_argument(
        "--second",
        choices=("logvar", "std", "none"),
        help="--from latents: what the second half of the channels is; none: all are latents",
    )
    parser.add_argument(
        "--multiplied",
        type=number(float, low=1e-6, high=1e6),
        help="--from latents: they were multiplied by this (1): 0.18215",
    )
    parser.add_argument("--size", type=int, help="side of the images in pixels (256)")
    parser.add_argument("--crop", choices=("lanczos", "box"), help="lanczos, or box as ADM's")
    parser.add_argument(
        "--flips",
        choices=("stored", "drawn", "none"),
        help="stored (the default): each image also mirrored; drawn: half of them mirrored, for good; none",
    )
    parser.add_argument(
        "--scale",
        choices=("statistics", "places", "scalar", "own"),
        help="statistics (the default): by mean and std of each channel; places: of each place of each channel, "
        "as the α-Flow release does; scalar: by the autoencoder's own number; own: as its makers do, or as "
        "statistics beside latents of others say (the default of shards)",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of the autoencoder (fp32)")
    parser.add_argument("--batch-size", type=int, help="images through the autoencoder at once (32)")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument(
        "--labels",
        help="where labels come from: FILE.csv, FILE.csv#COLUMN, a column, folders, none; of latents: folders, "
        "samples, none",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="share of images that may be unreadable (0.01)"
    )
    parser.add_argument("--shard-images", type=int, help="images a shard (as many as make 128 MiB)")
    parser.add_argument("--frames", type=int, help="SRC holds videos: take this many frames of each")
    parser.add_argument("--rate", type=float, help="of videos, frames a second (8)")
    parser.add_argument(
        "--dry-run", action="store_true", help="read 100 images, and tell size, time and what to skip"
    )
    return parser
