"""The border: ASGI middleware before every route, ours and Gradio's. What does not get past it never reaches Gradio.

In this order: the Host header, the Origin, the size, the route (policy.py), the token, the owner, the body. A body that
calls an event may name files only that the same session uploaded or was shown, and only its own session and events.

Written against ASGI itself, so that event streams and downloads pass through it as they come.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import orjson
from fastapi import HTTPException
from python_multipart.multipart import parse_options_header
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.system import visitors
from engine.system.home import visiting
from ui.web import headers, inputs, policy
from ui.web.access import Access, Caller, Mode, token_in_query
from ui.web.claims import Claims
from ui.web.login import login_page
from ui.web.policy import Answer, Body, Need, Route

LONGEST_BOUNDARY = 70  # characters (RFC 2046, section 5.1.1)
MAX_BODY_BYTES = 2 * 2**20  # of anything that is not an upload; Gradio alone sets no limit
MAX_UPLOAD_BYTES = 200 * 2**20
UPLOAD_SLACK_BYTES = 64 * 2**10  # the headers of the parts around a file
MOST_FIELDS = 50  # of an address
VISITOR = "fittingroom.visitor"  # in the scope of a request: whose home it is answered from

Events = Mapping[int, "Event"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """What the border knows of an event of the page.

    takes_plans: it reads plans as JSON objects, whose data sets have a "path" that is no file of Gradio's.
    """

    name: str
    need: Need
    takes_plans: bool
    takes: inputs.Takes


class Refusal(Exception):
    """A request that is not let through: the status, and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status

    def response(self) -> Response:
        return JSONResponse({"detail": str(self)}, status_code=self.status)


class BodyTooLarge(HTTPException):
    """A body that went on beyond its limit; as an HTTP exception it becomes an answer wherever it is met."""

    def __init__(self) -> None:
        super().__init__(status_code=413, detail=TOO_LARGE)


TOO_LARGE = "This is too large. Upload it as a file instead."


def not_found() -> Refusal:
    """The answer to what is not there, and to what belongs to somebody else."""
    return Refusal(404, "There is nothing at this address.")


