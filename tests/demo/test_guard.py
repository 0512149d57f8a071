"""What the demo does with requests that are none of its page's: harmless ones, against a server started here."""

import asyncio
import contextlib
import http.client
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from alphaflow.demo.guard import RequestGuard
from alphaflow.demo.server import ROUTES, make_app

SECRET = "nobody but this test knows this line"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


@contextlib.contextmanager
def no_opened_files() -> Iterator[None]:
    """Within it no thread of this process opens any file, or lists a folder."""
    seen: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir", "os.open"):
            seen.append(f"{event} {arguments[0]}")

    sys.addaudithook(hook)
    try:
        yield
    finally:
        watching = False
    assert not seen, seen


# --------------------------------------------------------------------------------------------- no file has a name


def test_there_is_no_route_that_takes_anything_but_a_request(client):
    """Each path is fixed: none has a part that the client chooses, none mounts another application."""
    from starlette.routing import Route

    assert [type(route) for route in client.app.routes] == [Route] * len(ROUTES)
    assert {route.path for route in client.app.routes} == set(ROUTES)
    assert not any("{" in route.path for route in client.app.routes)
    posts = [route.path for route in client.app.routes if "POST" in route.methods]
    assert posts == ["/api/generate"]


def forms(path: Path) -> list[str]:
    """A file's name as one may write it in an address."""
    plain = str(path)
    return [
        plain,
        quote(plain),
        quote(plain, safe=""),
        f"=%2F{plain[1:]}",
        f"file:{plain}",
        f"..{plain}",
        f"//{plain}",
    ]


def test_no_address_names_a_file(live, secret):
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    targets = [f"{route.rstrip('/')}/{form}" for route in ROUTES for form in forms(secret)]
    targets += [f"{route}{form}" for route in ROUTES for form in forms(secret)]
    targets += [
        f"{route}?{name}={form}" for route in ROUTES for form in forms(secret)[:3] for name in ("", "path")
    ]
    targets += [
        f"/{name}/{quote(str(secret))}" for name in ("file", "static", "api", "upload", "download", "proxy")
    ]
    targets += [
        "/favicon.ico",
        "/demo.js/",
        "//",
        "/./",
        "/index.html",
        "/demo/page/index.html",
        "/DEMO.JS",
        "/?x",
    ]
    connection.request("GET", "/nothing")  # what is imported at the first request is there
    assert connection.getresponse().read()
    with no_opened_files():
        for target in targets:
            for method in ("GET", "HEAD", "POST"):
                connection.putrequest(method, target, skip_accept_encoding=True)
                connection.putheader("Content-Length", "0")
                connection.endheaders()
                reply = connection.getresponse()
                said = reply.read().decode()
                assert 400 <= reply.status < 500, (method, target, reply.status)
                assert SECRET not in said and secret.name not in said
                if reply.status == 400 and "Invalid" in said:  # no valid address at all: the server hung up
                    connection.close()


def test_no_body_names_a_file(client, service, secret):
    path = str(secret)
    keys = ("path", "file", "label", "model", "method", "seed", "data", "url", "count", path)
    values = (
        path,
        {"path": path},
        [path],
        f"file://{path}",
        {"path": path, "meta": {"kind": "file"}},
        [{"url": path}],
    )
    assert client.post("/api/generate", json={"count": 1}).status_code == 200
    before = len(service.begun)
    with no_opened_files():
        for route in ROUTES:
            for key in keys:
                for value in values:
                    reply = client.post(route, json={key: value})
                    assert 400 <= reply.status_code < 500, (route, key, value)
                    assert (
                        SECRET not in reply.text
                        and secret.name not in reply.text
                        and str(secret.parent) not in reply.text
                    )
            for reply in (
                client.post(route, json=path),
                client.post(route, data={"path": path}),
                client.post(route, content=path),
                client.post(route, content=f"--b\r\nContent-Disposition: form-data; name=f\r\n\r\n{path}\r\n--b--",
                            headers={"Content-Type": "multipart/form-data; boundary=b"}),
            ):  # fmt: skip
                assert 400 <= reply.status_code < 500 and secret.name not in reply.text
    assert len(service.begun) == before


def test_other_methods_and_bodies_of_get_are_refused(client):
    for route, methods in ROUTES.items():
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FILE"):
            reply = client.request(method, route, content=None)
            if method in methods and method != "POST":
                assert reply.status_code == 200
                assert client.request(method, route, content=b"{}").status_code == 400
            elif method not in methods:
                assert reply.status_code == 405 and not reply.headers.get("location")


def test_a_failure_of_the_model_is_not_told_to_strangers(service, client, monkeypatch, secret, caplog):
    def fail(*words: Any) -> None:
        raise RuntimeError(f"cannot open {secret}")

    monkeypatch.setattr(service, "compute", fail)
    reply = client.post("/api/generate", json={})
    assert reply.status_code == 500 and reply.json() == {
        "error": "the model failed: the demo's own output says why"
    }
    assert str(secret) in caplog.text


