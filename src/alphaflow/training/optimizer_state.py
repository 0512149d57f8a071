"""What a checkpoint holds: all that the next step depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..errors import UserError
from ..models.ema import PowerEMA
from ..observers.base import Observer
from ..parallel.sharded import load_into
from ..runs import checkpoint
from ..runs.averages import tensors_of
from ..runs.checkpoint import Checkpoint
from .guard import Guard
from .observing import load_states, states_of


@dataclass(frozen=True)
class State:
    """All that the next step depends on, but for what follows from the settings and the step: random numbers and
    the data's order."""

    net: nn.Module
    ema: nn.Module
    """The averaged network."""
    profiles: Sequence[PowerEMA]
    """Averages that are stored beside it."""
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    guard: Guard
    observers: Sequence[Observer]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors by the parts of a checkpoint; of sharded ones, this process's shards."""
        moments = checkpoint.optimizer_tensors(self.net, self.optimizer)
        return {**self._weights(), "optimizer": moments}

    def record(self) -> dict[str, Any]:
        """Return what is not in tensors, as plain values."""
        return {"data": self.dataset.fingerprint, "observers": states_of(self.observers), **self.guard.state()}

    def averages(self) -> dict[str, dict[str, Tensor]]:
        """Return the averages that are stored for `alphaflow ema` to make others of."""
        return tensors_of(list(self.profiles))

    def load(self, stored: Checkpoint) -> None:
        """Set everything to what it was when `stored` was written.

        Raises:
            UserError: it lacks something, or is that of another network.
        """
        for part, content in self._weights().items():
            lacking = sorted(content.keys() - set(stored.names(part)))
            if lacking:
                raise UserError(
                    f"{stored.path} holds no {part} weights {lacking[0]!r}: it is another network's, or damaged"
                )
            for name, tensor in content.items():
                load_into(tensor, partial(stored.read, part, name))
        restore_optimizer(self.net, self.optimizer, stored)
        try:
            self.guard.load(stored.state)
            load_states(self.observers, stored.state.get("observers", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{stored.path}/state.json is not as it was written ({error!r}): remove it") from None

    def _weights(self) -> Mapping[str, dict[str, Tensor]]:
        return {"model": self.net.state_dict(), "ema": self.ema.state_dict(), **self.averages()}


def restore_optimizer(net: nn.Module, optimizer: torch.optim.Optimizer, stored: Checkpoint) -> None:
    """Load what `checkpoint.optimizer_tensors` returned, laid out as the network is now.

    Raises:
        UserError: the checkpoint's moments are of other weights.
    """
    weights = dict(net.named_parameters())
    for key in stored.names("optimizer"):
        name, _, moment = key.rpartition("/")
        if name not in weights:
            raise UserError(f"{stored.path} holds moments of {name!r}, which this network has not: it is damaged")
        weight = weights[name]
        if moment == "step":
            optimizer.state[weight][moment] = stored.read("optimizer", key).clone().to(weight.device)
        else:
            optimizer.state[weight][moment] = torch.zeros_like(weight.detach())
            load_into(optimizer.state[weight][moment], partial(stored.read, "optimizer", key))
