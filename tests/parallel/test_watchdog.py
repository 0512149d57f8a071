"""Who is named when one of several hangs: real threads that post to each other."""

import threading
import time

import pytest

from alphaflow.parallel.watchdog import Watchdog

TIMEOUT = 0.5


class Wall:
    """A board in memory."""

    def __init__(self, count: int) -> None:
        self.lines: list[str | None] = [None] * count

    def of(self, rank: int) -> "Corner":
        return Corner(self, rank)


class Corner:
    def __init__(self, wall: Wall, rank: int) -> None:
        self.wall, self.rank, self.frozen = wall, rank, threading.Event()

    def post(self, line: str) -> None:
        if not self.frozen.is_set():
            self.wall.lines[self.rank] = line

    def read(self) -> list[str | None]:
        return list(self.wall.lines)


class Crew:
    """Watchdogs of several processes, and who of them ended."""

    def __init__(self, count: int) -> None:
        wall = Wall(count)
        self.corners = [wall.of(rank) for rank in range(count)]
        self.ended: list[threading.Event] = [threading.Event() for _ in range(count)]
        self.dogs = [
            Watchdog(corner, TIMEOUT, end=lambda status, gone=gone: gone.set(), period=0.05)
            for corner, gone in zip(self.corners, self.ended)
        ]

    def __enter__(self) -> "Crew":
        for dog in self.dogs:
            dog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for dog in self.dogs:
            dog.__exit__(None, None, None)


def test_the_one_behind_is_named_and_those_that_wait_are_not(caplog):
    with Crew(3) as crew:
        for rank, dog in enumerate(crew.dogs):
            dog.at("fetching data" if rank == 1 else "computing", 17)
        assert all(gone.wait(10) for gone in crew.ended)
    assert "rank 1 (pid" in caplog.text and "no progress" in caplog.text
    assert "fetching data at step 18; the others wait for it" in caplog.text
    assert "rank 0" not in caplog.text and "rank 2" not in caplog.text


def test_a_frozen_process_gives_no_sign_of_life(caplog):
    with Crew(2) as crew:
        for dog in crew.dogs:
            dog.at("computing", 3)
        time.sleep(0.2)
        crew.corners[1].frozen.set()  # stopped by a signal: its thread posts nothing more
        crew.dogs[0].at("computing", 4)  # got through the last collective, and waits in the next
        assert crew.ended[0].wait(10)
    assert "rank 1 (pid" in caplog.text and "no sign of life" in caplog.text and "at step 4" in caplog.text


def test_the_silent_one_is_named_even_if_nothing_was_ever_heard_of_it(caplog):
    crew = Crew(2)
    crew.corners[1].frozen.set()
    with crew:
        crew.dogs[0].at("computing", 9)
        assert crew.ended[0].wait(10)
    assert "rank 1 (not heard of yet) hangs: no sign of life" in caplog.text and "rank 0" not in caplog.text


def test_the_silent_one_is_named_even_if_it_was_ahead(caplog):
    with Crew(2) as crew:
        crew.dogs[0].at("computing", 3)
        crew.dogs[1].at("logging", 3)
        time.sleep(0.2)
        crew.corners[1].frozen.set()
        assert crew.ended[0].wait(10)
    assert "rank 1 (pid" in caplog.text and "no sign of life" in caplog.text and "rank 0" not in caplog.text


def test_where_all_stand_at_one_place_all_are_named(caplog):
    with Crew(2) as crew:
        for dog in crew.dogs:
            dog.at("computing", 0)
        assert all(gone.wait(10) for gone in crew.ended)
    assert "rank 0 (pid" in caplog.text and "rank 1 (pid" in caplog.text and "others" not in caplog.text


def test_slow_is_not_hung():
    with Crew(2) as crew:
        for step in range(8):
            for stage in ("fetching data", "computing"):
                for dog in crew.dogs:
                    dog.at(stage, step)
                    time.sleep(TIMEOUT / 8)
        assert not any(gone.is_set() for gone in crew.ended)


def test_going_back_to_a_checkpoint_is_progress():
    with Crew(2) as crew:
        for dog in crew.dogs:
            dog.at("computing", 9)
        time.sleep(TIMEOUT / 2)
        crew.dogs[0].at("fetching data", 3, attempt=1)
        time.sleep(TIMEOUT / 4)
        crew.dogs[1].at("fetching data", 3, attempt=1)
        time.sleep(TIMEOUT / 2)
        assert not any(gone.is_set() for gone in crew.ended)


def test_a_process_alone_is_not_watched():
    with Watchdog(None, 0.01, end=lambda status: pytest.fail("ended")) as dog:
        dog.at("computing", 0)
        time.sleep(0.1)
