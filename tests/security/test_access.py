"""Who is let in: on this computer's own address its owner; for others whoever has the token; on a demo everybody, apart.

The token is in the printed address, is exchanged for a cookie that no script can read, and cannot be guessed at speed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from engine.catalog import models
from tests.security.served import Served, call_tool, serve
from ui.web import server
from ui.web.access import MOST_FAILURES, Access, Mode
from ui.web.server import Address, StartError

ROOT = Path(__file__).resolve().parents[2]
HERE = Address(host="127.0.0.1", port=7860)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(Mode.TOKEN, tmp_path_factory.mktemp("home"), tools=True) as one:
        yield one


# --- which mode -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "environment", "mode"),
    [
        ("127.0.0.1", {}, Mode.LOCAL),
        ("localhost", {}, Mode.LOCAL),
        ("::1", {}, Mode.LOCAL),
        ("0.0.0.0", {}, Mode.TOKEN),
        ("192.0.2.7", {}, Mode.TOKEN),
        ("0.0.0.0", {"SPACE_ID": "somebody/fitting-room"}, Mode.DEMO),
        ("127.0.0.1", {"SPACE_ID": "somebody/fitting-room"}, Mode.DEMO),
        ("127.0.0.1", {"FITTINGROOM_TOKEN": "a-long-enough-token"}, Mode.TOKEN),
        ("0.0.0.0", {"SPACE_ID": "somebody/their-own", "FITTINGROOM_TOKEN": "a-long-enough-token"}, Mode.TOKEN),
    ],
)
def test_other_than_on_loopback_there_is_a_token_or_a_demo(
    monkeypatch: pytest.MonkeyPatch, host: str, environment: dict[str, str], mode: Mode
) -> None:
    for name in ("FITTINGROOM_LOCAL_PATHS", "FITTINGROOM_DEMO"):
        monkeypatch.setenv(name, "unset")  # so that it is as before when the test is over
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert server.choose_mode(Address(host=host, port=7860)).mode is mode
    assert models.local_paths_allowed() is (mode is Mode.LOCAL)
    assert "FITTINGROOM_TOKEN" not in os.environ, "no process that is started gets to see it"


@pytest.mark.parametrize("token", ["short", "with a space in it, though long", "ümlaut-but-long-enough"])
def test_a_poor_token_of_ones_own_is_refused(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("FITTINGROOM_TOKEN", token)
    with pytest.raises(StartError, match="FITTINGROOM_TOKEN"):
        server.choose_mode(HERE)


# --- the token --------------------------------------------------------------------------------------------------------


def test_the_printed_address_lets_in_and_leaves_no_token_behind(served: Served) -> None:
    client = served.program()
    assert client.get("/").status_code == 401
    there = client.get("/?token=" + served.access.token + "&run=abc")
    assert (there.status_code, there.headers["location"]) == (303, "/?run=abc")
    cookie = there.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert served.access.token not in cookie
    page = client.get("/")
    assert page.status_code == 200
    assert served.access.token not in page.text
    assert client.get("/config").status_code == 200


def test_the_redirect_leads_to_no_other_host(served: Served) -> None:
    there = served.program().get("//evil.example/?token=" + served.access.token)
    assert not there.headers.get("location", "").startswith("//")


def test_the_login_page_takes_the_token(served: Served) -> None:
    client = served.program()
    page = client.get("/", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert '<form method="post" action="/login">' in page.text
    wrong = client.post("/login", data={"token": "wrong"})
    assert wrong.status_code == 401
    assert "That is not the token" in wrong.text
    right = client.post("/login", data={"token": served.access.token})
    assert right.status_code == 303
    assert client.get("/").status_code == 200


def test_a_program_shows_the_token_in_a_header(served: Served) -> None:
    assert served.program(authorization=f"Bearer {served.access.token}").get("/config").status_code == 200
    for wrong in ("Bearer ", "Bearer x", f"Basic {served.access.token}", served.access.token, f"Bearer {served.access.token}x"):
        assert served.program(authorization=wrong.strip()).get("/config").status_code == 401


def test_a_tool_is_called_with_the_token(served: Served) -> None:
    asked = {"query": "qwen2.5-0.5b"}
    assert call_tool(served.program(), "search_models", asked).status_code == 401
    answer = call_tool(served.program(authorization=f"Bearer {served.access.token}"), "search_models", asked)
    assert answer.status_code == 200
    assert "Qwen/Qwen2.5-0.5B" in answer.text


def test_the_cookie_of_another_server_or_session_is_not_the_token(served: Served, tmp_path: Path) -> None:
    port = int(served.url.rpartition(":")[2])
    session = served.owner().cookies[f"fittingroom-session-{port}"]
    for value in ("", "x", served.access.token, session, session.partition(".")[2]):
        answer = served.program(cookie=f"fittingroom-token-{port}={value}").get("/config")
        assert answer.status_code == 401


def test_the_token_is_not_guessed_at_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITTINGROOM_HOME", str(tmp_path))
    access = Access(Mode.TOKEN, 7860)
    client = TestClient(server.make_site(HERE, access).app, base_url="http://127.0.0.1:7860")
    statuses = [client.post("/login", data={"token": f"guess {n}"}).status_code for n in range(60)]
    assert statuses == [401] * MOST_FAILURES + [429] * (60 - MOST_FAILURES)
    assert client.post("/login", data={"token": access.token}).status_code == 429, "not even the right one tells"
    for n in range(20_000):
        access.failed(f"192.0.2.{n}")
    assert len(access._failures) <= 1000
    assert not access.must_wait("198.51.100.1"), "nobody else is locked out"


# --- a real start -----------------------------------------------------------------------------------------------------


def test_a_server_for_others_prints_an_address_with_its_token_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "of the server"
    monkeypatch.setenv("FITTINGROOM_HOME", str(home))
    for name in ("GRADIO_TEMP_DIR", "FITTINGROOM_LOCAL_PATHS", "FITTINGROOM_DEMO"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"HOST": "0.0.0.0", "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = re.search(r"open at (http://127\.0\.0\.1:\d+/\?token=[\w-]{40,})", process.stdout.readline())
        assert url is not None
        base = f"http://127.0.0.1:{port}"
        assert httpx.get(base, timeout=20).status_code == 401
        assert httpx.get(base, timeout=20, headers={"host": "evil.example"}).status_code == 421
        with httpx.Client(timeout=20, follow_redirects=True) as browser:
            assert browser.get(url[1]).status_code == 200
        token = url[1].partition("=")[2]
        written = [file for file in home.rglob("*") if file.is_file() and token.encode() in file.read_bytes()]
        assert not written, "the token is on no disk"
        assert token not in "".join(Path(f"/proc/{process.pid}/cmdline").read_text().split("\0"))
    finally:
        process.terminate()
        process.wait(timeout=20)
