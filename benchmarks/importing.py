"""What importing a released checkpoint of DiT-XL/2 costs: seconds, and memory as a multiple of the file's size.

python benchmarks/importing.py                 # writes benchmarks/results/importing.json
python benchmarks/importing.py --model S/2     # a quick look at the script itself; writes nothing

The checkpoints are made here, of random weights in the layout of α-Flow's release: one with `net` and `ema`, as
released, and one with `ema` alone. The memory is the largest resident set of the importing process, with the
mapped pages of the file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import RESULTS, machine
from torch import Tensor

import alphaflow as af

THEIRS = {"t_embedder": "noise_labels_embedder", "d_embedder": "noise_labels_next_embedder"}

CHILD = """
import sys
from alphaflow.cli import run
status = run(sys.argv[1:])
print(open("/proc/self/status").read())
sys.exit(status)
"""


def released(net: af.models.DiT) -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of the release."""
    state = {}
    for name, weight in net.state_dict().items():
        first, _, rest = name.partition(".")
        size = (net.config["width"], 4, net.patch, net.patch) if name == "x_embedder.proj.weight" else weight.shape
        state[f"model.{THEIRS.get(first, first)}.{rest}"] = 0.02 * torch.randn(size)
    state["model.pos_embed"] = net.pos_embed[None]
    mean = torch.zeros(1, 4, 32, 32, dtype=torch.float64)
    return state | {"autoencoder_mean": mean, "autoencoder_var": mean + 1}


def measure(file: Path, out: Path) -> tuple[float, int]:
    """Seconds and bytes of `alphaflow import`, in a process of its own, which says itself what it took at most:
    the system's answer about a child includes its parent's memory."""
    start = time.perf_counter()
    words = [sys.executable, "-c", CHILD, "import", str(file), str(out)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - start
    return seconds, int(next(line for line in said.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="XL/2")
    known = parser.parse_args()
    with torch.device("meta"):
        net = af.models.dit(known.model, input_size=32, channels=4, num_classes=1000)
    net.place_positions("cpu")
    record: dict[str, object] = {"machine": machine(), "model": known.model}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as name:
        for kinds in (("net", "ema"), ("ema",)):
            file = Path(name) / "snapshot.pt"
            torch.save({kind: released(net) for kind in kinds} | {"cfg": {}}, file)
            seconds, memory = measure(file, Path(name) / "-".join(kinds))
            size = file.stat().st_size
            print(
                f"{' and '.join(kinds)}: {size / 1e9:.2f} GB in {seconds:.1f} s, memory {memory / size:.2f} of it"
            )
            record["-".join(kinds)] = {"bytes": size, "seconds": seconds, "memory": memory, "ratio": memory / size}
    if known.model == "XL/2":
        (RESULTS / "importing.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
