"""The published detectors, on small files of their formats: the whole path from an address to features."""

import hashlib
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alphaflow.errors import UserError
from alphaflow.metrics import DETECTORS, load_detector
from alphaflow.metrics.detectors.catalogue import PUBLISHED, shorter_side_to
from published_weights import (
    Bomb,
    Publish,
    TinyCLIP,
    TinyDINOv2,
    TinyI3D,
    TinyInception,
    pickled,
    scripted,
    traced_half,
)


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)


def pillow(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resized to (width, height)."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def test_every_published_detector_names_an_address_and_a_hash() -> None:
    assert DETECTORS == ("digits", "fashion", "shapes", "inception", "dinov2", "clip", "clip-l", "i3d")
    for entry in PUBLISHED.values():
        assert entry.weights.url.startswith("https://") and len(bytes.fromhex(entry.weights.sha256)) == 32
    for name in ("clip", "clip-l"):  # OpenAI's addresses hold the hash
        assert PUBLISHED[name].weights.sha256 in PUBLISHED[name].weights.url
    assert PUBLISHED["clip"].weights != PUBLISHED["clip-l"].weights


def test_inception_gets_the_levels_and_its_logits_leave_out_the_bias(
    publish: Publish, images: NDArray[np.uint8]
) -> None:
    torch.manual_seed(0)
    net = TinyInception()
    detector = load_detector("inception", path=publish("inception", scripted(net)))
    levels = torch.from_numpy(images).movedim(-1, 1)
    features = detector.features(images)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, net(levels, return_features=True))
    torch.testing.assert_close(detector.logits(images).softmax(1), net(levels, no_output_bias=True))
    assert detector(images).features.dtype == torch.float64
    assert detector.version == PUBLISHED["inception"].weights.sha256 and "299" in detector.preprocessing


def test_i3d_rescales_and_resizes_videos_by_itself(publish: Publish) -> None:
    videos = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 20, 3), dtype=np.uint8)
    detector = load_detector("i3d", path=publish("i3d", scripted(TinyI3D())).parent)
    wanted = TinyI3D()(torch.from_numpy(videos).movedim(-1, 1).float(), True, True, True)
    torch.testing.assert_close(detector.features(videos), wanted)
    with pytest.raises(ValueError, match="videos of 10 frames or more, not 4"):
        detector.features(videos[:, :4])
    with pytest.raises(ValueError, match=r"takes videos \(N, T, H, W, 3\), not \(N, 16, 20, 3\)"):
        detector.features(videos[:, 0])
    with pytest.raises(ValueError, match="knows no classes"):
        detector.logits(videos)


