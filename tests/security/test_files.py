"""No file of the server can be read through the page: a request names only files that its own session uploaded or was shown.

Gradio takes an object with a "path" for a file, in any input of any event, copies it into its cache and serves it there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from tests.security.served import Served, call, file_data, serve, upload
from ui.web import border, server
from ui.web.access import Mode
from ui.web.policy import Need

CANARY = "canary-of-the-file-tests"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(Mode.LOCAL, tmp_path_factory.mktemp("home"), tools=True) as one:
        yield one


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("private") / "secret.jsonl"
    file.write_text(json.dumps({"text": CANARY}))
    return file


def disguises(secret: Path, served: Served) -> dict[str, str]:
    """The ways in which a request could name a file that is not its own."""
    link = server.cache_folder() / "link.jsonl"
    if not link.is_symlink():
        link.symlink_to(secret)
    return {
        "absolute": str(secret),
        "relative": os.path.relpath(secret),
        "home": f"~/{os.path.relpath(secret, Path.home())}",
        "through a link": str(link),
        "file URL": f"file://{secret}",
        "climbing out of the cache": f"{server.cache_folder()}/../../{os.path.relpath(secret, served.home)}",
        "process": "/proc/self/environ",
        "database": str(served.home / "fittingroom.db"),
        "its own code": "app.py",
        "web": "http://169.254.169.254/latest/meta-data",
        "NUL": f"{secret}\0.png",
    }


def events_of(served: Served) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every event of /config that the server has a part in."""
    for dependency in served.config["dependencies"]:
        if dependency["id"] in served.site.events:
            yield dependency["id"], dependency


def test_every_event_of_the_page_is_tried(served: Served) -> None:
    assert len(list(events_of(served))) > 140


@pytest.mark.parametrize("meta", [True, False], ids=["with its mark", "without its mark"])
def test_no_event_takes_a_file_that_was_not_uploaded(served: Served, secret: Path, meta: bool) -> None:
    client = served.owner()
    for number, dependency in events_of(served):
        if not meta and served.site.events[number].need is Need.TOKEN:
            continue  # a planner's question: a plan's data sets have a "path" of their own, and no input is a file
        name = dependency["api_name"]
        routes = itertools.cycle((f"run/{name}", f"api/{name}", f"call/{name}"))
        for words in disguises(secret, served).values():
            file = file_data(words) if meta else {"path": words}
            values = itertools.cycle((file, [file], {"nested": [{"deeply": file}]}))
            body = {"fn_index": number, "data": [next(values) for _ in dependency["inputs"]] or [file]}
            for route in ("queue/join", next(routes)):
                answer = client.post(f"/gradio_api/{route}", json=body)
                assert answer.status_code == 403, (name, route, words, answer.text[:200])


def test_no_file_hides_in_the_other_fields_of_a_call(served: Served, secret: Path) -> None:
    client = served.owner()
    for field in ("event_data", "trigger_id", "data", "unheard_of"):
        body = {"fn_index": 0, "data": [], "session_hash": secrets.token_hex(8), field: {"value": file_data(str(secret))}}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 403


def test_no_disguise_of_the_json_gets_a_file_past_the_border(served: Served, secret: Path) -> None:
    """Gradio reads a body in any encoding of Unicode, whatever type it says that it has."""
    client = served.owner()
    text = json.dumps({"fn_index": 0, "data": [file_data(str(secret))], "session_hash": secrets.token_hex(8)})
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "application/vnd.api+json"):
            answer = client.post("/gradio_api/queue/join", content=text.encode(encoding), headers={"content-type": kind})
            assert answer.status_code in (400, 403), (encoding, kind)
    escaped = text.replace('"path"', '"\\u0070ath"').replace("gradio.FileData", "gradio.File\\u0044ata")
    assert client.post("/gradio_api/queue/join", content=escaped).status_code == 403
    twice = text.replace('{"path": ', '{"path": "x", "path": ')
    assert client.post("/gradio_api/queue/join", content=twice).status_code == 403


