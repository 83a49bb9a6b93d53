"""Worker processes: started without a shell, each its own process group, told apart by more than their pid.

A worker holds a file lock for as long as it lives. It is only ever signalled when its process id and its start time
both are those on record: a reused pid is somebody else's process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import psutil

from engine.system.home import PRIVATE_UMASK, VISITOR_VARIABLE, current_visitor, write_atomically

CODE_FOLDER = Path(__file__).resolve().parents[2]

# How long an idle OpenMP thread of torch spins before it sleeps. With libgomp's default, a worker whose core is shared
# with anything else (a browser that draws its curves) waits out whole time slices at every barrier; this value is as
# fast on an idle machine and many times faster on a busy one (benchmarks/busy_machine.py).
SPIN_COUNT = "5000"


def environment(visitor: str | None = None) -> dict[str, str]:
    """The environment of a process with torch in it that works for a visitor (see home.py). What the user has set stays.

    Nothing here is compiled by torch. bitsandbytes loads its compiler all the same, for the processor's optimizers: that takes
    1.1 s of the 5.4 s of all imports, and a C++ compiler later.
    """
    ours = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "GOMP_SPINCOUNT": SPIN_COUNT,
        "TORCHDYNAMO_DISABLE": "1",
    }
    return ours | os.environ | ({VISITOR_VARIABLE: visitor} if visitor else {})


def launch(module: str, run_folder: Path, log_file: str) -> subprocess.Popen[bytes]:
    """Start `python -m module RUN_FOLDER`; its output goes to a log in that folder, and nobody has to read it."""
    with open(run_folder / log_file, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(run_folder)],
            cwd=CODE_FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(current_visitor()),
            umask=PRIVATE_UMASK,
        )
    with contextlib.suppress(OSError):  # the disk may be full
        launched = {"pid": process.pid, "pid_started": start_time(process.pid)}
        write_atomically(run_folder / f"{log_file}.pid", json.dumps(launched))
    return process


def launched_process_is_gone(run_folder: Path, log_file: str) -> bool:
    """Whether the process that was launched last with this log has ended. False if that is not known."""
    try:
        launched = json.loads((run_folder / f"{log_file}.pid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return find(launched["pid"], launched["pid_started"]) is None


def start_time(pid: int) -> float | None:
    """When the process began (seconds since 1970), or None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def find(pid: int | None, started: float | None) -> psutil.Process | None:
    """The living process with this pid and this start time; None if it is gone, a zombie, or somebody else's."""
    if pid is None or pid < 2 or started is None:
        return None
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def hold_lock(folder: Path, name: str) -> filelock.BaseFileLock:
    """Taken by a worker for its whole life. Raises `filelock.Timeout` if another one has it."""
    lock = filelock.FileLock(folder / name)
    lock.acquire(timeout=0)
    return lock


def lock_is_held(folder: Path, name: str) -> bool:
    """Whether a living process holds the lock."""
    if not folder.is_dir():
        return False
    lock = filelock.FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def kill_family(process: psutil.Process) -> None:
    """End the process and everything that it started, now."""
    for member in [*process.children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
