"""A flow network of diffusers becomes a one-step generator: flow matching, adapting, α-Flow, on the digits.

    python benchmarks/adapting.py                       # writes benchmarks/results/adapting.json
    python benchmarks/adapting.py --steps 4 --tiny      # does it run at all? writes nothing

An SD3-shaped network is made with random weights and trained by flow matching: the teacher, which draws in many
steps. Exported into its own class and adapted again, by each adapter and with LoRA, it is trained into a flow
map for a third of its own steps; and so is a network that begins from scratch. Fréchet distances are those of
`alphaflow evaluate`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine

from alphaflow.cli import run

WAYS: dict[str, list[str]] = {
    "zero": ["--adapter", "zero"],
    "gate": ["--adapter", "gate"],
    "split": ["--adapter", "split"],
    "zero, LoRA 16": ["--adapter", "zero", "--lora", "16"],
}
FEW = "--checkpoint-every 100000 --sample-every 100000 --monitor.every 0".split()


def network(folder: Path, tiny: bool) -> int:
    """Write an SD3 with random weights, and return how many it has."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    heads = 2 if tiny else 4
    net = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=1,
        out_channels=1,
        num_layers=2 if tiny else 4,
        attention_head_dim=8 if tiny else 24,
        num_attention_heads=heads,
        joint_attention_dim=32,
        caption_projection_dim=heads * (8 if tiny else 24),
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )
    with torch.no_grad():
        for block in net.transformer_blocks:  # as SD3 began: no block says anything before it has learned
            for norm in (block.norm1, block.norm1_context):
                norm.linear.weight.zero_(), norm.linear.bias.zero_()
    net.save_pretrained(folder)
    return sum(weight.numel() for weight in net.parameters())


def train(init: Path, out: Path, steps: int, *words: str) -> float:
    """Train on the digits, and return the seconds that it took."""
    start = time.perf_counter()
    _alphaflow("train", "digits", "--init", init, "--out", out, "--steps", steps, *FEW, *words)
    return time.perf_counter() - start


def frechet(trained: Path, *nfe: int, count: int) -> dict[str, Any]:
    """The figures of `alphaflow evaluate` at each number of evaluations."""
    _alphaflow("evaluate", trained, "--nfe", *nfe, "--count", count)
    results = json.loads((trained / "evaluation.json").read_text())["results"]
    return {str(result["nfe"]): result["figures"] for result in results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="of flow matching (1600); a third of them each that follows")
    parser.add_argument("--tiny", action="store_true", help="a network of a few thousand weights")
    known = parser.parse_args()
    steps, count = known.steps or 1600, 64 if known.tiny else 1797
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        weights = network(here / "random", known.tiny)
        print(f"{weights:,} weights", flush=True)
        _alphaflow("adapt", here / "random", here / "plain")
        fm = ["--objective.name", "fm", "--optimizer.lr", "1e-3"]
        seconds = train(here / "plain", here / "fm", steps, *fm)
        rows["flow matching"] = {"seconds": seconds, "figures": frechet(here / "fm", 1, 2, 32, count=count)}
        _alphaflow("export", here / "fm", here / "teacher", "--format", "diffusers")
        for name, words in {"from scratch": ["--adapter", "zero"], **WAYS}.items():
            source = here / "random" if name == "from scratch" else here / "teacher"
            start = here / f"start {name}"
            _alphaflow("adapt", source, start, *words)
            seconds = train(start, here / name, max(1, steps // 3), "--optimizer.lr", "1e-3")
            rows[name] = {"seconds": seconds, "figures": frechet(here / name, 1, 2, count=count)}
            print(name, json.dumps(rows[name]), flush=True)
    if known.steps is None and not known.tiny:
        result = {"machine": machine(), "weights": weights, "steps": steps, "count": count, "rows": rows}
        (RESULTS / "adapting.json").write_text(json.dumps(result, indent=1) + "\n")


def _alphaflow(*words: object) -> None:
    if status := run([*map(str, words)]):
        sys.exit(status)


if __name__ == "__main__":
    main()
