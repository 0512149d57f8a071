"""Which models get a page, and which are sent to the demo instead; test_page.py opens pages in a browser."""

import pytest

from alphaflow import UserError
from alphaflow.export import export, web
from browsing import small_model


def test_only_images_have_a_page(points, tmp_path):
    with pytest.raises(UserError, match=r"images of 1 or 3 channels, not points of 2: try `alphaflow demo`"):
        export(points, tmp_path / "page", "web")
    source = small_model(tmp_path / "odd", channels=2)
    with pytest.raises(UserError, match="not images of 2 × 8 × 8"):
        export(source, tmp_path / "page", "web")
    assert not (tmp_path / "page").exists()


def test_a_network_too_large_for_a_browser_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "LARGEST", 10_000)
    with pytest.raises(UserError, match=r"too much for a browser .*alphaflow demo"):
        export(small_model(tmp_path / "model"), tmp_path / "page", "web")
