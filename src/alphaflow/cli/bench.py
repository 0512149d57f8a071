"""`alphaflow bench`."""

import json
from pathlib import Path

from ..errors import UserError, choose
from ..runs.conditions import WAYS
from . import Parser
from .words import check_writable, count


def run(words: list[str]) -> None:
    """Time training steps and sampling; print a table, and write JSON where asked."""
    parser = Parser(prog="alphaflow bench", description="What a training step costs, beside flow matching.")
    parser.add_argument("--model", default="B/2", help="a DiT preset: S/2, B/4, XL/2 (B/2)")
    parser.add_argument("--size", type=count(1, 4096), default=32, help="pixels along a side of the input (32)")
    parser.add_argument("--channels", type=count(1, 4096), default=4, help="of the input (4)")
    parser.add_argument("--batch", type=count(1, 2**20), default=8, help="rows of a step (8)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--rounds", type=count(1, 10**6), default=7, help="how often each variant is timed (7)")
    share = count(1, 100)
    parser.add_argument(
        "--shares", type=share, nargs="+", default=[25, 50, 100], help="percentages of rows with r < t"
    )
    parser.add_argument("--ways", nargs="+", help="of taking du/dt: fused forward reverse difference (all)")
    parser.add_argument("--compile", action="store_true", help="time compiled steps beside the eager ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    known = parser.parse_args(words)
    for way in known.ways or ():
        choose("way of taking du/dt", way, [one for one in WAYS if one != "auto"], status=2)
    _check_model(known.model, known.size)
    check_writable("--json", known.json)

    from ..costs import bench
    from ..devices import choose_device

    settings = bench.BenchSettings(
        model=known.model,
        size=known.size,
        channels=known.channels,
        batch=known.batch,
        precision=known.precision,
        device=str(choose_device(known.device)),
        rounds=known.rounds,
        shares=tuple(known.shares),
        ways=tuple(known.ways or bench.WAYS),
        compile=known.compile,
    )
    record = bench.bench(settings)
    print(bench.table(record))
    if known.json:
        try:
            known.json.write_text(json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {known.json} ({error.strerror}): choose another place") from None


def _check_model(model: str, size: int) -> None:
    """Refuse a preset whose patches do not fit; whether there is such a size is the network's to say."""
    patch = model.partition("/")[2]
    if patch.isdecimal() and (int(patch) == 0 or size % int(patch)):
        raise UserError(f"--size {size} cannot be cut into the patches of --model {model}: change one", status=2)
