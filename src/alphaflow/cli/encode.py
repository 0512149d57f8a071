"""`alphaflow encode`."""

import argparse
from pathlib import Path

from ..errors import UserError
from . import Parser


def run(words: list[str]) -> None:
    """Encode images into a set of latents, or tell what that would take."""
    known = _parser().parse_args(words)
    _check(known)

    from ..data.clip_latents import ClipFrames
    from ..data.sources import Source, open_source
    from ..encoding import Settings, convert, encode, open_foreign, preview
    from ..encoding.encode import Crew
    from ..training.devices import choose_device
    from ..vae import load_vae

    settings = Settings(
        size=known.size,
        crop=known.crop,
        flips=known.flips,
        scale=known.scale,
        precision=known.precision,
        tolerance=known.tolerance,
        shard_images=known.shard_images,
    )
    crew = Crew.here()
    device = crew.device(choose_device(known.device))
    vae = load_vae(known.vae, device, settings.precision) if known.vae else None
    if known.kind == "latents":
        foreign = open_foreign(known.source)
        manifest = convert(
            foreign, known.out, settings, vae=vae, second=known.second, multiplied=known.multiplied, crew=crew
        )
    else:
        assert vae is not None
        source: Source = (
            open_source(known.source, labels=known.labels)
            if not known.frames
            else ClipFrames(known.source, frames=known.frames, rate=known.rate, size=known.size)
        )
        if known.dry_run:
            print(preview(source, vae, settings, batch_size=known.batch_size).text(crew.world))
            return
        manifest = encode(source, known.out, vae, settings, batch_size=known.batch_size, crew=crew)
    if manifest:
        skipped = f", {manifest.skipped} skipped (see {known.out / 'skipped.txt'})" if manifest.skipped else ""
        about = manifest.fingerprint
        print(f"{known.out}: {about.count} latents{skipped}, fingerprint {about.digest}")


def _check(known: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything heavy loads."""
    if known.kind == "images" and not known.vae:
        raise UserError("no autoencoder given: add --vae sd-vae-ft-ema, or a folder of yours", status=2)
    if known.kind == "latents" and (known.dry_run or known.labels):
        raise UserError("--dry-run and --labels are for images", status=2)
    if known.frames is not None and (known.frames < 1 or known.flips == "drawn" or known.labels):
        raise UserError(
            f"--frames {known.frames} must be at least 1, and goes with neither --flips drawn, which would mirror "
            "single frames, nor --labels",
            status=2,
        )
    if known.kind == "images" and (known.second or known.multiplied != 1):
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
    parser.add_argument("--vae", help="sd-vae-ft-ema, sd-vae-ft-mse, a folder, or a hub id")
    parser.add_argument(
        "--from",
        dest="kind",
        choices=("images", "latents"),
        default="images",
        help="latents: SRC holds latents already: a folder or zip of .npy, .npz, .pt or .pkl files, or an LMDB",
    )
    parser.add_argument(
        "--second",
        choices=("logvar", "std", "none"),
        help="--from latents: what the second half of the channels is; none: all are latents",
    )
    parser.add_argument(
        "--multiplied", type=float, default=1.0, help="--from latents: they were multiplied by this (1): 0.18215"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (256)")
    parser.add_argument("--crop", choices=("lanczos", "box"), default="lanczos", help="lanczos, or box as ADM's")
    parser.add_argument(
        "--flips",
        choices=("stored", "drawn", "none"),
        default="stored",
        help="stored: each image also mirrored; drawn: half of them mirrored, for good; none",
    )
    parser.add_argument(
        "--scale",
        choices=("statistics", "scalar"),
        default="statistics",
        help="by mean and std of each channel, or by the autoencoder's own number, such as 0.18215",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the autoencoder (fp32)")
    parser.add_argument("--batch-size", type=int, default=32, help="images through the autoencoder at once (32)")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--labels", help="where labels come from, instead of the folders: a CSV, a column")
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="share of images that may be unreadable (0.01)"
    )
    parser.add_argument("--shard-images", type=int, help="images a shard (as many as make 128 MiB)")
    parser.add_argument("--frames", type=int, help="SRC holds videos: take this many frames of each")
    parser.add_argument("--rate", type=float, default=8.0, help="of videos, frames a second (8)")
    parser.add_argument(
        "--dry-run", action="store_true", help="read 100 images, and tell size, time and what to skip"
    )
    return parser
