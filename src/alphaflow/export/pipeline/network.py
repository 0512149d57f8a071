"""A network u(z, r, t, y) as a model of diffusers."""

from collections.abc import Sequence
from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from alphaflow.models.dit import DiT
from alphaflow.models.improved_dit import ImprovedDiT
from alphaflow.models.unet import UNet
from alphaflow.models.video_dit import VideoDiT
from alphaflow.models.wrappers import DataPrediction

KINDS = {"dit": DiT, "video-dit": VideoDiT, "unet": UNet, "improved-dit": ImprovedDiT}


class FlowMapNetwork(ModelMixin, ConfigMixin):
    """The average velocity from time t (noise at 1) back to r (data at 0).

    Args:
        network: the kind of network, one of `KINDS`.
        settings: the arguments of its constructor.
        predicts: "velocity", or "data" for a network that predicts f, with u = (z - f) / t.
        shape: that of a sample, (C, H, W) or (C, T, H, W).
        num_classes, class_names: 0 and none without classes; index `num_classes` is no class.
        guides: the times between which plain guidance can be applied; None: it cannot.
        scales: the least and largest guidance scale of a network that takes it as an input, class_labels (B, 4)
            beside the class; None: it does not.
        intervals: whether it takes the interval of t to guide in as well.
        latent_divisor, latent_offset: the autoencoder's latents are sample · divisor + offset, a number a channel
            or, as lists of rows, for each place or each of a pattern that repeats; none where samples are pixels
            in [-1, 1].
        vae_frames: whether the autoencoder makes videos, and a picture is one frame.
        vae_black: the value of its black pixels; white ones are 1.
        vae_options: what its `decode` takes besides; a float is meant for each row.
    """

    _no_split_modules = ("Block", "MLPBlock", "ResidualBlock")

    @register_to_config
    def __init__(
        self,
        network: str,
        settings: dict[str, Any],
        predicts: str = "velocity",
        shape: Sequence[int] = (),
        num_classes: int = 0,
        class_names: Sequence[str] = (),
        guides: Sequence[float] | None = None,
        scales: Sequence[float] | None = None,
        intervals: bool = False,
        latent_divisor: Sequence[float] | None = None,
        latent_offset: Sequence[float] | None = None,
        vae_frames: bool = False,
        vae_black: float = -1.0,
        vae_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        net = KINDS[network](**settings)
        self.net = DataPrediction(net) if predicts == "data" else net

    def forward(self, sample: Tensor, r: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return u, like `sample` (B, *shape).

        r and t are (B,) with 0 <= r <= t <= 1; class_labels (B,) int64, None, or where `scales` are given (B, 4)
        float32: class, guidance scale, and start and end of its interval.
        """
        for buffer in self.buffers():  # positions, which diffusers leaves in float32
            if buffer.dtype != self.dtype:
                buffer.data = buffer.data.to(self.dtype)
        return self.net(sample, r, t, class_labels)
