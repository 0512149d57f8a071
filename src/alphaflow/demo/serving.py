"""The demo's server from start to end: where it listens, and what it says of it."""

import logging
import socket
from collections.abc import Callable

from ..errors import UserError
from .server import is_loopback, make_app
from .service import Service

log = logging.getLogger("alphaflow")


def serve(service: Service, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve until interrupted. `tell` is given the address once the port is taken.

    Raises:
        UserError: nothing can listen there, or gradio is not installed.
    """
    app = make_app(service, host)
    import uvicorn

    listener = _listen(host, port)
    place = f"[{host}]" if ":" in host else host
    if not is_loopback(host):
        log.warning("%s can be reached from other machines, by anyone who can reach this one", place)
    tell(f"http://{place}:{listener.getsockname()[1]}/")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        service.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port} ({error.strerror}): give another --port, or 0 for a free one"
        ) from None
    return listener
