"""ROUTES: every route that the server answers, one row each, with what a caller needs for it. All others are 404.

Gradio brings some eighty routes; the page uses these. docs/security.md shows the table, and a test compares it with what
the router and the page really have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

TOOLS_PATH = "/tools"
API = "/gradio_api"
RUN_ID = "[0-9a-f]{32}"


class Need(StrEnum):
    """What a caller needs for a route or an event.

    nothing: answered to everybody, in every mode.
    token: in token mode the token; anybody else in the other modes.
    owner: that, and on a demo a browser session of one's own, whose data alone is seen.
    """

    NOTHING = "nothing"
    TOKEN = "token"
    OWNER = "owner"


class Body(StrEnum):
    """What a route is sent, and so how the border looks at it."""

    NONE = "none"
    JSON = "json"  # any JSON
    EVENT = "event"  # JSON that calls an event of the page
    FORM = "form"  # the login
    FILES = "files"  # an upload


@dataclass(frozen=True, kw_only=True)
class Route:
    """One row. `path` is a regular expression for the whole path; its named groups are ids that a caller must own."""

    path: str
    need: Need
    methods: tuple[str, ...] = ("GET", "HEAD")
    body: Body = Body.NONE
    what: str
    expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "expression", re.compile(self.path, re.ASCII))


ROUTES: tuple[Route, ...] = (
    # Our own.
    Route(path="/login", need=Need.NOTHING, what="the login page"),
    Route(path="/login", methods=("POST",), body=Body.FORM, need=Need.NOTHING, what="a token, for a cookie"),
    Route(path=rf"/download/{RUN_ID}/[a-z]+\.zip", need=Need.OWNER, what="a result of one's own run"),
    Route(path=rf"/api/runs/{RUN_ID}/events", need=Need.OWNER, what="what one's own run has measured"),
    # The page, and what it is made of.
    Route(path="/", need=Need.TOKEN, what="the page"),
    Route(path="/config/?", need=Need.TOKEN, what="the page's components and events"),
    Route(path=r"/(assets|static|svelte)/[\w./~+-]+", need=Need.TOKEN, what="Gradio's scripts, styles and fonts"),
    Route(path=r"(/gradio_api)?/theme\.css", need=Need.TOKEN, what="our theme"),
    Route(path=r"/(favicon\.ico|robots\.txt|manifest\.json)", need=Need.TOKEN, what="what browsers ask for"),
    Route(path=f"{API}/(info|startup-events|app_id)/?", need=Need.TOKEN, what="the description of the endpoints"),
    Route(path=rf"{API}/openapi\.json", need=Need.TOKEN, what="the same, as OpenAPI"),
    # Events. Which event is called is in the body; the event's own need is asked for as well.
    Route(path=f"{API}/queue/join", methods=("POST",), body=Body.EVENT, need=Need.TOKEN, what="calls an event"),
    Route(path=f"{API}/queue/data", need=Need.TOKEN, what="answers to the events of one's own session"),
    Route(
        path=rf"{API}/call/(?P<endpoint>\w+)/?",
        methods=("POST",),
        body=Body.EVENT,
        need=Need.TOKEN,
        what="calls an event",
    ),
    Route(path=rf"{API}/call/\w+/(?P<event>\w+)", need=Need.TOKEN, what="the answer to one's own call"),
    Route(
        path=rf"{API}/(run|api)/(?P<endpoint>\w+)/?", methods=("POST",), body=Body.EVENT, need=Need.TOKEN, what="calls an event"
    ),
    Route(path=rf"{API}/heartbeat/(?P<session>\w+)", need=Need.TOKEN, what="keeps one's own session alive"),
    Route(path=f"{API}/cancel", methods=("POST",), body=Body.JSON, need=Need.TOKEN, what="ends a call of one's own session"),
    Route(path=f"{API}/reset/?", methods=("POST",), body=Body.JSON, need=Need.TOKEN, what="nothing (Gradio's old client)"),
    # Files.
    Route(path=f"{API}/upload", methods=("POST",), body=Body.FILES, need=Need.OWNER, what="takes a file"),
    Route(path=f"{API}/upload_progress", need=Need.OWNER, what="how far one's own upload is"),
    Route(path=f"{API}/file=(?P<file>.+)", need=Need.OWNER, what="a file that one uploaded or was shown"),
    # The planner for assistants; only `app.py --mcp` has these.
    Route(
        path=f"{TOOLS_PATH}{API}/mcp/?",
        methods=("GET", "POST", "DELETE"),
        body=Body.JSON,
        need=Need.TOKEN,
        what="the planner's questions as MCP tools",
    ),
    Route(path=f"{TOOLS_PATH}{API}/mcp/schema", need=Need.TOKEN, what="what these tools take"),
)


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """(the row of a request, the ids in its path), or None if nothing is answered there."""
    if ".." in path.split("/"):
        return None
    for route in ROUTES:
        if method in route.methods and (match := route.expression.fullmatch(path)):
            return route, {name: value for name, value in match.groupdict().items() if value is not None}
    return None
