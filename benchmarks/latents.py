"""Latents: how quickly they are read and drawn, whether memory stays flat, what encoding adds to the autoencoder.

python benchmarks/latents.py                 # writes benchmarks/results/latents.json; needs 2 GB of disk
python benchmarks/latents.py --encode        # also the overhead of encoding, with an autoencoder of SD's size
python benchmarks/latents.py --encode --autoencoder AutoencoderTiny --size 256      # or AutoencoderDC
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, machine
from PIL import Image

from alphaflow.data import Batches, Latents
from alphaflow.data.latents.assembly import assemble
from alphaflow.data.latents.manifest import Fingerprint
from alphaflow.data.latents.shards import shard_name, write_shard
from alphaflow.data.sources import open_source
from alphaflow.devices import keep_freed_memory
from alphaflow.encoding import EncodingSettings, encode
from alphaflow.encoding.encode import versions
from alphaflow.encoding.plan import plan_for
from alphaflow.encoding.vae import load_vae
from alphaflow.pixels import scale_pixels

ABOUT = Fingerprint(
    vae="unknown",
    vae_name="",
    scale="statistics",
    shift=0.0,
    crop="lanczos",
    size=256,
    flips="none",
    precision="fp32",
    source="",
    address="random numbers",
    class_names=tuple(map(str, range(1000))),
    count=0,
    code="",
)
PER_SHARD = 8192


def make_set(root: Path, gigabytes: float) -> Latents:
    """Random moments 8 × 32 × 32 in float16."""
    rng, files = np.random.default_rng(0), []
    block = rng.standard_normal((256, 1, 8, 32, 32)).astype(np.float16)
    moments = np.concatenate([block] * (PER_SHARD // 256))
    for number in range(round(gigabytes * 1e9 / moments.nbytes)):
        files.append(shard_name(number))
        labels = rng.integers(0, 1000, PER_SHARD)
        span = {"first": number * PER_SHARD, "stop": (number + 1) * PER_SHARD}
        write_shard(root / files[-1], moments, labels, variance=True, **span)
    assemble(root, files, ABOUT, variance=True)
    return Latents(root)


def memory() -> dict[str, float]:
    """Megabytes of this process: of its own, and of files mapped into it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {key: int(value) / 1024 for key, value in values.items()}


def epoch(data: Latents, batch: int, threads: int) -> dict[str, object]:
    """One whole epoch, a batch at a time, as training asks for it."""
    torch.set_num_threads(threads)
    batches = Batches(data, batch, 0)
    batches(0)
    before, peak, start, speeds = memory(), memory(), time.perf_counter(), []
    steps = len(data) // batch
    for step in range(steps):
        batches(step)
        if step % 64 == 63:
            now = time.perf_counter()
            speeds.append(64 * batch / (now - start))
            start = now
            peak = {key: max(value, peak[key]) for key, value in memory().items()}
    return {
        "threads": threads,
        "batch": batch,
        "latents": steps * batch,
        "latents_per_second": statistics.median(speeds),
        "slowest": min(speeds),
        "resident_before_mb": before,
        "resident_peak_mb": peak,
    }


SIZED: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
    },
    "AutoencoderTiny": {},  # TAESD
    "AutoencoderDC": {  # f32c32, as Sana's
        "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    },
}
"""Settings of autoencoders at their published sizes."""


def overhead(folder: Path, kind: str, size: int, count: int, turns: int, device: str) -> dict[str, Any]:
    """Time of encoding beside that of the network's forward pass alone, on images that lie ready for it."""
    import diffusers

    torch.manual_seed(0)
    getattr(diffusers, kind)(**SIZED[kind]).save_pretrained(folder / "vae")
    rng = np.random.default_rng(0)
    for k in range(count):
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        rough = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(rough).resize((500, 400), Image.Resampling.BICUBIC).save(folder / f"photos/{k:03d}.jpg")
    vae, source = load_vae(str(folder / "vae"), device), open_source(str(folder / "photos"))
    settings = EncodingSettings(size=size, flips="none")
    plan = plan_for(source, vae, settings)
    images = rng.integers(0, 256, (8, 3, size, size), np.uint8)
    pixels = scale_pixels(torch.from_numpy(images)).to(device)
    versions(vae, plan, images, list(range(8)))
    alone, whole = [], []
    for turn in range(turns):  # in turn, so that a slow moment of the machine hits both alike
        start = clocks()
        with torch.inference_mode():
            for _ in range(0, count, 8):
                vae.net.encode(pixels)
        if device == "cuda":
            torch.cuda.synchronize()
        alone.append([end - begin for begin, end in zip(start, clocks())])
        start = clocks()
        encode(source, folder / f"set-{turn}", vae, settings, batch_size=8)
        whole.append([end - begin for begin, end in zip(start, clocks())])
    return {
        "autoencoder": kind,
        "device": device,
        "images": count,
        "size": size,
        **{
            f"{name}": {
                "forward_seconds": statistics.median(turn[k] for turn in alone),
                "encode_seconds": statistics.median(turn[k] for turn in whole),
                "overhead": statistics.median(w[k] / a[k] for w, a in zip(whole, alone)) - 1,
            }
            for k, name in enumerate(("wall", "processor, all threads", "processor, the thread that encodes"))
        },
    }


def clocks() -> tuple[float, float, float]:
    """Seconds by the clock, of the processor by all threads, and by this one.

    On a shared machine the first says little; the last is what is left where decoding has another core.
    """
    return time.perf_counter(), time.process_time(), time.thread_time()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--encode", action="store_true")
    parser.add_argument("--autoencoder", choices=tuple(SIZED), default="AutoencoderKL")
    parser.add_argument("--images", type=int, default=32, help="how many are encoded")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128, help="of the images that are encoded")
    known = parser.parse_args()
    path = RESULTS / "latents.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    record["machine"] = machine()
    keep_freed_memory()  # as training does
    with tempfile.TemporaryDirectory() as folder:
        if known.encode:
            name = "encode" if known.autoencoder == "AutoencoderKL" else f"encode {known.autoencoder}"
            record[name] = overhead(
                Path(folder), known.autoencoder, known.size, known.images, known.turns, known.device
            )
        else:
            data = make_set(Path(folder), known.gigabytes)
            counts = sorted({1, os.cpu_count() or 1})
            record["loader"] = [epoch(data, known.batch, threads) for threads in counts]
    print(json.dumps(record, indent=1))
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
