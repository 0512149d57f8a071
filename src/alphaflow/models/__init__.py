"""Networks u(z, r, t, y=None) for the average velocity over [r, t]: DiTs, a U-Net, an MLP, adapters to others."""

from alphaflow.models.adapters import DiffusersDiT, DiffusersUNet
from alphaflow.models.dit import PRESETS, DiT, Transformer, dit, forward_macs
from alphaflow.models.embeddings import ClassEmbedder, Network, TimeEmbedder, sinusoids
from alphaflow.models.improved_dit import ImprovedDiT
from alphaflow.models.mlp import MLP
from alphaflow.models.unet import UNet
from alphaflow.models.video_dit import VideoDiT
from alphaflow.models.worded import WordedDiT
from alphaflow.models.wrappers import DataPrediction

__all__ = [
    "MLP",
    "PRESETS",
    "ClassEmbedder",
    "DataPrediction",
    "DiT",
    "DiffusersDiT",
    "DiffusersUNet",
    "ImprovedDiT",
    "Network",
    "TimeEmbedder",
    "Transformer",
    "UNet",
    "VideoDiT",
    "WordedDiT",
    "dit",
    "forward_macs",
    "sinusoids",
]
