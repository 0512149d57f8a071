"""Gradients of several losses on the same points, and their inner products by group of layers.

One gradient is computed after the other and only those that are compared stay, on the device where the weights
are: of whole weights four copies, which is what training with Adam holds as well; of sharded ones, the shards.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..parallel.parallel import Parallel
from ..parallel.sharded import is_sharded

Gradient: TypeAlias = list[Tensor]
"""One tensor for each weight, or this process's rows of each."""


def group_of(name: str) -> str:
    """Return the group of layers that a weight belongs to: its block (`blocks.3`), or its module outside of
    blocks."""
    words = name.removeprefix("net.").split(".")
    for k, word in enumerate(words):
        if word.isdigit() and k < 2:
            return ".".join(words[: k + 1])
    return words[0]


class Gradients:
    """Takes gradients of a network's weights: means over all processes, each with an equal part of the batch.

    Args:
        net: its weights must be the leaves that a backward pass fills; sharded or not.
        parallel: the processes.
        again: evaluate the network for each loss, because its graph serves one backward pass only: sharded weights
            are gone after it, and compiled blocks give their buffers away.
    """

    def __init__(self, net: nn.Module, parallel: Parallel, *, again: bool = False) -> None:
        named = [(name, weight) for name, weight in net.named_parameters() if weight.requires_grad]
        self.parallel, self.again = parallel, again or parallel.sharded
        self.weights = [weight for _, weight in named]
        self.groups = list(dict.fromkeys(group_of(name) for name, _ in named))
        self._places = [self.groups.index(group_of(name)) for name, _ in named]

    def of(self, loss: Tensor, *, keep: bool = False) -> Gradient:
        """Return the gradient of a scalar, whose graph is kept if `keep`."""
        for weight in self.weights:
            weight.grad = None  # a training step may have left one
        loss.backward(retain_graph=keep)
        parts = []
        for weight in self.weights:
            grad, weight.grad = weight.grad, None
            if grad is None:
                grad = torch.zeros_like(weight)
            local = grad.to_local() if is_sharded(grad) else self.parallel.mean(grad)
            parts.append(local.detach())
        return parts

    def of_mean(self, losses: Sequence[Callable[[], Tensor]]) -> Gradient:
        """Return the gradient of the mean of several scalars, one after the other."""
        total = self.of(losses[0]())
        for loss in losses[1:]:
            for sum_, part in zip(total, self.of(loss())):
                sum_ += part
        return [sum_ / len(losses) for sum_ in total]

    def of_each(
        self,
        forwards: Sequence[Callable[[], Tensor]],
        losses: Mapping[str, Callable[[int, Tensor], Tensor]],
    ) -> Iterator[tuple[str, Gradient]]:
        """Yield the gradients of several losses, each the mean over parts of a batch.

        Args:
            forwards: u of each part. That of a single part is evaluated once for all losses, unless `again`.
            losses: by name, from the number of a part and its u to a scalar.
        """
        if len(forwards) > 1 or self.again:
            for name, loss in losses.items():
                yield name, self.of_mean([partial(_composed, loss, k, u) for k, u in enumerate(forwards)])
            return
        u, last = forwards[0](), list(losses)[-1]
        for name, loss in losses.items():
            yield name, self.of(loss(0, u), keep=name != last)

    def products(self, gradients: Sequence[Gradient]) -> Tensor:
        """Return inner products of K gradients within each group, (groups, K, K) float64 on the CPU.

        Their sum over groups is that of the whole gradients.
        """
        total = torch.zeros(len(self.groups), len(gradients), len(gradients), dtype=torch.float64)
        total = total.to(self.weights[0].device)
        for place, parts in zip(self._places, zip(*gradients)):
            rows = torch.stack([part.flatten() for part in parts]).double()
            total[place] += rows @ rows.T
        return self.parallel.sum_of_shards(total).cpu()


def _composed(loss: Callable[[int, Tensor], Tensor], k: int, forward: Callable[[], Tensor]) -> Tensor:
    return loss(k, forward())


class GradientMoments:
    """Mean and spread of gradients over batches, from one running sum that lies in the host's memory."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.total: Gradient = []

    def add(self, gradient: Gradient, square: float) -> None:
        """Add another batch's gradient and its squared norm over all processes."""
        self.count += 1
        self.squares += square
        if not self.total:
            self.total = [part.cpu().clone() for part in gradient]
            return
        for sum_, part in zip(self.total, gradient):
            sum_ += part.cpu()

    def spread(self, square: float) -> float:
        """Return the trace of the covariance between batches, without bias; `square` is ‖`total`‖² over all
        processes."""
        return (self.squares - square / self.count) / (self.count - 1)

    def mean_square(self, square: float) -> float:
        """Return ‖E g‖² without bias, which may be below zero: the plain estimate would hold `spread` / N
        besides."""
        return (square - self.squares) / (self.count * (self.count - 1))