class Border:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, access: Access, hosts: Hosts, cache: str, events: Events) -> None:
        """
        Args:
            hosts: the names under which the server answers.
            cache: the folder in which Gradio keeps uploads and copies of what it shows.
            events: by number, those of the page; filled when it is mounted.
        """
        self.app, self.access, self.hosts = app, access, hosts
        self.cache = os.path.realpath(cache)
        self.claims = Claims()
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks over a WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        request = HTTPConnection(scope)
        send = _with_headers(send, headers.COMMON | {"content-security-policy": headers.NOTHING_RUNS})
        try:
            await self._answer(request, scope, receive, send)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except BodyTooLarge:
            await Refusal(413, TOO_LARGE).response()(scope, receive, send)

    async def _answer(self, request: HTTPConnection, scope: Scope, receive: Receive, send: Send) -> None:
        self.hosts.check(request)
        if scope["query_string"].count(b"&") >= MOST_FIELDS:
            raise Refusal(400, "The address has too many fields.")
        found = policy.find(scope["method"], scope["path"])
        if found is None:
            raise not_found()
        route, ids = found
        _check_length(request, route)

        caller = self.access.caller(request)
        if self.access.mode is Mode.TOKEN and route.need is not Need.NOTHING:
            response = self._ask_for_token(request, caller)
            if response is not None:
                await response(scope, receive, send)
                return
        new_cookie = None
        if not caller.session and route.answer in BEGIN_A_SESSION:
            key, new_cookie = self.access.new_session(request)
            caller = dataclasses.replace(caller, session=key)
        if new_cookie is not None:
            send = _with_headers(send, {"set-cookie": new_cookie})

        self._check_owner(route.need, caller)
        self._check_ids(ids, request, caller)
        if route.body in (Body.JSON, Body.EVENT):
            receive = await self._checked_body(route, ids, caller, receive)
        elif route.body is Body.FILES:
            _check_boundary(request)
            receive = _at_most(MAX_UPLOAD_BYTES + UPLOAD_SLACK_BYTES, receive)
        else:
            receive = _at_most(MAX_BODY_BYTES, receive)

        visitor = self.access.visitor(caller)
        if visitor is not None and not visitors.has_room(visitor):
            raise Refusal(503, "This demo has as many visitors as it has room for. Try again in an hour.")
        scope[VISITOR] = visitor
        with visiting(visitor):
            if route.answer in BEGIN_A_SESSION or route.body is Body.FILES:
                visitors.note_visit()
            await self.app(scope, receive, self._noting(route, caller, scope, send))

    # --- who ---------------------------------------------------------------------------------------------------------

    def _ask_for_token(self, request: HTTPConnection, caller: Caller) -> Response | None:
        """None for somebody who has shown the token; a redirect that gives the cookie; else the refusal."""
        address = request.client.host if request.client else ""
        token, rest = token_in_query(request.scope["query_string"])
        if token is not None and request.scope["method"] == "GET":
            if self.access.must_wait(address):
                raise Refusal(429, "Too many wrong tokens came from this address. Wait a minute.")
            if self.access.is_token(token):
                # Only a path of ours: "//other.example" would be another host.
                there = "/" + quote(request.url.path.lstrip("/")) + (f"?{rest}" if rest else "")
                response = RedirectResponse(there, status_code=303)
                response.headers["set-cookie"] = self.access.entitlement(request)
                return response
            self.access.failed(address)
        if caller.entitled:
            return None
        if "text/html" in request.headers.get("accept", ""):
            return login_page(status=401)
        raise Refusal(401, "This server needs its access token: log in at /login, or send it as “Authorization: Bearer TOKEN”.")

    def _check_owner(self, need: Need, caller: Caller) -> None:
        if need is Need.OWNER and self.access.mode is Mode.DEMO and not caller.session:
            raise Refusal(401, "Open the page first, and allow its cookie: what you upload and train is kept for it alone.")

    def _check_ids(self, ids: Mapping[str, str], request: HTTPConnection, caller: Caller) -> None:
        """The ids in path and query belong to the caller; a session's or an upload's belongs to whoever comes first with it."""
        query = parse_qs(request.scope["query_string"].decode("latin-1"))
        if "page" in query:  # of Gradio's several pages; it looks one up without asking whether it is there
            raise not_found()
        session = ids.get("session") or next(iter(query.get("session_hash", ())), None)
        upload = next(iter(query.get("upload_id", ())), None)
        mine = session is None or self.claims.take("session", session, caller.session)
        mine = mine and (upload is None or self.claims.take("upload", upload, caller.session))
        mine = mine and ("event" not in ids or self.claims.has("event", ids["event"], caller.session))
        mine = mine and ("file" not in ids or self._may_read(ids["file"], caller))
        if not mine:
            raise not_found()

    def _may_read(self, path: str, caller: Caller) -> bool:
        """Whether this is a regular file of Gradio's cache that the caller uploaded or was shown."""
        real = os.path.realpath(path) if "\0" not in path else ""
        return real.startswith(self.cache + os.sep) and self.claims.has("file", real, caller.session)

    # --- what is sent ------------------------------------------------------------------------------------------------

    async def _checked_body(self, route: Route, ids: Mapping[str, str], caller: Caller, receive: Receive) -> Receive:
        """Read a body of JSON, refuse what it may not say, and give it on as it came."""
        body = await _read(_at_most(MAX_BODY_BYTES, receive))
        if body:
            try:
                values = orjson.loads(body)
            except orjson.JSONDecodeError:
                raise Refusal(400, "The body is not valid JSON in UTF-8.") from None
            takes_plans, event = True, None
            if route.body is Body.EVENT:
                event = self._event_of(values, ids)
                self._check_owner(event.need, caller)
                takes_plans = event.takes_plans
            self._check_session_of(values, caller)
            for file in _files(values, takes_plans=takes_plans):
                if not isinstance(file, str) or not self._may_read(file, caller):
                    raise Refusal(403, "A file in this request was not uploaded by this session. Upload it, then send it.")
            if event is not None and (wrong := inputs.problem(values, event.takes, by_name="endpoint" in ids)):
                raise Refusal(422, wrong)
        elif route.body is Body.EVENT:
            raise Refusal(400, "The body is empty. Send a JSON object.")
        return _replay(body, receive)

    def _event_of(self, values: Any, ids: Mapping[str, str]) -> Event:
        """The event that is called: by its number in the body, or by its name in the address. With both, they agree.

        Gradio takes the number on some routes and the name on others, so a call could be looked at as another one.
        """
        if not isinstance(values, dict):
            raise Refusal(422, "The body is not a JSON object.")
        number, name = values.get("fn_index"), ids.get("endpoint")
        if number is not None:
            event = self.events.get(number) if type(number) is int else None
        else:
            event = next((one for one in self.events.values() if one.name == name), None)
        if event is None or name not in (None, event.name):
            raise Refusal(404, "There is no such endpoint.")
        return event

    def _check_session_of(self, values: Any, caller: Caller) -> None:
        """The session and the event of a body are the caller's own."""
        if not isinstance(values, dict):
            return
        session, event = values.get("session_hash"), values.get("event_id")
        if session is not None and not (isinstance(session, str) and self.claims.take("session", session, caller.session)):
            raise not_found()
        if event is not None and not (isinstance(event, str) and self.claims.has("event", event, caller.session)):
            raise not_found()

    # --- what is answered --------------------------------------------------------------------------------------------

    def _noting(self, route: Route, caller: Caller, scope: Scope, send: Send) -> Send:
        """Note which files and events an answer gives to the caller; the page gets its nonce."""
        if route.answer is Answer.PAGE:
            # The page is rewritten, so it may not be compressed before.
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            return _page(send, headers.SPACE_FRAMES if "SPACE_ID" in os.environ else headers.NO_FRAMES)
        if route.answer is Answer.FILES:
            return self._noting_uploads(caller, send)
        if route.answer in (Answer.EVENTS, Answer.RESULT):
            return self._noting_answers(route, caller, send)
        return send

    def _noting_uploads(self, caller: Caller, send: Send) -> Send:
        def note(body: bytes) -> None:
            for path in _loaded(body, list):
                if isinstance(path, str):
                    self.claims.give("file", os.path.realpath(path), caller.session)

        return _whole(send, note)

    def _noting_answers(self, route: Route, caller: Caller, send: Send) -> Send:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 500 and route.answer is Answer.RESULT:
                message = {**message, "status": 422}
            body = message.get("body", b"")
            if b"gradio.FileData" in body:
                for line in body.split(b"\n"):
                    for file in _files(_loaded(line.removeprefix(b"data: ")), takes_plans=True):
                        if isinstance(file, str):  # it is checked again when it is asked for
                            self.claims.give("file", os.path.realpath(file), caller.session)
            if b'"event_id"' in body and isinstance(event := _loaded(body, dict).get("event_id"), str):
                self.claims.give("event", event, caller.session)
            await send(message)

        return noted


