"""`alphaflow import`."""

from pathlib import Path

from ..errors import UserError
from . import Parser
from .words import count, number


def run(words: list[str]) -> None:
    """Take in a checkpoint of other code."""
    parser = Parser(
        prog="alphaflow import",
        description="Turn a released checkpoint (α-Flow, MeanFlow in PyTorch or JAX, SiT and the like) into a "
        "folder that alphaflow.load, sample and train --init open. No code in it is run.",
    )
    parser.add_argument(
        "file",
        metavar="FILE_OR_FOLDER",
        type=Path,
        help=".pt, .pth, .bin, .pkl, .safetensors, .npz, Flax's, an .index.json; a folder: theirs, Orbax's, DCP's",
    )
    parser.add_argument("out", metavar="DIR", type=Path, help="the folder to write")
    parser.add_argument(
        "--layout",
        help="alphaflow, meanflow, meanflow-early, soflow, sit, repa, jax-meanflow or imf, where names do not say",
    )
    parser.add_argument(
        "--weights",
        metavar="PREFIX",
        help="which to take: ema (the default, where there are any), net, or how their names begin",
    )
    parser.add_argument(
        "--heads", type=count(1, 1024), help="attention heads, for other sizes than the published ones"
    )
    parser.add_argument("--classes", type=count(0), help='classes, without the one that means "none"')
    parser.add_argument(
        "--side", type=count(1, 4096), help="of a sample in latent pixels, where the file does not tell (32)"
    )
    parser.add_argument("--latents", metavar="DST", type=Path, help="an encoded set with the scale of its latents")
    parser.add_argument(
        "--guidance", type=number(float, above=0), help="imf: the guidance scale it is told (its evaluation's)"
    )
    parser.add_argument(
        "--interval", type=number(float, 0, 1), nargs=2, metavar="T", help="imf: the times between which it guides"
    )
    parser.add_argument("--vae", help="the autoencoder that decodes its samples (sd-vae-ft-ema)")
    known = parser.parse_args(words)
    if known.interval and not known.interval[0] < known.interval[1]:
        raise UserError("--interval {:g} {:g} must rise: from when to when".format(*known.interval), status=2)

    from ..importing.import_checkpoint import ImportOptions, import_checkpoint

    wanted = {key: value for key, value in vars(known).items() if key not in ("file", "out")}
    wanted["interval"] = tuple(known.interval) if known.interval else None
    report = import_checkpoint(known.file, known.out, ImportOptions(**wanted))
    network = report.record.network["settings"]
    if report.foreign:
        some = ", ".join(report.foreign[:6]) + (", …" if len(report.foreign) > 6 else "")
        print(f"not run: {len(report.foreign)} foreign names in the file ({some})")
    if report.passed:
        taken = report.record.origin["within"]
        others = ", ".join(repr(one.rstrip(".")) for one in report.passed)
        print(f"taken: {taken!r}; the file also holds {others} (--weights)")
    print(
        f"{known.out}: {report.layout}, depth {network['depth']}, width {network['width']}, "
        f"{network['heads']} heads, patch {network['patch']}, {network['num_classes']} classes, "
        f"weights {report.record.weights}"
    )
