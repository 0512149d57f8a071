"""Networks of this package, tiny."""

from torch import nn

from alphaflow import models

from .entry import Entry


def diffusers_unet() -> nn.Module:
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        class_embed_type="identity",
    )
    return models.DiffusersUNet(unet, num_classes=3)


def diffusers_dit() -> nn.Module:
    import diffusers

    settings = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2}
    return models.DiffusersDiT(
        diffusers.DiTTransformer2DModel(**settings, sample_size=8, patch_size=2, num_embeds_ada_norm=3)
    )


IMAGE = (4, 8, 8)
OWN: dict[str, Entry] = {
    "models.DiT": Entry(lambda: models.DiT(8, 2, 4, 16, 2, 2, 3), IMAGE, classes=3),
    "models.UNet": Entry(lambda: models.UNet(4, width=8, multipliers=(1, 2), num_classes=3), IMAGE, classes=3),
    "models.VideoDiT, joint": Entry(
        lambda: models.VideoDiT(4, 2, 2, 4, 16, 2, 2, 3, attention="joint"), (4, 2, 4, 4), classes=3
    ),
    "models.VideoDiT, factorised": Entry(
        lambda: models.VideoDiT(4, 2, 2, 4, 16, 2, 2, 3, attention="factorised"), (4, 2, 4, 4), classes=3
    ),
    "models.MLP": Entry(lambda: models.MLP(4, 16, 2, 3), (4,), classes=3),
    "models.ImprovedDiT": Entry(lambda: models.ImprovedDiT(8, 2, 4, 16, 2, 1, 2, 3, 32), IMAGE, classes=3),
    "models.WordedDiT": Entry(
        lambda: models.WordedDiT(8, 2, 4, 16, 2, 2, 32, 5, 64, 1), IMAGE, words=(5, 0), classes=32
    ),
    "models.DataPrediction of a UNet": Entry(
        lambda: models.DataPrediction(models.UNet(4, width=8, multipliers=(1, 2))), IMAGE
    ),
    "models.DiffusersUNet": Entry(diffusers_unet, IMAGE, classes=3),
    "models.DiffusersDiT": Entry(diffusers_dit, IMAGE, classes=3),
}
