"""The exported page in a real browser: what it shows is what `alphaflow.load` gives for the same seed."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import alphaflow as af
from alphaflow.data.vocabulary import Vocabulary
from alphaflow.export import export
from alphaflow.rng import KeyedRandom, hash_key
from browsing import assert_same, canvas_pixels, cells, chromium, need, serve, small_model, watched

LABELS = np.arange(60) % 10


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model of grey digits with classes, and its page."""
    need("npm")
    source = small_model(tmp_path_factory.mktemp("models") / "grey")
    out = tmp_path_factory.mktemp("pages") / "grey"
    export(source, out, "web")
    return SimpleNamespace(folder=out, generator=af.load(source))


def test_a_model_that_is_told_in_words_has_a_field_for_the_prompt(browser, tmp_path):
    need("npm")
    words = Vocabulary(("a", "blue", "circle", "red"), 12, ("a red circle", "a blue circle", "red", ""))
    source = small_model(tmp_path / "worded", channels=3, words=words)
    export(source, tmp_path / "page", "web")
    generator = af.load(source)
    with serve(tmp_path / "page") as address, watched(browser, address) as page:
        settled(page)
        assert page.input_value("#prompt") == "a red circle" and not page.is_visible("#classes")
        shown = cells(canvas_pixels(page, "grid"), 8, 8)
        assert_same(shown, generator(prompts=[words.examples[k % 4] for k in range(len(shown))]))
        assert page.locator("#columns span").all_text_contents() == list(words.examples)
        for prompt in ("Blue, CIRCLE!", "größe 木", ""):
            page.fill("#prompt", prompt)
            settled(page)
            assert_same(cells(canvas_pixels(page, "picture"), 8, 8), generator(prompts=[prompt]))
        page.fill("#prompt", "no word of these is known")
        assert "and the model reads 12" in page.evaluate("document.querySelector('#prompt').validationMessage")


@pytest.fixture(scope="module")
def opened(browser: Any, exported: SimpleNamespace) -> Iterator[Any]:
    with serve(exported.folder) as address, watched(browser, address) as page:
        settled(page)
        yield page


@pytest.fixture
def page(opened: Any) -> Any:
    """The page as it is when it has just been opened; loading it for each test would take seconds each."""
    for button in ("#classes >> text='0'", "#steps >> text='1'", "text='All classes'", "#home"):
        opened.click(button)
    for name, value in (("#seed", "0"), ("#other", "1")):
        opened.fill(name, value)
        opened.press(name, "Enter")
    opened.locator("#share").fill("0.5")
    settled(opened)
    return opened


def settled(page: Any) -> None:
    """Wait until every canvas shows what was asked for."""
    page.wait_for_function(
        """() => ["picture", "mixture", "strip", "grid"].every((one) =>
          document.getElementById(one).dataset.busy === "no")"""
    )


def picture(page: Any, name: str = "picture") -> Any:
    return cells(canvas_pixels(page, name), 8, 8)


def knob(page: Any) -> tuple[float, float]:
    """Where the noise is, in [-1, 1]²."""
    style = page.locator("#knob").evaluate("(one) => [one.style.left, one.style.top]")
    x, y = (float(one.rstrip("%")) / 50 - 1 for one in style)
    return x, y


def test_noise_is_that_of_the_seed_in_python(page):
    for seed, index, count in ((0, 0, 64), (1, 5, 7), (999_999_999, 59, 3 * 12 * 8)):
        shown = page.evaluate(
            "async (all) => Array.from((await import('./noise.js')).noiseOf(...all))", [seed, index, count]
        )
        wanted = KeyedRandom(hash_key(seed, "sample"), torch.tensor([index])).normal("start", (count,))[0]
        np.testing.assert_allclose(shown, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_grid_is_what_load_gives(page, exported, steps):
    page.click(f"#steps >> text='{steps}'")
    page.fill("#seed", "31")
    page.press("#seed", "Enter")
    settled(page)
    assert_same(picture(page, "grid"), exported.generator(LABELS, nfe=steps, seed=31))
    assert "60 pictures in" in page.inner_text("#grid-time")


def test_the_class_is_the_one_clicked_and_named_as_plain_text(page, exported):
    assert page.locator("#classes button").all_inner_texts()[:3] == ["0", "<b>1</b>", "2"]
    page.click("#classes >> text='7'")
    settled(page)
    assert page.get_attribute("#classes >> text='7'", "aria-checked") == "true"
    assert_same(picture(page), exported.generator([7], seed=0))
    page.click("text='The chosen one'")
    settled(page)
    assert_same(picture(page, "grid"), exported.generator([7] * 60, seed=0))
    page.focus("#classes >> text='7'")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert_same(picture(page), exported.generator([8], seed=0))


def test_dragging_turns_the_noise_and_makes_pictures_and_grid_anew(page, exported):
    before = picture(page)
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.35 * box["height"], steps=12)
    page.mouse.up()
    settled(page)
    x, y = knob(page)
    assert abs(x - 0.6) < 0.02 and abs(y + 0.3) < 0.02
    assert np.abs(picture(page).astype(int) - before).max() > 50
    assert_same(picture(page, "grid"), moved(exported.generator, x, y))
    assert_same(picture(page), moved(exported.generator, x, y)[:1])
    page.click("#home")
    settled(page)
    assert (picture(page) == before).all()


