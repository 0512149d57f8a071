"""`alphaflow evaluate`."""

import argparse
import logging
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..runtimes import check_asked
from . import Parser
from .sample import method_of, times_of
from .words import add_runtime_options, check_apart, check_writable, share_of_run

log = logging.getLogger("alphaflow")
RUN_BY = ("runtime", "precision")

if TYPE_CHECKING:
    from ..data import Dataset
    from ..encoding.decoder import Decoder
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.setup import EvaluationSetup
    from ..generation.generator import Generator
    from ..parallel.share import Share
    from ..runs.folder import RunFolder


def run(words: list[str]) -> None:
    """Score a run, print a table, and keep the scores in its folder for the report.

    Under torchrun the processes share the samples; the first of them scores, writes and speaks.
    """
    args = _parse(words)
    _refuse_model(args.run)
    from ..devices import choose_device
    from ..parallel.parallel import Parallel
    from ..parallel.share import Share
    from ..runs.folder import RunFolder

    parallel = Parallel()
    share = Share(parallel)
    device = parallel.device(choose_device(args.device or "cpu"))
    folder = RunFolder(args.run)
    scored = _of_folder if args.from_folder else _of_run
    kept = not args.from_folder and _can_keep(args, folder)
    evaluation = scored(args, folder, share, str(device), keep=kept)
    if not share.main:
        return
    if kept and (args.ema or [None]) == [None]:  # the report is about the run's own average
        evaluation.write(folder.evaluation_file)
    if args.json:
        evaluation.write(args.json)
    if args.csv:
        evaluation.write_csv(args.csv)
    if args.plot:
        evaluation.plot(args.plot)
    print(evaluation.table())


def _refuse_model(place: Path) -> None:
    """Raise `UserError` for a model without its run, which has no data to be compared with."""
    from ..export.placing import RECORD
    from ..runs import hub, model_folder
    from ..runs.folder import RunFolder

    address = str(place)
    if hub.is_address(place):
        address = address.replace(":/", "://", 1)  # as it was before it was taken for a path
    elif RunFolder(place).holds_run() or not (model_folder.is_model(place) or (place / RECORD).is_file()):
        return
    drawn = (
        f" (alphaflow sample {address} --out DIR/)"
        if hub.is_address(place) or model_folder.is_model(place)
        else ""
    )
    raise UserError(
        f"{address} is a model without the data of its run, which it would be compared with: draw its "
        f"samples{drawn}, and score them by a run on such data (alphaflow evaluate RUN --from-folder DIR)",
        status=2,
    )


def _can_keep(args: argparse.Namespace, folder: "RunFolder") -> bool:
    """Check whether scores can be kept in the run's own folder; else another file must be named for them.

    Raises:
        UserError: nothing can be written there, and nowhere else is named.
    """
    folder.read_record()  # an error where this is no run, before anything is left in it
    inner = folder.path / "evaluations"
    try:
        with tempfile.TemporaryFile(dir=inner if inner.exists() else folder.path):
            return True
    except OSError as error:
        if not (args.json or args.csv):
            raise UserError(
                f"{folder.path} cannot be written to ({error.strerror}): say where the figures go, --json FILE"
            ) from None
        log.warning(
            "%s cannot be written to (%s): no figures are kept there, and a sweep that breaks off begins anew",
            folder.path,
            error.strerror,
        )
        return False


def _of_folder(
    args: argparse.Namespace, folder: "RunFolder", share: "Share", device: str, *, keep: bool
) -> "Evaluation":
    from ..evaluation.evaluate import evaluate_images
    from ..evaluation.image_files import read_archive
    from ..generation.pictures import read_images
    from ..runs.data_record import data_of

    dataset = data_of(folder, args.data_path)
    setup = _setup(args, dataset, device, None)
    height_first = (setup.shape[-1], *setup.shape[:-1]) if setup.pixels else dataset.shape
    if args.from_folder.suffix.lower() == ".npz":
        chunks, labels = read_archive(args.from_folder, height_first, share.blocks, dataset.class_names)
    else:
        chunks, labels = read_images(args.from_folder, height_first, share.blocks)
    source = str(args.from_folder)
    return evaluate_images(
        chunks, dataset, source=source, labels=labels, names=args.metrics, share=share, setup=setup
    )


def _setup(
    args: argparse.Namespace, dataset: "Dataset", device: str, decoder: "Decoder | None"
) -> "EvaluationSetup":
    from ..encoding.decoder import decoder_of
    from ..evaluation.setup import open_reference, prepare

    reference = open_reference(args.reference, args.detector) if args.reference else None
    if args.vae and not dataset.manifest:
        raise UserError(f"--vae {args.vae} is for runs on latents, and this one is not: leave it out", status=2)
    if args.vae and decoder is None and dataset.manifest:
        decoder = decoder_of(dataset.manifest, device, args.vae)
    return prepare(
        dataset,
        detector=args.detector,
        path=args.detector_path,
        reference=reference,
        device=device,
        decoder=decoder,
    )


