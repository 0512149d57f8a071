"""The objective as a module, and what its outputs say of single rows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..devices import autocast
from ..method.compiled import Compiled
from ..method.objective import AlphaFlow, Output
from ..method.residuals import binned
from ..parallel.parallel import Parallel, Part
from ..rng import KeyedRandom, hash_key


class Loss(nn.Module):
    """The whole objective as one module's forward, which is what distributed wrappers must wrap.

    Args:
        seed: that of noise, times and dropped labels; the data have one of their own.
        precision: "bfloat16" for arithmetic in it. compiled: whether the objective is compiled.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: AlphaFlow,
        seed: int,
        *,
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.seed, self.precision = net, seed, precision
        self.objective = Compiled(objective) if compiled else objective

    def forward(self, x: Tensor, y: Tensor | None, ids: Tensor, step: int, flow_rows: int) -> Output:
        """Evaluate rows with the sample numbers `ids`, which seed the noise; `flow_rows` have r = t."""
        random = KeyedRandom(hash_key(self.seed, "train"), ids, step)
        with autocast(self.precision, x.device):
            return self.objective(self.net, x, y, step=step, generator=random, flow_rows=flow_rows)


def means_of(outs: Sequence[Output], parallel: Parallel, device: torch.device) -> dict[str, float]:
    """Average a step's metrics over parts and processes, which must all call; residuals also by t and t - r."""
    names = [name for name in outs[0].metrics if not name.startswith("residual_")]
    table = [[torch.as_tensor(out.metrics[name]).to(device, torch.float64) for name in names] for out in outs]
    means = parallel.mean(torch.stack([torch.stack(row) for row in table]).mean(0))
    rows = torch.cat([torch.stack([out.residual, out.r, out.t], dim=1) for out in outs])
    bins = binned(*parallel.gather(rows).unbind(1))
    return dict(zip(names, means.tolist())) | {name: float(value) for name, value in bins.items()}


def blame(outs: Sequence[Output], parts: Sequence[Part], parallel: Parallel) -> tuple[str, str]:
    """Say what was wrong with a step whose gradient is not finite, and in which rows of the whole batch.

    All processes must call. Where every residual is finite, the rows with the largest of the last part are named.
    """
    own = [
        _row(out, part, i)
        for out, part in zip(outs, parts)
        for i in torch.nonzero(~torch.isfinite(out.residual))[:, 0].tolist()
    ]
    bad = [row for rows in parallel.exchange(own) for row in rows]
    what = f"{len(bad)} rows not finite" if bad else "gradient not finite, largest residuals"
    if not bad:
        bad = [_row(outs[-1], parts[-1], i) for i in outs[-1].residual.argsort(descending=True)[:4].tolist()]
    return f"{what} (α={float(outs[-1].metrics['alpha']):.3g})", "; ".join(bad[:4])


def _row(out: Output, part: Part, i: int) -> str:
    each = len(out.residual) // len(out.per_sample)
    place = part.start + i // each * part.stride
    return f"row {place}: r={out.r[i]:.4f} t={out.t[i]:.4f} residual={out.residual[i]:.3g}"
