"""Whatever is sent to an event, a route or a tool, the server answers it: with a result, or with a plain sentence.

Every event and every route of /config and the router is sent values of its own kind that make no sense, values of other
kinds, calls that no page would make, and odd requests; from a fixed seed. No answer is a fault of the server (5xx) or
shows its insides, no handler meets what it cannot take, and the process neither hangs nor grows.

    pytest tests/security/test_fuzz.py --fuzz 50    more rounds, each with a seed of its own
"""

from __future__ import annotations

import json
import logging
import random
import re
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import ui
from engine.jobs import runs
from engine.pipelines import chain_runs, compare
from engine.system import cache_files as files
from engine.system import visitors
from engine.system.home import visiting
from tests.security import strange
from tests.security.doors import example, routes
from tests.security.served import Served, call, call_tool, serve, upload
from ui.web import janitor, policy, server
from ui.web.access import Mode

ROUNDS = 1  # about 20 seconds on an idle computer
SECONDS = 240.0  # for the answers of all events of a round together, on a busy computer
MOST_GROWTH = 2**30
INSIDES = re.compile(
    r"Traceback|unexpected fault|site-packages|File \"|<class '|object at 0x|\b[A-Z]\w*(Error|Exception|Warning)\b"
    rf"|{re.escape(str(Path(ui.__file__).parents[1]))}/"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(Mode.LOCAL, tmp_path_factory.mktemp("home"), tools=True) as one:
        yield one
        stop_everything()


def stop_everything() -> None:
    """What the calls have started."""
    for chain in chain_runs.all_chains():
        if chain.is_active:
            chain_runs.stop(chain.id)
    for comparison in compare.every():
        compare.stop(comparison)
    for run in runs.active_runs():
        runs.stop(run.id, grace=0.0)


@pytest.fixture
def no_fault(served: Served, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No handler has failed, and the process has not grown."""
    before = psutil.Process().memory_info().rss
    with caplog.at_level(logging.ERROR, logger="fittingroom.ui"):
        yield
    failed = [record for record in caplog.records if "A handler of the page failed." in record.message]
    assert not failed, failed[0].exc_text
    assert psutil.Process().memory_info().rss - before < MOST_GROWTH


def rounds(request: pytest.FixtureRequest) -> list[random.Random]:
    """The seeds: always the same ones, or others with --fuzz."""
    asked = request.config.getoption("--fuzz")
    return [random.Random(1000 * bool(asked) + number) for number in range(asked or ROUNDS)]


def plain(answer: httpx.Response) -> bool:
    """Whether an answer is no fault of the server; what it refuses, it refuses without showing its insides."""
    return answer.status_code < 500 and (answer.status_code < 400 or not INSIDES.search(answer.text))


class Page:
    """Every event of /config that the server has a part in, with its inputs."""

    def __init__(self, served: Served) -> None:
        self.client = served.owner()
        config = self.client.get("/config").json()
        self.components = {one["id"]: one for one in config["components"]}
        self.events = [one for one in config["dependencies"] if one["id"] in served.site.events]

    def values(self, event: dict[str, Any]) -> list[Any]:
        """What the page sends when nothing has been changed."""
        kept = ("state", "uploadbutton")
        inputs = [self.components[number] for number in event["inputs"]]
        return [None if one["type"] in kept else one["props"].get("value") for one in inputs]

    def changed(self, event: dict[str, Any], rng: random.Random) -> list[Any]:
        """The same with a few values that make no sense."""
        values = self.values(event)
        for place in rng.sample(range(len(values)), min(len(values), rng.choice((1, 2, 3)))):
            values[place] = strange.like(self.components[event["inputs"][place]], rng)
        return values

    def answers(self, bodies: list[dict[str, Any]], seconds: float = SECONDS) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Send all calls in one session, as a page that loads does. (call, last message) of each that was let in."""
        session = secrets.token_hex(8)
        waiting: dict[str, dict[str, Any]] = {}
        for body in bodies:
            joined = self.client.post("/gradio_api/queue/join", json={**body, "session_hash": session})
            assert plain(joined), (joined.text, body)
            if joined.status_code == 200:
                waiting[joined.json()["event_id"]] = body
        found, deadline = [], time.monotonic() + seconds
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    found.append((waiting.pop(message["event_id"]), message))
                assert message.get("msg") != "unexpected_error", message
                if not waiting or time.monotonic() > deadline:
                    break
        assert not waiting, ("no answer", [body["fn_index"] for body in waiting.values()])
        return found


@pytest.fixture(scope="module")
def page(served: Served) -> Page:
    return Page(served)


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_fault")
def test_an_event_answers_values_of_its_kind_with_a_result_or_a_sentence(page: Page, request: pytest.FixtureRequest) -> None:
    for rng in rounds(request):
        bodies = [{"fn_index": event["id"], "data": page.changed(event, rng)} for event in page.events]
        for body in bodies:
            if rng.random() < 0.2:
                body["event_data"] = {"index": rng.choice((0, -1, 10**6, "x", [1, 2], None)), "value": strange.anything(rng)}
        unplain = [
            (message["output"]["error"], str(body)[:500])
            for body, message in page.answers(bodies)
            if not message["success"] and (not message["output"]["error"] or INSIDES.search(message["output"]["error"]))
        ]
        assert not unplain
        stop_everything()


@pytest.mark.usefixtures("no_fault")
def test_a_call_that_no_page_makes_is_refused_in_a_sentence(page: Page, request: pytest.FixtureRequest) -> None:
    for rng in rounds(request):
        for event in page.events:
            name, values = event["api_name"], page.values(event)
            values[: len(values)] = rng.choice((values, [strange.anything(rng) for _ in values]))
            values = rng.choice((values, values[:-1], [*values, None], strange.anything(rng)))
            fields = rng.sample(("fn_index", "data", "session_hash", "event_data", "trigger_id", "batched", "simple_format"), 2)
            body = {"fn_index": event["id"], "data": values, "session_hash": secrets.token_hex(8)}
            body |= {field: strange.anything(rng) for field in fields}
            body.pop(rng.choice((*body, "nothing")), None)
            for route in ("queue/join", rng.choice((f"run/{name}", f"api/{name}", f"call/{name}"))):
                answer = page.client.post(f"/gradio_api/{route}", content=strange.as_json(body, rng))
                assert plain(answer), (route, answer.text[:500], str(body)[:1000])
        stop_everything()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values[:-1], "values"),
        (lambda values: [*values, None], "values"),
        (lambda values: "x", "list"),
        (lambda values: [*values[:-1], {"a": 1}], "takes"),
    ],
    ids=["too few", "too many", "no list", "another type"],
)
def test_a_wrong_list_of_values_is_one_sentence(served: Served, page: Page, change: Any, said: str) -> None:
    event = next(one for one in page.events if one["api_name"] == "estimate_form")
    body = {"fn_index": event["id"], "data": change(page.values(event)), "session_hash": secrets.token_hex(8)}
    for route in ("queue/join", "run/estimate_form", "call/estimate_form"):
        answer = page.client.post(f"/gradio_api/{route}", json=body)
        assert answer.status_code == 422
        assert said in answer.json()["detail"]