def _of_run(
    args: argparse.Namespace, folder: "RunFolder", share: "Share", device: str, *, keep: bool
) -> "Evaluation":
    from ..evaluation.evaluate import evaluate, settings
    from ..runs.data_record import data_of
    from ..runs.loading import load
    from ..runtimes.running import choose_runtime, run_in

    methods = [method_of(word) for word in args.method or ["ode"]]
    scales = args.guidance or [1.0]
    sweep = settings(args.nfe, methods, times_of(args.times), args.midpoint or [], scales, args.seed or 0)
    first, *others = args.ema or [None]
    generator = load(args.run, device=device, ema=first, vae=args.vae)  # mistakes show before data are read
    runtime, precision = args.runtime, args.precision
    if runtime or precision:  # one for all processes and weights
        calls = (
            sum(one.evaluations for one in sweep) * max(1, len(others) + 1) * math.ceil((args.count or 2000) / 64)
        )
        chosen = generator
        runtime = share.from_main(
            lambda: choose_runtime(chosen, runtime or "auto", precision or "float32", calls=calls)
        )
        generator = run_in(generator, runtime, precision)
    if args.labels is not None and generator.vocabulary:
        raise UserError(
            f"--labels {args.labels}: this model is told in words, and is given the data's captions: leave it out",
            status=2,
        )
    if args.labels is not None and generator.num_classes == 0:
        raise UserError(f"--labels {args.labels}: this model has no classes, leave it out", status=2)
    for scale in scales:
        generator.guided(scale)
    dataset = data_of(folder, args.data_path)
    setup = _setup(args, dataset, device, generator.decoder)
    return evaluate(
        [lambda: generator, *(partial(_other, args, ema, device, runtime) for ema in others)],
        dataset,
        run=str(args.run),
        sweep=sweep,
        names=args.metrics,
        count=args.count,
        labels=args.labels or "data",
        keep=folder.path / "evaluations" if keep else None,
        out=args.out,
        share=share,
        setup=setup,
    )


def _other(args: argparse.Namespace, ema: float | None, device: str, runtime: str | None) -> "Generator":
    """Open the run with other weights."""
    from ..runs.loading import load
    from ..runtimes.running import run_in

    return run_in(load(args.run, device=device, ema=ema, vae=args.vae), runtime, args.precision)


def _parser() -> Parser:
    """Build the parser of the command's words."""
    parser = Parser(
        prog="alphaflow evaluate",
        description="Score a trained run against its own data, in every combination of what is listed.",
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--nfe", type=int, nargs="+", help="numbers of network evaluations (1 2)")
    parser.add_argument(
        "--method",
        nargs="+",
        help="ode, consistency, euler, heun; or one for each interval: heun,ode",
    )
    parser.add_argument("--midpoint", type=float, nargs="+", help="two evaluations, parted there: .3 .5")
    parser.add_argument("--times", help="a grid of times instead of --nfe: 1,.5,0")
    parser.add_argument(
        "--guidance", type=float, nargs="+", metavar="SCALE", help="of guidance: 1 1.5 2 (1: none)"
    )
    parser.add_argument(
        "--ema", type=_share, nargs="+", metavar="STD", help="weights: own, or averages over shares"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        help="frechet accuracy words manifold neighbours energy sliced kernel inception density limit",
    )
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help="inception dinov2 clip clip-l i3d digits fashion shapes (what comes with the package)",
    )
    parser.add_argument(
        "--detector-path", type=Path, metavar="PATH", help="its file, or a folder with it (the cache)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="of `alphaflow stats` (.npz) or others (.npz, EDM2's .pkl), in place of the data",
    )
    parser.add_argument(
        "--data.path",
        dest="data_path",
        metavar="PLACE",
        help="where the run's data are, if not where they were",
    )
    parser.add_argument("--vae", help="of a run on latents: where its autoencoder is now")
    parser.add_argument("--count", type=int, help="how many samples (as many as there are data)")
    parser.add_argument("--labels", help="their classes: data (the default), balanced, random")
    parser.add_argument("--seed", type=int, help="of the noise (0)")
    parser.add_argument("--device", help="cpu (the default) or cuda")
    add_runtime_options(parser)
    parser.add_argument(
        "--from-folder", type=Path, metavar="DIR", help="score these images, or a .zip, .tar or .npz of them"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the pictures there, by setting and class")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="and there, a line for each")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="figures against evaluations, midpoints, guidance"
    )
    return parser


def _parse(words: list[str]) -> argparse.Namespace:
    """Read the words; refuse those that do not go together, before anything is loaded."""
    args = _parser().parse_args(words)
    drawing = ("nfe", "method", "midpoint", "times", "guidance", "ema", "count", "labels", "seed", "out", *RUN_BY)
    alone = ("device",) if args.detector is None else ()
    given = [name for name in (*drawing, *alone) if getattr(args, name) is not None]
    if args.from_folder and given:
        raise UserError(f"--{given[0]} does not go with --from-folder: nothing is drawn", status=2)
    if args.times and args.nfe:
        raise UserError("--nfe and --times both say which evaluations: give one of them", status=2)
    if args.plot and args.plot.suffix != ".png":
        raise UserError(f"--plot {args.plot} is drawn as PNG: end its name in .png", status=2)
    check_asked(args.runtime, args.precision, args.device or "cpu")
    check_apart(out=args.out, json=args.json, csv=args.csv, plot=args.plot)
    for name in ("json", "csv", "plot"):
        check_writable(f"--{name}", getattr(args, name))
    if args.nfe is None:
        args.nfe = [] if args.midpoint else [1, 2]
    if min(args.nfe, default=1) < 1:
        raise UserError(f"--nfe {min(args.nfe)} must be at least 1", status=2)
    return args


def _share(word: str) -> float | None:
    """Read `own`, the run's own average, as None, or the share of the run of another average."""
    try:
        return None if word == "own" else share_of_run(word)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}: give own, or shares of the run like .05") from None
