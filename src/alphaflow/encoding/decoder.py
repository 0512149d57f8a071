"""Samples of a network that was trained on latents become pictures."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.latents import Manifest
from ..data.latents.manifest import by_place
from ..errors import UserError
from .vae import VAE, load_vae


class Decoder:
    """Decodes samples with the autoencoder that made the training data, which is loaded at the first use.

    Args:
        record: what `Manifest.record` gave when the run began.
        vae: the autoencoder's place now; None: its place when the data was encoded.
    """

    def __init__(
        self, record: Mapping[str, Any], device: torch.device | str = "cpu", vae: str | None = None
    ) -> None:
        self.record, self.device = record, device
        self.name = vae or str(record["vae_name"])

    @cached_property
    def vae(self) -> VAE:
        """The autoencoder.

        Raises:
            UserError: it cannot be loaded, or is another one than that of the training data.
        """
        if not self.name:
            raise UserError("these latents do not say which autoencoder made them: name it with --vae")
        try:
            vae = load_vae(self.name, self.device)
        except UserError as error:
            raise UserError(f"{error}; --vae says where the latents' autoencoder is now") from None
        if self.record["vae"] not in (vae.hash, "unknown"):
            raise UserError(
                f"autoencoder {self.name} has weights {vae.hash}, and the latents were made by "
                f"{self.record['vae']} ({self.record['vae_name']}): give that one with --vae"
            )
        return vae

    def __call__(self, x: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in about [-1, 1] for samples (B, C, h, w), scaled as in training.

        Clips (B, C, T, h, w) become videos (B, 3, T, H, W), decoded frame by frame.
        """
        if x.ndim == 5:
            return self(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)
        divisor, offset = (
            torch.from_numpy(by_place(np.array(self.record[name], np.float32), *x.shape[2:]))
            for name in ("divisor", "offset")
        )
        return self.vae.decode(x.float().cpu() * divisor + offset)


def decoder_of(manifest: Manifest, device: torch.device | str = "cpu", vae: str | None = None) -> Decoder:
    """Return the decoder of the set of latents that has this manifest."""
    return Decoder(manifest.record(), device, vae)
