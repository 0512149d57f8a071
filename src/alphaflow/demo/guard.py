"""What stands before the demo's page: a request that is none of the few that the page makes gets no further.

There is no route that serves a file: `RequestGuard` lets through fixed paths without a query, and reads the body
itself, with a bound on bytes and seconds, before anything else looks at it.
"""

import asyncio
import ipaddress
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

MOST_BYTES = 16_384
"""The largest body of a request, in bytes; a usual one takes a hundred."""

MOST_SECONDS = 10.0
"""The time within which a request must have come in whole."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class RefusalError(Exception):
    """A request that is refused: its status, and words without anything of this machine in them."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


class RequestGuard:
    """ASGI middleware.

    Args:
        app: gets requests whose body is there as a whole.
        routes: the paths that there are, and the methods of each.
        hosts: names by which this server may be asked; None: any.
    """

    def __init__(self, app: Any, routes: Mapping[str, Collection[str]], hosts: Collection[str] | None) -> None:
        self.app, self.routes, self.hosts = app, routes, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import JSONResponse

        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a websocket
            return await send({"type": "websocket.close", "code": 1008})

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), words.encode()) for name, words in _HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            self._check(scope)
            body = await _body(receive)
        except RefusalError as refusal:
            reply = JSONResponse({"error": refusal.words}, refusal.status)
            return await reply(scope, receive, send_guarded)
        if body is None:  # the client has left
            return None
        whole = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Any:
            nonlocal whole
            message, whole = whole, {}
            return message or await receive()

        return await self.app(scope, replay, send_guarded)

    def _check(self, scope: Any) -> None:
        """Refuse by the head alone."""
        headers = _single(scope["headers"])
        host = headers.get(b"host", "")
        if self.hosts is not None and _place(host)[0] not in self.hosts:
            raise RefusalError(400, "this demo is for its own machine: ask it as http://127.0.0.1")
        methods = self.routes.get(scope["path"])
        if methods is None:
            raise RefusalError(404, "there is no such page: the demo serves no files")
        if scope["query_string"]:
            raise RefusalError(
                400, "the demo takes nothing in the address: send a request as JSON to /api/generate"
            )
        if scope["method"] not in methods:
            raise RefusalError(405, f"ask with {' or '.join(methods)}")
        if b"transfer-encoding" in headers:
            raise RefusalError(411, "say how long the body is (Content-Length)")
        length = headers.get(b"content-length", "0" if scope["method"] != "POST" else "")
        if not length:
            raise RefusalError(411, "say how long the body is (Content-Length)")
        if not (length.isascii() and length.isdigit()):
            raise RefusalError(400, "the Content-Length is no number")
        if len(length) > 18 or int(length) > MOST_BYTES:
            raise RefusalError(413, f"a body of more than {MOST_BYTES} bytes: a request is short")
        if scope["method"] != "POST":
            if int(length):
                raise RefusalError(400, f"{scope['method']} takes no body")
        elif not _of_this_page(headers, host):
            raise RefusalError(403, "only the demo's own page may post from a browser")


def _single(pairs: Any) -> dict[bytes, str]:
    """Headers by name.

    Raises:
        RefusalError: one that is looked at comes twice.
    """
    found: dict[bytes, str] = {}
    for name, value in pairs:
        if name in found and name in (b"host", b"origin", b"content-length", b"transfer-encoding"):
            raise RefusalError(400, f"two headers {name.decode('latin-1')}: send one")
        found[name] = value.decode("latin-1")
    return found


def _of_this_page(headers: Mapping[bytes, str], host: str) -> bool:
    """Whether a post comes from a program or from the demo's own page: browsers tell whose page it is."""
    if headers.get(b"sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get(b"origin")
    if origin is None:
        return True
    scheme, separator, place = origin.partition("://")
    usual = {"http": 80, "https": 443}.get(scheme)
    return bool(separator) and usual is not None and _place(place, usual) == _place(host, usual) != (None, None)


async def _body(receive: Any) -> bytes | None:
    """Take the body as it arrives, whatever its head said of it; None if the client leaves.

    Raises:
        RefusalError: it is longer than `MOST_BYTES`, or takes longer than `MOST_SECONDS`.
    """
    body = b""
    try:
        async with asyncio.timeout(MOST_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > MOST_BYTES:
                    raise RefusalError(413, f"a body of more than {MOST_BYTES} bytes: a request is short")
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        raise RefusalError(408, f"the request did not come in whole within {MOST_SECONDS:g} seconds") from None


def _place(written: str, usual: int = 80) -> tuple[str | None, int | None]:
    """Name and port in a Host header, or in an Origin after its scheme; (None, None) where they are none."""
    try:
        parts = urlsplit("//" + written)
        whole = parts.netloc == written and parts.username is None
        return (parts.hostname, parts.port or usual) if whole and parts.hostname else (None, None)
    except ValueError:
        return None, None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