def test_dinov2_is_facebooks_network_with_its_position_embeddings(
    publish: Publish, images: NDArray[np.uint8]
) -> None:
    torch.manual_seed(0)
    net = TinyDINOv2().eval()
    detector = load_detector("dinov2", path=publish("dinov2", pickled(net)))
    x = torch.from_numpy(images).movedim(-1, 1).float()
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = net((x - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(detector.features(images), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["clip", "clip-l"])
def test_clip_is_openais_network_behind_pillows_resizing(
    name: str, publish: Publish, images: NDArray[np.uint8]
) -> None:
    torch.manual_seed(0)
    net = TinyCLIP().eval()
    detector = load_detector(name, path=publish(name, traced_half(net)))
    resized = np.stack(
        [pillow(image, (313, 224))[:, 44:268] for image in images]
    )  # int(56 · 224 / 40), its middle
    x = torch.from_numpy(resized).movedim(-1, 1).float() / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        wanted = net((x - mean) / std)
    features = detector.features(images)
    assert (features - wanted).norm() < 1e-3 * wanted.norm()  # Pillow computes in whole numbers
    assert features.norm(dim=1).std() > 0.01  # not normalised


@pytest.mark.parametrize("shape", [(40, 56), (300, 230), (224, 224), (700, 460)])
def test_the_resizing_of_clip_is_pillows_within_a_level(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    H, W = shape
    size = (int(224 * W / H), 224) if H <= W else (224, int(224 * H / W))
    wanted = pillow(image, size)
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    wanted = wanted[top : top + 224, left : left + 224]
    found = shorter_side_to(torch.from_numpy(image).movedim(-1, 0)[None], 224)[0].movedim(0, -1)
    assert found.shape == (224, 224, 3)
    off = (found - torch.from_numpy(wanted.copy()).float()).abs()
    assert off.max() <= 1 and off.mean() < 0.01


def test_digits_are_a_detector_by_name() -> None:
    detector = load_detector("digits")
    images = np.zeros((2, 8, 8, 1), np.uint8)
    assert detector.features(images).shape == (2, 64) and detector.logits(images).shape == (2, 10)
    with pytest.raises(UserError, match="leave --detector-path out"):
        load_detector("digits", path="x")
    with pytest.raises(UserError, match="did you mean 'inception'"):
        load_detector("incepton")


# ---------------------------------------------------------------- files


def test_another_file_is_refused_unopened_with_both_hashes(publish: Publish, tmp_path: Path) -> None:
    mark = tmp_path / "opened"
    file = publish("dinov2", pickled(torch.nn.Linear(1, 1)))
    file.write_bytes(pickle.dumps(Bomb(mark)))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"sha256 {found}, expected {PUBLISHED['dinov2'].weights.sha256}"):
        load_detector("dinov2", path=file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()  # it would have left its mark


def test_a_path_without_the_file_names_the_file(publish: Publish, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"i3d_torchscript\.pt.*give i3d_torchscript\.pt from https://www"):
        load_detector("i3d", path=tmp_path)


class Server(http.server.BaseHTTPRequestHandler):
    """Sends at most `limit` bytes an answer, then hangs up; knows `Range` if `ranges`."""

    content: bytes
    limit: int
    ranges: bool
    asked: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.limit])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    class Here(Server):
        content, limit, ranges = b"", 2**30, True
        asked: list[str | None] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/file", Here
        running.shutdown()


def test_a_download_that_breaks_off_goes_on_where_it_ended(
    publish: Publish, server: tuple[str, type[Server]], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    url, handler = server
    handler.content = scripted(TinyInception())
    handler.limit = len(handler.content) // 2 - 1
    mine = publish("inception", handler.content, url)
    first = load_detector("inception")
    half = handler.limit
    assert handler.asked == [None, f"bytes={half}-", f"bytes={2 * half}-"]
    assert sorted(path.name for path in (tmp_path / "cache" / "detectors").iterdir()) == [
        mine.name,
        mine.name + ".lock",
    ]
    torch.testing.assert_close(first.features(images), load_detector("inception", path=mine).features(images))
    load_detector("inception")
    assert len(handler.asked) == 3  # the second time from the cache


def test_what_an_earlier_process_fetched_is_kept(publish: Publish, server: tuple[str, type[Server]]) -> None:
    url, handler = server
    handler.content = scripted(TinyInception())
    mine = publish("inception", handler.content, url)
    part = mine.parents[1] / "cache" / "detectors" / (mine.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(handler.content)
    load_detector("inception")  # all was there already
    assert handler.asked == [f"bytes={len(handler.content)}-"]


def test_a_server_without_ranges_sends_all_again(publish: Publish, server: tuple[str, type[Server]]) -> None:
    url, handler = server
    handler.content = scripted(TinyInception())
    handler.ranges = False
    mine = publish("inception", handler.content, url)
    part = mine.parents[1] / "cache" / "detectors" / (mine.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"rubbish")
    load_detector("inception")
    assert part.with_suffix("").read_bytes() == handler.content


def test_a_download_of_another_file_is_removed_unopened(
    publish: Publish, server: tuple[str, type[Server]], tmp_path: Path
) -> None:
    url, handler = server
    publish("dinov2", b"the published one", url)
    handler.content = pickle.dumps(Bomb(tmp_path / "opened"))
    with pytest.raises(UserError, match=f"{hashlib.sha256(handler.content).hexdigest()}, expected"):
        load_detector("dinov2")
    assert not (tmp_path / "opened").exists()
    assert [path.suffix for path in (tmp_path / "cache" / "detectors").iterdir()] == [".lock"]


def test_no_network_says_how_to_bring_the_file(publish: Publish, server: tuple[str, type[Server]]) -> None:
    publish("clip", b"none")
    with pytest.raises(
        UserError, match=r"cannot fetch http://127.*get ViT-B-32\.pt on another machine.*--detector-path"
    ):
        load_detector("clip")
    url, handler = server
    handler.content, handler.limit = b"never comes", 0
    publish("clip", b"none", url)
    with pytest.raises(UserError, match="broke off after 0 bytes"):
        load_detector("clip")
    assert len(handler.asked) == 5


def test_stats_of_a_folder_keep_what_they_belong_to(publish: Publish, tmp_path: Path) -> None:
    from alphaflow.cli import run
    from alphaflow.metrics.reference import read_reference

    images = np.random.default_rng(2).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / "a" / f"{k}.png")
    file = publish("inception", scripted(TinyInception()))
    words = ["stats", str(tmp_path / "images"), str(tmp_path / "out.npz"), "--detector", "inception"]
    assert run([*words, "--detector-path", str(file), "--size", "16", "--crop", "box", "--device", "cpu"]) == 0
    found, detector = read_reference(tmp_path / "out.npz"), load_detector("inception", path=file)
    wanted = detector.features(images).double()
    torch.testing.assert_close(found.statistics.mean, wanted.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.statistics.cov, wanted.T.cov(), rtol=0, atol=1e-6)
    assert (found.size, found.crop, found.statistics.count) == (16, "box", 9)
    with pytest.raises(UserError, match="has crop box, and this lanczos"):
        found.check(detector, size=16, crop="lanczos")
