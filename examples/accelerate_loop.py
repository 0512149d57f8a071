"""α-Flow in Hugging Face Accelerate's style of loop, on one process or many.

    python examples/accelerate_loop.py
    torchrun --nproc-per-node 2 examples/accelerate_loop.py   # or accelerate launch

The point to take away: wrap the *objective*, not the network. It evaluates the network several times a step, some
of them without a gradient and some as a derivative; through a distributed wrapper of the network that either fails
or, worse, trains each process on its own. As one module's forward it is like any other loss.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
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


def main(steps: int = 600, out: Path | None = None, cpu: bool = False) -> tuple[float, float] | None:
    """Train; the first process returns what `judge` makes of the result."""
    accelerator = Accelerator(cpu=cpu)
    set_seed(0, device_specific=True)  # each process draws noise and times of its own
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
    digits = Digits()
    data = TensorDataset(*digits.batch(torch.arange(len(digits))))
    per_process = 64 // accelerator.num_processes
    loader = DataLoader(data, batch_size=per_process, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    loss, optimizer, loader = accelerator.prepare(Loss(net, objective), optimizer, loader)
    average = af.EMA(accelerator.unwrap_model(loss).net, half_life=100)

    step = 0
    while step < steps:
        for x, y in loader:
            value, residual = loss(x, y, step)
            accelerator.backward(value)
            accelerator.clip_grad_norm_(loss.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            average.update(accelerator.unwrap_model(loss).net, step)
            if step % 100 == 0:
                accelerator.print(f"step {step:4d}   residual {residual.item():.4f}")
            if step == steps:
                break

    weights = torch.cat([p.detach().flatten() for p in average.module.parameters()])
    everyone = accelerator.gather(weights[None])
    if not torch.equal(everyone, everyone[:1].expand_as(everyone)):
        raise RuntimeError("the processes have trained different networks")
    accelerator.print(f"{accelerator.num_processes} processes hold the same weights")
    result = judge(average.module.cpu(), out) if accelerator.is_main_process else None
    accelerator.end_training()
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="where the picture goes")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    main(**vars(parser.parse_args()))
