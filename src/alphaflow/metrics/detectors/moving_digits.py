"""The digits classifier for videos of moving digits: which digit, how steady, and where it goes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.metrics.detectors.base import Detector, DigitsClassifier, load_digits_detector

DIGIT = 8


class MovingDigitsNetwork(nn.Module):
    """Finds the digit in each frame and shows it to a classifier of single ones.

    The features of a video are the classifier's, meaned over the frames, what they change by from frame to frame
    (root mean square), and the centre of the ink in each frame, from -1 to 1: a Fréchet distance over them sees
    wrong digits, digits that do not last, and wrong motion.
    """

    def __init__(self, classifier: DigitsClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 65 + 2 T) and class logits (N, 10) of videos (N, 1, T, H, W) in [-1, 1]."""
        N, _, T, H, W = videos.shape
        frames = videos.reshape(N * T, 1, H, W)
        centres = ink_centres(frames)
        features = self.classifier.features(find_digits(frames, centres))
        logits = self.classifier.logits(features).view(N, T, -1).mean(1)
        features = features.view(N, T, -1)
        change = features.diff(dim=1).square().mean((1, 2)).sqrt() if T > 1 else features.new_zeros(N)
        places = centres * 2 / torch.tensor([H - 1, W - 1]) - 1
        return torch.cat([features.mean(1), change[:, None], places.view(N, 2 * T)], dim=1), logits


def ink_centres(frames: Tensor) -> Tensor:
    """Return row and column of the centre of the ink, (N, 2), of frames (N, 1, H, W); an empty frame's is its
    middle."""
    ink = (frames[:, 0] + 1).clamp(min=0) + 1e-6
    total = ink.sum((1, 2))
    rows = (ink.sum(2) * torch.arange(ink.shape[1])).sum(1) / total
    columns = (ink.sum(1) * torch.arange(ink.shape[2])).sum(1) / total
    return torch.stack([rows, columns], dim=1)


def find_digits(frames: Tensor, centres: Tensor) -> Tensor:
    """Return the 8 × 8 window with the most ink, (N, 1, 8, 8); among equal ones, that nearest to the ink's
    centre."""
    ink = F.avg_pool2d((frames + 1).clamp(min=0), DIGIT, stride=1)[:, 0]  # (N, H - 7, W - 7)
    middle = (DIGIT - 1) / 2
    off_rows = torch.arange(ink.shape[1]) + middle - centres[:, :1]
    off_columns = torch.arange(ink.shape[2]) + middle - centres[:, 1:]
    best = (ink - 1e-4 * (off_rows[:, :, None].square() + off_columns[:, None].square())).flatten(1).argmax(1)
    windows = frames[:, 0].unfold(1, DIGIT, 1).unfold(2, DIGIT, 1).flatten(1, 2)
    return windows[torch.arange(len(frames)), best][:, None]


def load_moving_digits_detector(frames: int, size: int) -> Detector:
    """Return the classifier that comes with the package, for videos of so many frames of size × size pixels.

    Raises:
        UserError: its file is missing or altered.
    """
    single = load_digits_detector()
    assert isinstance(single.network, DigitsClassifier)
    network = MovingDigitsNetwork(single.network).eval().requires_grad_(False)
    return Detector(
        name="moving-digits-cnn",
        sha256=single.sha256,
        image_shape=(frames, size, size, 1),
        network=network,
        classes="the data's",
    )
