"""The exported page in this machine's Chromium: how soon it is there, and how long a digit takes.

    python benchmarks/page.py runs/digits             # writes benchmarks/results/page.json

Loading is from the address typed to every canvas drawn, in a new browser without a cache, from Python's
http.server. A digit is timed in the page, from the arrow key that moves its noise to its pixels on the canvas;
the network's own share of that is what the page shows.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import RESULTS, machine

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SETTLED = """() => ["picture", "mixture", "strip", "grid"].every((one) =>
  document.getElementById(one).dataset.busy === "no")"""
MOVES = """async (count) => {
  const pad = document.getElementById("pad");
  const canvas = document.getElementById("picture");
  const grid = document.getElementById("grid");
  const rest = (one) => new Promise((done) => {
    const look = () => one.dataset.busy === "no" ? done() : channel.port2.postMessage(0);
    const channel = new MessageChannel();
    channel.port1.onmessage = look;
    look();
  });
  const out = { whole: [], network: [], grid: [] };
  for (let k = 0; k < count; k++) {
    const start = performance.now();
    pad.dispatchEvent(new KeyboardEvent("keydown", { key: k % 2 ? "ArrowLeft" : "ArrowRight" }));
    await rest(canvas);
    out.whole.push(performance.now() - start);
    out.network.push(parseFloat(document.getElementById("picture-time").textContent));
    await rest(grid);
    out.grid.push(performance.now() - start);
  }
  return out;
}"""


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run of the digits recipe")
    parser.add_argument("--rounds", type=int, default=5, help="how often it is loaded")
    parser.add_argument("--moves", type=int, default=200)
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "page"
        words = [sys.executable, "-m", "alphaflow", "export", known.run, str(out), "--format", "web"]
        subprocess.run(words, check=True)
        server = subprocess.Popen(
            [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split(" port ")[1].split()[0]
            with sync_playwright() as playwright:
                record = measure(playwright, f"http://127.0.0.1:{port}/", known.rounds, known.moves)
        finally:
            server.terminate()
            server.wait()
    for name, value in record.items():
        print(f"{name:20}{value}")
    (RESULTS / "page.json").write_text(json.dumps({"machine": machine(), **record}, indent=1) + "\n")


def measure(playwright: Any, address: str, rounds: int, moves: int) -> dict[str, Any]:
    loads = []
    for _ in range(rounds):
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1200})
        start = time.perf_counter()
        page.goto(address)
        page.wait_for_function(SETTLED)
        loads.append(time.perf_counter() - start)
        if len(loads) < rounds:
            browser.close()
    times = page.evaluate(MOVES, moves)
    version = browser.version
    browser.close()
    return {
        "chromium": version,
        "load_seconds": loads,
        **{f"{name}_ms": statistics.median(values) for name, values in times.items()},
        **{f"{name}_p95_ms": statistics.quantiles(values, n=20)[-1] for name, values in times.items()},
    }


if __name__ == "__main__":
    main()
