"""The pictures of the web page and of the demo in docs/images/, taken in Debian's Chromium.

python scripts/screenshots.py runs/digits
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()


def main(run: str) -> None:
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        out = str(Path(temporary) / "page")
        subprocess.run([sys.executable, "-m", "alphaflow", "export", run, out, "--format", "web"], check=True)
        words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", out]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        page = browser.new_page(viewport={"width": 1080, "height": 900})
        page.goto(f"http://127.0.0.1:{first_line(server).split(' port ')[1].split()[0]}/")
        page.wait_for_selector("#grid[data-busy=no]")
        page.click("#classes >> text='3'")
        pad = page.locator("#pad").bounding_box()
        page.mouse.move(pad["x"] + 90, pad["y"] + 90)
        page.mouse.down()
        page.mouse.move(pad["x"] + 130, pad["y"] + 70, steps=40)
        page.mouse.up()
        take(page, "web-page.png")
        stop(server)

        words = [sys.executable, "-m", "alphaflow", "demo", run, "--port", "0"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        page = browser.new_page(viewport={"width": 1080, "height": 860})
        page.goto(first_line(server).strip())
        page.wait_for_selector("#picture-0 img[src]")
        take(page, "demo.png")
        browser.close()
        stop(server)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()


def take(page: Any, name: str) -> None:
    """A screenshot with few colours, as a file in a repository should have."""
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / name, full_page=True)
    Image.open(IMAGES / name).convert("RGB").quantize(128).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
