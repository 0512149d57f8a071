"""Which device to compute on."""

import ctypes

import torch

from .errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the GPU where there is one.

    Raises:
        UserError: a GPU was asked for where torch sees none, or the name means nothing to torch.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: give cpu, cuda, or cuda:1", status=2)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} asked for, but torch sees no GPU: use cpu, or install torch for CUDA")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs, which count from cuda:0")
    return device


def prepare(device: torch.device) -> None:
    """Set what is process-wide: float32 products in TF32 on a GPU, the C library's habits on a CPU."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic where `precision` is "bfloat16"; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def keep_freed_memory() -> bool:
    """Tell the C library to keep memory that tensors on the CPU give back, instead of returning it to the system.

    A training step frees and asks for the same hundreds of megabytes each time; by default glibc gives them back,
    and the system clears every page anew. Process-wide; the process then stays at its peak size.

    Returns:
        whether this C library has the switch (glibc has; others see no change).
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_* of glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {trim_threshold: 2**31 - 1, top_pad: 64 * 2**20, mmap_max: 0}
    return all(mallopt(key, value) for key, value in settings.items())
