"""α-Flow on networks of the diffusers package: its U-Net, or its DiT.

    python examples/diffusers_networks.py --network unet
    python examples/diffusers_networks.py --network dit

The adapters tell such a network the second time, t - r, through an embedding that begins at zero; see
`alphaflow.models.DiffusersUNet` and `DiffusersDiT`. du/dt is taken in the same pass as u, through the layers of
diffusers as they are.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel

import alphaflow as af
from alphaflow.data import Digits
from judge import judge


def unet() -> torch.nn.Module:
    """A U-Net of diffusers with two resolutions, attention at the lower one; 0.2 M weights."""
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        class_embed_type="identity",  # the adapter embeds t - r and the class
    )
    return af.models.DiffusersUNet(network, num_classes=10)


def dit() -> torch.nn.Module:
    """A DiT of diffusers with three blocks on four patches."""
    network = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=1,
        num_layers=3,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=10,
    )
    return af.models.DiffusersDiT(network)


NETWORKS = {"unet": unet, "dit": dit}


def main(network: str = "unet", steps: int = 600, out: Path | None = None) -> tuple[float, float]:
    """Train, and return what `judge` makes of the result."""
    torch.manual_seed(0)
    digits = Digits()
    net = af.models.DataPrediction(NETWORKS[network]())
    average = af.EMA(net, half_life=100)
    objective = af.AlphaFlow(
        alpha=af.schedules.sigmoid(0, 0.8 * steps),
        shift="velocity",
        weight=af.Weight(kind="scaled", power=0.5),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        x, y = digits.batch(torch.randint(len(digits), (64,)))
        output = objective(net, x, y, step=step)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(net, step + 1)
        if step % 100 == 0:
            print(f"step {step:4d}   residual {output.metrics['residual']:.4f}")
    return judge(average.module, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(NETWORKS), default="unet")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="where the picture goes")
    main(**vars(parser.parse_args()))