BEGIN_A_SESSION = (Answer.PAGE, Answer.CONFIG)


# --- names of the server ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """The names under which the server answers, so that no other website can make its own name lead here (DNS rebinding).

    names: lower case, without port.
    addresses: whether any IP address is answered; a website has a name, so rebinding needs one.
    """

    names: frozenset[str]
    addresses: bool

    def check(self, request: HTTPConnection) -> None:
        """Raise `Refusal` for another name, and for a call that comes from another website's page."""
        header = request.headers.get("host", "")
        host, port = _host_and_port(header)
        if not self._answers(host):
            raise Refusal(421, "This server does not answer to that name. Its owner can add it to FITTINGROOM_HOSTS.")
        origin = request.headers.get("origin")
        if request.scope["method"] in ("GET", "HEAD") and origin is None:
            return
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refusal(403, "This request came from another website.")
        if origin is not None and _parts(origin) != (request.url.scheme, host, port or _default_port(request.url.scheme)):
            raise Refusal(403, "This request came from another website.")

    def _answers(self, host: str) -> bool:
        if host in self.names:
            return True
        return self.addresses and _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host_and_port(header: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{header}")
        return (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "", None


def _parts(origin: str) -> tuple[str, str, int | None]:
    """(scheme, host, port) of an Origin header."""
    scheme, _, rest = origin.partition("://")
    host, port = _host_and_port(rest)
    return scheme.lower(), host, port or _default_port(scheme.lower())


def _default_port(scheme: str) -> int | None:
    return {"http": 80, "https": 443}.get(scheme)


# --- bodies -----------------------------------------------------------------------------------------------------------


def _files(values: Any, *, takes_plans: bool) -> Iterator[Any]:
    """The paths of everything in a JSON value that Gradio may take for a file.

    It takes an object with "path" and the mark of its FileData in "meta"; its file components take one without the mark, too.
    """
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if "path" in value and (not takes_plans or "meta" in value):
                yield value["path"]


def _check_length(request: HTTPConnection, route: Route) -> None:
    length = request.headers.get("content-length", "0")
    most = MAX_UPLOAD_BYTES + UPLOAD_SLACK_BYTES if route.body is Body.FILES else MAX_BODY_BYTES
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > most:
        raise Refusal(413, TOO_LARGE)


def _check_boundary(request: HTTPConnection) -> None:
    """Gradio answers a boundary that its parser does not take with a fault of the server."""
    _, options = parse_options_header(request.headers.get("content-type", "").encode("latin-1"))
    if len(options.get(b"boundary", b"")) > LONGEST_BOUNDARY:
        raise Refusal(400, f"The boundary of this upload is longer than {LONGEST_BOUNDARY} characters.")


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


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The connection was closed before the body was whole.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """What reads the body again, and then whatever comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


# --- answers ----------------------------------------------------------------------------------------------------------


def _with_headers(send: Send, extra: Mapping[str, str]) -> Send:
    """Add headers to the answer; one that is there already stays, but for cookies, of which there may be several."""

    async def extended(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            added = [(name.encode(), value.encode()) for name, value in extra.items()]
            more = [pair for pair in added if pair[0] not in there or pair[0] == b"set-cookie"]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return extended


def _page(send: Send, frames: str) -> Send:
    """Give an HTML page its nonce and its policy."""
    nonce = secrets.token_urlsafe(16)

    def rewritten(start: Message, body: bytes) -> tuple[Message, bytes]:
        kept = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-length", b"content-security-policy")]
        page = headers.with_nonce(body, nonce)
        ours = [
            (b"content-length", str(len(page)).encode()),
            (b"content-security-policy", headers.page_policy(nonce, frames).encode()),
            (b"cache-control", b"no-store"),
        ]
        return {**start, "headers": [*kept, *ours]}, page

    return _buffered(send, rewritten)


def _whole(send: Send, note: Callable[[bytes], None]) -> Send:
    """Show a whole (short) answer to `note` before it is sent."""

    def seen(start: Message, body: bytes) -> tuple[Message, bytes]:
        note(body)
        return start, body

    return _buffered(send, seen)


def _buffered(send: Send, change: Callable[[Message, bytes], tuple[Message, bytes]]) -> Send:
    start: Message | None = None
    parts: list[bytes] = []

    async def collected(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            assert start is not None
            changed, body = change(start, b"".join(parts))
            await send(changed)
            await send({"type": "http.response.body", "body": body})

    return collected


def _loaded(text: bytes, kind: type = object) -> Any:
    """The JSON value of a text, or an empty one of its kind where it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, kind) and value is not None else (kind() if kind is not object else None)
