"""The server's own routes, and what it says when it cannot start. Who is let in is tested in tests/security/."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from engine.jobs.runs import Run
from ui.web import server
from ui.web.access import Access, Mode
from ui.web.server import Address, StartError

ROOT = Path(__file__).resolve().parents[3]
HERE = Address(host="127.0.0.1", port=7860)


@pytest.fixture
def client() -> TestClient:
    return TestClient(server.make_site(HERE, Access(Mode.LOCAL, HERE.port)).app, base_url="http://127.0.0.1:7860")


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


def test_a_space_answers_to_its_own_name(home: Path) -> None:
    """With SPACE_ID set the same app listens to others, under the name that the hub gives it, as a public demo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SPACE_ID": "somebody/fitting-room", "PORT": str(port)}
    space = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert f"127.0.0.1:{port}" in (space.stdout.readline() if space.stdout else "")
        named = {"host": "somebody-fitting-room.hf.space"}
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/", headers=named, timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        assert answer.status_code == 200
        assert "This is a public demo" in answer.text
        config = httpx.get(f"http://127.0.0.1:{port}/config", timeout=10).json()
        assert any(one["api_name"] == "estimate_form" for one in config["dependencies"])
    finally:
        space.terminate()
        space.wait(timeout=20)