def test_answers_are_kept_from_other_pages(client):
    for reply in (client.get("/"), client.post("/api/generate", json={"count": 1}), client.get("/nothing")):
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in reply.headers


# ------------------------------------------------------------------------------------------------- whose page


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:7860"}, 200),
        ({"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost:80"}, 200),
        ({"Host": "[::1]:7860", "Origin": "http://[::1]:7860"}, 200),
        ({"Origin": "http://127.0.0.1:8000"}, 403),
        ({"Origin": "http://localhost:7860"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:7860.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:7860@evil.example"}, 403),
        ({"Origin": "file://127.0.0.1:7860"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 400),
    ],
)
def test_pages_elsewhere_cannot_post(service, client, headers, status):
    before = len(service.begun)
    reply = client.post("/api/generate", json={"count": 1}, headers={"Host": "127.0.0.1:7860", **headers})
    assert reply.status_code == status
    assert len(service.begun) - before == (status == 200)


def test_where_all_may_ask_the_origin_is_still_looked_at(service):
    client = TestClient(make_app(service, "0.0.0.0"), base_url="http://my.machine:7860")
    own = {"Origin": "http://my.machine:7860"}
    assert client.post("/api/generate", json={"count": 1}, headers=own).status_code == 200
    other = {"Origin": "http://evil.example"}
    assert client.post("/api/generate", json={"count": 1}, headers=other).status_code == 403


@pytest.mark.parametrize("name", ["Host", "Origin", "Content-Length"])
def test_what_is_said_twice_is_refused(service, name):
    pairs = [(b"host", b"127.0.0.1"), (b"origin", b"http://127.0.0.1"), (b"content-length", b"2")]
    again = next(pair for pair in pairs if pair[0].decode() == name.lower())
    assert asyncio.run(answered(make_app(service), [*pairs, again], [b"{}"]))[0] == 400
    assert asyncio.run(answered(make_app(service), pairs, [b"{}"]))[0] == 200


# ------------------------------------------------------------------------------------------------------ bodies


async def answered(app: Any, headers: list[tuple[bytes, bytes]], parts: list[bytes]) -> tuple[int, int]:
    """Status of a post whose body comes in these parts, and how many of them were taken."""
    taken, status = 0, 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        if taken == len(parts):
            await asyncio.sleep(60)
        taken += 1
        return {"type": "http.request", "body": parts[taken - 1], "more_body": taken < len(parts)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http", "method": "POST", "path": "/api/generate", "query_string": b"", "headers": headers,
        "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("127.0.0.1", 80), "client": None,
    }  # fmt: skip
    await app(scope, receive, send)
    return status, taken


@pytest.mark.parametrize("length", [b"2", b"16384"])
def test_bodies_are_counted_as_they_arrive_whatever_their_head_says(service, length):
    headers = [(b"host", b"127.0.0.1"), (b"content-length", length)]
    status, taken = asyncio.run(answered(make_app(service), headers, [b"x" * 1000] * 100_000))
    assert status == 413 and taken == 17
    small = [b'{"count"', b":", b"", b" 1}"]
    assert asyncio.run(answered(make_app(service), headers, small)) == (200, 4)


def test_the_guard_alone_counts_what_it_hands_on():
    """It stands before any application, whatever that would do with a body."""
    handed = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        handed.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    shut = RequestGuard(app, {"/api/generate": ("POST",)}, None)
    headers = [(b"host", b"any"), (b"content-length", b"5")]
    assert asyncio.run(answered(shut, headers, [b"ab", b"cde"]))[0] == 200
    assert asyncio.run(answered(shut, headers, [b"x" * 20_000]))[0] == 413
    assert handed == [b"abcde"]


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Content-Length": "16385"}, 413),
        ({"Content-Length": "9" * 18}, 413),
        ({"Content-Length": "9" * 40}, (400, 413)),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "0x10"}, 400),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Transfer-Encoding": "chunked", "Content-Length": "2"}, (400, 411)),
        ({"Transfer-Encoding": "gzip"}, (400, 411, 501)),
        ({}, 411),
    ],
)
def test_heads_that_tell_no_length_or_a_wrong_one_are_refused_before_the_body(live, headers, status):
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as one:
        lines = "".join(f"{name}: {words}\r\n" for name, words in headers.items())
        one.sendall(f"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
        answer = one.recv(4096)
    expected = status if isinstance(status, tuple) else (status,)
    assert int(answer.split()[1]) in expected


def test_an_endless_chunked_body_is_not_taken_in(live):
    """16 MB are offered; the server answers at once, and does not keep them."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as one:
        one.sendall(b"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(256):
                one.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 411")
        (connection,) = live.server.server_state.connections
        assert len(connection.cycle.body) < 200_000


def test_no_files_are_made(client, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert client.post("/api/generate", json={}).status_code == 200  # Pillow imports its formats
    with no_opened_files():
        for k in range(5):
            assert client.post("/api/generate", json={"seed": k}).status_code == 200
    assert not list(tmp_path.iterdir())
