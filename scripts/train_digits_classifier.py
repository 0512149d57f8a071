"""Train the digits classifier whose features the digits' Fréchet distance compares.

    python scripts/train_digits_classifier.py [OUTPUT]

Prints the held-out accuracy of a classifier trained on a stratified 80 % of the digits, then trains the shipped
one on all of them and writes it to OUTPUT (by default the package's asset). Under a minute on one CPU core; one
thread and fixed seeds, so that a machine of the same kind gives the same weights.
"""

import hashlib
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from alphaflow.data import Digits, from_uint8, to_uint8
from alphaflow.metrics.detectors.base import DIGITS_ASSET, DigitsClassifier

ASSETS = Path(__file__).parent.parent / "src" / "alphaflow" / "assets"
EPOCHS, BATCH_SIZE = 80, 128
LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING, FEATURE_DECAY = 2e-3, 0.05, 0.05, 0.1


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 10°, stretch by up to 10 %, shift by up to 0.8 pixels, add noise of up to 0.2."""
    angle, stretch_x, stretch_y, shift_x, shift_y, noise = (
        2 * torch.rand(6, len(x), generator=generator) - 1
    ).unbind()
    angle = angle * math.radians(10)
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack([cos * (1 + 0.1 * stretch_x), -sin, 0.2 * shift_x], dim=1)
    row_y = torch.stack([sin, cos * (1 + 0.1 * stretch_y), 0.2 * shift_y], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(x.shape), align_corners=False)
    moved = F.grid_sample(x + 1, grid, align_corners=False) - 1  # outside the image is -1, no ink
    return moved + 0.2 * noise[:, None, None, None] * torch.randn(x.shape, generator=generator)


def train(x: Tensor, y: Tensor, seed: int) -> DigitsClassifier:
    """Train on x (N, 1, 8, 8) in [-1, 1] and y (N,)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitsClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(x) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH_SIZE)[: len(x) // BATCH_SIZE]:
            features, logits = model(augment(x[rows], generator))
            loss = F.cross_entropy(logits, y[rows], label_smoothing=LABEL_SMOOTHING)
            loss = loss + FEATURE_DECAY * features.square().mean()  # keeps the tanh from saturating
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: DigitsClassifier, x: Tensor, y: Tensor) -> float:
    return (model(x)[1].argmax(1) == y).double().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS / DIGITS_ASSET
    start = time.perf_counter()
    x, y = Digits().batch(torch.arange(len(Digits())))
    x = from_uint8(to_uint8(x))  # what the detector will see
    train_rows, test_rows = train_test_split(torch.arange(len(x)), test_size=0.2, stratify=y, random_state=0)
    held_out = accuracy(train(x[train_rows], y[train_rows], seed=0), x[test_rows], y[test_rows])
    print(f"held-out accuracy {held_out:.4f} ({len(test_rows)} digits)")
    model = train(x, y, seed=0)
    print(f"accuracy of the shipped weights on their own training digits {accuracy(model, x, y):.4f}")
    save_file(model.state_dict(), output)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    print(f"{output}: {output.stat().st_size} bytes, sha256 {digest}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
