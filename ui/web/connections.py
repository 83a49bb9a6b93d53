"""Connections on which nothing happens, or next to nothing, do not stay open.

    uvicorn.Config(app, http=PatientProtocol, ...)

uvicorn limits only the time between two requests of a connection. A client that opens one and sends half a request, a byte
now and then or a body that never ends, that does not read its answer, or that has vanished without a word, would hold it
(a file descriptor, and the memory of its body) for ever.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOK_SECONDS = 1.0
HEADER_SECONDS = 20.0  # for all headers of a request
BODY_SECONDS = 30.0  # without a byte of a body that is under way; a slow upload goes on as long as it moves
BODY_BYTES_PER_SECOND = 500.0  # on the average, after BODY_SECONDS: the slowest modem was ten times as fast
READ_SECONDS = 120.0  # in which the client takes nothing of an answer that waits for it
# Seconds without traffic until the kernel asks whether the other computer is still there, between two such questions, and
# how many of them may stay unanswered. The page's event streams are otherwise only ended by the client.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which looks at each connection once a second and ends the one that holds it up.

    A request that has come whole may take as long as it likes to be answered: event streams stay open.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._received = 0  # bytes, of the whole connection
        self._waiting_for: tuple[str, Any] = ("", None)  # what is waited for, and the request that it is part of
        self._since = 0.0  # when that began
        self._received_then = 0
        self._moved = 0.0  # when the last byte of it came or went
        self._last_seen = 0  # bytes received, or still to be sent, at the last look

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name):  # macOS lacks some
                    opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._look()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def _look(self) -> None:
        """End the connection if the client has kept the server waiting too long; else look again in a second."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # closed, or a WebSocket now
            return
        now, waiting_for = self.loop.time(), self._what_is_waited_for()
        seen = self.transport.get_write_buffer_size() if waiting_for[0] == "reading" else self._received
        if waiting_for != self._waiting_for:
            self._waiting_for, self._since, self._received_then, self._moved = waiting_for, now, self._received, now
        if seen != self._last_seen:
            self._last_seen, self._moved = seen, now
        if self._is_overdue(waiting_for[0], now):
            self.transport.abort()
            return
        self.loop.call_later(LOOK_SECONDS, self._look)

    def _what_is_waited_for(self) -> tuple[str, Any]:
        if self.flow.write_paused:
            return "reading", self.cycle
        if self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused:
            return "body", self.cycle
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            return "headers", self.cycle  # of the first request, or of the one after this
        return "", None  # the application is at work, or uvicorn's own limit between two requests runs

    def _is_overdue(self, waiting_for: str, now: float) -> bool:
        match waiting_for:
            case "headers":
                return now - self._since > HEADER_SECONDS
            case "body":
                earned = (self._received - self._received_then) / BODY_BYTES_PER_SECOND
                return now - self._moved > BODY_SECONDS or now - self._since > BODY_SECONDS + earned
            case "reading":
                return now - self._moved > READ_SECONDS
            case _:
                return False
