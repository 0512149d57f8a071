"""Random numbers that belong to a sample, not to a batch or a process.

`KeyedRandom` hashes (seed, stream, step, index of the sample, position) to each number, so row i draws the
same noise wherever and in whatever company it is computed. `GeneratorRandom` gives the same two methods over an
ordinary `torch.Generator`, for users with a loop of their own.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Random(Protocol):
    """What objectives and samplers draw from: named streams, one row for each sample of the batch."""

    def normal(self, stream: str, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Draw standard normal numbers (B, *shape), float32."""

    def uniform(self, stream: str) -> Tensor:
        """Uniform in (0, 1), (B,), float64, on the CPU."""


def send(drawn: Tensor, to: Tensor | torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Send what was drawn on the host to another device, which the host does not wait for.

    An ordinary copy to a GPU waits until it has done all that it was asked for before; one from page-locked memory
    queues behind that. dtype: None for that of `to`, or where `to` is a device for its own.
    """
    like = to if isinstance(to, Tensor) else drawn
    device = to.device if isinstance(to, Tensor) else to
    drawn = drawn.to(dtype or like.dtype)  # on the host: a copy that also converts would wait
    if drawn.device.type == "cpu" and device.type == "cuda":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift(h: Tensor, bits: int) -> Tensor:
    return (h >> bits).bitwise_and_((1 << (64 - bits)) - 1)  # logical: torch shifts in the sign


def _mix(h: Tensor) -> Tensor:
    return _mix_in_place(h.clone())


def _mix_in_place(h: Tensor) -> Tensor:
    h ^= _shift(h, 30)
    h *= _signed(0xBF58476D1CE4E5B9)
    h ^= _shift(h, 27)
    h *= _signed(0x94D049BB133111EB)
    h ^= _shift(h, 31)
    return h


def hash_key(*parts: int | str) -> int:
    """Return a 63-bit key that depends on all parts and on their order."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class KeyedRandom:
    """Streams keyed by (seed, step, sample index).

    Args:
        seed: of the whole run.
        index: (B,) int64, which samples the rows are: global, not within the batch.
        step: of training, or 0.

    Source: the SplitMix64 finaliser (Steele, Lea & Flood 2014); normals by Box and Muller (1958).
    """

    def __init__(self, seed: int, index: Tensor, step: int = 0) -> None:
        self.seed, self.index, self.step = seed, index, step

    def _bits(self, stream: str, count: int, device: torch.device | str) -> Tensor:
        key = hash_key(self.seed, stream, self.step)
        rows = _mix(send(self.index, torch.device(device), torch.int64) * _signed(_GOLDEN) + key)
        columns = torch.arange(1, count + 1, device=device) * _signed(_GOLDEN)
        return _mix_in_place(_mix(rows)[:, None] + columns)

    def normal(self, stream: str, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Draw standard normal numbers (B, *shape), float32, on `device`; the same on all devices to rounding."""
        count = math.prod(shape)
        bits = self._bits(stream, (count + 1) // 2, device)
        radius = _shift(bits, 40).float().add_(0.5).mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = bits.bitwise_and_(0xFFFFFF).float().mul_(2.0**-24 * 2 * math.pi)
        pairs = torch.cat([radius * angle.cos(), angle.sin_().mul_(radius)], dim=1)
        return pairs[:, :count].reshape(-1, *shape)

    def uniform(self, stream: str) -> Tensor:
        """Uniform in (0, 1), (B,), float64, on the CPU."""
        return (_shift(self._bits(stream, 1, "cpu")[:, 0], 11).double() + 0.5) * 2.0**-53


class GeneratorRandom:
    """The same interface over a `torch.Generator` (None: torch's global one). Streams are drawn in order."""

    def __init__(self, rows: int, generator: torch.Generator | None = None) -> None:
        self.rows, self.generator = rows, generator

    def normal(self, stream: str, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        source = self.generator.device if self.generator is not None else device
        drawn = torch.randn(self.rows, *shape, generator=self.generator, device=source)
        return send(drawn, torch.device(device))

    def uniform(self, stream: str) -> Tensor:
        source = self.generator.device if self.generator is not None else "cpu"
        draw = torch.rand(self.rows, generator=self.generator, device=source, dtype=torch.float64).cpu()
        return draw.clamp(2.0**-53, 1 - 2.0**-53)


def as_random(generator: "torch.Generator | Random | None", rows: int) -> Random:
    """Accept a generator of torch, one of our keyed sources, or None, for a batch of `rows`."""
    if generator is None or isinstance(generator, torch.Generator):
        return GeneratorRandom(rows, generator)
    return generator


def seeded(*parts: int | str) -> torch.Generator:
    """Return a CPU generator that depends on all parts: `seeded(seed, "epoch", 3)`."""
    return torch.Generator().manual_seed(hash_key(*parts))


# --- randomness inside a network: dropout, noise layers ----------------------------------------------------------


GlobalState = tuple[Tensor, Tensor | None]


def global_state(device: torch.device) -> GlobalState:
    """Return the state of torch's own generators, on the CPU and on `device`; no device is waited for."""
    module = None if device.type in ("cpu", "meta") else torch.get_device_module(device)
    return torch.get_rng_state(), None if module is None else module.get_rng_state(device)


def set_global_state(state: GlobalState, device: torch.device) -> None:
    """Set torch's own generators to a state that they had."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)


def is_same(a: GlobalState, b: GlobalState) -> bool:
    """Whether nothing was drawn between two states."""
    return all(one is other or torch.equal(one, other) for one, other in zip(a, b))  # type: ignore[arg-type]


@contextmanager
def set_apart(device: torch.device) -> Iterator[None]:
    """Put torch's own generators back after the block: what is drawn inside is not missed outside."""
    state = global_state(device)
    try:
        yield
    finally:
        set_global_state(state, device)


def replayed(net: Callable[..., Any], state: GlobalState, device: torch.device) -> Callable[..., Any]:
    """Let each evaluation of a network draw from the same state: one mask for all batches of one size."""

    def again(*args: Any, **kwargs: Any) -> Any:
        set_global_state(state, device)
        return net(*args, **kwargs)

    return again
