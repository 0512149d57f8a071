"""The demo's web application: its page, and `POST /api/generate` for the page and for programs.

All that it serves is read into memory when it starts; pictures go out as answers and are kept nowhere. The server
says where it listens, and waits for nobody without limit.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from importlib import resources
from typing import Any

from ..errors import UserError, missing
from . import guard, requests
from .guard import RequestGuard, is_loopback
from .line import BusyError
from .service import DrawnGrid, Service

log = logging.getLogger("alphaflow")

_PAGE = {
    "/": ("demo/page/index.html", "text/html"),
    "/demo.js": ("demo/page/demo.js", "text/javascript"),
    "/demo.css": ("demo/page/demo.css", "text/css"),
    "/style.css": ("export/page/style.css", "text/css"),
}
"""Path -> where its content lies in the package, and its type."""

ROUTES = {**{path: ("GET", "HEAD") for path in (*_PAGE, "/api/about")}, "/api/generate": ("POST",)}
"""Every path that is answered, and how it may be asked for."""


MOST_CONNECTIONS = 256
"""The number of connections at once; later ones are told to come again (status 503)."""

MOST_HEAD = 16_384
"""The largest head of a request, in bytes."""


def make_app(service: Service, host: str = "127.0.0.1") -> Any:
    """Make the application, for uvicorn or any other ASGI server.

    host: where it listens. At a loopback address it answers only requests that name this machine, so that a page
        elsewhere cannot reach the demo through a name that it lets point here.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        import uvicorn  # noqa: F401
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise missing("the demo needs a web server", "demo", error) from None

    def fixed(name: str, kind: str) -> Any:
        content = resources.files("alphaflow").joinpath(name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    async def about(request: Request) -> Response:
        return JSONResponse(describe(service))

    async def generate(request: Request) -> Response:
        try:
            drawn = await _unless_left(service, _parse(await request.body()), request.receive)
        except BusyError as error:
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)
        except asyncio.CancelledError:
            return JSONResponse({"error": "the demo is closing"}, 503)
        except Exception:
            log.exception("the demo could not draw a grid")  # here, not to whoever asked
            return JSONResponse({"error": "the model failed: the demo's own output says why"}, 500)
        if drawn is None:
            return Response(status_code=499)  # to nobody
        headers = {"X-Seconds": f"{drawn.seconds:.6f}", "X-Runtime": drawn.runtime}
        return Response(drawn.png, media_type="image/png", headers=headers)

    answers = {path: fixed(*content) for path, content in _PAGE.items()}
    answers |= {"/api/about": about, "/api/generate": generate}
    hosts = {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None
    app = Starlette(
        routes=[Route(path, answers[path], methods=list(methods)) for path, methods in ROUTES.items()],
        middleware=[Middleware(RequestGuard, routes=ROUTES, hosts=hosts)],
    )
    app.router.redirect_slashes = False
    return app


async def _unless_left(service: Service, asked: Any, receive: Any) -> DrawnGrid | None:
    """Return what `service` draws, or None as soon as the client has left, whose work is then dropped."""
    work = asyncio.ensure_future(service.draw(asked))
    left = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        work.cancel()
        left.cancel()


async def _left(receive: Any) -> None:
    """Return once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def describe(service: Service) -> dict[str, Any]:
    """Describe the models and what may be asked of them: the answer of /api/about."""
    first, bounds = service.models[0].generator, service.bounds
    return {
        "models": [_sendable(model.name) for model in service.models],
        "num_classes": first.num_classes,
        "examples": list(first.vocabulary.examples) if first.vocabulary else [],
        "class_names": [_sendable(str(name)) for name in first.class_names],
        "guidable": bounds.guidable,
        "scales": list(bounds.scales),
        "most": {
            "count": requests.MOST_PICTURES,
            "nfe": requests.MOST_STEPS,
            "seed": requests.MOST_SEED,
            "letters": requests.MOST_LETTERS,
        },
        "methods": list(requests.METHODS),
    }


def _sendable(name: str) -> str:
    """Replace what is no UTF-8 in a folder's name."""
    return name.encode("utf-8", "replace").decode()


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise UserError('the body is not JSON: send for instance {"label": 3, "count": 16}') from None


# ------------------------------------------------------------------------- the server, from start to end


def serve(service: Service, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve until interrupted. `tell` is given the address once the port is taken.

    Raises:
        UserError: nothing can listen there, or the extra is not installed.
    """
    app = make_app(service, host)
    listener = listen(host, port)
    place = f"[{host}]" if ":" in host else host
    if not is_loopback(host):
        log.warning("%s can be reached from other machines, by anyone who can reach this one", place)
    tell(f"http://{place}:{listener.getsockname()[1]}/")
    try:
        make_server(app).run(sockets=[listener])
    finally:
        listener.close()
        service.close()


def make_server(app: Any) -> Any:
    """Make uvicorn's server for the application, with bounds on what it takes and how long it waits."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http=_connection(),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEAD,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


def _connection() -> type[Any]:
    """Make uvicorn's protocol with an end to patience: uvicorn itself waits without limit for the rest of a
    request, and for a client that does not read its answer."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        """A client that owes something (a whole request, or reading on) is dropped `guard.MOST_SECONDS` later."""

        _patience: Any = None

        def _owes(self, something: bool) -> None:
            if self._patience is not None and not something:
                self._patience.cancel()
                self._patience = None
            elif self._patience is None and something:
                # A little more than the guard's own time, so that its words go out first where they can.
                self._patience = self.loop.call_later(guard.MOST_SECONDS + 1, self.transport.abort)

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._owes(True)

        def handle_events(self) -> None:
            super().handle_events()
            whole = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
            if whole and not self.flow.write_paused:
                self._owes(False)  # the request is there, and the answers before it were read: now we do

        def send_400_response(self, msg: str) -> None:
            """Nonsense came: within a request that is being answered, or after that, there is no more to say."""
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.abort()

        def on_response_complete(self) -> None:
            self._owes(False)
            self._owes(True)
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._owes(True)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._owes(False)
            self._owes(self.cycle is None or self.cycle.response_complete)  # the rest of it

        def connection_lost(self, exc: Exception | None) -> None:
            self._owes(False)
            super().connection_lost(exc)

    return Connection


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens there.

    Raises:
        UserError: there is no such host, or nothing can listen there.
    """
    try:
        if not host.strip():
            raise UnicodeError("it is empty")  # which the system would take for all addresses of this machine
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--host {host!r} is none ({why}): give 127.0.0.1, or an address of this machine", status=2
        ) from None
    try:
        # TCP by name: else asyncio leaves Nagle's algorithm on, and each answer takes 40 ms more.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port} ({error.strerror}): give another --port, or 0 for a free one"
        ) from None
    return listener
