"""`alphaflow evaluate`."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from . import Parser
from .sample import method_of, times_of

if TYPE_CHECKING:
    from ..data import Dataset
    from ..decoder import Decoder
    from ..evaluate import Evaluation
    from ..training.run import RunFolder
    from ..training.share import Share
    from ..view import View


def run(words: list[str]) -> None:
    """Score a run, print a table, and keep the figures in its folder for the report.

    Under torchrun the processes share the samples; the first of them scores, writes and speaks.
    """
    known = _parse(words)
    from ..training.devices import choose_device
    from ..training.parallel import Parallel
    from ..training.run import RunFolder
    from ..training.share import Share

    parallel = Parallel()
    share = Share(parallel)
    device = parallel.device(choose_device(known.device or "cpu"))
    folder = RunFolder(known.run)
    scored = _of_folder if known.from_folder else _of_run
    evaluation = scored(known, folder, share, str(device))
    if not share.main:
        return
    if not known.from_folder and (known.ema or [None]) == [None]:  # the report is about the run's own average
        evaluation.write(folder.evaluation_file)
    if known.json:
        evaluation.write(known.json)
    if known.csv:
        evaluation.write_csv(known.csv)
    if known.plot:
        evaluation.plot(known.plot)
    print(evaluation.table())


def _of_folder(known: argparse.Namespace, folder: "RunFolder", share: "Share", device: str) -> "Evaluation":
    from ..evaluate import evaluate_images
    from ..figures import read_images
    from ..training.data import data_of

    dataset = data_of(folder)
    view = _view(known, dataset, device, None)
    height_first = (view.shape[-1], *view.shape[:-1]) if view.pixels else dataset.shape
    chunks, labels = read_images(known.from_folder, height_first, share.blocks)
    source = str(known.from_folder)
    return evaluate_images(
        chunks, dataset, source=source, labels=labels, names=known.metrics, share=share, view=view
    )


def _view(known: argparse.Namespace, dataset: "Dataset", device: str, decoder: "Decoder | None") -> "View":
    from ..data import Latents
    from ..data.clip_latents import ClipLatents
    from ..decoder import decoder_of
    from ..metrics.reference import read_reference
    from ..view import view_of

    reference = read_reference(known.reference) if known.reference else None
    if known.vae and decoder is None and isinstance(dataset, Latents | ClipLatents):
        decoder = decoder_of(dataset, device, known.vae)
    return view_of(
        dataset,
        detector=known.detector,
        path=known.detector_path,
        reference=reference,
        device=device,
        decoder=decoder,
    )


def _of_run(known: argparse.Namespace, folder: "RunFolder", share: "Share", device: str) -> "Evaluation":
    from ..evaluate import evaluate, settings
    from ..generate import load
    from ..training.data import data_of

    methods = [method_of(word) for word in known.method or ["ode"]]
    scales = known.guidance or [1.0]
    sweep = settings(known.nfe, methods, times_of(known.times), known.midpoint or [], scales)
    first, *others = known.ema or [None]
    generator = load(known.run, device=device, ema=first, vae=known.vae)  # mistakes show before data are read
    for scale in scales:
        generator.guided(scale)
    dataset = data_of(folder)
    view = _view(known, dataset, device, generator.decoder)
    return evaluate(
        [lambda: generator, *(partial(load, known.run, device=device, ema=ema, vae=known.vae) for ema in others)],
        dataset,
        run=str(known.run),
        sweep=sweep,
        names=known.metrics,
        count=known.count,
        labels=known.labels or "data",
        seed=known.seed or 0,
        keep=folder.path / "evaluations",
        out=known.out,
        share=share,
        view=view,
    )


def _parse(words: list[str]) -> argparse.Namespace:
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
        help="frechet accuracy manifold neighbours energy sliced kernel inception density limit",
    )
    parser.add_argument(
        "--detector", metavar="NAME", help="inception dinov2 clip clip-l i3d digits (what comes with the package)"
    )
    parser.add_argument(
        "--detector-path", type=Path, metavar="PATH", help="its file, or a folder with it (the cache)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.npz",
        help="of `alphaflow stats` or others, in place of the data",
    )
    parser.add_argument("--vae", help="of a run on latents: where its autoencoder is now")
    parser.add_argument("--count", type=int, help="how many samples (as many as there are data)")
    parser.add_argument("--labels", help="their classes: data (the default), balanced, random")
    parser.add_argument("--seed", type=int, help="of the noise (0)")
    parser.add_argument("--device", help="cpu (the default) or cuda")
    parser.add_argument(
        "--from-folder", type=Path, metavar="DIR", help="score these images instead of drawing any"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the pictures there, by setting and class")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="and there, a line for each")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="figures against evaluations, midpoints, guidance"
    )
    known = parser.parse_args(words)
    drawing = ("nfe", "method", "midpoint", "times", "guidance", "ema", "count", "labels", "seed", "out")
    alone = ("device",) if known.detector is None else ()
    given = [name for name in (*drawing, *alone) if getattr(known, name) is not None]
    if known.from_folder and given:
        raise UserError(f"--{given[0]} does not go with --from-folder: nothing is drawn", status=2)
    if known.times and known.nfe:
        raise UserError("--nfe and --times both say which evaluations: give one of them", status=2)
    if known.nfe is None:
        known.nfe = [] if known.midpoint else [1, 2]
    if min(known.nfe, default=1) < 1:
        raise UserError(f"--nfe {min(known.nfe)} must be at least 1", status=2)
    return known


def _share(word: str) -> float | None:
    try:
        return None if word == "own" else float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no share of the run: give own, or numbers like .05"
        ) from None
