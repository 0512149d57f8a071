"""A small model behind the demo, for the tests of its server."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from alphaflow.demo.server import make_app
from alphaflow.demo.service import open_model
from browsing import small_model
from demos import Counting, served


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    service = Counting([open_model(small_model(tmp_path_factory.mktemp("models") / "one"))])
    yield service
    service.close()


@pytest.fixture
def client(service: Counting) -> TestClient:
    return TestClient(make_app(service), base_url="http://127.0.0.1")


@pytest.fixture
def live(service: Counting) -> Iterator[SimpleNamespace]:
    with served(service) as live:
        yield live
