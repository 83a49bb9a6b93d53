"""What the hub answers, on a hub of our own: each answer is one plain sentence, for models and for data sets (F41)."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

# What a repository's name says -> how the hub answers: status, its error code (huggingface_hub reads `X-Error-Code`).
ANSWERS = {
    "absent": (404, "RepoNotFound"),
    "private": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "busy": (429, ""),
    "broken": (500, ""),
}
SAID = {
    "absent": "does not exist on the hub, or is private",
    "private": "does not exist on the hub, or is private",
    "gated": "is gated: its owner asks you to accept terms first",
    "busy": "could not be fetched: the hub has had too many questions from here",
    "broken": "could not be fetched: the hub has a fault of its own",
}
# One process asks for all of them: it is the imports that take long.
ASK = """
import json, sys
from engine import data
from engine.modeling import build
from engine.system.errors import explain
from engine.plan import DataSource, Plan, PlanError

def issue(work):
    try:
        work()
    except Exception as error:
        return vars(explain(error))

told = {}
for kind in sys.argv[1:]:
    told["model", kind] = issue(lambda: build.load_config(Plan(model=f"somebody/{kind}")))
    told["data", kind] = issue(lambda: data.fetch(DataSource(path=f"somebody/{kind}")))
print(json.dumps([[*key, value] for key, value in told.items()]))
"""


class StubHub(http.server.BaseHTTPRequestHandler):
    """A hub that answers every question about a repository as its name says."""

    def do_HEAD(self) -> None:
        status, code = next((answer for kind, answer in ANSWERS.items() if f"somebody/{kind}" in self.path), (200, ""))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


def ask(kinds: list[str], folder: Path, **environment: str) -> dict[tuple[str, str], dict[str, str]]:
    """(model or data, kind) -> the issue that is told."""
    settings = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0", "FITTINGROOM_HOME": str(folder / "home")}
    command = [sys.executable, "-c", ASK, *kinds]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | settings | environment, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {(what, kind): issue for what, kind, issue in json.loads(done.stdout.splitlines()[-1])}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], dict[str, str]]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StubHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ask(list(ANSWERS), tmp_path_factory.mktemp("hub"), HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize(("what", "field"), [("model", "model"), ("data", "datasets")])
def test_each_answer_of_the_hub_is_one_sentence(what: str, field: str, kind: str, told: dict) -> None:
    issue = told[what, kind]
    assert issue["field"] == field
    assert SAID[kind] in issue["message"]
    assert issue["fix"]


@pytest.mark.parametrize(
    "environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}], ids=["gone", "offline"]
)
def test_without_the_hub_it_says_that_it_is_not_there(environment: dict[str, str], tmp_path: Path) -> None:
    told = ask(["anything"], tmp_path, **environment)
    assert "the hub cannot be reached" in told["model", "anything"]["message"]
    assert "the hub cannot be reached" in told["data", "anything"]["message"]
    assert (told["model", "anything"]["field"], told["data", "anything"]["field"]) == ("model", "datasets")
