"""Which device to compute on."""

import torch

from ..errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one.

    Raises:
        UserError: a GPU was asked for where torch sees none, or the name means nothing to torch.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: give cpu, cuda, or cuda:1", status=2) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} asked for, but torch sees no GPU: use cpu, or install torch for CUDA")
    return device
