"""How the processes of a run find each other, and what they say to each other on the host."""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..processes import Processes


def fresh_store(store: Any, rank: int, world: int, timeout: timedelta) -> Any:
    """Return a part of `store` that no earlier group of processes has written to; all processes must call.

    When torchrun starts a group again it hands it the store of the last one (torch 2.13), in which the new
    processes find the addresses of the dead. Nothing that torchrun tells them is sure to differ, so the first
    process makes up a name, and each other one asks whether it is there: a dead one's name answers nobody.

    Raises:
        TimeoutError: not all processes have come.
    """
    end = time.monotonic() + timeout.total_seconds()
    key, mine, asked = "alphaflow/group", uuid.uuid4().hex, ""
    if rank == 0:
        store.set(key, mine)
        waiting = set(range(1, world))
        while waiting:
            for other in sorted(waiting):
                if store.check([f"{mine}/asks/{other}"]):
                    store.set(f"{mine}/hears/{other}", store.get(f"{mine}/asks/{other}"))
                    waiting.remove(other)
            _pause(end, waiting)
        return dist.PrefixStore(mine, store)
    while True:
        if store.check([key]) and (name := store.get(key).decode()) != asked:
            store.set(f"{name}/asks/{rank}", mine)
            asked = name
        if (
            asked
            and store.check([f"{asked}/hears/{rank}"])
            and store.get(f"{asked}/hears/{rank}").decode() == mine
        ):
            return dist.PrefixStore(asked, store)
        _pause(end, {0})


def _pause(end: float, waiting: set[int]) -> None:
    if waiting and time.monotonic() > end:
        raise TimeoutError(f"no sign of rank {', '.join(map(str, sorted(waiting)))} since the start")
    time.sleep(0.01)


def die_with_parent() -> None:
    """Under Linux: if torchrun is killed, its processes must not train on beside those of the next launch."""
    set_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def exchange(value: Any, group: Any, world: int) -> list[Any]:
    """Return what each process says, in the order of ranks; values must be JSON's."""
    words = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(words)]), group=group)
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(words)] = words
    said = [torch.empty(longest, dtype=torch.uint8) for _ in range(world)]
    dist.all_gather(said, padded, group=group)
    return [json.loads(one[: int(size)].numpy().tobytes()) for one, size in zip(said, sizes)]


@dataclass(frozen=True)
class Writers(Processes):
    """The processes that write one checkpoint together, with a channel of their own."""

    group: Any = None
    """The group of torch.distributed; None for a process that is alone."""

    def exchange(self, value: Any) -> list[Any]:
        return [value] if self.world == 1 else exchange(value, self.group, self.world)


class StoreBoard:
    """`watchdog.Board` over a connection of its own to the group's store."""

    def __init__(self, store: Any, rank: int, world: int, minutes: float) -> None:
        self.rank = rank
        self._store = store.clone()
        self._store.set_timeout(timedelta(minutes=minutes))
        self._keys = [f"alphaflow/place/{k}" for k in range(world)]

    def post(self, line: str) -> None:
        self._store.set(self._keys[self.rank], line)

    def read(self) -> list[str | None]:
        return [self._store.get(key).decode() if self._store.check([key]) else None for key in self._keys]


def leave() -> None:
    """At the end of the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end_process(status: int) -> None:
    """End a process that is one of several, without taking the interpreter down; one that is alone returns.

    Threads of torch.distributed may still be letting go of Python objects. One that asks for the interpreter while
    it shuts down is unwound by it through C++ that does not allow that, and aborts a process that had done all its
    work ("terminate called without an active exception", seen once in some hundreds of launches).
    """
    if not dist.is_initialized():
        return
    threading._shutdown()  # type: ignore[attr-defined]  # the first two things that an interpreter does at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
