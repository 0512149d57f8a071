"""Capital letters in the fonts that come with matplotlib: 26 classes, 16 × 16, harder than the digits.

Each letter of each font is drawn large, turned, stretched and moved at random, and reduced by area. The same seed
gives the same pictures on any machine with the same Pillow and matplotlib.
"""

import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIDE, LARGE = 16, 96
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)


def draw(copies: int = 20, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 16, 16, 1), white on black, and labels (N,); N = 26 · 21 fonts · copies."""
    rng = np.random.default_rng(seed)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    images, labels = [], []
    for name in FONTS:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 64)
        for label, letter in enumerate(LETTERS):
            plain = Image.new("L", (LARGE, LARGE))
            ImageDraw.Draw(plain).text((LARGE / 2, LARGE / 2), letter, fill=255, font=font, anchor="mm")
            for _ in range(copies):
                images.append(_moved(plain, rng))
                labels.append(label)
    return np.stack(images)[..., None], np.array(labels)


def _moved(plain: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turned by up to 8°, stretched by up to 10 %, moved by up to a pixel."""
    angle = math.radians(8) * rng.uniform(-1, 1)
    wide, tall = 1 + 0.1 * rng.uniform(-1, 1, 2)
    dx, dy = LARGE / SIDE * rng.uniform(-1, 1, 2)
    cos, sin, middle = math.cos(angle), math.sin(angle), LARGE / 2
    rows = [(wide * cos, -tall * sin, dx), (wide * sin, tall * cos, dy)]
    matrix = [value for a, b, shift in rows for value in (a, b, middle - (a + b) * middle + shift)]
    turned = plain.transform((LARGE, LARGE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BOX))


class Classifier(nn.Module):
    """Features (N, 64), tanh units, and logits (N, 26) of images (N, 1, 16, 16) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1, stride=2), nn.GELU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.GELU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.GELU(), nn.Flatten()),
            *(nn.Linear(64 * 16, 64), nn.Tanh()),
        )
        self.head = nn.Linear(64, len(LETTERS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(images)
        return features, self.head(features)


def train_classifier(x: Tensor, y: Tensor, steps: int = 1500) -> Classifier:
    """On x (N, 1, 16, 16) and y (N,), with noise added so that it judges blurred samples soberly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier()
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
        for _ in range(steps):
            rows = torch.randint(len(x), (128,))
            noisy = x[rows] + 0.2 * torch.rand(128, 1, 1, 1) * torch.randn(128, *x.shape[1:])
            features, logits = model(noisy)
            loss = F.cross_entropy(logits, y[rows], label_smoothing=0.05) + 0.1 * features.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)
