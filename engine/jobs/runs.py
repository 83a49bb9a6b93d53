"""Runs: start, list, stop, and what became of them.

Each fact has one owner. The lifecycle (what was started, in which state it is) is in one SQLite file (WAL) that only
this module writes; what a run measures is in its folder, written by its worker alone (`engine/system/events.py`).

A worker is a process group of its own, started without a shell. It outlives the web server. Whether it is alive is
never a guess: it holds a file lock for as long as it lives, and it is only ever signalled when its process id and
its start time both are those on record.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import secrets
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine import checks, data
from engine.catalog.models import find
from engine.issues import Issue, PlanError
from engine.methods import METHODS
from engine.modeling import checkpoints
from engine.plan import Plan
from engine.system import events, visitors, workers
from engine.system.home import home, runs_folder, write_atomically
from engine.system.visitors import Busy

ACTIVE = ("starting", "running")
ENDED = ("finished", "stopped", "failed", "interrupted")
LOCK_FILE = "worker.lock"
LOG_FILE = "worker.log"
# A polite stop ends the step under way and saves what was learned; a worker that takes longer than this, or than three of
# its steps, is ended. Saving a large model may take minutes.
STOP_GRACE_SECONDS, STEPS_OF_GRACE, SAVE_GRACE_SECONDS = 15.0, 3, 600.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,      -- 128 random bits, the name of the run's folder
    name TEXT NOT NULL,       -- for people
    created REAL NOT NULL,    -- seconds since 1970
    plan TEXT NOT NULL,       -- JSON
    state TEXT NOT NULL,      -- starting | running | finished | stopped | failed | interrupted
    pid INTEGER,
    pid_started REAL,         -- start time of that process: a pid alone is no identity
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS runs_created ON runs (created DESC);
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as the lifecycle file has it."""

    id: str
    name: str
    created: float
    plan_json: str
    state: str
    pid: int | None
    pid_started: float | None
    reason: str

    @property
    def folder(self) -> Path:
        return runs_folder() / self.id

    @property
    def plan(self) -> Plan:
        return Plan.from_json(self.plan_json)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


# --- the lifecycle file ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """A connection in autocommit mode; each statement, or each explicit transaction, is durable when it returns."""
    path = home() / "fittingroom.db"
    if path not in _kept_open or not path.exists():
        first = _connect(path)
        first.executescript(_SCHEMA)
        _kept_open[path] = first  # only now: another thread may be waiting for the table
    connection = _connect(path)
    try:
        yield connection
        if connection.total_changes:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # so that the next change reuses the log's room
    finally:
        connection.close()


# The last connection to close removes SQLite's log and index, and the next one needs room on the disk to make them. A
# connection that stays open keeps them: states are read, and endings written, when the disk is full.
_kept_open: dict[Path, sqlite3.Connection] = {}


def forget(folder: Path) -> None:
    """Close what is kept open of a home that is about to be removed."""
    kept = _kept_open.pop(folder / "fittingroom.db", None)
    if kept is not None:
        kept.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


_COLUMNS = "id, name, created, plan, state, pid, pid_started, reason"


def _read(row: tuple) -> Run:
    names = ("id", "name", "created", "plan_json", "state", "pid", "pid_started", "reason")
    return Run(**dict(zip(names, row, strict=True)))


def get(run_id: str) -> Run | None:
    """The run with this id, or None."""
    if not isinstance(run_id, str) or not run_id.isascii():  # SQLite takes no lone surrogate; our ids are hexadecimal
        return None
    with _database() as database:
        row = database.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
    return _read(row) if row else None


def all_runs(limit: int = 1000) -> list[Run]:
    """The newest runs first."""
    with _database() as database:
        rows = database.execute(f"SELECT {_COLUMNS} FROM runs ORDER BY created DESC LIMIT ?", (limit,)).fetchall()
    return [_read(row) for row in rows]


def active_runs() -> list[Run]:
    """The runs that are starting or running, the newest first."""
    return [run for run in all_runs() if run.is_active]


def _change_state(run_id: str, old: tuple[str, ...], new: str, reason: str = "") -> bool:
    """Compare and set: True if the run was in one of the old states. So a run gets exactly one ending."""
    with _database() as database:
        changed = database.execute(
            f"UPDATE runs SET state = ?, reason = ? WHERE id = ? AND state IN ({','.join('?' * len(old))})",
            (new, reason, run_id, *old),
        )
        return changed.rowcount == 1


