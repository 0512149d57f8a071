"""Who waits for the demo's models, and in which order they come."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from alphaflow.demo import line as module
from alphaflow.demo.line import BusyError, LeftError, Line


class Held:
    """A line whose thread is at work until `release`."""

    def __init__(self) -> None:
        self.line, self.gate, self.at_work = Line(), threading.Event(), threading.Event()
        self.order: list[str] = []

    def first(self, go_on: Callable[[], None]) -> str:
        self.at_work.set()
        self.gate.wait(30)
        return "first"

    async def hold(self) -> Any:
        task = asyncio.create_task(self.line.run(1, self.first))
        await asyncio.to_thread(self.at_work.wait, 30)
        return task

    def ask(self, name: str, work: int = 1) -> Any:
        def compute(go_on: Callable[[], None]) -> str:
            self.order.append(name)
            return name

        return asyncio.create_task(self.line.run(work, compute))


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.gate.set()
    held.line.close()


def test_each_gets_its_own_in_turn(held):
    async def go() -> list[str]:
        tasks = [await held.hold(), *(held.ask(name) for name in "abc")]
        held.gate.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(go()) == ["first", "a", "b", "c"]
    assert held.order == ["a", "b", "c"]


def test_light_work_goes_before_heavy_but_not_for_ever(held):
    """A heavy one waits for as much light work as it is itself, whatever comes."""

    async def go() -> None:
        tasks = [await held.hold(), held.ask("heavy", 100)]
        tasks += [held.ask(f"light {k}", 10) for k in range(3)]
        await asyncio.sleep(0)
        held.gate.set()
        await asyncio.gather(*tasks)
        held.gate.clear()
        held.at_work.clear()
        tasks = [await held.hold(), held.ask("second heavy", 25)]
        await asyncio.sleep(0)
        held.gate.set()
        for k in range(6):
            tasks.append(held.ask(f"later {k}", 10))
            await tasks[-1]
        await asyncio.gather(*tasks)

    asyncio.run(go())
    assert held.order[:4] == ["light 0", "light 1", "light 2", "heavy"]
    assert held.order.index("second heavy") < held.order.index("later 3")


def test_those_who_left_are_not_computed(held):
    async def go() -> None:
        first = await held.hold()
        gone = [held.ask(f"gone {k}", 10**6) for k in range(20)]
        stays = held.ask("stays")
        await asyncio.sleep(0)
        for one in gone:
            one.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert held.line.waiting == 1
        held.gate.set()
        assert await stays == "stays" and await first == "first"

    asyncio.run(go())
    assert held.order == ["stays"]


def test_work_under_way_stops_once_nobody_waits():
    line, ended, begun = Line(), [], threading.Event()

    def endless(go_on: Callable[[], None]) -> None:
        begun.set()
        try:
            while True:
                go_on()
        except LeftError:
            ended.append(True)
            raise

    async def go() -> str:
        task = asyncio.create_task(line.run(1, endless))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await line.run(1, lambda go_on: "next")

    assert asyncio.run(go()) == "next" and ended == [True]
    line.close()


def test_number_and_size_of_what_waits_are_bounded(held, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 6)
    monkeypatch.setattr(module, "MOST_AHEAD", 100)

    async def go() -> list[Any]:
        first = await held.hold()
        heavy = [held.ask(f"heavy {k}", 60) for k in range(4)]
        await asyncio.sleep(0)
        light = [held.ask(f"light {k}") for k in range(8)]
        await asyncio.sleep(0)
        held.gate.set()
        await first
        return await asyncio.gather(*heavy, *light, return_exceptions=True)

    replies = asyncio.run(go())
    refused = [isinstance(one, BusyError) for one in replies]
    assert refused[:4] == [False, False, True, True]  # 120 are ahead of the third
    assert refused[4:] == [False] * 4 + [True] * 4  # though light ones still come, six in all wait
    assert "others are waiting: try again" in str(replies[2])
    assert asyncio.run(held.line.run(1, lambda go_on: 1)) == 1  # it recovers


def test_an_error_goes_to_whom_it_belongs(held):
    def fail(go_on: Callable[[], None]) -> None:
        raise RuntimeError("mine")

    async def go() -> None:
        with pytest.raises(RuntimeError, match="mine"):
            await held.line.run(1, fail)
        assert await held.line.run(1, lambda go_on: 2) == 2

    asyncio.run(go())


def test_closing_lets_go_of_all_that_waits(held):
    async def go() -> list[Any]:
        first = await held.hold()
        waits = held.ask("waits")
        await asyncio.sleep(0)
        threading.Timer(0.2, held.gate.set).start()
        await asyncio.to_thread(held.line.close)
        with pytest.raises(BusyError, match="closing"):
            await held.line.run(1, lambda go_on: 1)
        return await asyncio.gather(first, waits, return_exceptions=True)

    first, waits = asyncio.run(go())
    assert first == "first" and isinstance(waits, asyncio.CancelledError)
