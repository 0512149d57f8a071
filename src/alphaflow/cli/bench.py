"""`alphaflow bench`."""

import json
from pathlib import Path

from ..errors import UserError, choose
from . import Parser


def run(words: list[str]) -> None:
    """Time training steps and sampling; print a table, and write JSON where asked."""
    parser = Parser(prog="alphaflow bench", description="What a training step costs, beside flow matching.")
    parser.add_argument("--model", default="B/2", help="a DiT preset: S/2, B/4, XL/2 (B/2)")
    parser.add_argument("--size", type=int, default=32, help="pixels along a side of the input (32)")
    parser.add_argument("--channels", type=int, default=4, help="of the input (4)")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step (8)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--rounds", type=int, default=7, help="how often each variant is timed (7)")
    parser.add_argument("--shares", type=int, nargs="+", default=[25, 50, 100], help="percent of rows with r < t")
    parser.add_argument("--ways", nargs="+", help="of taking du/dt: fused forward reverse difference (all)")
    parser.add_argument("--compile", action="store_true", help="time compiled steps beside the eager ones")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    known = parser.parse_args(words)
    for name in ("size", "channels", "batch", "rounds"):
        if getattr(known, name) < 1:
            raise UserError(f"--{name} {getattr(known, name)} must be at least 1", status=2)
    if any(not 0 < share <= 100 for share in known.shares):
        raise UserError(f"--shares {known.shares}: give percentages in (0, 100]", status=2)

    import torch

    from ..bench import WAYS, Settings, bench, table
    from ..training.devices import choose_device

    for way in known.ways or ():
        choose("way of taking du/dt", way, WAYS, status=2)
    if known.threads:
        torch.set_num_threads(known.threads)
    settings = Settings(
        model=known.model,
        size=known.size,
        channels=known.channels,
        batch=known.batch,
        precision=known.precision,
        device=str(choose_device(known.device)),
        rounds=known.rounds,
        shares=tuple(known.shares),
        ways=tuple(known.ways or WAYS),
        compile=known.compile,
    )
    record = bench(settings)
    print(table(record))
    if known.json:
        try:
            known.json.write_text(json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {known.json} ({error.strerror}): choose another place") from None