@contextlib.contextmanager
def removal(run_id: str) -> Iterator[Run | None]:
    """Within it nobody can resume the run, and when it ends well the run's row is gone. Gives the run, if there is a row."""
    with _database() as database:
        database.execute("BEGIN IMMEDIATE")  # what is not committed when the connection is closed has not happened
        row = database.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
        yield _read(row) if row else None
        database.execute("DELETE FROM runs WHERE id = ?", (run_id,))
        database.execute("COMMIT")
    _summaries.pop(run_id, None)


# --- starting -------------------------------------------------------------------------------------------------------

_children: dict[str, subprocess.Popen[bytes]] = {}  # the workers that this process started, to be reaped when they end


def start(plan: Plan, *, name: str = "") -> Run:
    """Check the plan, write its folder and start its worker.

    Raises:
        PlanError: the plan is not sound, or another run is under way on this machine.
    """
    errors = [issue for issue in checks.check_start(plan) if issue.severity == "error"]
    if errors:
        raise PlanError(errors)
    with visitors.one_start_at_a_time(lambda: len(active_runs())):
        run = _register(plan, name or default_name(plan))
    try:
        run.folder.mkdir()
        write_atomically(run.folder / "plan.json", plan.to_json())
        with _database() as database:
            _launch(run, database)
    except OSError:
        _change_state(run.id, ACTIVE, "failed", "The run could not be started.")
        raise
    return get(run.id) or run


def default_name(plan: Plan) -> str:
    """A name that tells the runs of a list apart: the data set and the method."""
    return f"{data.title(plan.datasets[0])} · {METHODS[plan.method].label} · {find(plan.model).title}"


def _register(plan: Plan, name: str) -> Run:
    """Enter the run as "starting", unless another one is under way: two at once would share one GPU's memory."""
    settle_all()
    run_id = secrets.token_hex(16)
    name = name.encode("utf-8", errors="replace").decode()  # SQLite has no lone surrogates
    with _database() as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            _refuse_another(database)
            values = (run_id, name, time.time(), plan.to_json(), "starting")
            database.execute("INSERT INTO runs (id, name, created, plan, state) VALUES (?, ?, ?, ?, ?)", values)
        finally:
            database.execute("COMMIT")
    run = get(run_id)
    assert run is not None
    return run


def _refuse_another(database: sqlite3.Connection) -> None:
    """Raise `Busy` if a run is under way."""
    busy = database.execute("SELECT name FROM runs WHERE state IN (?, ?)", ACTIVE).fetchone()
    if busy is not None:
        message = f"“{busy[0]}” is still running on this machine."
        raise Busy([Issue(field="run", message=message, fix="Wait until it ends, or stop it first.")])


def _launch(run: Run, database: sqlite3.Connection) -> None:
    child = workers.launch("engine.train", run.folder, LOG_FILE)
    _children[run.id] = child
    database.execute(
        "UPDATE runs SET state = 'running', reason = '', pid = ?, pid_started = ? WHERE id = ? AND state = ?",
        (child.pid, workers.start_time(child.pid), run.id, run.state),
    )


# --- resuming -------------------------------------------------------------------------------------------------------


def resumable(run: Run) -> Path | None:
    """The checkpoint from which a run can go on that was stopped, failed or was interrupted."""
    return checkpoints.newest(run.folder) if run.state in ("stopped", "failed", "interrupted") else None


def resume(run_id: str) -> Run:
    """Start a run's worker again: it goes on from its newest checkpoint, with the same plan, data and seed.

    Raises:
        PlanError: it has no checkpoint, its plan cannot start any more, or another run is under way.
    """
    run = get(run_id)
    if run is not None and settle(run).is_active:
        raise PlanError([Issue(field="run", message="is already running.", fix="Watch it on the Train tab.")])
    if run is None or resumable(run) is None:
        message = "has no checkpoint to go on from." if run is not None else "There is no run with this id."
        raise PlanError([Issue(field="run", message=message, fix="Start its plan again from History.")])
    errors = [issue for issue in checks.check_start(run.plan) if issue.severity == "error"]
    if errors:
        raise PlanError(errors)
    settle_all()
    with visitors.one_start_at_a_time(lambda: len(active_runs())), _database() as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            _refuse_another(database)
            _launch(run, database)
        finally:
            database.execute("COMMIT")
    _summaries.pop(run.id, None)
    return get(run.id) or run


# --- is it alive, and how did it end --------------------------------------------------------------------------------


def is_alive(run: Run) -> bool:
    """Whether the run's worker lives: its process is there, or its lock is held."""
    return workers.find(run.pid, run.pid_started) is not None or workers.lock_is_held(run.folder, LOCK_FILE)


