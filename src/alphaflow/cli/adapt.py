"""`alphaflow adapt`."""

from pathlib import Path

from . import Parser
from .words import count

ADAPTERS = ("zero", "gate", "split")


def run(words: list[str]) -> None:
    """Make a flow network of diffusers something to train into a flow map."""
    parser = Parser(
        prog="alphaflow adapt",
        description="Turn a flow network as it is, a local folder of diffusers (SD3, FLUX, SANA, Lumina 2, "
        "AuraFlow, Qwen-Image, LTX-Video, Wan), into a folder that train --init, sample and alphaflow.load open. "
        "No code in it is run, and no pickle read.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="the pipeline's folder, or its transformer's")
    parser.add_argument("out", metavar="DIR", type=Path, help="the folder to write")
    parser.add_argument(
        "--adapter",
        choices=ADAPTERS,
        default="zero",
        help="how it is told r: an embedding of t - r that begins at zero (the default), a quarter of a second "
        "embedding of r, or r in place of t in the later blocks",
    )
    parser.add_argument(
        "--lora",
        type=count(1, 4096),
        metavar="RANK",
        help="train low-rank matrices, by peft; else all weights",
    )
    parser.add_argument(
        "--side", type=count(1, 4096), help="of a sample in latent pixels, where the network does not tell (64)"
    )
    known = parser.parse_args(words)

    from ..importing.adapt_flow import AdaptOptions, adapt_folder

    options = AdaptOptions(adapter=known.adapter, lora=known.lora or 0, side=known.side)
    record = adapt_folder(known.model, known.out, options)
    network, origin = record.network["settings"], record.origin
    trained = f"LoRA of rank {known.lora}, the adapter and the condition" if known.lora else "all weights"
    print(
        f"{known.out}: {network['class_name']}, told {origin['told']}, answering {origin['answers']}; adapter "
        f"{network['adapter']}; samples {' × '.join(map(str, network['shape']))}; to be trained: {trained}"
    )
    print(f"next: alphaflow train RECIPE --init {known.out} --out RUN")