def test_a_call_by_name_is_not_looked_at_as_another_event(served: Served, page: Page) -> None:
    """Gradio goes by the name on this route, whatever number the body has."""
    body = {"fn_index": served.number_of("search_models"), "data": ["", "", "", "", 0]}
    for route in ("call/stop", "run/stop", "api/stop"):
        assert page.client.post(f"/gradio_api/{route}", json=body).status_code == 404
    assert page.client.post("/gradio_api/call/search_models", json=body).status_code == 200


def test_what_the_page_itself_sends_is_let_in(served: Served, page: Page) -> None:
    for event in page.events:
        body = {"data": page.values(event), "event_data": {"index": 0, "value": "x"}}
        wrong = server.inputs.problem(body, served.site.events[event["id"]].takes, by_name=False)
        assert wrong is None, (event["api_name"], wrong)


# --- routes -----------------------------------------------------------------------------------------------------------

QUERIES = (
    *("", "?", "?x", "?%", "?%ff=%00", "?session_hash=", "?session_hash=%ff", "?session_hash=a&session_hash=b", "?token=%00"),
    *(
        "?upload_id=%0d%0a",
        "?since=-1",
        "?since=x",
        "?since=" + "9" * 5000,
        "?since=1e400",
        "?" + "a=1&" * 60,
        "?" + "x" * 9000,
    ),
    *("?session_hash[]=1", "?__theme=x", "?view=api", "?deep_link=../x", "?;;;&&&===", "?page=%c3%28"),
)
HEADERS: tuple[dict[str, bytes], ...] = (
    {},
    {"content-type": b"text/plain"},
    {"content-type": b"multipart/form-data"},
    {"content-type": b"multipart/form-data; boundary=" + b"x" * 500},
    {"content-type": b"application/json; charset=\xff"},
    {"content-type": b"\xff\xfe"},
    {"content-encoding": b"gzip"},
    {"accept-encoding": b"\xff, gzip;q=x"},
    {"cookie": b"fittingroom=\xff; a=\xe9; =; ;;"},
    {"authorization": b"Bearer \xff\xfe"},
    {"authorization": b"Basic " + b"x" * 1000},
    {"accept": b"text/html\xff"},
    {"range": b"bytes=9-1,-,x"},
    {"if-none-match": b"\xff"},
    {"if-modified-since": b"yesterday"},
    {"origin": b"null"},
    {"origin": b"http://[::1"},
    {"x-forwarded-host": b"\xff", "x-forwarded-proto": b"x"},
    {"x-gradio-user": b"\xff", "x-ip-token": b"x"},
    {"last-event-id": b"\xff"},
    {"mcp-session-id": b"\xff" * 100},
)
BODIES = (
    *(
        b"",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"\xff\xfe",
        b"{",
        b"[" * 10_000,
        b'{"a": ' * 3000,
        b"a=1&b=2",
        b"\x1f\x8b\x08\x00",
    ),
    *(
        b'{"session_hash": 5}',
        b'{"session_hash": "x", "fn_index": 1e400, "event_id": "x"}',
        b'{"session_hash": "x", "event_id": null}',
    ),
    *(
        b'{"session_hash": "x", "fn_index": {}, "event_id": []}',
        b'{"event_id": "\\ud800"}',
        b'{"fn_index": 1' + b"0" * 30 + b"}",
    ),
    *(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n--x--\r\n',
        b"--x\r\n\r\n",
        b"token=" + b"x" * 10_000,
    ),
    b"&".join(b"token=%d" % number for number in range(100)),
)


