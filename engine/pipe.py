"""A helper process that answers JSON lines: the page asks, a process with torch in it answers.

    process = JsonProcess("estimators", "--jsonl")
    for reply in process.ask({"model": ...}): ...

It answers for several people: each request says whose home it is about, and the process reads it within `asked_by`. One
request at a time. A reply is one JSON object per line; the one with `"done": true` is the last of its request.
A process that dies is started again by the next request.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from engine.home import current_visitor, visiting
from engine.plan import Issue, PlanError
from engine.workers import CODE_FOLDER, environment

VISITOR = "visitor"  # in a request: see home.current_visitor


def asked_by(request: dict[str, Any]) -> AbstractContextManager[None]:
    """Within it, the process that answers a request sees the home of whoever asked."""
    visitor = request.pop(VISITOR, None)
    return visiting(visitor) if visitor else contextlib.nullcontext()


class JsonProcess:
    """`python -m module arguments...`, kept alive between requests."""

    def __init__(self, module: str, *arguments: str, log: Path | None = None):
        self.command = [sys.executable, "-m", module, *arguments]
        self.log = log
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def ask(self, request: Mapping[str, Any], *, timeout: float = 120) -> Iterator[dict[str, Any]]:
        """Each reply to one request. Raises `PlanError` if the process dies or says nothing for `timeout` seconds."""
        with self._lock:
            finished = False
            try:
                self._send(request)
                while not finished:
                    reply = self._receive(timeout)
                    finished = bool(reply.pop("done", True))
                    yield reply
            finally:
                if not finished:  # the asker went away: what is still coming must not answer the next request
                    self._end()

    def close(self) -> None:
        """End the process."""
        self._end()

    def _send(self, request: Mapping[str, Any]) -> None:
        if self._child is None or self._child.poll() is not None:
            self._start()
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({**request, VISITOR: current_visitor()}) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise _gone() from None

    def _start(self) -> None:
        self._lines = queue.Queue()
        with open(self.log or os.devnull, "ab") as log:
            self._child = subprocess.Popen(
                self.command,
                cwd=CODE_FOLDER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=environment(),
            )
        threading.Thread(target=_pump, args=(self._child, self._lines), daemon=True).start()

    def _receive(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise PlanError(
                [
                    Issue(
                        field="run", message=f"no answer came within {timeout:g} seconds.", fix="Try again, or a smaller model."
                    )
                ]
            ) from None
        if line is None:
            raise _gone()
        return json.loads(line)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(OSError):
                child.kill()
            child.wait()


def _pump(child: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Move the child's output into the queue; None says that it has ended."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("{"):  # libraries sometimes print to stdout; a reply is always an object
            lines.put(line)
    lines.put(None)


def _gone() -> PlanError:
    return PlanError(
        [
            Issue(
                field="run",
                message="the helper process ended before it answered.",
                fix="Try again; a smaller model if it recurs.",
            )
        ]
    )
