"""α-Flow in a plain PyTorch loop: handwritten digits, each from one evaluation of the network.

    python examples/plain_loop.py                  # half a minute on a CPU; writes digits.png

The objective asks nothing of the loop but `objective(net, x, y, step=step).loss.backward()`. Warm-up, clipping and
an average of the weights are what any generator wants.
"""

import argparse
from pathlib import Path

import torch

import alphaflow as af
from alphaflow.data import Digits
from judge import judge


def main(steps: int = 800, out: Path | None = None) -> tuple[float, float]:
    """Train, and return what `judge` makes of the result."""
    torch.manual_seed(0)
    digits = Digits()
    net = af.models.DataPrediction(  # u = (z - f) / t: easier to learn in pixels than u itself
        af.models.DiT(
            input_size=8, channels=1, patch=4, width=128, depth=3, heads=4, num_classes=10, activation="silu"
        )
    )
    average = af.EMA(net, half_life=100)
    objective = af.AlphaFlow(
        alpha=af.schedules.sigmoid(0, 0.8 * steps),  # from flow matching to MeanFlow
        shift="velocity",
        weight=af.Weight(kind="scaled", power=0.5),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    warmup = af.schedules.warmup(50)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup)

    for step in range(steps):
        x, y = digits.batch(torch.randint(len(digits), (64,)))
        output = objective(net, x, y, step=step)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        average.update(net, step + 1)
        if step % 100 == 0:  # the weighted loss says little by design; the residual is the plain squared error
            print(
                f"step {step:4d}   residual {output.metrics['residual']:.4f}   alpha {output.metrics['alpha']:.3f}"
            )

    return judge(average.module, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="where the picture goes")
    main(**vars(parser.parse_args()))
