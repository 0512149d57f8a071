"""Networks u(z, r, t, y=None) for the average velocity over [r, t]: DiTs, a U-Net, an MLP, adapters to others."""

from alphaflow.models.adapted import ADAPTERS, AdaptedFlow, adapt, build_adapted
from alphaflow.models.adapters import DiffusersDiT, DiffusersUNet
from alphaflow.models.dit import PRESETS, DiT, Transformer, dit, forward_macs
from alphaflow.models.embeddings import ClassEmbedder, Network, TimeEmbedder, sinusoids
from alphaflow.models.flow_facts import FlowFacts
from alphaflow.models.improved_dit import ImprovedDiT
from alphaflow.models.mlp import MLP
from alphaflow.models.unet import UNet
from alphaflow.models.video_dit import VideoDiT
from alphaflow.models.worded import WordedDiT
from alphaflow.models.wrappers import DataPrediction

__all__ = [
    "ADAPTERS",
    "MLP",
    "PRESETS",
    "AdaptedFlow",
    "ClassEmbedder",
    "DataPrediction",
    "DiT",
    "DiffusersDiT",
    "DiffusersUNet",
    "FlowFacts",
    "ImprovedDiT",
    "Network",
    "TimeEmbedder",
    "Transformer",
    "UNet",
    "VideoDiT",
    "WordedDiT",
    "adapt",
    "build_adapted",
    "dit",
    "forward_macs",
    "sinusoids",
]
