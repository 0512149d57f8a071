"""What `alphaflow demo` serves: one-step grids of 64 pictures a second at 8 clients, and many varied requests.

    python benchmarks/service.py runs/digits          # writes benchmarks/results/service.json

The server is the command itself; clients are threads of this process, each with a connection it keeps. All of it
is on this machine and shares its cores.
"""

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from machine import RESULTS, machine


class Load:
    """Sends requests from several clients at once, until a number of them or of seconds is reached."""

    def __init__(self, address: str, clients: int) -> None:
        self.place, self.clients = urlsplit(address), clients

    def run(self, body: Any, requests: int, seconds: float) -> dict[str, Any]:
        numbers, lock, end = count(), Lock(), time.perf_counter() + seconds
        waits: list[float] = []
        answers: Counter[str] = Counter()

        def client() -> None:
            connection = http.client.HTTPConnection(self.place.hostname or "", self.place.port, timeout=60)
            while time.perf_counter() < end:
                with lock:
                    number = next(numbers)
                if number >= requests:
                    return
                start = time.perf_counter()
                try:
                    connection.request("POST", "/api/generate", json.dumps(body(number)))
                    reply = connection.getresponse()
                    whole = reply.read().startswith(b"\x89PNG")
                    answer = "ok" if reply.status == 200 and whole else f"status {reply.status}"
                except OSError as error:
                    answer = type(error).__name__
                    connection.close()
                with lock:
                    answers[answer] += 1
                    waits.append(time.perf_counter() - start)

        start = time.perf_counter()
        with ThreadPoolExecutor(self.clients) as pool:
            for done in [pool.submit(client) for _ in range(self.clients)]:
                done.result()
        took = time.perf_counter() - start
        cuts = statistics.quantiles(waits, n=100)
        return {
            "requests": len(waits),
            "seconds": took,
            "per_second": len(waits) / took,
            "median_ms": 1000 * cuts[49],
            "p99_ms": 1000 * cuts[98],
            "answers": dict(answers),
        }


def varied(number: int) -> dict[str, Any]:
    """Anything within the bounds that a small model answers soon."""
    draw = random.Random(number)
    return {
        "label": draw.choice(["in turn", *range(10)]),
        "count": draw.randint(1, 64),
        "nfe": draw.choice([1, 1, 1, 2, 4]),
        "seed": draw.randrange(2**31),
        "method": draw.choice(["ode", "consistency", "euler", "heun"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run of the digits recipe")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10, help="of the grids of 64")
    parser.add_argument("--requests", type=int, default=10_000, help="varied ones, after that")
    known = parser.parse_args()
    words = [sys.executable, "-m", "alphaflow", "demo", known.run, "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        load = Load(server.stdout.readline().strip(), known.clients)
        load.run(lambda k: {"seed": k}, 50, 60)
        grids = load.run(lambda k: {"seed": k}, 10**9, known.seconds)
        print("grids of 64:", grids, flush=True)
        many = load.run(varied, known.requests, 1800)
        print("varied:", many)
    finally:
        server.terminate()
        server.wait()
    record = {"machine": machine(), "clients": known.clients, "grids_of_64": grids, "varied": many}
    (RESULTS / "service.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
