"""The demo's own server in a thread, and a service that counts what it computes."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from alphaflow.demo.requests import Request
from alphaflow.demo.server import listen, make_app, make_server
from alphaflow.demo.service import Service


class Counting(Service):
    """Counts the requests that it begins to compute."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.begun: list[Request] = []

    def compute(self, request: Request, go_on: Callable[[], None] = lambda: None) -> Any:
        self.begun.append(request)
        return super().compute(request, go_on)


@contextlib.contextmanager
def served(service: Service) -> Iterator[SimpleNamespace]:
    """The demo's own server in a thread, and the port where it listens."""
    listener = listen("127.0.0.1", 0)
    server = make_server(make_app(service))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield SimpleNamespace(port=listener.getsockname()[1], server=server)
    server.should_exit = True
    thread.join(timeout=30)
    listener.close()
