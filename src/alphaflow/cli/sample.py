"""`alphaflow sample`."""

import contextlib
import logging
import math
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtimes import check_asked
from . import Parser
from .words import add_runtime_options, share_of_run

log = logging.getLogger("alphaflow")


def run(words: list[str]) -> None:
    """Generate samples into a file or folder."""
    args = _parser().parse_args(words)
    times, method = times_of(args.times), method_of(args.method)
    if times is not None and args.nfe is not None:
        raise UserError("--nfe and --times both say which evaluations: give one of them", status=2)
    nfe = 1 if args.nfe is None else args.nfe
    for name, value, most in (("count", args.count, 10**8), ("nfe", nfe, 10**6)):
        if not 1 <= value <= most:
            raise UserError(f"--{name} {value} must be at least 1, and at most {most:,}", status=2)

    from ..data import Vocabulary
    from ..generation.drawing import check_draw, draw_into
    from ..generation.generator import CHUNK, choose_labels
    from ..generation.outputs import ending_of
    from ..generation.sampler import Sampler
    from ..generation.videos import check_rate
    from ..runs.loading import data_record, load
    from ..runtimes.running import run_in

    # All that can be wrong is found before the network is loaded.
    check_ema(args.ema)
    check_asked(args.runtime, args.precision, args.device)
    ending_of(args.out)
    if args.rate is not None:
        check_rate(args.rate)
    interval = (args.guide_from, args.guide_to)
    sampler = Sampler(nfe, args.seed, method, times, args.guidance, interval)
    check_plan(sampler.grid, method)
    data = data_record(args.run)
    prompts = _prompts(args.prompt, args.labels, args.count, data)
    classes = len(set(prompts)) if prompts else data["num_classes"]
    if args.labels is not None and classes == 0:
        raise UserError(f"--labels {args.labels}: this model has no classes, leave it out", status=2)
    columns = classes if args.labels in (None, "balanced") and 1 < classes <= 20 else None
    check_draw(data, args.out, args.count, columns=columns, rate=args.rate)
    vocabulary = Vocabulary.from_record(data.get("vocabulary"))
    if vocabulary and prompts:
        labels = vocabulary.encode(prompts)
    else:
        labels = choose_labels(args.labels or "balanced", args.count, classes, args.seed, data["class_names"])

    generator = load(args.run, device=args.device, ema=args.ema, vae=args.vae)
    if args.runtime or args.precision:
        calls = sampler.evaluations * math.ceil(args.count / CHUNK)
        generator = run_in(generator, args.runtime, args.precision, calls=calls)
        log.info("drawn by %s", generator.runtime)
    with _ended_in_order():
        draw_into(
            generator,
            labels,
            args.out,
            sampler,
            prompts=prompts,
            columns=columns,
            rate=8.0 if args.rate is None else args.rate,
        )
    print(args.out)


def _prompts(given: list[str] | None, labels: str | None, count: int, data: Mapping[str, Any]) -> list[str]:
    """Return a prompt for each sample, of those given in turn, or of the examples that the run keeps; none where
    the model reads none.

    Raises:
        UserError: prompts for a model that is told classes or nothing, or labels for one that is told in words.
    """
    words = data.get("vocabulary")
    if given and not words:
        told = (
            f"is told one of {data['num_classes']} classes, by --labels"
            if data["num_classes"]
            else "is told nothing"
        )
        raise UserError(f"--prompt {given[0]!r}: this model reads no words, it {told}", status=2)
    if not words:
        return []
    if labels is not None:
        raise UserError(
            f'--labels {labels}: this model is told in words: give --prompt "{words["examples"][0]}"', status=2
        )
    turn = given or words["examples"]
    return [turn[k % len(turn)] for k in range(count)]


def _parser() -> Parser:
    """Build the parser of the command's words."""
    parser = Parser(prog="alphaflow sample", description="Generate with a trained run.")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument(
        "--out",
        required=True,
        help="FILE.npz, GRID.png, or FOLDER/ for single PNGs; of videos also FILE.gif and FILE.mp4",
    )
    parser.add_argument("--count", type=int, default=64, help="how many (64)")
    parser.add_argument(
        "--labels", help="balanced (the default), random, or classes to go round in: 0,1 or cat,dog"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="WORDS",
        help="what to draw, for a model that reads words; of several in turn",
    )
    parser.add_argument("--nfe", type=int, help="network evaluations (1)")
    parser.add_argument("--guidance", type=float, default=1.0, help="its scale (1: none)")
    parser.add_argument(
        "--guide-from",
        type=float,
        default=0.0,
        metavar="T",
        help="guide from this t on, if trained with intervals (0)",
    )
    parser.add_argument("--guide-to", type=float, default=1.0, metavar="T", help="and up to this one (1)")
    parser.add_argument("--rate", type=float, help="of videos, frames a second (8)")
    parser.add_argument("--vae", help="of a run on latents: where the autoencoder is, if not where it was")
    add_sampler_options(parser)
    add_runtime_options(parser)
    return parser


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the process within the block as an error would, so that nothing half-written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def add_sampler_options(parser: Parser) -> None:
    """Add the options that every sampling command shares."""
    parser.add_argument(
        "--method", default="ode", help="ode, consistency, euler, heun; or one for each interval: heun,ode"
    )
    parser.add_argument("--times", help="a grid of times instead of --nfe: 1,.5,0")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument(
        "--ema",
        type=share_of_run,
        metavar="STD",
        help="weights averaged over this share of the run, from those it stored",
    )
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")


def method_of(words: str) -> str | list[str]:
    """Read a method: `ode` as it is, `heun,ode` as a list."""
    return words.split(",") if "," in words else words


def times_of(words: str | None) -> list[float] | None:
    """Read a time grid: `1,.5,0` as numbers.

    Raises:
        UserError: the words are no numbers, do not fall, or do not go from noise (1) to data (0).
    """
    if words is None:
        return None
    try:
        times = [float(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"--times {words!r}: give falling numbers like 1,.5,0", status=2) from None
    if len(times) < 2 or not all(t > s for t, s in pairwise(times)):
        raise UserError(f"--times {words!r} must fall, as in 1,.5,0", status=2)
    if times[-1] != 0:
        raise UserError(
            f"--times {words!r} must end at 0, where the data are: what is before it is half noise", status=2
        )
    if times[0] != 1:
        raise UserError(f"--times {words!r} must begin at 1, where noise is", status=2)
    return times


def check_ema(share: float | None) -> None:
    """Raise `UserError` for a share of a run that no average has."""
    from ..models.ema import gamma_of

    try:
        if share is not None:
            gamma_of(share)
    except ValueError as error:
        raise UserError(f"--ema: {error}", status=2) from None


def check_plan(times: Sequence[float], method: str | list[str]) -> None:
    """Raise `UserError` for methods that are unargs, or not one for each interval."""
    from ..method.sampling import plan

    try:
        plan(times, method)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--method: {error}", status=2) from None
