"""`alphaflow demo` as people and programs meet it: in a real browser, and by HTTP, friendly or not."""

import base64
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import alphaflow as af
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.data.vocabulary import Vocabulary
from alphaflow.demo.guard import is_loopback
from alphaflow.demo.server import describe, make_app
from alphaflow.demo.service import Service, open_model
from alphaflow.generation.pictures import image_grid
from browsing import chromium, small_model, watched
from children import child


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [small_model(folder / name, seed=k, guides=(0.0, 1.0)) for k, name in enumerate(("one", "<i>two"))]


@pytest.fixture(scope="module")
def demo(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Two models side by side, served by the command itself."""
    words = [sys.executable, "-m", "alphaflow", "demo", *map(str, models), "--port", "0"]
    said = tmp_path_factory.mktemp("said") / "stderr"
    with said.open("w") as errors:
        served = child(words, seconds=900, stdout=subprocess.PIPE, stderr=errors, text=True)
        with served as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            generators = [af.load(one) for one in models]
            yield SimpleNamespace(address=address, generators=generators, process=process, said=said)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) in (0, 130)
    assert "Traceback" not in said.read_text()


def post(demo: Any, body: bytes | dict[str, Any], **headers: str) -> tuple[int, bytes]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(demo.address + "api/generate", content, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def grid_of(pictures: Any, columns: int | None = None) -> Any:
    return np.asarray(image_grid(pictures, columns))


def assert_close(png: bytes, wanted: Any) -> None:
    shown = np.asarray(Image.open(io.BytesIO(png)))
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).max() <= 1


# ------------------------------------------------------------------------------------------------ programs


@pytest.mark.parametrize("model", [0, 1])
def test_pictures_are_those_of_load(demo, model):
    status, png = post(demo, {"model": model, "seed": 5, "nfe": 2, "method": "consistency"})
    wanted = demo.generators[model](np.arange(64) % 10, nfe=2, seed=5, method="consistency")
    assert status == 200
    assert (np.asarray(Image.open(io.BytesIO(png))) == grid_of(wanted, 10)).all()
    status, png = post(demo, {"model": model, "label": 3, "count": 5})  # fewer rows at a time: to rounding
    assert_close(png, grid_of(demo.generators[model]([3] * 5)))


def test_guidance_and_no_class(demo):
    generator = demo.generators[0]
    plain, guided = (generator([4] * 64, guidance=scale) for scale in (1.0, 3.0))
    assert np.abs(plain.astype(int) - guided).max() > 20
    assert_close(post(demo, {"label": 4, "guidance": 3})[1], grid_of(guided))
    assert_close(post(demo, {"label": -1, "count": 4})[1], grid_of(generator([10] * 4)))


def test_thirty_two_at_once_all_get_their_own(demo):
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda seed: post(demo, {"seed": seed, "label": 2, "count": 64}), range(32)))
    assert [status for status, _ in replies] == [200] * 32
    for seed in (0, 17, 31):
        assert_close(replies[seed][1], grid_of(demo.generators[0]([2] * 64, seed=seed)))


@pytest.mark.parametrize(
    "body, said",
    [
        (b'{"count": NaN}', "count nan: give a whole number from 1 to 64"),
        (b'{"count": 1' + b"0" * 3000 + b"}", "count a number of more than 18 digits"),
        (b'{"count": 1' + b"0" * 9000 + b"}", "not JSON"),  # Python itself refuses to read it
        (b'{"seed": 1e999}', "seed inf"),
        (b'{"label": "<script>alert(1)</script>"}', "give the number of a class"),
        (b"[" * 9000, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b'{"model": 2}', "model 2: give a whole number from 0 to 1"),
        (b'"' + b"x" * 9000 + b'"', "a request is an object"),
    ],
)
def test_hostile_requests_are_refused_with_a_message_and_the_demo_lives_on(demo, body, said):
    status, reply = post(demo, body)
    assert status == 400 and said in json.loads(reply)["error"] and len(reply) < 300
    assert post(demo, {"count": 1})[0] == 200


def test_clients_that_leave_early_make_no_noise_and_hold_nobody_up(demo):
    place = urlsplit(demo.address)
    for k in range(30):
        body = json.dumps({"nfe": 64, "method": "heun", "seed": k}).encode()
        head = f"POST /api/generate HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((place.hostname, place.port)) as one:
            one.sendall((head.encode() + body)[: None if k % 3 else -5])  # some leave within the body
            if k % 2:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # by a reset
    assert post(demo, {"count": 1})[0] == 200
    assert demo.said.read_text() == ""


@pytest.mark.slow
def test_memory_stays_flat(demo):
    """By the interface that the page uses itself, with other requests each time."""

    def kilobytes() -> int:
        status = Path(f"/proc/{demo.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def ask(seed: int) -> int:
        return post(demo, {"seed": seed, "count": 1 + seed % 64, "model": seed % 2, "nfe": 1 + seed % 2})[0]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(200))) == {200}
        before = kilobytes()
        assert set(pool.map(ask, range(700))) == {200}
    assert kilobytes() - before < 10_000


# -------------------------------------------------------------------------------------------------- people


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def test_the_page_has_what_its_script_and_style_name():
    """On a machine without a browser, too: an id that the page lacks stops the script."""
    folder = resources.files("alphaflow.demo") / "page"
    page, *others = ((folder / name).read_text() for name in ("index.html", "demo.js", "demo.css"))
    made = set(re.findall(r'id="([\w-]+)"', page))
    named = set(re.findall(r'find\("#([\w-]+)', others[0])) | set(re.findall(r"^#([\w-]+) ", others[1], re.M))
    assert {"title", "models", "request", "problem"} <= named <= made


@pytest.fixture
def page(browser: Any, demo: SimpleNamespace) -> Iterator[Any]:
    with watched(browser, demo.address, viewport={"width": 1200, "height": 900}) as page:
        page.wait_for_selector("#picture-1 img[src]")
        yield page


def shown(page: Any, k: int = 0) -> Any:
    """The pixels of a grid as the browser has it, grey."""
    data = page.evaluate(
        """async (k) => {
          let image;
          for (let tries = 0; ; tries++) {  // while another picture is set, decoding the one before fails
            image = document.querySelector(`#picture-${k} img`);
            try { await image.decode(); break; } catch (error) { if (tries === 20) throw error; }
            await new Promise((again) => setTimeout(again, 100));
          }
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
          let grey = "";
          for (let i = 0; i < data.length; i += 4) grey += String.fromCharCode(data[i]);
          return [canvas.height, canvas.width, btoa(grey)];
        }""",
        k,
    )
    return np.frombuffer(base64.b64decode(data[2]), np.uint8).reshape(data[:2])


def wait_for(page: Any, wanted: Any, k: int = 0) -> None:
    """Until the grid is the one wanted; then they differ by a level at most."""
    for _ in range(60):
        found = shown(page, k)
        if found.shape == wanted.shape and np.abs(found.astype(int) - wanted).max() <= 1:
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"picture {k} never became the one wanted")


def test_the_page_shows_both_models_with_the_same_seed(page, demo):
    for k in range(2):
        wait_for(page, grid_of(demo.generators[k](np.arange(60) % 10), 10), k)
        assert re.match(r"\d+\.\d ms, \d+\.\d\d ms each", page.inner_text(f"#time-{k}"))
    assert page.inner_text("h1") == "one beside <i>two"


def test_clicking_changes_seed_class_and_steps(page, demo):
    page.fill("#seed input", "12")
    page.select_option("#label select", label="7")
    page.locator("#nfe input[type=number]").fill("2")
    page.locator("#count input[type=number]").fill("9")
    page.click("#go")
    for k in range(2):
        wait_for(page, grid_of(demo.generators[k]([7] * 9, nfe=2, seed=12)), k)
    page.click("#another")
    page.wait_for_function("document.querySelector('#seed input').value !== '12'")
    seed = int(page.input_value("#seed input"))
    wait_for(page, grid_of(demo.generators[0]([7] * 9, nfe=2, seed=seed)))


def test_the_grid_can_be_downloaded(page):
    with page.expect_download() as download:
        page.click("#download-0")
    assert download.value.suggested_filename == "one-seed0.png"
    assert (np.asarray(Image.open(download.value.path()).convert("L")) == shown(page)).all()


def test_a_mistake_on_the_page_is_told_and_passes(page, demo):
    page.locator("#count input[type=number]").fill("4")
    page.fill("#seed input", "99999999999")
    page.click("#go")  # the browser itself says what is wrong, and nothing is asked
    assert page.evaluate("document.querySelector('#seed input').validity.rangeOverflow")
    page.fill("#seed input", "3")
    page.click("#go")
    wait_for(page, grid_of(demo.generators[0](range(4), seed=3), 10))


def test_what_the_server_refuses_is_told_on_the_page(browser, demo):
    page = browser.new_page()
    page.goto(demo.address)
    page.wait_for_selector("#picture-1 img[src]")
    page.evaluate("document.querySelector('#method select').options[0].value = JSON.stringify('of old')")
    page.click("#go")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem").startswith("method 'of old' is unknown: choose one of ode")
    page.close()


def test_dragging_a_slider_asks_once_it_is_let_go(page, demo):
    page.locator("#nfe input[type=range]").fill("3")
    page.locator("#guidance input[type=number]").fill("2")
    page.locator("#label select").select_option(label="4")
    for k in range(2):
        wait_for(page, grid_of(demo.generators[k]([4] * 60, nfe=3, guidance=2.0)), k)


# ------------------------------------------------------------------------------------------------- mistakes


def test_where_it_listens():
    assert (
        is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1") and is_loopback("127.8.8.8")
    )
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))


@pytest.mark.parametrize(
    "listens, asked, status",
    [
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "[::1]:7860", 200),
        ("127.0.0.2", "127.0.0.2:7860", 200),
        ("127.0.0.1", "evil.example", 400),
        ("127.0.0.1", "127.0.0.1.evil.example:7860", 400),
        ("127.0.0.1", "[", 400),
        ("0.0.0.0", "my.machine", 200),
    ],
)
def test_which_hosts_are_answered(served, listens, asked, status):
    reply = TestClient(make_app(served, listens), headers={"Host": asked}).get("/api/about")
    assert reply.status_code == status
    if status == 200:
        assert reply.json()["most"] == {"count": 64, "nfe": 64, "seed": 2**31 - 1, "letters": 400}
        assert reply.json()["num_classes"] == 10 and reply.json()["models"] == ["one"]


@pytest.fixture(scope="module")
def served(models: list[Path]) -> Iterator[Service]:
    service = Service([open_model(models[0])])
    yield service
    service.close()


@pytest.mark.parametrize("package", ["uvicorn", "starlette.applications"])
def test_without_a_server_the_message_names_the_extra(served, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'alphaflow\[demo\]'"):
        make_app(served)


def test_models_of_different_classes_do_not_go_side_by_side(models, tmp_path):
    other = small_model(tmp_path / "other", num_classes=3)
    with pytest.raises(UserError, match="one has 10 classes and other 3 classes: show them one at a time"):
        Service([open_model(models[0]), open_model(other)])


def test_a_model_that_is_told_in_words_draws_a_prompt_or_its_examples_in_turn(models, tmp_path):
    words = Vocabulary(("a", "blue", "circle", "red"), 4, ("a red circle", "a blue circle", "red"))
    opened = open_model(small_model(tmp_path / "worded", words=words))
    with pytest.raises(UserError, match="one has 10 classes and worded words: show them one at a time"):
        Service([open_model(models[0]), opened])
    service = Service([opened])
    assert describe(service)["examples"] == list(words.examples)

    def drawn(**asked: Any) -> np.ndarray:
        png = service.compute(service.bounds.read({"count": 6, **asked})).png
        return np.asarray(Image.open(io.BytesIO(png)))

    def expected(prompts: list[str], columns: int | None) -> np.ndarray:
        return np.asarray(image_grid(opened.generator(prompts=prompts), columns))

    assert (drawn() == expected([*words.examples] * 2, 3)).all()
    assert (drawn(prompt=" a blue  circle") == expected(["a blue circle"] * 6, None)).all()
    assert (drawn(prompt="red") != drawn(prompt="a blue circle")).any()
    with pytest.raises(UserError, match="takes 5 places, and this model reads 4"):
        drawn(prompt="a red red red circle")
    service.close()


def test_mistakes_at_the_command_line(models, demo, tmp_path, capsys):
    assert run(["demo", str(models[0]), "--port", "99999"]) == 2
    assert "--port 99999" in capsys.readouterr().err
    taken = demo.address.rstrip("/").rpartition(":")[2]
    assert run(["demo", str(models[0]), "--port", taken]) == 1
    assert f"cannot listen at 127.0.0.1:{taken}" in capsys.readouterr().err
    assert run(["demo", str(models[0]), "--host", "192.0.2.1", "--port", "0"]) == 1
    assert "cannot listen at 192.0.2.1:0 (" in capsys.readouterr().err
    assert run(["demo", str(tmp_path)]) == 1
    for host in ("", " ", "a..b", "x" * 300):  # none that a name server would be asked for
        capsys.readouterr()
        assert run(["demo", str(models[0]), "--host", host, "--port", "0"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"alphaflow: --host '{host.strip()[:5]}") or not host.strip()
        assert ("is none (" if host.strip() else "--host is empty here") in error and error.count("\n") == 1


def test_points_and_a_run_that_dropped_labels(tmp_path):
    words = "--steps 2 --batch-size 8 --model.width 16 --model.depth 1 --sample-every 2".split()
    assert run(["train", "toy", "--out", str(tmp_path / "toy"), *words]) == 0
    service = Service([open_model(tmp_path / "toy")])
    drawn = service.compute(service.bounds.read({"count": 64}))
    assert Image.open(io.BytesIO(drawn.png)).width > 100 and not service.bounds.guidable
    service.close()
    words += "--model.heads 2 --model.patch 4 --objective.label-drop 0.1".split()
    assert run(["train", "digits", "--out", str(tmp_path / "digits"), *words]) == 0
    assert Service([open_model(tmp_path / "digits")]).bounds.guidable
