"""What a network is told beside z and the times: a class for each row, a tensor for each row, or several by name.

A condition y is a tensor whose first axis is the batch, int64 (B,) for classes or (B, …) for anything else, or a
dictionary of such tensors. Its null, which means "nothing was told", is one row of the same: a number fills the
row, tensors and dictionaries of them give it outright.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Condition: TypeAlias = Tensor | Mapping[str, Tensor]
"""Of B rows: a tensor (B, …), or several by name."""
Null: TypeAlias = int | Tensor | Mapping[str, int | Tensor]
"""Of one row: a number, a tensor of the row's shape, or one of either by name."""


def map_condition(y: Condition, change: Callable[[Tensor], Tensor]) -> Condition:
    """Return the condition with each of its tensors changed."""
    if isinstance(y, Tensor):
        return change(y)
    return {name: change(part) for name, part in y.items()}


def join_conditions(parts: Sequence[Condition]) -> Condition:
    """Return the rows of several conditions of one kind, one after the other."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    named = [part for part in parts if not isinstance(part, Tensor)]
    return {name: torch.cat([part[name] for part in named]) for name in named[0]}


def with_null(y: Condition, null: Null, rows: Tensor | None = None) -> Condition:
    """Return the condition with some of its rows replaced by the null.

    Args:
        y: of B rows.
        null: what stands for nothing told; see `Null`.
        rows: bool (B,) on y's device, which ones; None: all of them.

    Raises:
        ValueError: the null is not one row of y: another shape, or other names.
    """
    if isinstance(y, Tensor):
        if isinstance(null, Mapping):
            raise ValueError(f"the null condition has parts {_listed(null)}, and y is one tensor: give one tensor")
        return _replaced(y, null, rows, "y")
    if not isinstance(null, Mapping) or null.keys() != y.keys():
        given = _listed(null) if isinstance(null, Mapping) else "one value"
        raise ValueError(f"the null condition has {given}, and y has {_listed(y)}: give each part its own null")
    return {name: _replaced(part, null[name], rows, f"y[{name!r}]") for name, part in y.items()}


def _replaced(part: Tensor, null: int | Tensor, rows: Tensor | None, name: str) -> Tensor:
    row = null if isinstance(null, int) else null.to(part)  # a number goes to no device: nothing waits for it
    if isinstance(row, Tensor) and row.shape != part.shape[1:]:
        raise ValueError(
            f"the null of {name} has shape {tuple(row.shape)}, and a row of it {tuple(part.shape[1:])}: they must "
            "be the same"
        )
    if rows is None:
        return row.expand_as(part).clone() if isinstance(row, Tensor) else torch.full_like(part, row)
    return torch.where(rows.reshape(-1, *(1,) * (part.ndim - 1)), row, part)


def _listed(parts: Mapping[str, object]) -> str:
    return ", ".join(sorted(parts))
