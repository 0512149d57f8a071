"""The demo's web server: the page, and `POST /api/generate` for programs. It trusts nothing that comes in."""

import ipaddress
import json
import os
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from ..errors import UserError
from . import wishes
from .service import BusyError, Service

MOST_BYTES = 16_384
"""Of a request's body; a wish takes a hundred."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; frame-ancestors 'self'"
)

_HEADERS = ((b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff"))


class Guard:
    """ASGI middleware: refuses files, which gradio would take, bodies longer than any wish, and requests for hosts
    of another name than `hosts` (None: any); lets browsers load from this server only."""

    def __init__(self, app: Any, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = self._refusal(scope)
        if refusal:
            from starlette.responses import JSONResponse

            status, words = refusal
            return await JSONResponse({"error": words}, status)(scope, receive, send)

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        return await self.app(scope, receive, send_guarded)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        if self.hosts is not None and host_of(headers.get(b"host", b"").decode("latin-1")) not in self.hosts:
            return 400, "this demo is for its own machine: ask it as http://127.0.0.1"
        if scope["path"].rstrip("/").endswith("/upload"):
            return 403, "the demo takes no files"
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get(b"content-length")
        if length is None:
            return 411, "say how long the body is (Content-Length)"
        if int(length) > MOST_BYTES:
            return 413, f"a body of more than {MOST_BYTES} bytes: a wish is short"
        return None


def make_app(service: Service, host: str = "127.0.0.1") -> Any:
    """The application, for uvicorn or any other ASGI server.

    host: where it listens. At a loopback address it answers only requests that name this machine, so that a page
        elsewhere cannot reach the demo through a name that it lets point here.

    Raises:
        UserError: the extra is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, Response
    except ImportError as error:
        raise UserError(f"the demo needs gradio ({error}): pip install 'alphaflow[demo]'") from None
    from .page import STYLE, make_page, make_theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    app.add_middleware(Guard, hosts={"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None)

    @app.get("/api/about")
    async def about() -> dict[str, Any]:
        return describe(service)

    async def generate(request: Request) -> Response:
        try:
            drawn = await service.draw(_parse(await request.body()))
        except BusyError as error:
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)
        return Response(drawn.png, media_type="image/png", headers={"X-Seconds": f"{drawn.seconds:.6f}"})

    app.add_route("/api/generate", generate, methods=["POST"])
    page = make_page(service)
    page.queue(max_size=128, default_concurrency_limit=None)
    return gradio.mount_gradio_app(app, page, path="/", show_error=True, theme=make_theme(), css=STYLE)


def describe(service: Service) -> dict[str, Any]:
    """What is shown, and what may be asked: the answer of /api/about."""
    first = service.models[0].generator
    return {
        "models": [one.name for one in service.models],
        "num_classes": first.num_classes,
        "class_names": list(first.class_names),
        "guidable": service.bounds.guidable,
        "most": {"count": wishes.MOST_PICTURES, "nfe": wishes.MOST_STEPS, "seed": wishes.MOST_SEED},
        "methods": list(wishes.METHODS),
    }


def host_of(header: str) -> str | None:
    """The name in a Host header, without a port; None where there is none."""
    try:
        return urlsplit("//" + header).hostname
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise UserError('the body is not JSON: send for instance {"label": 3, "count": 16}') from None