def opened(served: Served) -> list[str]:
    """ "GET /path" of each route that is not closed."""
    found = sorted(set(routes(served.site.app.routes)))
    return [door for door in found if policy.find(door.split(" ")[0], example(door.split(" ")[1]))]


def first_bytes(client: httpx.Client, method: str, path: str, headers: dict[str, bytes], body: bytes) -> httpx.Response:
    """An answer; of a stream of events, what comes of it in a moment."""
    with client.stream(method, path, headers=list(headers.items()), content=body) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return httpx.Response(answer.status_code)
        return httpx.Response(answer.status_code, content=answer.read())


@pytest.mark.usefixtures("no_fault")
def test_a_route_answers_any_request_without_a_fault(served: Served, request: pytest.FixtureRequest) -> None:
    client = served.owner()
    for rng in rounds(request):
        for door in opened(served):
            method, path = door.split(" ")
            tries = [(query, {}, b"") for query in QUERIES]
            tries += [("", headers, rng.choice(BODIES)) for headers in HEADERS]
            tries += [
                ("", {"content-type": rng.choice((b"application/json", b"multipart/form-data; boundary=x"))}, body)
                for body in BODIES
            ]
            for query, headers, body in rng.sample(tries, len(tries) if "gradio_api/" in path and method == "POST" else 8):
                how = rng.choice(
                    (method, method, method, "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "XYZ")
                )
                answer = first_bytes(client, how, example(path) + query, headers, body)
                assert plain(answer), (how, path, query[:100], headers, body[:100], answer.status_code, answer.text[:300])


@pytest.mark.parametrize("mode", [Mode.TOKEN, Mode.DEMO])
def test_a_cookie_or_a_token_of_any_characters_is_no_fault(mode: Mode, tmp_path: Path) -> None:
    with serve(mode, tmp_path / "home") as one:
        port = one.url.rpartition(":")[2]
        for word in (b"\xff", "é.é".encode(), b"a.\xe9", b'"\\303"', b"x" * 5000, b";;=;", b"\x7f"):
            cookie = b"; ".join(name + port.encode() + b"=" + word for name in (b"fittingroom-session-", b"fittingroom-token-"))
            for headers in ({"cookie": cookie}, {"authorization": b"Bearer " + word}):
                for path in ("/", "/config", "/login", "/gradio_api/upload_progress?upload_id=x"):
                    assert plain(one.program().get(path, headers=list(headers.items()))), (word, path)
        assert plain(one.program().post("/login", content=b"&".join(b"a=%d" % number for number in range(100))))
        assert one.program().get("/?" + "a=1&" * 60).status_code == 400


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_fault")
def test_a_tool_answers_arguments_of_any_type_in_a_sentence(served: Served, request: pytest.FixtureRequest) -> None:
    client = served.program()
    listed = client.get("/tools/gradio_api/mcp/schema").json()
    assert len(listed) == 7
    for rng in rounds(request):
        for tool in listed:
            names = list(tool["inputSchema"]["properties"])
            for _ in range(8):
                arguments: Any = {name: strange.anything(rng) for name in names if rng.random() < 0.8}
                arguments |= (
                    {} if rng.random() < 0.7 else {rng.choice(("x", "self", "request", "oauth_token")): strange.anything(rng)}
                )
                answer = call_tool(client, tool["name"], arguments)
                assert answer.status_code == 200, (answer.text, arguments)
                assert not INSIDES.search(answer.text), (tool["name"], str(arguments)[:500], answer.text[:500])
            assert plain(call_tool(client, tool["name"], strange.anything(rng)))
            assert plain(call_tool(client, strange.anything(rng), {}))


# --- many at once -----------------------------------------------------------------------------------------------------


def test_two_hundred_starts_of_a_visitor_are_one_run_and_others_are_answered_meanwhile(tmp_path: Path) -> None:
    with serve(Mode.DEMO, tmp_path / "home") as one:
        page, other = Page(one), one.owner()
        button = next(number for number, it in page.components.items() if it["props"].get("elem_id") == "start-training")
        start = next(event for event in page.events if event["targets"] == [[button, "click"]])
        values = page.values(start)
        answered: list[float] = []

        def ask() -> None:
            began = time.monotonic()
            assert call(other, one.number_of("search_models"), ["qwen", "", "", "", 0])["success"]
            answered.append(time.monotonic() - began)

        asking = threading.Timer(2, ask)
        asking.start()
        found = page.answers([{"fn_index": start["id"], "data": values}] * 200)
        asking.join()
        cookie = next(value for name, value in page.client.cookies.items() if "session" in name)
        with visiting(visitors.name_of(cookie.partition(".")[0])):
            begun = runs.all_runs()
            stop_everything()
        assert len(begun) == 1
        refused = [message["output"]["error"] for _, message in found if not message["success"]]
        assert len(refused) == 199
        assert all("still running" in reason or "room for no more" in reason for reason in refused)
        assert answered
        assert answered[0] < 10


def test_sessions_that_a_caller_makes_up_are_forgotten_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio keeps a copy of the whole page's settings for each, 1.3 MB, and by default ten thousand of them."""
    holder = served.blocks.state_holder
    assert holder.capacity == server.MOST_SESSIONS
    monkeypatch.setattr(holder, "session_data", OrderedDict())
    monkeypatch.setattr(holder, "capacity", 3)
    for _ in range(6):
        holder[secrets.token_hex(8)]
    assert len(holder.session_data) <= 4


# --- uploads ----------------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_hundred_uploads_that_break_off_leave_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, cache = served.owner(), server.cache_folder()
    upload(client, "rows.jsonl", b'{"text": "x"}\n')
    before = files_in(cache)
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    port = int(served.url.rpartition(":")[2])
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\nContent-Length: 9000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="files"; filename="a.jsonl"\r\n\r\n'
    )
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + b"x" * 100_000)
    time.sleep(1)
    now = time.time()
    monkeypatch.setattr(janitor.time, "time", lambda: now + janitor.CACHE_SECONDS + 1)
    kept = {path: path.stat() for path in before}
    files.sweep(cache, janitor.CACHE_SECONDS)
    assert files_in(cache) <= set(kept)


def test_an_upload_of_ten_thousand_parts_is_refused(served: Served) -> None:
    client = served.owner()
    before = files_in(server.cache_folder())
    for many in ([("files", ("a", b"x"))] * 10_000, [("x", (None, b"x"))] * 10_000):
        answer = client.post("/gradio_api/upload", files=many)
        assert 400 <= answer.status_code < 500
        assert plain(answer)
    assert files_in(server.cache_folder()) == before
