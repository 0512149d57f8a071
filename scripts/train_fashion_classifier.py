"""Train the classifier of Fashion-MNIST whose features the Fréchet distance of the `fashion` recipe compares.

    python scripts/train_fashion_classifier.py [OUTPUT]

Trains on the 60,000 training images, prints the accuracy on the 10,000 test images, and writes the weights to
OUTPUT (by default the package's asset). About ten minutes on one CPU core; one thread and fixed seeds, so that a
machine of the same kind gives the same weights.
"""

import hashlib
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from alphaflow.data import Fashion
from alphaflow.metrics.detectors.fashion import FASHION_ASSET, FashionClassifier

ASSETS = Path(__file__).parent.parent / "src" / "alphaflow" / "assets"
EPOCHS, BATCH_SIZE, SHIFT = 15, 128, 2
LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING, FEATURE_DECAY = 2e-3, 0.05, 0.05, 0.1


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, shift all by up to two pixels, and add noise of up to 0.1."""
    x = torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
    windows = F.pad(x, [SHIFT] * 4, value=-1.0).unfold(2, 28, 1).unfold(3, 28, 1)  # (N, 1, 5, 5, 28, 28)
    row, column = torch.randint(2 * SHIFT + 1, (2, len(x)), generator=generator)
    x = windows[torch.arange(len(x)), :, row, column]
    level = 0.1 * torch.rand(len(x), 1, 1, 1, generator=generator)
    return x + level * torch.randn(x.shape, generator=generator)


def train(data: Fashion, seed: int) -> FashionClassifier:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = FashionClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = len(data) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(data), generator=generator).split(BATCH_SIZE)[:steps]:
            x, y = data.batch(rows)
            features, logits = model(augment(x, generator))
            loss = F.cross_entropy(logits, y, label_smoothing=LABEL_SMOOTHING)
            loss = loss + FEATURE_DECAY * features.square().mean()  # keeps the tanh from saturating
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return model.eval()


@torch.inference_mode()
def accuracy(model: FashionClassifier, data: Fashion) -> float:
    parts = torch.arange(len(data)).split(1000)
    return sum((model(x)[1].argmax(1) == y).sum().item() for x, y in map(data.batch, parts)) / len(data)


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS / FASHION_ASSET
    start = time.perf_counter()
    data = Fashion()
    model = train(data, seed=0)
    held_out = accuracy(model, Fashion(part="test"))
    print(f"accuracy {held_out:.4f} on the test images, {accuracy(model, data):.4f} on its own")
    save_file(model.state_dict(), output)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    print(f"{output}: {output.stat().st_size} bytes, sha256 {digest}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
