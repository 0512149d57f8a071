"""How good are one-step digits? Used by the examples on digits."""

from pathlib import Path

import torch

import alphaflow as af
from alphaflow.data import Digits
from alphaflow.generation.pictures import image_grid
from alphaflow.metrics import frechet_from_features, load_digits_detector
from alphaflow.path import Network
from alphaflow.pixels import to_uint8


def judge(net: Network, out: Path | None) -> tuple[float, float]:
    """Draw 1,000 digits, one evaluation each, and write the first hundred to `out`, a class a column.

    Returns:
        The share that a classifier takes for the class that was asked for, and the Fréchet distance to the real
        digits in the classifier's features: near 4 for the blurred class means that flow matching gives at one
        evaluation, 0.3 for the recipe `digits` after a third of its steps.
    """
    labels = torch.arange(1000) % 10
    noise = torch.randn(1000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = to_uint8(af.sample(net, noise, labels))
    if out is not None:
        image_grid(images[:100], columns=10).save(out)
    digits = Digits()
    detector = load_digits_detector()
    seen = detector(images)
    real = detector(to_uint8(digits.batch(torch.arange(len(digits)))[0]))
    accuracy = (seen.logits.argmax(1) == labels).double().mean().item()
    distance = frechet_from_features(seen.features, real.features)
    print(f"one-step digits: accuracy {accuracy:.2f}, Fréchet distance {distance:.2f}")
    return accuracy, distance
