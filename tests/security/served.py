"""A whole server of this program in the test's own process, and callers of it: browsers with cookies, and programs without."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio
import httpx
import pytest
import uvicorn

from ui.web import server
from ui.web.access import Access, Mode
from ui.web.server import Address, Site


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that answers, and what the tests know of it."""

    site: Site
    blocks: gradio.Blocks
    access: Access
    url: str
    home: Path

    @property
    def config(self) -> dict[str, Any]:
        return self.owner().get("/config").json()

    def owner(self) -> httpx.Client:
        """A browser that has opened the page (in token mode, by the printed address): it has the cookies."""
        client = self.program()
        client.get("/", params={"token": self.access.token} if self.access.mode is Mode.TOKEN else {}, follow_redirects=True)
        return client

    def program(self, **headers: str) -> httpx.Client:
        """A caller that has no cookies yet."""
        return httpx.Client(base_url=self.url, timeout=60, headers=headers)

    def number_of(self, name: str) -> int:
        """The number of an event, by its name."""
        return next(number for number, event in self.site.events.items() if event.name == name)


@contextlib.contextmanager
def serve(mode: Mode, home: Path, *, tools: bool = False, warm: bool = False) -> Iterator[Served]:
    """The real page behind the real border, on a free port of the loopback address.

    Args:
        warm: whether estimates are needed, for which a process is started.
    """
    from engine.inference.client import Answers
    from estimators.service.client import Estimator
    from ui.page import CSS_PATHS, HEAD, build_page, theme

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITTINGROOM_HOME", str(home))
        patch.setenv("FITTINGROOM_LOCAL_PATHS", "1" if mode is Mode.LOCAL else "0")
        patch.setenv("FITTINGROOM_DEMO", "1" if mode is Mode.DEMO else "0")
        patch.setenv("GRADIO_TEMP_DIR", str(server.cache_folder()))
        if mode is Mode.DEMO:
            patch.setenv("SPACE_ID", "somebody/fitting-room")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = Address(host="127.0.0.1", port=probe.getsockname()[1])
        estimator, answers = Estimator(), Answers()
        if warm:
            estimator.warm_up()
        access = Access(mode, address.port)
        site = server.make_site(address, access)
        if tools:
            site.mount_tools(estimator, address, access)
        blocks = build_page(estimator, answers, demo=mode is Mode.DEMO)
        site.mount(blocks, address, theme=theme(), css_paths=CSS_PATHS, head=HEAD)
        running = uvicorn.Server(uvicorn.Config(site.app, host=address.host, port=address.port, log_level="error"))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.05)
        try:
            yield Served(site=site, blocks=blocks, access=access, url=address.url, home=home)
        finally:
            running.should_exit = True
            thread.join(timeout=20)
            estimator.close()
            answers.close()


def call(client: httpx.Client, number: int, data: list[Any], *, seconds: float = 60, **more: Any) -> dict[str, Any]:
    """Call an event through the queue, as the page does. Returns its last message; {"status": ...} where it is not let in."""
    session = secrets.token_hex(8)
    joined = client.post("/gradio_api/queue/join", json={"fn_index": number, "data": data, "session_hash": session, **more})
    if joined.status_code != 200:
        return {"status": joined.status_code, "detail": joined.text}
    event = joined.json()["event_id"]
    deadline = time.monotonic() + seconds
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed" and message.get("event_id") == event:
                return message
            if message.get("msg") in ("unexpected_error", "close_stream") or time.monotonic() > deadline:
                return message
    return {}


def call_tool(client: httpx.Client, name: Any, arguments: Any) -> httpx.Response:
    """Call a tool as a program that speaks MCP does."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    return client.post("/tools/gradio_api/mcp/", content=json.dumps(body), headers=headers)


def upload(client: httpx.Client, name: str, content: bytes) -> dict[str, Any]:
    """Upload a file as the page does. Returns the FileData that the page would send then."""
    answer = client.post("/gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return file_data(answer.json()[0])


def file_data(path: str) -> dict[str, Any]:
    """What Gradio's page sends for a file."""
    return {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}
