"""What the server does in the background: endings of runs, the bounds of a demo, and files that nobody needs any more."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import threading
import time
from pathlib import Path

from engine.issues import PlanError
from engine.jobs import runs
from engine.pipelines import chain_runs, compare
from engine.system import cache_files, visitors, workers
from engine.system.home import home, visiting, visitors_folder

log = logging.getLogger("fittingroom.server")
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_SWEEPS = 30.0
CACHE_SECONDS = 3600.0  # a file in Gradio's cache that is older has been read, or its sender has left


def keep_house(stop: threading.Event, cache: Path) -> None:
    """The server's background loop, until `stop` is set. A fault now (a full disk, a busy file) is tried again."""
    swept = -SECONDS_BETWEEN_SWEEPS
    while not stop.wait(SECONDS_BETWEEN_LOOKS):
        for visitor in (None, *visitors.all_names()):
            with visiting(visitor), contextlib.suppress(sqlite3.OperationalError, OSError):
                runs.settle_all()
                if visitor is not None:
                    stop_long_runs()
        if time.monotonic() - swept < SECONDS_BETWEEN_SWEEPS:
            continue
        swept = time.monotonic()
        with contextlib.suppress(OSError):
            cache_files.sweep(cache, CACHE_SECONDS)
        for visitor in visitors.all_names():
            with contextlib.suppress(sqlite3.Error, OSError, PlanError):
                if is_over(visitor):
                    erase(visitor)


def stop_long_runs() -> None:
    """Stop the runs of the visitor who is looked after now that have had their time; what they learned is kept."""
    for run in runs.active_runs():
        if time.time() - run.created > visitors.MOST_RUN_SECONDS:
            runs.stop(run.id)


def is_over(visitor: str) -> bool:
    """Whether a visitor has not been here for as long as their data are kept."""
    folder = visitors_folder() / visitor
    seen = folder / visitors.SEEN
    return time.time() - (seen if seen.exists() else folder).stat().st_mtime > visitors.KEPT_SECONDS


def erase(visitor: str) -> None:
    """Stop what a visitor has running, and remove their whole home. What cannot be stopped yet is erased next time."""
    with visiting(visitor):
        for chain in chain_runs.all_chains():
            if chain.is_active:
                chain_runs.stop(chain.id)
        for comparison in compare.every():
            compare.stop(comparison)
        for run in runs.active_runs():
            runs.stop(run.id, grace=0.0)
        folder = home()
        runs.forget(folder)
        if any(workers.lock_is_held(path.parent, path.name) for path in folder.glob("*/*/*.lock")):
            return
    # Renamed first: from then on nobody finds half of it.
    gone = visitors_folder().with_name("erased") / f"{visitor}-{time.time_ns()}"
    gone.parent.mkdir(exist_ok=True)
    folder.rename(gone)
    shutil.rmtree(gone.parent, ignore_errors=True)
    log.info("The data of a visitor were erased.")
