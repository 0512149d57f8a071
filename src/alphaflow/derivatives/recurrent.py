"""Tangent rules for recurrent layers: `nn.GRU`, `nn.LSTM`, `nn.RNN` and their cells."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .dual import Dual, NoRule, first_dual, flatten, name_of
from .generic import pushed
from .kinds import KINDS, Narrow
from .rules import rule, run

LAYERS = (torch.gru, torch.lstm, torch.rnn_tanh, torch.rnn_relu)
CELLS = (torch.gru_cell, torch.lstm_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)


@rule(*LAYERS)
def _layers(func: Any, args: Any, kwargs: Any) -> Any:
    """Push tangents through (input, states, weights, has biases, layers, dropout, training, both directions, batch
    first)."""
    if kwargs or len(args) != 9 or isinstance(args[3], list | tuple):
        raise NoRule(f"{name_of(func)} of packed sequences: give it padded ones")
    if args[5] and args[6] and args[4] > 1:
        raise NoRule("dropout: primal and tangent would not see the same draw; set its p to 0")
    out = run(func, args, kwargs)
    with _own_kernels():
        return pushed(func, args, kwargs, out)


@contextmanager
def _own_kernels() -> Iterator[None]:
    """Take torch's own kernels for the tangent: those of cuDNN and oneDNN have no forward derivative."""
    homes: Any = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [home.enabled for home in homes]
    try:
        for home in homes:
            home.enabled = False
        yield
    finally:
        for home, enabled in zip(homes, before):
            home.enabled = enabled


def _rows(func: Any, args: Any, kwargs: Any, like: Dual) -> Narrow:
    """Take rows of the input, batch first or second, and of states, whose batch is the last dimension but one."""
    states = [leaf for leaf in flatten(args[1:2]) if isinstance(leaf, Tensor)]
    place = 0 if func in CELLS or args[-1] is True else 1
    many = 2 if func in CELLS else 3
    regular = (
        not kwargs and isinstance(args[0], Tensor) and all(state.ndim == many for state in (args[0], *states))
    )
    if not regular:
        raise NoRule(f"{name_of(func)} in a form that is not known to keep rows apart")
    for dual in (leaf for leaf in flatten(args) if isinstance(leaf, Dual)):
        where = place if dual is args[0] else many - 2
        if dual is not args[0] and not any(dual is state for state in states):
            raise NoRule(f"{name_of(func)} with a weight that depends on z or t")
        if (dual.start, dual.rows) != (first_dual(args).start, where):
            raise NoRule(f"{name_of(func)} with operands whose batches lie in different dimensions")

    def narrow(value: Any) -> Any:
        if value is args[0] or any(value is state for state in states):
            where = place if value is args[0] else many - 2
            return value.detach().narrow(where, like.start, value.shape[where] - like.start)
        return value.detach() if isinstance(value, Tensor) else value

    return narrow


KINDS |= dict.fromkeys((*LAYERS, *CELLS), _rows)