def settle(run: Run) -> Run:
    """Give a run whose worker is gone its ending: what its last event says, else "interrupted" with the reason."""
    child = _children.get(run.id)
    exit_code = child.poll() if child is not None else None  # also reaps it
    if not run.is_active or (run.state == "starting" and time.time() - run.created < 10) or is_alive(run):
        return run
    _children.pop(run.id, None)
    last = events.ending(run.folder)
    if last is not None:
        _change_state(run.id, ACTIVE, last["kind"], last.get("message", ""))
    else:
        _change_state(run.id, ACTIVE, "interrupted", _why_interrupted(run, exit_code))
    return get(run.id) or run


def settle_all() -> None:
    """Settle every active run. The server does this on start (it adopts living workers) and then each second."""
    for run in active_runs():
        settle(run)


def _why_interrupted(run: Run, exit_code: int | None) -> str:
    steps = [event["step"] for event in events.since(run.folder)[0] if event["kind"] == "step"]
    where = f" at step {steps[-1]}" if steps else " before its first step"
    if not run.folder.is_dir():
        return (
            f"Its folder, runs/{run.id} in the data folder, is gone: what it has learned is lost. Start it again from History."
        )
    if exit_code is not None and exit_code < 0:
        return f"The worker was killed (signal {-exit_code}){where}. Start it again from History."
    return f"The worker ended{where} without a word: it was killed, or the machine went down. Start it again from History."


def is_suspended(run: Run) -> bool:
    """Whether the run's worker was suspended by a signal or a debugger: it lives, and does nothing."""
    process = workers.find(run.pid, run.pid_started) if run.is_active else None
    try:
        return process is not None and process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return False


# --- stopping -------------------------------------------------------------------------------------------------------


def stop(run_id: str, *, grace: float | None = None) -> Run | None:
    """Ask the worker to stop after its step and save what it has; after `grace` seconds end it and its children.

    Returns at once; the run's state follows when the worker is gone. Stopping an ended run changes nothing.
    """
    run = get(run_id)
    if run is None or not run.is_active:
        return run
    process = workers.find(run.pid, run.pid_started)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
        context = contextvars.copy_context()  # whose home it is
        threading.Thread(target=context.run, args=(_kill_after, run, grace), daemon=True).start()
    return run


def _kill_after(run: Run, grace: float | None) -> None:
    asked = time.monotonic()
    while (process := workers.find(run.pid, run.pid_started)) is not None:
        if time.monotonic() - asked > (_patience(run) if grace is None else grace):
            workers.kill_family(process)
            return
        time.sleep(0.2)


def _patience(run: Run) -> float:
    """Seconds that a worker is given to end: as long as it saves, many; else a few of its steps."""
    seen = events.since(run.folder)[0]
    if seen and seen[-1]["kind"] == "saving":
        return SAVE_GRACE_SECONDS
    steps = [event["step_seconds"] for event in seen if event["kind"] == "step"]
    return max(STOP_GRACE_SECONDS, STEPS_OF_GRACE * steps[-1] if steps else 0.0)


# --- waiting (the command line) -------------------------------------------------------------------------------------


def follow(run_id: str, *, every: float = 0.25, look: float = 2.0) -> Iterator[events.Event]:
    """Each event of a run as it comes, until the run has ended.

    The event file is read every `every` seconds; whether the worker still lives is asked every `look` seconds, and as soon
    as an event says that it ends: a watcher that asks more often takes time from the training on a small machine.
    """
    run = get(run_id)
    assert run is not None, run_id
    cursor, looked, ending = 0, time.monotonic(), False
    while True:
        fresh, cursor = events.since(run.folder, cursor)
        yield from fresh
        ending = ending or any(event["kind"] in events.ENDINGS for event in fresh)
        if ending or time.monotonic() - looked >= look:
            looked = time.monotonic()
            run = settle(get(run_id) or run)
            if not run.is_active:
                yield from events.since(run.folder, cursor)[0]
                return
        time.sleep(every)


_summaries: dict[str, dict] = {}  # of ended runs: their events change no more


def summary(run: Run) -> dict:
    """What the run's last events say, for lists: the last step, losses, and the time it took."""
    if run.is_active:
        return _summarise(run)
    if run.id not in _summaries:
        _summaries[run.id] = _summarise(run)
    return _summaries[run.id]


def _summarise(run: Run) -> dict:
    seen: dict = {}
    for event in events.since(run.folder)[0]:
        if event["kind"] == "step":
            seen |= {"step": event["step"], "max_steps": event["max_steps"], "loss": event["loss"]}
        elif event["kind"] == "evaluated":
            seen["eval_loss"] = event["eval_loss"]
        elif event["kind"] in events.ENDINGS:
            seen["seconds"] = event.get("seconds")
    return seen


def plan_of(run_folder: Path) -> Plan:
    """The plan of a run folder."""
    return Plan.from_dict(json.loads((run_folder / "plan.json").read_text(encoding="utf-8")))
