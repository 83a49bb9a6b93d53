"""Faults of the libraries come out as one sentence with a field and a remedy."""

from __future__ import annotations

import errno
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.system.errors import explain


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (RuntimeError("[enforce fail at inline_container.cc] . basic_ios::clear: iostream error"), "disk"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (MemoryError(), "memory"),
        (ValueError("Target modules {'foo'} not found in the base model."), "target_modules"),
        (ZeroDivisionError("division by zero"), "run"),
    ],
)
def test_a_fault_names_its_field(error: BaseException, field: str) -> None:
    issue = explain(error)
    assert issue.field == field
    assert issue.fix
    assert "Traceback" not in issue.sentence()


def test_the_cause_behind_a_wrapped_fault_is_found() -> None:
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert explain(wrapped).field == "disk"


class StubHub(http.server.BaseHTTPRequestHandler):
    """A model hub that answers as the real one does to repositories that are absent (`test_hub.py` has its other answers)."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def stub_hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StubHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def estimate_error(model: str, endpoint: str, tmp_path: Path) -> str:
    """What the command line says about a plan for this model, with this hub."""
    plan = tmp_path / "plan.json"
    plan.write_text(f'{{"model": "{model}", "gpu": "L40S"}}')
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "estimators", str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_model_that_does_not_exist(stub_hub: str, tmp_path: Path) -> None:
    assert estimate_error("nobody/nothing", stub_hub, tmp_path).startswith("model: does not exist on the hub")
