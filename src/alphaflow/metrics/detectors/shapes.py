"""The classifier of drawn shapes that comes with the package, and what it says of captions.

Of 4,096 pictures that it was not trained on it names all attributes rightly. That and the shipped weights
are what

    python scripts/train_shapes_classifier.py

printed and wrote on 2026-11-28 on a machine with 2 CPU cores, in 83 seconds of one of them.
"""

import torch
from torch import Tensor, nn

from alphaflow.data.shapes import COLOURS, NO_OBJECT, SHAPES, SIDE, SIZES, Scenes
from alphaflow.metrics.detectors.base import Detector, checked_asset

SHAPES_ASSET = "shapes_classifier.safetensors"
SHAPES_SHA256 = "7fa8acd4028c379421933a2cc6ef14fbc0114cb8e89ca4e99406b4b474b07ba4"
QUARTERS, FEATURES = 4, 24
KINDS = (len(COLOURS), len(SHAPES), len(SIZES), 1)
"""Logits of a quarter: its object's colour, shape and size, and whether there is one."""


class ShapesClassifier(nn.Module):
    """A small convolutional network that sees the four quarters of a 32x32 colour picture one by one.

    Features (N, 96) are 24 tanh units of each quarter; logits (N, 52) 13 of each quarter, see `KINDS`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(24, 32, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Conv2d(32, 48, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(48 * 16, FEATURES),
            nn.Tanh(),
        )
        self.head = nn.Linear(FEATURES, sum(KINDS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 96) and logits (N, 52) of images (N, 3, 32, 32) in [-1, 1]."""
        half = SIDE // 2
        quarters = images.unflatten(3, (2, half)).unflatten(2, (2, half)).permute(0, 2, 4, 1, 3, 5)
        features = self.stem(quarters.reshape(-1, images.shape[1], half, half))
        logits = self.head(features)
        return features.reshape(len(images), -1), logits.reshape(len(images), -1)


def load_shapes_detector(device: torch.device | str = "cpu") -> Detector:
    """Read the classifier of drawn shapes that comes with the package.

    Raises:
        UserError: the file is missing or its hash is not the one recorded here.
    """
    from safetensors.torch import load

    network = ShapesClassifier()
    network.load_state_dict(load(checked_asset(SHAPES_ASSET, SHAPES_SHA256)))
    network.eval().requires_grad_(False).to(device)
    return Detector(
        name="shapes-cnn",
        sha256=SHAPES_SHA256,
        image_shape=(SIDE, SIDE, 3),
        network=network,
        device=device,
        classes="attributes",
    )


def attributes_right(logits: Tensor, scenes: Scenes) -> Tensor:
    """Say which attributes of each object are as its scene has them, where the caption tells them.

    The objects of a picture are those of as many quarters as the scene has objects, where the classifier is surest
    of one; the first is the one that comes first, row by row. An object has its place where it lies in the quarter
    that the scene says, or two of them lie to each other as the scene says, and no other quarter holds anything.

    Args:
        logits: (N, 52), of `ShapesClassifier`.
        scenes: N of them.

    Returns:
        (N, 2, 4) float64, 1 or 0 for each of `ATTRIBUTES`; NaN for what is not told, or not there.
    """
    parts = logits.reshape(-1, QUARTERS, sum(KINDS)).split(KINDS, dim=2)
    found = torch.stack([part.argmax(2) for part in parts[:3]], dim=2)  # (N, 4, 3)
    presence = parts[3][..., 0]
    objects, told = torch.from_numpy(scenes.objects), torch.from_numpy(scenes.told)
    there = objects[..., 0] != NO_OBJECT
    surest = presence.argsort(1, descending=True)
    one, two = surest[:, 0], surest[:, :2].sort(1).values
    quarters = torch.where(there[:, 1:], two, torch.stack([one, one], 1))  # (N, 2)
    seen = found.gather(1, quarters[..., None].expand(-1, -1, 3))
    right = torch.empty(*objects.shape, dtype=torch.float64)
    right[..., :3] = (seen == objects[..., :3]).double()
    crowd = (presence > 0).sum(1) == there.sum(1)
    placed = quarters == objects[..., 3]
    upright, ours = objects[:, 1, 3] - objects[:, 0, 3] == 2, quarters[:, 1] - quarters[:, 0]
    related = torch.where(upright, ours == 2, (ours == 1) & (quarters[:, 0] % 2 == 0))
    placed = torch.where(there[:, 1:], related[:, None], placed)
    right[..., 3] = (placed & crowd[:, None]).double()
    return right.where(told[:, None] & there[..., None], torch.nan)
