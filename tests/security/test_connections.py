"""A connection on which a client sends next to nothing, or reads nothing, is ended; a slow but honest one is not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from ui.web import connections
from ui.web.connections import PatientProtocol

LIMIT = 1.0  # seconds in these tests, for each of the limits
STREAM = b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


async def app(scope: dict, receive: Any, send: Any) -> None:
    """Read the body; answer with three lines in three seconds, with much, or with "ok"."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        for _ in range(3):
            await asyncio.sleep(LIMIT)
            await send({"type": "http.response.body", "body": b"line\n", "more_body": True})
    if scope["path"] == "/much":
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A connection to a bare uvicorn."""
    for name in ("HEADER_SECONDS", "BODY_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(connections, name, LIMIT)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.1)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=PatientProtocol, log_level="critical", timeout_keep_alive=60))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    with socket.create_connection(listening.getsockname(), timeout=10) as opened:
        yield opened
    server.should_exit = server.force_exit = True
    thread.join(timeout=10)
    listening.close()


def seconds_until_closed(client: socket.socket) -> float:
    """How long the server keeps the connection; what it still sends is thrown away."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        while client.recv(2**16):
            pass
    return time.monotonic() - began


def answer_of(client: socket.socket) -> bytes:
    """One whole answer, in chunks."""
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        piece = client.recv(2**16)
        assert piece, "the connection was closed"
        answer += piece
    return answer


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", POST, POST + b"x" * 100],
    ids=["nothing", "half a line", "half the headers", "no body", "half a body"],
)
def test_half_a_request_is_ended(client: socket.socket, sent: bytes) -> None:
    client.sendall(sent)
    assert LIMIT * 0.9 < seconds_until_closed(client) < LIMIT + 2


@pytest.mark.parametrize("begun", [b"GET / HTTP/1.1\r\nX: ", POST], ids=["headers", "body"])
def test_a_byte_now_and_then_is_not_enough(client: socket.socket, begun: bytes) -> None:
    client.sendall(begun)
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() - began < LIMIT + 5:
            client.sendall(b"x")
            time.sleep(0.2)
    assert time.monotonic() - began < LIMIT + 3


def test_half_of_a_second_request_is_ended(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer_of(client).endswith(b"ok\r\n0\r\n\r\n")
    time.sleep(LIMIT * 2)  # between two requests uvicorn's own limit holds, a minute here
    client.sendall(b"GET / HT")
    assert LIMIT * 0.8 < seconds_until_closed(client) < LIMIT + 2


def test_a_client_that_does_not_read_its_answer_is_ended(client: socket.socket) -> None:
    client.sendall(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n")
    time.sleep(LIMIT + 2)
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(2**20):
            received += len(piece)
    assert received < 100 * 2**20, "what the kernel had taken before"


def test_a_stream_of_events_stays_open(client: socket.socket) -> None:
    client.sendall(STREAM)
    received = b""
    while b"ok" not in received and (piece := client.recv(2**16)):
        received += piece
    assert received.count(b"line") == 3


def test_many_requests_over_one_connection_stay_open(client: socket.socket) -> None:
    began = time.monotonic()
    while time.monotonic() - began < LIMIT * 3:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"ok" in answer_of(client)
        time.sleep(0.05)


def test_a_slow_upload_that_moves_is_read_to_its_end(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n")
    for _ in range(15):
        client.sendall(b"x" * 2000)
        time.sleep(0.2)
    assert b"200 OK" in answer_of(client)


def test_the_kernel_asks_whether_a_silent_client_is_still_there(client: socket.socket) -> None:
    set_on: list[int] = []

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return client if name == "socket" else default

        def is_closing(self) -> bool:
            set_on.append(client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            return True

    config = uvicorn.Config(app)
    loop = asyncio.new_event_loop()
    protocol = PatientProtocol(config, uvicorn.Server(config).server_state, {}, loop)
    protocol.connection_made(Transport())
    loop.close()
    assert set_on == [1]
