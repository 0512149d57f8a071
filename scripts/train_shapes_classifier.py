"""Train the classifier of drawn shapes, which judges whether pictures of `shapes` are what words ask for.

    python scripts/train_shapes_classifier.py [OUTPUT]

Trains on pictures of all pairs of colour and shape, drawn anew for each step; prints the share of attributes named
rightly on 4,096 others, and writes the weights to OUTPUT (by default the package's asset). A few minutes on one
CPU core; one thread and fixed seeds, so that a machine of the same kind gives the same weights.
"""

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from alphaflow.data.shapes import NO_OBJECT, Scenes, draw_pictures, draw_scenes
from alphaflow.metrics.detectors.shapes import (
    KINDS,
    QUARTERS,
    SHAPES_ASSET,
    ShapesClassifier,
    attributes_right,
)
from alphaflow.pixels import scale_pixels

ASSETS = Path(__file__).parent.parent / "src" / "alphaflow" / "assets"
STEPS, BATCH_SIZE, LEARNING_RATE, FEATURE_DECAY = 700, 64, 3e-3, 0.1


def batch(count: int, random: np.random.Generator) -> tuple[Tensor, Scenes]:
    """Pictures of pairs that training keeps out and of others, in equal parts, in [-1, 1]."""
    halves = [draw_scenes(count // 2, random, unseen=unseen, anywhere=True) for unseen in (False, True)]
    scenes = Scenes(*(np.concatenate([getattr(half, name) for half in halves]) for name in ("objects", "told")))
    return scale_pixels(torch.from_numpy(draw_pictures(scenes, random))), scenes


def spoil(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur each picture by up to a pixel, change its contrast by a tenth, and add noise of up to 0.15."""

    def share() -> Tensor:
        return torch.rand(len(x), 1, 1, 1, generator=generator)

    blurred = F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, share().square())
    x = x * (1 + 0.2 * (share() - 0.5)) + 0.1 * (share() - 0.5)
    return x + 0.15 * share() * torch.randn(x.shape, generator=generator)


def targets(scenes: Scenes) -> Tensor:
    """Colour, shape and size of each quarter, int64 (N, 4, 3); -1 where there is nothing."""
    found = np.full((len(scenes), QUARTERS, 3), NO_OBJECT)
    for one in scenes.objects.swapaxes(0, 1):
        there = np.nonzero(one[:, 0] != NO_OBJECT)[0]
        found[there, one[there, 3]] = one[there, :3]
    return torch.from_numpy(found)


def train(seed: int) -> ShapesClassifier:
    torch.manual_seed(seed)
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    model = ShapesClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
    for step in range(STEPS):
        x, scenes = batch(BATCH_SIZE, random)
        right = targets(scenes)
        features, logits = model(spoil(x, generator))
        parts = logits.reshape(-1, QUARTERS, sum(KINDS)).split(KINDS, dim=2)
        loss = F.binary_cross_entropy_with_logits(parts[3][..., 0], (right[..., 0] != NO_OBJECT).float())
        for kind, part in enumerate(parts[:3]):
            loss = loss + F.cross_entropy(part.flatten(0, 1), right[..., kind].flatten(), ignore_index=NO_OBJECT)
        loss = loss + FEATURE_DECAY * features.square().mean()  # keeps the tanh from saturating
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1} of {STEPS}: loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return model.eval()


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS / SHAPES_ASSET
    start = time.process_time()
    model = train(seed=0)
    x, scenes = batch(4096, np.random.default_rng(1))
    with torch.inference_mode():
        right = attributes_right(model(x)[1], scenes)
    print(f"{right.nanmean():.5f} of all attributes are named rightly, by kind {right.nanmean((0, 1)).tolist()}")
    save_file(model.state_dict(), output)
    took = time.process_time() - start
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    print(f"{output}: {output.stat().st_size} bytes, sha256 {digest}, {took:.0f} CPU seconds")


if __name__ == "__main__":
    main()
