"""`alphaflow export`."""

from pathlib import Path

from ..errors import UserError
from ..export import FORMATS
from . import Parser
from .words import share_of_run


def run(words: list[str]) -> None:
    """Write a model in another format, and push it to the hub if asked to."""
    formats = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    parser = Parser(prog="alphaflow export", description=f"Hand a trained model on. {formats}.")
    parser.add_argument("run", type=Path, help="the folder of a run or a model; or hf://OWNER/NAME")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--format", default="safetensors", help=f"{', '.join(FORMATS)} (safetensors)")
    parser.add_argument(
        "--licence", default="", help="of the weights, for the model card: apache-2.0, cc-by-4.0, …"
    )
    parser.add_argument(
        "--ema",
        type=share_of_run,
        metavar="STD",
        help="weights averaged over this share of the run, from those it stored",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="onnx, program, web: the scale that a graph is told for good",
    )
    parser.add_argument("--int8", action="store_true", help="onnx: weights of eight bits; its error is told")
    parser.add_argument(
        "--method",
        default="ode",
        help="diffusers: what the scheduler does: ode, by diffusers' own; consistency or euler, by ours (ode)",
    )
    parser.add_argument("--vae", help="of a run on latents: where the autoencoder is, if not where it was")
    parser.add_argument(
        "--push", default="", metavar="OWNER/NAME", help="publish it on the Hugging Face hub as well"
    )
    parser.add_argument("--private", action="store_true", help="with --push: where nobody else sees it")
    known = parser.parse_args(words)
    if known.private and not known.push:
        raise UserError("--private goes with --push: nothing is published without it", status=2)

    from ..export import export

    options = {"ema": known.ema, "vae": known.vae, "licence": known.licence, "guidance": known.guidance}
    options |= {"int8": known.int8, "method": known.method}
    print(export(known.run, known.out, known.format, push=known.push, private=known.private, **options))
