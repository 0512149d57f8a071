"""Data sets, in memory or on disk, and the order in which training draws from them."""

from alphaflow.data.dataset import Dataset
from alphaflow.data.digits import Digits
from alphaflow.data.fashion import Fashion
from alphaflow.data.images import Images
from alphaflow.data.latents import Latents
from alphaflow.data.loader import Batch, Batches
from alphaflow.data.shapes import CaptionedShapes
from alphaflow.data.toys import TOYS, Toy, toy_points
from alphaflow.data.videos.dataset import VideoClips
from alphaflow.data.videos.moving_digits import MovingDigits
from alphaflow.data.vocabulary import Told, Vocabulary, told_in, told_of, vocabulary_of
from alphaflow.pixels import from_uint8, to_uint8

__all__ = [
    "TOYS",
    "Batch",
    "Batches",
    "CaptionedShapes",
    "Dataset",
    "Digits",
    "Fashion",
    "Images",
    "Latents",
    "MovingDigits",
    "Told",
    "Toy",
    "VideoClips",
    "Vocabulary",
    "from_uint8",
    "to_uint8",
    "told_in",
    "told_of",
    "toy_points",
    "vocabulary_of",
]
