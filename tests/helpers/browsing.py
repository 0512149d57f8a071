"""A real browser, static servers, and small models with weights that make something of their noise."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from alphaflow.data.vocabulary import Vocabulary
from alphaflow.models import DataPrediction, DiT, WordedDiT
from alphaflow.runs.model_folder import ModelRecord, describe_network, write_model

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def need(program: str) -> None:
    """Skip the test without the program; on a machine that runs the tests for others, fail it."""
    if shutil.which(program) is None:
        words = f"{program} is not on this machine: `make test` installs it where apt-get may"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    need("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Plain(SimpleHTTPRequestHandler):
    """A server that knows few types: neither .wasm nor .onnx. It does not chat."""

    def guess_type(self, path: Any) -> str:
        known = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
        return known.get(Path(str(path)).suffix, "application/octet-stream")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The folder behind a plain static server on the loopback; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Plain, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def watched(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A tab; at the end, it must have complained of nothing and asked no other server."""
    page = browser.new_page(**options)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("requestfailed", lambda request: complaints.append(f"{request.url}: {request.failure}"))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((address, "data:", "blob:")) else complaints.append(request.url)
        ),
    )
    page.goto(address)
    yield page
    page.close()
    # Aborted is what the page itself ended, as the demo does when something newer is asked for.
    complaints = [one for one in complaints if not one.endswith("net::ERR_ABORTED")]
    assert not complaints, complaints


def canvas_pixels(page: Any, name: str) -> NDArray[np.uint8]:
    """What a canvas shows, uint8 (H, W, 4)."""
    data = page.evaluate(
        """(name) => {
          const one = document.getElementById(name);
          const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
          return [one.height, one.width, Array.from(data)];
        }""",
        name,
    )
    return np.array(data[2], np.uint8).reshape(data[0], data[1], 4)


def cells(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The pictures of a grid with its gaps left out, row by row: (N, height, width, 4)."""
    gap = max(1, round(width / 16))
    rows, columns = (picture.shape[0] + gap) // (height + gap), (picture.shape[1] + gap) // (width + gap)
    return np.stack(
        [
            picture[i * (height + gap) :, j * (width + gap) :][:height, :width]
            for i in range(rows)
            for j in range(columns)
        ]
    )


def assert_same(shown: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> None:
    """RGBA as shown against pictures (…, C) of one or three channels: equal up to the rounding of a level."""
    assert shown.shape[:-1] == wanted.shape[:-1]
    assert (shown[..., 3] == 255).all()
    difference = np.abs(shown[..., :3].astype(int) - wanted.astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def small_model(
    folder: Path,
    *,
    channels: int = 1,
    size: Any = (8, 8),
    num_classes: int = 10,
    seed: int = 0,
    guides: tuple[float, float] | None = None,
    words: Vocabulary | None = None,
) -> Path:
    """A model's folder: a DiT that predicts the data, whose random weights make pictures of every level.

    seed: of the weights. guides: the times between which it says that training dropped labels. words: what it is
        told in, in the place of classes.
    """
    torch.manual_seed(seed)
    if words:
        num_classes = 0
        told = WordedDiT(size, 4, channels, 32, 1, 4, words.size, words.length, text_width=32, text_depth=0)
    net = DataPrediction(told if words else DiT(size, 4, channels, 32, 1, 4, num_classes))
    for name, parameter in net.named_parameters():
        if "adaLN" in name or "final_layer" in name:
            nn.init.normal_(parameter, std=0.3)
    record = ModelRecord(
        network=describe_network(net),
        data={
            "shape": [channels, *size],
            "kind": "image",
            "num_classes": num_classes,
            "class_names": [f"<b>{k}</b>" if k == 1 else str(k) for k in range(num_classes)],
            **({"vocabulary": words.record()} if words else {}),
        },
        step=7,
        guides=guides,
    )
    write_model(folder, record, net.state_dict())
    return folder
