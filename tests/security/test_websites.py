"""No other website reaches the server through its owner's browser: not by a name of its own (DNS rebinding), not by a call
from its page, not from another port of the same host, not in a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fastapi
import pytest
from fastapi.testclient import TestClient

from tests.security.served import Served, serve
from ui.web import server
from ui.web.access import Access, Mode
from ui.web.server import Address

HERE = Address(host="127.0.0.1", port=7860)
UNKNOWN_RUN = "/api/runs/" + "0" * 32 + "/events"


def client_of(mode: Mode = Mode.LOCAL, base: str = "http://127.0.0.1:7860") -> TestClient:
    return TestClient(server.make_site(HERE, Access(mode, 7860)).app, base_url=base)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 404),
        ("GET", {"host": "localhost:7860"}, 404),
        ("GET", {"host": "evil.com"}, 421),
        ("GET", {"host": ""}, 421),
        ("GET", {"host": "127.0.0.1:notaport"}, 421),
        ("GET", {"host": "127.0.0.1.evil.com"}, 421),
        ("GET", {"host": "127.0.0.1@evil.com"}, 421),
        ("POST", {"host": "evil.com", "origin": "http://evil.com"}, 421),
        ("POST", {"origin": "https://evil.com"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://127.0.0.1:7928"}, 403),
        ("POST", {"origin": "https://127.0.0.1:7860"}, 403),
        ("POST", {"origin": "http://localhost:7860"}, 403),
        ("POST", {"origin": "http://127.0.0.1"}, 403),
        ("POST", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-site"}, 403),
        ("GET", {"origin": "https://evil.com"}, 403),
        ("GET", {"origin": "http://127.0.0.1:7932"}, 403),
        ("OPTIONS", {"origin": "https://evil.com", "access-control-request-method": "POST"}, 403),
        ("POST", {"origin": "http://127.0.0.1:7860"}, 404),
        ("GET", {"content-length": "50000000"}, 413),
        ("GET", {"content-length": "-1"}, 413),
        ("GET", {"content-length": "9" * 5000}, 413),
    ],
)
def test_only_our_own_page_calls(method: str, headers: dict, status: int) -> None:
    assert client_of().request(method, UNKNOWN_RUN, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("mode", "host", "answered"),
    [
        (Mode.TOKEN, "192.0.2.7:7860", True),
        (Mode.TOKEN, "[2001:db8::1]:7860", True),
        (Mode.TOKEN, "lab.example", True),
        (Mode.TOKEN, "evil.example", False),
        (Mode.DEMO, "somebody-fitting-room.hf.space", True),
        (Mode.DEMO, "custom.example", True),
        (Mode.DEMO, "other-fitting-room.hf.space", False),
        (Mode.DEMO, "evil.example", False),
        (Mode.LOCAL, "192.0.2.7:7860", False),
    ],
)
def test_an_open_server_answers_to_its_own_names_alone(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, host: str, answered: bool
) -> None:
    monkeypatch.setenv("FITTINGROOM_HOSTS", "lab.example, ")
    if mode is Mode.DEMO:
        monkeypatch.setenv("SPACE_ID", "Somebody/fitting_room")
        monkeypatch.setenv("SPACE_HOST", "somebody-fitting-room.hf.space,custom.example")
    status = client_of(mode).get("/login", headers={"host": host}, follow_redirects=False).status_code
    assert (status != 421) is answered


def test_no_other_site_is_ever_allowed_in() -> None:
    answer = client_of().get(UNKNOWN_RUN, headers={"origin": "https://evil.com"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_body_without_a_length_is_cut_off() -> None:
    site = server.make_site(HERE, Access(Mode.LOCAL, 7860))

    @site.app.post("/gradio_api/reset")
    async def read(request: fastapi.Request) -> int:
        return len(await request.body())

    def chunks(count: int) -> Iterator[bytes]:
        yield b'"'
        yield from (b"x" * 2**17 for _ in range(count))
        yield b'"'

    client = TestClient(site.app, base_url="http://127.0.0.1:7860")
    assert client.post("/gradio_api/reset", content=chunks(4)).json() == 4 * 2**17 + 2
    assert client.post("/gradio_api/reset", content=chunks(64)).status_code == 413


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(Mode.LOCAL, tmp_path_factory.mktemp("home")) as one:
        yield one


def test_every_answer_says_what_a_browser_may_do_with_it(served: Served) -> None:
    client = served.owner()
    for path in ("/", "/config", "/theme.css", "/nothing", "/gradio_api/file=/etc/passwd", UNKNOWN_RUN, "/gradio_api/info"):
        answer = client.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["referrer-policy"] == "no-referrer", path
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        assert (
            "object-src 'none'" in answer.headers["content-security-policy"]
            or "sandbox" in (answer.headers["content-security-policy"])
        )


def test_only_the_pages_own_scripts_run(served: Served) -> None:
    first, second = served.owner().get("/"), served.owner().get("/")
    policies = [answer.headers["content-security-policy"] for answer in (first, second)]
    nonces = [policy.partition("'nonce-")[2].partition("'")[0] for policy in policies]
    assert nonces[0] != nonces[1], "a new one for each page"
    for answer, nonce, policy in zip((first, second), nonces, policies, strict=True):
        assert len(nonce) >= 20
        assert answer.text.count("<script") == answer.text.count(f'<script nonce="{nonce}"') > 1
        scripts = policy.partition("script-src")[2].partition(";")[0]
        assert "unsafe-inline" not in scripts
        assert "http" not in scripts
    assert "cdnjs" not in first.text, "nothing is loaded from another host"


def test_cookies_are_for_the_server_alone(served: Served) -> None:
    answer = served.program().get("/")
    assert len(answer.headers.get_list("set-cookie")) == 1
    for part in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert part in answer.headers["set-cookie"]


def test_a_space_is_shown_by_its_hub_and_its_cookie_survives_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Mode.DEMO, tmp_path) as space:
        answer = space.program().get("/")
        assert "frame-ancestors https://huggingface.co https://*.hf.space" in answer.headers["content-security-policy"]
        assert "SameSite=Lax" in answer.headers["set-cookie"], "without https a browser keeps no Secure cookie"
        framed = space.program(**{"x-forwarded-proto": "https"}).get("/")
        assert "SameSite=None; Secure; Partitioned" in framed.headers["set-cookie"]
