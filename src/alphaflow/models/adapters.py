"""Networks of the diffusers package under this one's signature, `net(z, r, t, y)`.

Such a network is told one time; an average velocity needs two. The second one, t - r, joins the conditioning
through an embedding of its own that begins at zero: at first the network says the same for every r, so that a
velocity network u(z, t, t) can be trained on. Times go in as they are, in [0, 1], unscaled. Under
autocast the network's own embedding of t is rounded like its other layers; t - r keeps its precision.

Nothing here imports diffusers: the adapters take a network that the user has built.
"""

from typing import Any

import torch
from torch import Tensor, nn

from alphaflow.errors import UserError
from alphaflow.models.embeddings import ClassEmbedder, TimeEmbedder, classes_alone


def _silent_time(width: int) -> TimeEmbedder:
    """Return an embedding (B,) -> (B, width) that is zero until it is trained."""
    embedder = TimeEmbedder(width)
    last = embedder.mlp[-1]
    for weight in (last.weight, last.bias):
        nn.init.zeros_(weight)  # type: ignore[arg-type]
    return embedder


class DiffusersUNet(nn.Module):
    """The network u(z, r, t, y) from a `diffusers.UNet2DModel` built with `class_embed_type="identity"`.

    That setting adds a given vector to the embedded time: here the embeddings of t - r and of the class. The
    U-Net itself is not changed, and its own `save_pretrained` still holds all of it.

    Args:
        unet: the U-Net, `in_channels` equal to `out_channels`.
        num_classes: 0 for none. Class `num_classes`, or y=None, is the unconditional one.

    Raises:
        UserError: the U-Net was built otherwise.
    """

    def __init__(self, unet: nn.Module, num_classes: int = 0) -> None:
        super().__init__()
        config: Any = unet.config
        if config.class_embed_type != "identity":
            raise UserError(
                f"the UNet2DModel has class_embed_type={config.class_embed_type!r}: build it with "
                'class_embed_type="identity", through which the adapter tells it t - r and the class'
            )
        _same_channels(config)
        width = 4 * config.block_out_channels[0]
        self.unet, self.num_classes = unet, num_classes
        self.d_embedder = _silent_time(width)
        self.y_embedder = ClassEmbedder(num_classes, width) if num_classes else None

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the average velocity over [r, t]: z and u (B, C, H, W), r and t (B,), y (B,) or None."""
        extra = self.d_embedder(t - r)
        if self.y_embedder is not None:
            extra = extra + self.y_embedder(_or_none(y, t, self.num_classes))
        elif y is not None:
            raise ValueError("y is given but the adapter has no classes (num_classes=0): pass y=None")
        return self.unet(z, t, class_labels=extra, return_dict=False)[0]


class DiffusersDiT(nn.Module):
    """The network u(z, r, t, y) from a `diffusers.DiTTransformer2DModel` whose `num_embeds_ada_norm` is the number
    of classes.

    Each block of that network embeds time and class itself; the embedding of t - r is added there. The blocks no
    longer drop labels at random in training mode, as they otherwise would: u and its targets have to mean the same
    class. Drop labels through `Guidance`. The network is changed in place; keep the adapter's `state_dict`.

    Args:
        dit: the network, `in_channels` equal to `out_channels`.

    Raises:
        UserError: the network predicts more than a velocity (`out_channels`).
    """

    def __init__(self, dit: nn.Module) -> None:
        super().__init__()
        config: Any = dit.config
        _same_channels(config)
        self.num_classes: int = config.num_embeds_ada_norm
        self.d_embedder = _silent_time(config.num_attention_heads * config.attention_head_dim)
        for block in dit.transformer_blocks:  # type: ignore[union-attr]
            block.norm1.emb = _WithInterval(block.norm1.emb)
        self.dit = dit

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the average velocity over [r, t]: z and u (B, C, H, W), r and t (B,), y (B,) or None."""
        labels = _or_none(y, t, self.num_classes)
        times = (t, self.d_embedder(t - r))  # handed on untouched to every block's _WithInterval
        return self.dit(z, timestep=times, class_labels=labels, return_dict=False)[0]


class _WithInterval(nn.Module):
    """A block's embedding of time and class, plus that of t - r, which comes with the time."""

    def __init__(self, emb: Any) -> None:
        super().__init__()
        emb.class_embedder.dropout_prob = 0.0
        self.emb = emb

    def forward(
        self, times: tuple[Tensor, Tensor], class_labels: Tensor, hidden_dtype: torch.dtype | None = None
    ) -> Tensor:
        t, extra = times
        return self.emb(t, class_labels, hidden_dtype=hidden_dtype) + extra


def _or_none(y: Tensor | None, t: Tensor, num_classes: int) -> Tensor:
    classes_alone(y)
    return torch.full(t.shape, num_classes, dtype=torch.int64, device=t.device) if y is None else y


def _same_channels(config: Any) -> None:
    out = config.in_channels if config.out_channels is None else config.out_channels
    if out != config.in_channels:
        raise UserError(
            f"the network takes {config.in_channels} channels and gives {out}, but a velocity has as many "
            f"as the data: build it with out_channels={config.in_channels}"
        )
