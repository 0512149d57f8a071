"""How long the demo waits for its clients, and what becomes of the work of those who leave."""

import contextlib
import http.client
import json
import socket
import time
from typing import Any

import pytest

from alphaflow.demo import guard
from demos import served


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTT",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ",
        b"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET / HTTP/1.1\r\nHost: ",
    ],
)
def test_half_a_request_is_not_waited_for_without_limit(service, monkeypatch, sent):
    """Not even if its client goes on to send a byte now and then."""
    monkeypatch.setattr(guard, "MOST_SECONDS", 1.0)
    with served(service) as live, socket.create_connection(("127.0.0.1", live.port), timeout=30) as one:
        start, answer = time.monotonic(), b""
        one.sendall(sent)
        one.settimeout(0.3)
        while time.monotonic() - start < 20:
            try:
                part = one.recv(65536)
                answer += part
                if not part:
                    break
            except TimeoutError:
                with contextlib.suppress(OSError):
                    one.sendall(b"x")
            except OSError:
                break
        assert time.monotonic() - start < 15
        if sent.startswith(b"POST"):
            assert answer.startswith(b"HTTP/1.1 408") and b"within 1 seconds" in answer


def test_a_client_that_reads_nothing_is_not_waited_for_without_limit(service, monkeypatch):
    """More is asked for than the system keeps for a client; the server stops writing, and then drops it."""
    monkeypatch.setattr(guard, "MOST_SECONDS", 0.5)
    with served(service) as live, socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", live.port))
        one.settimeout(5)
        deadline = time.monotonic() + 10
        while not live.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert live.server.server_state.connections
        with contextlib.suppress(OSError):
            for _ in range(100):
                one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
        deadline = time.monotonic() + 30
        while live.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not live.server.server_state.connections


def test_a_long_wait_for_the_model_is_no_reason_to_hang_up(service, monkeypatch):
    monkeypatch.setattr(guard, "MOST_SECONDS", 0.2)
    compute = service.compute

    def slow(*words: Any) -> Any:
        time.sleep(2)
        return compute(*words)

    monkeypatch.setattr(service, "compute", slow)
    with served(service) as live:
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
        connection.request("POST", "/api/generate", b'{"count": 1}')
        assert connection.getresponse().read().startswith(b"\x89PNG")


@pytest.mark.parametrize("at_once", [True, False])
def test_nonsense_in_a_body_ends_the_connection_without_noise(capfd, caplog, service, at_once):
    """Read in one go with its head, before anybody has answered that; or after the answer."""
    head = b"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    nonsense = b"no length of a chunk\r\n"
    with served(service) as live:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", live.port), timeout=30) as one:
                one.sendall(head + nonsense if at_once else head)
                assert one.recv(4096)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 411")
                with contextlib.suppress(OSError):
                    one.sendall(nonsense)
                    while one.recv(4096):
                        pass
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
        connection.request("POST", "/api/generate", b'{"count": 1}')
        assert connection.getresponse().status == 200
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_heads_without_end_are_cut_off(live):
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as one, contextlib.suppress(OSError):
        one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        for _ in range(100):
            one.sendall(b"x" * 65_536)
        assert one.recv(4096).startswith(b"HTTP/1.1 400")


def test_requests_of_clients_that_left_are_not_computed(live, service):
    """Sixty heavy ones, gone as soon as they are sent, do not hold up the light one that comes after."""
    before = len(service.begun)
    body = json.dumps({"nfe": 64, "method": "heun"}).encode()
    request = (
        f"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    gone = [socket.create_connection(("127.0.0.1", live.port), timeout=30) for _ in range(60)]
    for one in gone:
        one.sendall(request)
    for one in gone:
        one.close()
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    connection.request("POST", "/api/generate", b'{"count": 1}')
    assert connection.getresponse().status == 200
    deadline = time.monotonic() + 30
    while service.line.waiting and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(service.begun) - before < 20
    assert service.line.waiting == 0


def test_too_many_connections_are_told_so_and_let_go(service, monkeypatch):
    from alphaflow.demo import server

    monkeypatch.setattr(server, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(guard, "MOST_SECONDS", 0.5)
    with served(service) as live:
        idle = [socket.create_connection(("127.0.0.1", live.port), timeout=30) for _ in range(6)]
        with socket.create_connection(("127.0.0.1", live.port), timeout=30) as one:
            one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 503")
        time.sleep(2.5)
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        for one in idle:
            one.close()


def test_small_answers_do_not_wait_for_acknowledgements(live):
    """Nagle's algorithm together with delayed acknowledgements would take 40 ms for each on a kept connection."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    connection.connect()
    connection.request("GET", "/")
    connection.getresponse().read()
    (served,) = live.server.server_state.connections
    assert served.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
