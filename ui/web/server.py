"""Starting and ending the server: its address and mode, the one data folder, the application, and answering.

Gradio is mounted in an application of our own, so that the border (border.py) stands before every one of its routes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import fastapi
import filelock
import uvicorn

from engine.system import visitors
from engine.system.home import home, server_home, write_atomically
from ui.web import inputs, routes
from ui.web.access import FEWEST_TOKEN_CHARACTERS, TOKEN_VARIABLE, Access, Mode, mode_here
from ui.web.border import MAX_UPLOAD_BYTES, Border, Event, Events, Hosts
from ui.web.connections import PatientProtocol
from ui.web.policy import TOOLS_PATH, Need
from ui.web.switches import StartError

if TYPE_CHECKING:
    import gradio

    from estimators.service.client import Estimator

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORTS_TRIED = 100
GRACE_SECONDS = 1  # for answers that are under way when the server is told to end
MOST_SESSIONS = 400  # of open pages and calls by programs: Gradio keeps 1.3 MB for each, of 10,000 if left alone
MOST_WAITING_EVENTS = 500  # of all callers; a page that loads sends about twenty (faults.md, T30)


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

    def opened_at(self, access: Access) -> str:
        """The address to open: in token mode it carries the token."""
        return f"{self.url}/?token={access.token}" if access.mode is Mode.TOKEN else self.url


# --- starting -------------------------------------------------------------------------------------------------------


def choose_mode(address: Address) -> Access:
    """How callers are treated, and the environment that the processes of this mode need. Raises `StartError`."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and (len(token) < FEWEST_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token):
        rule = f"at least {FEWEST_TOKEN_CHARACTERS} letters, digits and signs"
        raise StartError(f"{TOKEN_VARIABLE} is too short or has odd characters. Use {rule}, or unset it to get a random one.")
    access = Access(mode_here(loopback=address.is_loopback), address.port)
    if access.mode is not Mode.LOCAL:
        os.environ["FITTINGROOM_LOCAL_PATHS"] = "0"
    os.environ[visitors.DEMO_VARIABLE] = "1" if access.mode is Mode.DEMO else "0"
    os.environ.pop(TOKEN_VARIABLE, None)  # no process that is started needs it
    return access


def notes(address: Address, access: Access, *, mcp: bool) -> list[str]:
    """What is printed below the address when the server is open."""
    lines = []
    if access.mode is Mode.TOKEN:
        lines.append("Whoever has that address has your data and this computer's GPU: give it only to people you trust.")
    if access.mode is Mode.DEMO:
        lines.append(f"It is a public demo: visitors see their own data alone, and it is erased after {visitors.KEPT_WORDS}.")
    if mcp:
        lines.append(f"Its MCP tools are at {address.url}{TOOLS_PATH}/gradio_api/mcp")
    return lines


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


# --- the application ------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where Gradio keeps uploads and copies of what it shows: not in the temporary folder that others can read."""
    folder = server_home() / "cache" / "page"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def hosts_of(address: Address, mode: Mode) -> Hosts:
    """The names under which the server answers: this computer's, a Space's own, and those of FITTINGROOM_HOSTS."""
    named = {name.strip().lower() for name in os.environ.get("FITTINGROOM_HOSTS", "").split(",") if name.strip()}
    names = {*LOOPBACK, *named}
    if mode is Mode.LOCAL:
        return Hosts(names=frozenset(names), addresses=False)
    if space := os.environ.get("SPACE_ID"):
        names |= {f"{space.replace('/', '-').replace('_', '-').replace('.', '-').lower()}.hf.space"}
        names |= {name.strip().lower() for name in os.environ.get("SPACE_HOST", "").split(",") if name.strip()}
    else:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower(), f"{socket.gethostname().lower()}.local", address.host}
    return Hosts(names=frozenset(names), addresses=True)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The application, and the border that its pages are declared to."""

    app: fastapi.FastAPI
    events: dict[int, Event]

    def mount(self, blocks: gradio.Blocks, address: Address, **look: object) -> None:
        """Mount the page: its events are those that the border lets through."""
        self.events.update(events_of(blocks))
        _mount(self.app, blocks, address, path="/", max_file_size=MAX_UPLOAD_BYTES, **look)

    def mount_tools(self, estimator: Estimator, address: Address, access: Access) -> None:
        """Serve the planner's questions as tools: a page of their own, so that nothing that starts or stops a run is one."""
        from gradio_client import Client

        from ui.web import api

        tools = api.tools(estimator)
        _mount(self.app, tools, address, path=TOOLS_PATH, mcp_server=True)

        @functools.cache
        def client() -> Client:
            """Gradio's MCP server asks the page over HTTP. Its own client would come to the border without the token."""
            headers = {"x-gradio-user": "mcp", "authorization": f"Bearer {access.token}"}
            return Client(
                f"{address.url}{TOOLS_PATH}/", headers=headers, download_files=False, verbose=False, analytics_enabled=False
            )

        tools.mcp_server_obj._get_or_create_client = client


def make_site(address: Address, access: Access) -> Site:
    """The application with the border and our own routes; Gradio is mounted into it by `app.py`."""
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    events: dict[int, Event] = {}
    hosts = hosts_of(address, access.mode)
    app.add_middleware(Border, access=access, hosts=hosts, cache=str(cache_folder()), events=events)
    routes.add(app, access)
    return Site(app=app, events=events)


def events_of(blocks: gradio.Blocks) -> Events:
    """What the border must know of each event: `ui.web.handlers.guarded` has written it on the handler."""
    found = {}
    for number, event in blocks.fns.items():
        if event.fn is None:  # a script of the page's; the server has no part in it
            continue
        need = getattr(event.fn, "need", None)
        assert isinstance(need, Need), f"the handler of {event.api_name} is not guarded"
        takes = inputs.of(event)
        found[number] = Event(name=str(event.api_name or ""), need=need, takes_plans=need is not Need.OWNER, takes=takes)
    return found


def _mount(app: fastapi.FastAPI, blocks: gradio.Blocks, address: Address, **more: object) -> None:
    import gradio

    from ui.web.handlers import reading_plainly

    # `mount_gradio_app` leaves this False, and then Gradio checks no path (processing_utils._check_allowed).
    blocks.has_launched = True
    blocks.queue(max_size=MOST_WAITING_EVENTS)
    blocks.state_session_capacity = MOST_SESSIONS
    blocks.preprocess_data = reading_plainly(blocks.preprocess_data)  # type: ignore[method-assign]
    settings = {"ssr_mode": False, "run_history": False, "enable_monitoring": False, "mcp_server": False, "footer_links": []}
    gradio.mount_gradio_app(app, blocks, server_name=address.host, server_port=address.port, **(settings | more))


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
        app,
        host=address.host,
        port=address.port,
        http=PatientProtocol,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        # A Space's own proxy says whether the browser speaks https; elsewhere only one on this computer is believed.
        forwarded_allow_ips="*" if "SPACE_ID" in os.environ else None,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has closed everything
        Server(settings, opened).run()
