"""How fast a run goes: samples a second, share of the machine's arithmetic, waiting, memory."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..data import Told
from ..data.vocabulary import some_condition

CLOCKED = ("samples_per_second", "data_wait", "save_wait", "memory_gb", "mfu")
"""Keys of metrics.jsonl that depend on the machine and its mood; all others repeat exactly."""


class ThroughputMeter:
    """Measures between two calls of `read`.

    Args:
        samples: how many a step takes, over all processes.
        flops: operations that a sample costs this process's device at the least: three forward passes' worth,
            divided by the number of processes. What du/dt costs beyond that counts as cost, not as use.
        peak: operations a second that the device is capable of; 0: what plain matrix products reach, measured at
            the first reading.
    """

    def __init__(
        self, samples: int, flops: float, peak: float, device: torch.device, precision: str = "float32"
    ) -> None:
        self.samples, self.flops, self.peak = samples, flops, peak
        self.device, self.precision = device, precision
        self._start, self._steps = time.monotonic(), 0
        self._waited = dict.fromkeys(("data", "save"), 0.0)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Count this block's time as spent in waiting for `data`, or to `save`."""
        start = time.monotonic()
        yield
        self._waited[what] += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave this block's time, which is not training's, out of all rates."""
        _wait(self.device)  # for what training has asked of it
        start = time.monotonic()
        yield
        _wait(self.device)
        self._start += time.monotonic() - start

    def count(self) -> None:
        """Note that a step is done."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Return the rates since the last reading, by their names in `CLOCKED`."""
        now = time.monotonic()
        self.peak = self.peak or product_rate(self.device, self.precision)
        seconds = max(now - self._start, 1e-9)
        values = {
            "samples_per_second": self._steps * self.samples / seconds,
            "data_wait": self._waited["data"] / seconds,
            "save_wait": self._waited["save"] / seconds,
            "memory_gb": peak_memory(self.device) / 1e9,
            "mfu": self._steps * self.samples * self.flops / seconds / self.peak,
        }
        now = time.monotonic()  # without the measurement of the peak
        self._start, self._steps, self._waited = now, 0, dict.fromkeys(self._waited, 0.0)
        return values


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: by tensors on a GPU, by this whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@torch.no_grad()
def forward_flops(net: nn.Module, shape: Sequence[int], num_classes: Told) -> int:
    """Count the operations of one forward pass for one sample: products and convolutions, with adds."""
    device = next(net.parameters()).device
    z, t = torch.zeros(1, *shape, device=device), torch.full((1,), 0.5, device=device)
    y = some_condition(num_classes, 1, device)
    # the counter knows attention's products, but not all of its fused kernels
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(z, t, t, y)
    return counter.get_total_flops()


def product_rate(device: torch.device, precision: str, seconds: float = 0.1) -> float:
    """Measure the operations a second of plain matrix products on this device, in place of a peak that is told."""
    size = 8192 if device.type == "cuda" else 768
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=kind)
    best, end = 0.0, time.monotonic() + seconds
    while best == 0.0 or time.monotonic() < end:
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, a)
        _wait(device)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
