"""`alphaflow demo`."""

import sys
from pathlib import Path

from ..errors import UserError
from ..runtimes import check_asked
from . import Parser
from .words import add_runtime_options


def run(words: list[str]) -> None:
    """Show a model, or two side by side, on a page of this machine."""
    parser = Parser(
        prog="alphaflow demo",
        description="Show a model on a page: class, seed, steps, sampler. Ends with Ctrl-C.",
    )
    parser.add_argument("run", type=Path, help="the folder of a run, or of an exported or imported model")
    parser.add_argument("other", type=Path, nargs="?", help="another with the same classes, to show beside it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="to listen at (7860); 0: any that is free")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--vae", help="of runs on latents: where the autoencoder is, if not where it was")
    add_runtime_options(parser)
    known = parser.parse_args(words)
    if not 0 <= known.port < 65536:
        raise UserError(f"--port {known.port} must lie between 0 and 65535", status=2)

    check_asked(known.runtime, known.precision, known.device)
    from ..demo.server import serve
    from ..demo.service import Service, open_model

    paths = [known.run, *([known.other] if known.other else [])]
    service = Service(
        [open_model(path, known.device, known.vae, known.runtime, known.precision) for path in paths]
    )
    serve(service, known.host, known.port, tell=lambda words: print(words, file=sys.stdout, flush=True))
