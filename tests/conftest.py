"""Settings for the whole suite, and the small float64 networks that the tests of the theory share."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from alphaflow.metrics.detectors.catalogue import PUBLISHED
from drawn import ROWS
from published_weights import Publish
from reference import SmallNet

settings.register_profile("alphaflow", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("alphaflow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first: what takes minutes must not begin when all else is done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings and decoded pixels of one test are not found by another, nor left in the user's cache."""
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def net() -> SmallNet:
    """A smooth random network u(z, r, t, y) in float64 over (B, 3), with classes 0 … 3 and 4 for none."""
    return SmallNet(dim=3)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """z, v (8, 3), r <= t (8,), y (8,) in float64; r = t on the first two rows."""
    source = torch.Generator().manual_seed(5)
    z, v = (torch.randn(8, 3, generator=source, dtype=torch.float64) for _ in range(2))
    r, t = torch.rand(2, 8, generator=source, dtype=torch.float64).sort(dim=0).values
    r[:2] = t[:2]
    return z, v, r, t, torch.arange(8) % 4


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """x (ROWS, 3) in float64 and y (ROWS,)."""
    source = torch.Generator().manual_seed(8)
    return torch.randn(ROWS, 3, generator=source, dtype=torch.float64), torch.arange(ROWS) % 4


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Make `content` the published file of a detector; where a copy lies."""
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path / "cache"))

    def now(name: str, content: bytes, url: str = "http://127.0.0.1:9/none") -> Path:
        entry = PUBLISHED[name]
        weights = replace(entry.weights, sha256=hashlib.sha256(content).hexdigest(), url=url)
        monkeypatch.setitem(PUBLISHED, name, replace(entry, weights=weights))
        file = tmp_path / "mine" / weights.file
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return file

    return now