def moved(generator: Any, x: float, y: float) -> Any:
    """The grid of seed 0 with each noise turned towards two others, a quarter turn at distance 1."""
    angle = math.hypot(x, y) * math.pi / 2
    index = torch.arange(60)
    noise = KeyedRandom(hash_key(0, "sample"), index).normal("start", generator.shape)
    two = KeyedRandom(hash_key(0, "drag"), torch.arange(120)).normal("start", generator.shape)
    aside = (x * two[0::2] + y * two[1::2]) / math.hypot(x, y)
    z = math.cos(angle) * noise + math.sin(angle) * aside
    return generator.pictures(af.sample(generator.net, z, torch.from_numpy(LABELS)))


@pytest.mark.parametrize("surface", ["#picture", "#grid"])
def test_pictures_themselves_can_be_dragged_and_the_pad_has_keys(page, surface):
    page.locator(surface).scroll_into_view_if_needed()
    box = page.locator(surface).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 20, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + 10, box["y"] + 10)  # no longer held
    x, y = knob(page)
    assert x > 0.1 and abs(y - x / 2) < 0.01
    page.focus("#pad")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    settled(page)
    assert knob(page) == pytest.approx((x - 0.05, y + 0.05), abs=1e-3)


def test_between_the_seeds(page, exported):
    page.fill("#other", "5")
    page.press("#other", "Enter")
    ends = exported.generator([0], seed=0), exported.generator([0], seed=5)
    for share, wanted in (("0", ends[0]), ("1", ends[1])):
        page.locator("#share").fill(share)
        settled(page)
        assert_same(picture(page, "mixture"), wanted)
    strip = picture(page, "strip")
    assert len(strip) == 9
    assert_same(strip[[0, 8]], np.concatenate(ends))
    page.locator("#share").fill("0.5")
    settled(page)
    noise = [
        KeyedRandom(hash_key(seed, "sample"), torch.tensor([0])).normal("start", (1, 8, 8)) for seed in (0, 5)
    ]
    middle = af.sample(exported.generator.net, sum(noise) / math.sqrt(2), torch.tensor([0]))
    assert_same(picture(page, "mixture"), exported.generator.pictures(middle))
    assert_same(strip[[4]], exported.generator.pictures(middle))


@pytest.mark.parametrize("typed, used", [("-4", "0"), ("1e99", "999999999"), ("2.7", "2"), ("", "0")])
def test_odd_seeds_are_brought_into_range(page, exported, typed, used):
    page.fill("#seed", "3")
    page.fill("#seed", typed)
    page.press("#seed", "Enter")
    settled(page)
    assert page.input_value("#seed") == used
    assert_same(picture(page), exported.generator([0], seed=int(used)))


def test_colour_without_classes_and_not_square(browser, tmp_path):
    source = small_model(tmp_path / "colour", channels=3, size=(12, 16), num_classes=0)
    export(source, tmp_path / "page", "web")
    with serve(tmp_path / "page") as address, watched(browser, address) as page:
        settled(page)
        assert page.locator("#class-control").is_hidden()
        assert_same(cells(canvas_pixels(page, "grid"), 12, 16), af.load(source)(60, seed=0))


def test_many_classes_come_as_a_list(browser, exported, tmp_path):
    shutil.copytree(exported.folder, tmp_path / "page")
    facts = json.loads((tmp_path / "page" / "page.json").read_text())
    names = [f"kind {k}" for k in range(30)]
    (tmp_path / "page" / "page.json").write_text(json.dumps({**facts, "num_classes": 30, "class_names": names}))
    with serve(tmp_path / "page") as address, watched(browser, address) as page:
        settled(page)
        page.select_option("#classes select", label="7: kind 7")
        settled(page)
        assert_same(picture(page), exported.generator([7], seed=0))
        assert page.locator("#columns span").count() == 10


def test_a_page_that_lost_its_network_says_so(browser, exported, tmp_path):
    shutil.copytree(exported.folder, tmp_path / "page")
    (tmp_path / "page" / "model.onnx").unlink()
    with serve(tmp_path / "page") as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#problem:not([hidden])")
        assert "model.onnx: 404" in page.inner_text("#problem")
        page.close()


def test_the_folder_names_no_other_place(exported):
    """But for the address where onnxruntime's licence says it comes from."""
    for name in ("index.html", "app.js", "noise.js", "worker.js", "style.css", "page.json"):
        assert "://" not in (Path(exported.folder) / name).read_text(), name
