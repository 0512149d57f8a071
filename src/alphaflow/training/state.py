"""What a run's files hold beside the weights: the optimizer's moments."""

from functools import partial

import torch
from torch import nn

from .checkpoint import Checkpoint
from .parallel import load_into


def restore_optimizer(net: nn.Module, optimizer: torch.optim.Optimizer, stored: Checkpoint) -> None:
    """The inverse of `checkpoint.optimizer_tensors`, laid out as the network is now."""
    weights = dict(net.named_parameters())
    for key in stored.names("optimizer"):
        name, moment = key.rsplit("/", 1)
        weight = weights[name]
        if moment == "step":
            optimizer.state[weight][moment] = stored.read("optimizer", key).clone().to(weight.device)
        else:
            optimizer.state[weight][moment] = torch.zeros_like(weight.detach())
            load_into(optimizer.state[weight][moment], partial(stored.read, "optimizer", key))
