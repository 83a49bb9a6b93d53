"""ROUTES: every route that the server answers, one row each, with what a caller needs for it. All others are 404.

Gradio brings some eighty routes; the page uses these. docs/security.md shows the table, and a test compares it with what
the router and the page really have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

API = "/gradio_api"
TOOLS_PATH = "/tools"


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


class Answer(StrEnum):
    """What a route gives, where the border looks at that, too."""

    PLAIN = "plain"
    PAGE = "page"  # HTML that begins a session and gets a nonce
    CONFIG = "config"  # JSON that begins a session of a program
    FILES = "files"  # the names of uploaded files
    EVENTS = "events"  # numbers of events, and their outputs, which may give files
    RESULT = "result"  # the output of an event; Gradio answers 500 for any that raised, a person's mistake above all


# What a parameter of a path may be; a caller must own those of `session`, `event` and `file`.
PARAMETERS = {
    "run_id": "[0-9a-f]{32}",
    "artifact": "[a-z]+",
    "asset": r"[\w./~+-]+",
    "endpoint": r"\w+",
    "event": r"\w+",
    "session": r"\w+",
    "file": ".+",
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """One row. `path` has parameters in braces."""

    path: str
    need: Need
    what: str
    methods: tuple[str, ...] = ("GET", "HEAD")
    body: Body = Body.NONE
    answer: Answer = Answer.PLAIN
    expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        literal = re.escape(self.path).replace(r"\{", "{").replace(r"\}", "}")
        pattern = re.sub(r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{PARAMETERS[found[1]]})", literal)
        slash = "/?" if API in self.path or self.path.endswith("/config") else ""  # Gradio declares both
        object.__setattr__(self, "expression", re.compile(pattern + slash, re.ASCII))


def _get(path: str, need: Need, what: str, answer: Answer = Answer.PLAIN) -> Route:
    return Route(path=path, need=need, what=what, answer=answer)


def _post(path: str, need: Need, what: str, body: Body, answer: Answer = Answer.PLAIN) -> Route:
    return Route(path=path, need=need, what=what, methods=("POST",), body=body, answer=answer)


ROUTES: tuple[Route, ...] = (
    # Our own.
    _get("/login", Need.NOTHING, "the login page"),
    _post("/login", Need.NOTHING, "a token, for a cookie", Body.FORM),
    _get("/download/{run_id}/{artifact}.zip", Need.OWNER, "a result of one's own run"),
    _get("/api/runs/{run_id}/events", Need.OWNER, "what one's own run has measured"),
    # The page, and what it is made of.
    _get("/", Need.TOKEN, "the page", Answer.PAGE),
    _get("/config", Need.TOKEN, "the page's components and events", Answer.CONFIG),
    _get("/assets/{asset}", Need.TOKEN, "Gradio's scripts, styles and fonts"),
    _get("/static/{asset}", Need.TOKEN, "Gradio's fonts and images"),
    _get("/svelte/{asset}", Need.TOKEN, "Gradio's components"),
    _get("/theme.css", Need.TOKEN, "our theme"),
    _get(f"{API}/theme.css", Need.TOKEN, "our theme"),
    _get("/favicon.ico", Need.TOKEN, "the page's icon"),
    _get("/robots.txt", Need.TOKEN, "what search engines may read"),
    _get("/manifest.json", Need.TOKEN, "the page's name and icons"),
    _get(f"{API}/info", Need.TOKEN, "the description of the endpoints"),
    _get(f"{API}/openapi.json", Need.TOKEN, "the same, as OpenAPI"),
    _get(f"{API}/app_id", Need.TOKEN, "a number that changes when the server is started again"),
    _get(f"{API}/startup-events", Need.TOKEN, "whether the page has started"),
    # Events. Which one is called is in the body; what the event itself needs is asked for as well.
    _post(f"{API}/queue/join", Need.TOKEN, "calls an event", Body.EVENT, Answer.EVENTS),
    _get(f"{API}/queue/data", Need.TOKEN, "answers to the events of one's own session", Answer.EVENTS),
    _post(f"{API}/call/{{endpoint}}", Need.TOKEN, "calls an event", Body.EVENT, Answer.EVENTS),
    _get(f"{API}/call/{{endpoint}}/{{event}}", Need.TOKEN, "the answer to one's own call", Answer.EVENTS),
    _post(f"{API}/run/{{endpoint}}", Need.TOKEN, "calls an event and waits for it", Body.EVENT, Answer.RESULT),
    _post(f"{API}/api/{{endpoint}}", Need.TOKEN, "calls an event and waits for it", Body.EVENT, Answer.RESULT),
    _get(f"{API}/heartbeat/{{session}}", Need.TOKEN, "keeps one's own session alive"),
    _post(f"{API}/cancel", Need.TOKEN, "ends a call of one's own session", Body.JSON),
    _post(f"{API}/reset", Need.TOKEN, "nothing (Gradio's old client)", Body.JSON),
    # Files.
    _post(f"{API}/upload", Need.OWNER, "takes a file", Body.FILES, Answer.FILES),
    _get(f"{API}/upload_progress", Need.OWNER, "how far one's own upload is"),
    _get(f"{API}/file={{file}}", Need.OWNER, "a file that one uploaded or was shown"),
    # The planner for assistants; only `app.py --mcp` has these.
    _post(f"{TOOLS_PATH}{API}/mcp", Need.TOKEN, "the planner's questions as MCP tools", Body.JSON),
    Route(
        path=f"{TOOLS_PATH}{API}/mcp",
        need=Need.TOKEN,
        what="the stream and the end of such a session",
        methods=("GET", "DELETE"),
    ),
    _get(f"{TOOLS_PATH}{API}/mcp/schema", Need.TOKEN, "what these tools take"),
    # Gradio's MCP server calls the events behind its tools over HTTP, as a program would.
    _get(f"{TOOLS_PATH}/config", Need.TOKEN, "the tools' events", Answer.CONFIG),
    _get(f"{TOOLS_PATH}{API}/info", Need.TOKEN, "the description of these events"),
    _post(f"{TOOLS_PATH}{API}/queue/join", Need.TOKEN, "calls one of these events", Body.JSON, Answer.EVENTS),
    _get(f"{TOOLS_PATH}{API}/queue/data", Need.TOKEN, "answers to the events of one's own session", Answer.EVENTS),
    _get(f"{TOOLS_PATH}{API}/heartbeat/{{session}}", Need.TOKEN, "keeps one's own session alive"),
)


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """(the row of a request, the parameters of its path), or None if nothing is answered there."""
    if ".." in path.split("/"):
        return None
    for route in ROUTES:
        if method in route.methods and (match := route.expression.fullmatch(path)):
            return route, match.groupdict()
    return None
