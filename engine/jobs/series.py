"""Several runs, one after the other: the folder of such a series, and the process of its own that starts them.

A chain (`engine/pipelines/chain_runs.py`) and a comparison (`engine/pipelines/compare.py`) are series. A series has no row
in the lifecycle file: its folder says everything. Its process holds the folder's lock for as long as it lives, is a group
of its own and outlives the page and the server; what it did is in the folder's `events.jsonl`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import psutil

from engine.issues import PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.system import events, redaction, workers
from engine.system.errors import in_plain_words
from engine.system.events import Event, EventLog
from engine.system.visitors import Busy

SERIES_ID = re.compile(r"[0-9a-f]{32}")
LOCK_FILE = "process.lock"
LOG_FILE = "process.log"
LOOK_SECONDS = 0.5  # between two looks at a run that is under way
START_SECONDS = 30.0  # how long a launched process may take to Python's first line on a busy machine


def is_id(value: object) -> bool:
    """Whether this could be the id of a chain or a comparison. A caller of the page may send any value."""
    return isinstance(value, str) and SERIES_ID.fullmatch(value) is not None


def state(folder: Path, happened: Sequence[Event]) -> tuple[str, str]:
    """(starting, running, finished, stopped, failed or interrupted; the last message) from the events and the lock."""
    last = happened[-1] if happened else {"kind": "queued", "time": 0.0}
    message = str(last.get("message", ""))
    if last["kind"] in events.ENDINGS:
        return last["kind"], message
    if workers.lock_is_held(folder, LOCK_FILE):
        return "running", message
    just_queued = last["kind"] == "queued" and time.time() - last["time"] < START_SECONDS
    if just_queued and not workers.launched_process_is_gone(folder, LOG_FILE):
        return "starting", message
    return "interrupted", "It was cut off. Resume it: what has finished is kept."


def launch(module: str, folder: Path) -> None:
    """Start the series' process, or start it again."""
    (folder / f"{LOG_FILE}.pid").unlink(missing_ok=True)
    EventLog(folder).write("queued", message="Starting.")
    workers.launch(module, folder, LOG_FILE)


def process_of(folder: Path) -> psutil.Process | None:
    """The series' process, if it lives."""
    begun = [event for event in events.since(folder)[0] if event["kind"] == "started"]
    return workers.find(begun[-1]["pid"], begun[-1]["pid_started"]) if begun else None


def start_when_free(start: Callable[[], Run], *, waits: Callable[[Run], None], stopped: Callable[[], bool]) -> Run | None:
    """The run that `start` starts, as soon as no other one is under way: two at once would share one GPU's memory.

    Args:
        start: starts or resumes a run.
        waits: told once of the run that is waited for.
        stopped: whether somebody has asked the series to stop; then there is no run.

    Raises:
        PlanError: the run cannot start though nothing else is under way.
    """
    told = False
    while not stopped():
        runs.settle_all()
        busy = runs.active_runs()
        if not busy:
            try:
                return start()
            except Busy:  # a run that began between the look and the start is no fault of this plan
                busy = runs.active_runs()
        if busy and not told:
            waits(busy[0])
            told = True
        time.sleep(LOOK_SECONDS)
    return None


def run(folder: Path, work: Callable[[EventLog], None]) -> int:
    """The body of the series' process: whatever happens becomes the last event. Returns the exit code."""
    try:
        lock = workers.hold_lock(folder, LOCK_FILE)
    except filelock.Timeout:
        print("This has a process already.", file=sys.stderr)
        return 3
    redaction.redact_output()
    log = EventLog(folder)
    with lock:
        log.write("started", pid=os.getpid(), pid_started=workers.start_time(os.getpid()))
        try:
            with in_plain_words():
                work(log)
        except PlanError as error:
            log.write("failed", message=str(error))
            return 1
    return 0
