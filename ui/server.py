"""The web server around the page: who may talk to it, what it serves, which port it takes.

Gradio is mounted in an application of our own, so that our guard stands before every one of its routes
(docs/architecture.md, "The guard", says against what) and downloads go through a route that checks what it serves.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import fastapi
import filelock
import uvicorn
from fastapi import HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine import downloads, events, runs
from engine.home import home, write_atomically

if TYPE_CHECKING:
    from estimators.client import Estimator

TOOLS_PATH = "/tools"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY_BYTES = 2 * 2**20  # of anything that is not an upload; Gradio alone sets no limit
MAX_UPLOAD_BYTES = 200 * 2**20
PORTS_TRIED = 100
GRACE_SECONDS = 1  # for answers that are under way when the server is told to end
# Switches of Gradio's that open the file system or the code to visitors.
REFUSED_VARIABLES = ("GRADIO_ALLOWED_PATHS", "GRADIO_VIBE_MODE", "GRADIO_SHARE", "GRADIO_MCP_SERVER")


class StartError(Exception):
    """The server cannot start; the text is one sentence with the remedy."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def url(self) -> str:
        shown = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}"


# --- starting -------------------------------------------------------------------------------------------------------


def refuse_open_switches() -> None:
    """Refuse to start under environment variables that would open Gradio behind our back."""
    for name in REFUSED_VARIABLES:
        if os.environ.get(name, "").lower() not in ("", "0", "false"):
            raise StartError(f"{name} is set, and it would open this server to others. Unset it and start again.")


def mount_tools(app: fastapi.FastAPI, estimator: Estimator, address: Address) -> None:
    """Serve the planner's questions as tools: a page of their own, so that nothing that starts or stops a run is one."""
    import gradio

    from ui import api

    gradio.mount_gradio_app(
        app,
        api.tools(estimator),
        path=TOOLS_PATH,
        server_name=address.host,
        server_port=address.port,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=True,
    )


def choose_address(host: str, port: int) -> Address:
    """The wished port, or the next free one. Raises `StartError` if the host is not one of this machine's."""
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        if _is_free(host, candidate):
            return Address(host=host, port=candidate)
    raise StartError(f"Ports {port} to {port + PORTS_TRIED - 1} are all in use. Name a free one with PORT=.")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno not in (98, 48, 13, 10048):
                raise StartError(f"{host} is not an address of this machine. Use HOST=127.0.0.1.") from None
            return False
    return True


def claim_home(address: Address) -> filelock.BaseFileLock:
    """One server per data folder. Raises `StartError` that names the first server."""
    lock = filelock.FileLock(home() / "server.lock")
    note = home() / "server.json"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StartError(_first_server(note)) from None
    write_atomically(note, json.dumps({"pid": os.getpid(), "url": address.url}))
    return lock


def _first_server(note: Path) -> str:
    try:
        first = json.loads(note.read_text())
        where = f"{first['url']} (process {first['pid']})"
    except (OSError, ValueError, KeyError):
        where = "another process"
    return f"Fitting Room already runs on this data folder, at {where}. Use it, or set FITTINGROOM_HOME to another folder."


# --- the guard ------------------------------------------------------------------------------------------------------


def allowed_hosts(address: Address) -> frozenset[str] | None:
    """The Host headers that are answered; None for all (a server that was told to listen to others)."""
    named = {name.strip().lower() for name in os.environ.get("FITTINGROOM_HOSTS", "").split(",") if name.strip()}
    if address.is_loopback or named:
        return frozenset(named | set(LOOPBACK))
    return None


class Guard:
    """ASGI middleware that stops other websites (DNS rebinding, cross-site calls) and bodies without end.

    Written against ASGI itself, so that event streams and downloads pass through it untouched.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(HTTPConnection(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        limit = MAX_UPLOAD_BYTES if scope["path"].endswith("/upload") else MAX_BODY_BYTES
        try:
            await self.app(scope, _at_most(limit, receive), _with_headers(send))
        except BodyTooLarge:
            await TOO_LARGE(scope, receive, send)

    def _refusal(self, request: HTTPConnection) -> Response | None:
        host = _host_name(request.headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            return PlainTextResponse("This server does not answer to that name.", status_code=421)
        if not _same_site(request, host):
            return PlainTextResponse("This request came from another website.", status_code=403)
        length = request.headers.get("content-length", "")
        limit = MAX_UPLOAD_BYTES if request.url.path.endswith("/upload") else MAX_BODY_BYTES
        return TOO_LARGE if length.isdigit() and int(length) > limit else None


TOO_LARGE = JSONResponse({"detail": "This is too large. Upload it as a file instead."}, status_code=413)
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class BodyTooLarge(HTTPException):
    """A body that went on beyond its limit; as an HTTP exception it becomes an answer wherever it is met."""

    def __init__(self) -> None:
        super().__init__(status_code=413, detail="This is too large. Upload it as a file instead.")


def _at_most(limit: int, receive: Receive) -> Receive:
    """Count the bytes of a body as they come: a chunked one does not say its length beforehand."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise BodyTooLarge
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def extended(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *HEADERS]}
        await send(message)

    return extended


def _host_name(header: str) -> str:
    return (urlsplit(f"//{header}").hostname or "").lower()


def _same_site(request: HTTPConnection, host: str) -> bool:
    """Whether a call that can change something comes from our own page (or from no page: a script)."""
    if request.scope.get("method") in ("GET", "HEAD") and "origin" not in request.headers:
        return True
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return False
    origin = request.headers.get("origin")
    return origin is None or _origin_host(origin) == host


def _origin_host(origin: str) -> str | None:
    return urlsplit(origin).hostname


# --- routes of our own ----------------------------------------------------------------------------------------------


def make_app(address: Address) -> fastapi.FastAPI:
    """The application with the guard and our routes; Gradio is mounted into it by `app.py`."""
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=allowed_hosts(address))

    @app.get("/download/{run_id}/{name}.zip")
    def download(run_id: str, name: str) -> Response:
        files = downloads.find(run_id, name)
        if files is None:
            return PlainTextResponse("There is nothing to download here.", status_code=404)
        title = downloads.zip_name(run_id, name)
        size, chunks = downloads.zip_stream(files, title)
        headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{title}.zip"'}
        return StreamingResponse(chunks, media_type="application/zip", headers=headers)

    @app.get("/api/runs/{run_id}/events")
    def run_events(run_id: str, since: int = 0) -> Response:
        run = runs.get(run_id)
        if run is None:
            return JSONResponse({"detail": "There is no such run."}, status_code=404)
        fresh, cursor = events.since(run.folder, max(0, since))
        return JSONResponse({"events": fresh, "cursor": cursor, "state": run.state})

    return app


# --- serving --------------------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """uvicorn, which says when it listens, and leaves quietly: for each open page it would print a traceback."""

    def __init__(self, config: uvicorn.Config, opened: Callable[[], None]) -> None:
        super().__init__(config)
        self._opened = opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._opened()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


def answer(app: fastapi.FastAPI, address: Address, opened: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C or SIGTERM; streams that are open then are cut after a second.

    Args:
        opened: called once as soon as requests are answered.
    """
    settings = uvicorn.Config(
        app, host=address.host, port=address.port, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has closed everything
        Server(settings, opened).run()