def test_no_tool_takes_a_file(served: Served, secret: Path) -> None:
    async def ask() -> str:
        async with (
            streamablehttp_client(f"{served.url}/tools/gradio_api/mcp") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            answer = await session.call_tool("search_models", {"query": json.dumps(file_data(str(secret)))})
            return str(answer)

    assert CANARY not in asyncio.run(ask())
    call_ = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    body = call_ | {"params": {"name": "search_models", "arguments": {"query": file_data(str(secret))}}}
    accept = {"accept": "application/json, text/event-stream"}
    assert served.program().post("/tools/gradio_api/mcp", json=body, headers=accept).status_code == 403
    for route in ("upload", "run/estimate", "call/estimate", "file=app.py", "component_server"):
        assert served.program().post(f"/tools/gradio_api/{route}", json={}).status_code == 404


def test_nothing_but_ones_own_uploads_is_served(served: Served, secret: Path) -> None:
    client = served.owner()
    for words in disguises(secret, served).values():
        for path in (words, words.replace("/", "%2f"), words.replace("/", "%252f"), f"/{words}", words.replace(".", "%2e")):
            if "\0" not in path:
                answer = client.get(f"/gradio_api/file={path}")
                assert answer.status_code == 404, path
                assert CANARY not in answer.text
    assert client.get(f"/gradio_api/file/{secret}").status_code == 404
    assert client.get("/gradio_api/proxy=http://169.254.169.254/").status_code == 404


def test_words_that_an_event_gives_back_open_no_file(served: Served, secret: Path) -> None:
    """An event that takes a text as it is (an example goes into the question) makes no file of it."""
    client = served.owner()
    inside = server.cache_folder() / "planted.png"
    inside.write_text(CANARY)
    for words in (str(secret), str(inside), json.dumps(file_data(str(inside)))):
        for number, dependency in events_of(served):
            if dependency["api_name"] == "str":
                call(client, number, [words])
        assert client.get(f"/gradio_api/file={words}").status_code == 404


def test_an_upload_is_read_back_by_its_session_alone(served: Served) -> None:
    mine, other, program = served.owner(), served.owner(), served.program()
    file = upload(mine, "rows.jsonl", b'{"text": "mine"}\n')
    assert mine.get(f"/gradio_api/file={file['path']}").text == '{"text": "mine"}\n'
    for stranger in (other, program):
        assert stranger.get(f"/gradio_api/file={file['path']}").status_code == 404
        body = {"fn_index": served.number_of("upload"), "data": [file], "session_hash": secrets.token_hex(8)}
        assert stranger.post("/gradio_api/queue/join", json=body).status_code == 403


def test_an_upload_still_becomes_a_data_set(served: Served) -> None:
    client = served.owner()
    row = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
    file = upload(client, "rows.jsonl", (row + "\n").encode())
    config = served.config
    number = served.number_of("upload")
    dependency = next(one for one in config["dependencies"] if one["id"] == number)
    values = {one["id"]: one["props"].get("value") for one in config["components"]}
    kinds = {one["id"]: one["type"] for one in config["components"]}
    data = [file if kinds[one] == "uploadbutton" else values[one] for one in dependency["inputs"]]
    answer = call(client, number, data)
    assert answer["success"], answer
    assert "upload/" in json.dumps(answer["output"])


# --- the guards, taken out one by one --------------------------------------------------------------------------------


def steal(client: httpx.Client, secret: Path, number: int) -> bool:
    """The attack as it was found: a file as the value of an input; its copy's name is in the answer. Whether it came off."""
    answer = call(client, number, [file_data(str(secret))])
    for part in json.dumps(answer).split('"'):
        for words in part.split():
            path = words.strip("'\\\",:;()[]{}")
            if path.endswith(secret.name) and CANARY in client.get(f"/gradio_api/file={path}").text:
                return True
    return any(CANARY in copy.read_text(errors="ignore") for copy in server.cache_folder().rglob(secret.name))


@pytest.mark.parametrize(
    ("border_looks", "gradio_looks", "stolen"),
    [(True, True, False), (True, False, False), (False, True, False), (False, False, True)],
)
def test_either_guard_is_enough_and_without_both_the_attack_works(
    served: Served, secret: Path, monkeypatch: pytest.MonkeyPatch, border_looks: bool, gradio_looks: bool, stolen: bool
) -> None:
    monkeypatch.setattr(border.inputs, "problem", lambda *call, **how: None)  # it refuses a file where none belongs anyway
    if not border_looks:
        monkeypatch.setattr(border, "_files", lambda values, **how: iter(()))
        monkeypatch.setattr(border.Border, "_may_read", lambda self, path, caller: True)
    monkeypatch.setattr(served.blocks, "has_launched", gradio_looks)
    assert steal(served.owner(), secret, served.number_of("str")) is stolen
