"""The report: one file that holds all it shows, tells the measured figures, and survives what is missing."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from alphaflow import cli
from alphaflow.reports.captions import METRICS
from alphaflow.reports.plots import curves, smooth
from alphaflow.reports.report import _classes_shown, write_report

VOID = ("meta", "img", "br", "link", "input", "hr")


class Page(HTMLParser):
    """Checks that tags balance, and collects attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.figures: list[float] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(given)
        if tag == "data":
            self.figures.append(float(given["value"] or "nan"))
        self.links += [given[name] or "" for name in ("src", "href", "srcset", "action") if name in given]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.said).split())


def train(out: Path, *words: str) -> Path:
    settings = ["--steps", "10", "--batch-size", "16", "--log-every", "2", "--sample-every", "5"]
    assert cli.run(["train", *words, "--out", str(out), *settings]) == 0
    return out


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        tmp_path_factory.mktemp("runs") / "a <b> & run", "digits", "--model.width", "16", "--model.depth", "1"
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "toy", "toy", "--data.toy", "moons", "--model.width", "16")


def check_self_contained(page: Page, text: str) -> None:
    assert "script" not in page.tags and "link" not in page.tags
    assert page.links and all(link.startswith("data:image/") for link in page.links)
    assert "@import" not in text and "url(" not in text and "http" not in re.sub(r"<pre>.*?</pre>", "", text)
    for image in page.images:
        assert image["alt"]
        kind, content = re.fullmatch(r"data:image/(png|svg\+xml);base64,(.*)", image["src"] or "").groups()  # type: ignore[union-attr]
        if kind == "png":
            Image.open(io.BytesIO(base64.b64decode(content, validate=True))).verify()
        else:
            assert ElementTree.fromstring(base64.b64decode(content, validate=True)).tag.endswith("svg")


def test_digits(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(digits)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == str(digits / "report.html")
    assert [line[:14] for line in said.out.splitlines()[1:]] == ["1 NFE: frechet", "2 NFE: frechet"]

    text = (digits / "report.html").read_text()
    page = Page(text)
    check_self_contained(page, text)
    scores = json.loads((digits / "evaluation.json").read_text())
    assert set(scores["halves"]) <= set(METRICS)
    for name, halves in scores["halves"].items():
        row = [*(result["figures"][name] for result in scores["results"]), halves]
        assert any(page.figures[k : k + len(row)] == row for k in range(len(page.figures)))
        assert METRICS[name] in page.words
    assert "The run had not been evaluated: making this report did it" in page.words
    assert "Step 5" in page.words and "Step 10" in page.words
    assert sum("nearest to" in (image["alt"] or "") for image in page.images) == 30
    assert sum((image["src"] or "").startswith("data:image/svg") for image in page.images) == 11
    assert "Distance between a few samples of the averaged weights and the data" in page.words
    assert str(escape((digits / "config.yaml").read_text())) in text
    assert "<b>" not in text and "a &lt;b&gt; &amp; run" in text
    assert not list(digits.glob("*.tmp"))

    assert cli.run(["report", str(digits)]) == 0  # now from evaluation.json; otherwise the same, byte for byte
    again = (digits / "report.html").read_text()
    assert again == text.replace("The run had not been evaluated: making this report did it. ", "")


def test_toy(toy: Path) -> None:
    text = write_report(toy).read_text()
    page = Page(text)
    check_self_contained(page, text)
    assert "Not shown for points" in page.words and "points in the plane, 2 classes" in page.words
    assert set(page.figures) == {
        value
        for figures in [json.loads((toy / "evaluation.json").read_text())]
        for part in [*(result["figures"] for result in figures["results"]), figures["halves"]]
        for value in part.values()
    }


def test_missing_parts_become_sentences(digits: Path, tmp_path: Path) -> None:
    """Images without classes, whose files are gone again after training; broken metrics, snapshots, evaluation."""
    images, run = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    noise = np.random.default_rng(0)
    for k in range(12):
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / f"{k}.png")
    small = ["--model.width", "16", "--model.depth", "1", "--model.heads", "2"]
    train(run, "folder", "--data.path", str(images), "--data.size", "8", *small)
    page = Page(write_report(run).read_text())
    assert "No detector fits this data" in page.words and "Sliced Wasserstein ↓" in page.words
    assert "Mirrored images" in page.words and "no classes" in page.words

    (run / "metrics.jsonl").write_text('{"step": 2, "residual": null}\n{"step": 4, "resi')
    (run / "evaluation.json").write_text("[]")
    for path in (run / "samples").iterdir():
        path.write_bytes(b"no image")
    for path in images.iterdir():
        path.unlink()
    text = write_report(run).read_text()
    page = Page(text)
    check_self_contained(page, text)
    for sentence in ("1 readable lines: too few", "no sample pictures", "holds no evaluation", "holds no images"):
        assert sentence in page.words


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(tmp_path)]) == 1
    assert "is not a run" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_smooth_passes_over_gaps() -> None:
    values = np.array([1.0, 1.0, np.nan, 3.0, 3.0, 3.0])
    np.testing.assert_allclose(smooth(values), [1, 1, np.nan, 3, 3, 3])
    np.testing.assert_allclose(smooth(np.full(100, 2.0)), 2.0)


def marks(values: list[float], **settings: bool) -> list[float]:
    """The numbers written beside the vertical axis of a curve; its steps are all above 1000."""
    steps = np.linspace(2000, 3000, len(values))
    picture = curves({"": (steps, np.array(values))}, "label", **settings)
    drawn = ElementTree.fromstring(base64.b64decode(picture.split(",")[1]))
    texts = [node.text or "" for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    numbers = [text.replace("\u2212", "-") for text in texts if re.fullmatch(r"[-\u2212]?[\d.]+(e-?\d+)?", text)]
    return [float(text) for text in numbers if float(text) < 1000]


@pytest.mark.parametrize("span", [1.5, 3.3, 8.0, 25.0, 100.0, 1e4])
def test_a_logarithmic_axis_has_a_few_labels_whatever_its_span(span: float) -> None:
    for lowest in (0.011, 0.2, 0.53, 0.97):
        assert 2 <= len(set(marks([lowest, lowest * span], log=True))) <= 9, lowest


def test_a_constant_schedule_is_shown_from_0() -> None:
    shown = marks([2e-3] * 3, raw=False)
    assert min(shown) == 0 and max(shown) == 2e-3
    assert min(marks([0.0] * 3, raw=False)) == 0  # α of MeanFlow


@pytest.mark.parametrize(
    "classes, shown, prompts, words",
    [
        (0, [], [], "No classes"),
        (10, [*range(10)], [], "A column for each class"),
        (12, [*range(10)], [], "10 of 12 classes, a"),
        (0, [], ["a red circle"], "A column for each prompt"),
    ],
)
def test_how_many_classes_are_shown_is_said(classes, shown, prompts, words):
    material = SimpleNamespace(classes=shown, prompts=prompts, generator=SimpleNamespace(num_classes=classes))
    assert _classes_shown(material).startswith(words)
