"""The server's guard, its own routes, and what it says when it cannot start."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fastapi
import httpx
import pytest
from fastapi.testclient import TestClient

from engine import models
from engine.runs import Run
from ui import server
from ui.server import Address, StartError

ROOT = Path(__file__).resolve().parents[2]
HERE = Address(host="127.0.0.1", port=7860)


@pytest.fixture
def client() -> TestClient:
    return TestClient(server.make_app(HERE), base_url="http://127.0.0.1:7860")


UNKNOWN_RUN = "/api/runs/" + "0" * 32 + "/events"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 404),
        ("GET", {"host": "localhost:7860"}, 404),
        ("GET", {"host": "evil.com"}, 421),
        ("GET", {"host": "127.0.0.1.evil.com"}, 421),
        ("POST", {"host": "evil.com", "origin": "http://evil.com"}, 421),
        ("POST", {"origin": "https://evil.com"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"sec-fetch-site": "cross-site"}, 403),
        ("GET", {"origin": "https://evil.com"}, 403),
        ("OPTIONS", {"origin": "https://evil.com", "access-control-request-method": "POST"}, 403),
        ("POST", {"origin": "http://127.0.0.1:7860"}, 405),
        ("POST", {"content-length": "50000000"}, 413),
    ],
)
def test_the_guard(client: TestClient, method: str, headers: dict, status: int) -> None:
    assert client.request(method, UNKNOWN_RUN, headers=headers).status_code == status


def test_a_body_without_a_length_is_cut_off() -> None:
    app = server.make_app(HERE)

    @app.post("/read")
    async def read(request: fastapi.Request) -> int:
        return len(await request.body())

    def chunks(count: int) -> Iterator[bytes]:
        yield from (b"x" * 2**17 for _ in range(count))

    client = TestClient(app, base_url="http://127.0.0.1:7860")
    assert client.post("/read", content=chunks(4)).json() == 4 * 2**17
    assert client.post("/read", content=chunks(64)).status_code == 413


def test_no_other_site_is_ever_allowed_in(client: TestClient) -> None:
    answer = client.get(UNKNOWN_RUN, headers={"origin": "https://evil.com"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.trains
def test_a_download_is_a_whole_zip_with_its_size(client: TestClient, pirate_run: Run) -> None:
    answer = client.get(f"/download/{pirate_run.id}/adapter.zip")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "attachment" in answer.headers["content-disposition"]
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert any(name.endswith("adapter_model.safetensors") for name in names)


@pytest.mark.trains
@pytest.mark.parametrize("what", ["plan.json", "../adapter.zip", "%2e%2e%2fadapter.zip", "trainer.zip"])
def test_nothing_else_of_a_run_is_served(client: TestClient, pirate_run: Run, what: str) -> None:
    assert client.get(f"/download/{pirate_run.id}/{what}").status_code == 404


@pytest.mark.trains
def test_events_are_read_by_cursor(client: TestClient, pirate_run: Run) -> None:
    first = client.get(f"/api/runs/{pirate_run.id}/events").json()
    assert first["state"] == "finished"
    assert first["events"][-1]["kind"] == "finished"
    again = client.get(f"/api/runs/{pirate_run.id}/events", params={"since": first["cursor"]}).json()
    assert again["events"] == []


def start_app(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run app.py where it should refuse to start."""
    return subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("name", server.REFUSED_VARIABLES)
def test_switches_that_open_the_server_are_refused(name: str) -> None:
    done = start_app(**{name: "1"})
    assert done.returncode == 3
    assert done.stderr.startswith(f"{name} is set")


def test_a_second_server_on_the_same_home_names_the_first() -> None:
    with server.claim_home(HERE):
        done = start_app()
    assert done.returncode == 3
    assert "already runs on this data folder, at http://127.0.0.1:7860" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_used_port_leads_to_the_next_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert server.choose_address("127.0.0.1", port).port > port


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(StartError, match=r"203\.0\.113\.7 is not an address of this machine"):
        server.choose_address("203.0.113.7", 7860)


@pytest.mark.parametrize("port", ["99999", "seven", "-1", "0"])
def test_a_port_that_is_none_is_one_sentence(port: str) -> None:
    done = start_app(PORT=port)
    assert done.returncode == 2
    assert "PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_space_answers_to_its_own_name_and_opens_no_paths(home: Path) -> None:
    """With SPACE_ID set the same app listens to others, under whatever name the hub gives it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SPACE_ID": "somebody/fitting-room", "PORT": str(port)}
    space = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert f"127.0.0.1:{port}" in (space.stdout.readline() if space.stdout else "")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/", headers={"host": "somebody-fitting-room.hf.space"}, timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        assert answer.status_code == 200
        config = httpx.get(f"http://127.0.0.1:{port}/config", timeout=10).json()
        estimate = next(one for one in config["dependencies"] if one["api_name"] == "estimate_form")
        assert estimate is not None
    finally:
        space.terminate()
        space.wait(timeout=20)


def test_visitors_of_a_server_open_no_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import app

    seen: dict[str, bool] = {}
    monkeypatch.setenv("FITTINGROOM_LOCAL_PATHS", "1")  # so that it is as before when the test is over
    monkeypatch.setattr(app, "serve", lambda address, **rest: seen.update(local=models.local_paths_allowed()))
    assert app.main(["--host", "127.0.0.1", "--port", "7861"]) == 0
    assert seen == {"local": True}
    assert app.main(["--host", "0.0.0.0", "--port", "7861"]) == 0
    assert seen == {"local": False}
