"""A stranger's file is read first by a process of its own, with limits of memory and time: `python -m engine.data.reader`.

    sandbox.run("scan", {...}, name="rows.parquet", size=17_000)

Whatever a parser does there, the process that asks goes on and gets one sentence. A reader answers JSON lines, is kept
for the next request, and ends with the process that started it. It gets no tokens: its environment is a short list. A set
of the hub is fetched by a reader of its own (`fetch`), which has the network and the token.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from engine.issues import Issue, PlanError
from engine.system import helper
from engine.system.home import ASSETS
from engine.system.workers import environment

log = logging.getLogger("fittingroom.data")

# Assumptions, but for one measurement: a scan takes 9 us of CPU time for a short row, so 18 s for as many as a file may have.
MEMORY = 1536 * 2**20
WRITTEN = 256 * 2**20  # bytes of one file that a reader writes
FETCH_MEMORY = 4 * 2**30
FETCH_WRITTEN = 8 * 2**30  # `hub.MOST_BYTES`, and the last row
FETCH_SECONDS = 1800
SECONDS = 40  # of CPU time, for a file of any size
BYTES_PER_SECOND = 2 * 2**20  # each so many bytes of the file add a second
WALL = 3  # times the CPU time, on a busy machine
MOST_AT_ONCE = 2  # readers at work
SECONDS_TO_WAIT = 60  # for a free reader
SECONDS_BETWEEN_LOOKS = 0.1  # at the memory of a reader
MOST_REPLY = 16 * 2**20  # bytes
MOST_LOGGED = 2000  # bytes of what a reader that died has printed

# What a reader needs of the environment; its libraries start no threads, and Arrow reserves no memory that it does not use.
PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT")
SET = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


class Busy(PlanError):
    """All readers are at work: the same question may be answered a minute later."""


def is_ours(file: Path) -> bool:
    """Whether a file came with the program; such a file is read in any process."""
    return file.is_relative_to(ASSETS)


def run(work: str, request: Mapping[str, Any], *, name: str, size: int = 0) -> Any:
    """What a reader answers; `work` is a key of `reader.WORKS`.

    `name` is what a person calls the file, and `size` its bytes, for the time that it may take. Raises `PlanError` with
    the reader's own issues, or with the limit that it ran into.
    """
    with _one_of(_free):
        reader = _take()
        reply = reader.ask({"work": work, "seconds": SECONDS + size // BYTES_PER_SECOND, **request}, name)
        if reply["worn"]:
            reader.close()
        else:
            _idle.append(reader)
    return _result(reply, name)


def fetch(request: Mapping[str, Any], *, name: str) -> None:
    """Fetch a set of the hub, which is parsed on the way. Raises `PlanError`."""
    with _one_of(_free_to_fetch):
        reader = Reader(memory=FETCH_MEMORY, written=FETCH_WRITTEN, variables=environment())
        try:
            reply = reader.ask({"work": "fetch", "seconds": FETCH_SECONDS, **request}, name)
        finally:
            reader.close()
    _result(reply, name)


@contextlib.contextmanager
def _one_of(free: threading.BoundedSemaphore) -> Iterator[None]:
    """The right to use a reader. Raises `Busy` when none is free for a while."""
    if not free.acquire(timeout=SECONDS_TO_WAIT):
        message = "other files are being read at the moment."
        raise Busy([Issue(field="datasets", message=message, fix="Try again in a minute.")])
    try:
        yield
    finally:
        free.release()


def _result(reply: Mapping[str, Any], name: str) -> Any:
    if "limit" in reply:
        raise PlanError([_limit(reply["limit"], name)])
    if "issues" in reply:
        raise PlanError([Issue(**issue) for issue in reply["issues"]])
    return reply["result"]


def warm() -> None:
    """Start a reader now, so that the first file does not wait for it."""
    _idle.append(Reader())


_idle: list[Reader] = []
_free = threading.BoundedSemaphore(MOST_AT_ONCE)
_free_to_fetch = threading.BoundedSemaphore(MOST_AT_ONCE)


def _take() -> Reader:
    """An idle reader that still lives, or a new one."""
    while True:
        try:
            reader = _idle.pop()
        except IndexError:
            return Reader()
        if reader.child.poll() is None:
            return reader
        reader.close()


class Reader:
    """One child process and the file that its errors go to."""

    def __init__(self, memory: int = MEMORY, written: int = WRITTEN, variables: Mapping[str, str] | None = None) -> None:
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self.memory = memory
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the reader lives)
        variables = passed_on | SET if variables is None else variables
        self.child, self.lifeline = helper.popen(
            "engine.data.reader", str(memory), str(written), stderr=self.errors, env=dict(variables)
        )

    def ask(self, request: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The reply. Raises `PlanError` with the limit that ended the reader."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        answered, ended_by = threading.Event(), []
        watch = threading.Thread(target=self._watch, args=(WALL * request["seconds"], answered, ended_by), daemon=True)
        watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self.child.stdin.write(json.dumps(request).encode() + b"\n")
                self.child.stdin.flush()
            line = self.child.stdout.readline(MOST_REPLY)
        finally:
            answered.set()
            watch.join()
        if line.endswith(b"\n") and not ended_by:
            return json.loads(line)
        cause = ended_by[0] if ended_by else self._cause()
        self.close()
        raise PlanError([_limit(cause, name)])

    def _watch(self, seconds: float, answered: threading.Event, ended_by: list[str]) -> None:
        """End the reader when it takes too long, or more memory than it may (where the system does not see to it)."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process, end = psutil.Process(self.child.pid), time.monotonic() + seconds
            while not answered.wait(SECONDS_BETWEEN_LOOKS):
                cause = "time" if time.monotonic() > end else "memory" if process.memory_info().rss > self.memory else ""
                if cause:
                    ended_by.append(cause)
                    self.child.kill()
                    return

    def _cause(self) -> str:
        """Why the reader is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(timeout=5)
        code = self.child.poll()
        if code is not None and hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU:
            return "time"
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - MOST_LOGGED))
        printed = self.errors.read().decode("utf-8", "replace").strip()
        log.error("A reader of data files ended with %s: %s", code, printed)
        return "memory" if "bad_alloc" in printed else "fault"

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout, self.errors, self.lifeline):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


def _limit(cause: str, name: str) -> Issue:
    sentences = {
        "memory": (f"needs more than {MEMORY // 2**20:,} MB of memory to be read", "Use a smaller file, or write it again."),
        "time": ("takes too long to be read", "Use a smaller file, or write it again as JSONL."),
        "fault": ("cannot be read: the program that parses it stopped", "Write it again, or use JSONL."),
    }
    message, fix = sentences[cause]
    return Issue(field="datasets", message=f"{name} {message}.", fix=fix)
