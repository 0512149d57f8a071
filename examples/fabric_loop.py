"""α-Flow in Lightning Fabric's style of loop, on one process or many.

    python examples/fabric_loop.py
    python examples/fabric_loop.py --processes 2

As with Accelerate, what is set up is the *objective* as one module: see `accelerate_loop.py` for why.
"""

import argparse
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import alphaflow as af
from alphaflow.data import Digits
from judge import judge


class Loss(torch.nn.Module):
    """The whole objective as one forward."""

    def __init__(self, net: torch.nn.Module, objective: af.AlphaFlow) -> None:
        super().__init__()
        self.net, self.objective = net, objective

    def forward(self, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        output = self.objective(self.net, x, y, step=step)
        return output.loss, output.metrics["residual"]


def main(
    steps: int = 600, out: Path | None = None, processes: int = 1, accelerator: str = "auto"
) -> tuple[float, float] | None:
    """Train; the first process returns what `judge` makes of the result."""
    strategy = "ddp" if processes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=processes, strategy=strategy)
    fabric.launch()
    fabric.seed_everything(fabric.global_rank)  # each process draws noise and times of its own
    digits = Digits()
    net = af.models.DataPrediction(
        af.models.DiT(
            input_size=8, channels=1, patch=4, width=128, depth=3, heads=4, num_classes=10, activation="silu"
        )
    )
    objective = af.AlphaFlow(
        alpha=af.schedules.sigmoid(0, 0.8 * steps),
        shift="velocity",
        weight=af.Weight(kind="scaled", power=0.5),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    loss, optimizer = fabric.setup(Loss(net, objective), optimizer)
    data = TensorDataset(*digits.batch(torch.arange(len(digits))))
    loader = fabric.setup_dataloaders(DataLoader(data, batch_size=64 // processes, shuffle=True, drop_last=True))
    average = af.EMA(net, half_life=100)

    step = 0
    while step < steps:
        for x, y in loader:
            value, residual = loss(x, y, step)
            fabric.backward(value)
            fabric.clip_gradients(loss, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            average.update(net, step)
            if step % 100 == 0:
                fabric.print(f"step {step:4d}   residual {residual.item():.4f}")
            if step == steps:
                break

    weights = torch.cat([p.detach().flatten() for p in average.module.parameters()])
    everyone = fabric.all_gather(weights).reshape(-1, len(weights))
    if not torch.equal(everyone, everyone[:1].expand_as(everyone)):
        raise RuntimeError("the processes have trained different networks")
    fabric.print(f"{fabric.world_size} processes hold the same weights")
    return judge(average.module.cpu(), out) if fabric.is_global_zero else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="where the picture goes")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--accelerator", default="auto", help="cpu, cuda, or what Fabric finds")
    main(**vars(parser.parse_args()))
