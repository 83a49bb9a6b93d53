"""Where Fitting Room keeps what it must not lose: the data folder, outside of the checkout.

`$FITTINGROOM_HOME`, or the user's data folder of the operating system. Layout:

    fittingroom.db      the lifecycle of all runs (SQLite, see runs.py)
    server.lock/.json   held by the one web server of this home
    runs/<id>/          plan.json, events.jsonl, worker.log, adapter/ or model/, merged/
    chains/<id>/        chain.json, events.jsonl, conductor.log
    splits/             which rows of a data set are held out, for each seed and share
    uploads/<id>.jsonl  data files that people uploaded
    .trash/             what is being deleted, see trash.py
    compiled/           what numba compiled, where the program's own folder cannot be written to

Nobody else on the computer reads it: the folder has mode 0700, and the programs make their files under `PRIVATE_UMASK`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

import platformdirs

PRIVATE_UMASK = 0o077
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def home() -> Path:
    """The data folder, made if it is absent. Read anew each time, so that a test can point it elsewhere."""
    path = Path(os.environ.get("FITTINGROOM_HOME") or platformdirs.user_data_dir("fittingroom", appauthor=False))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tighten(path)
    return path.resolve()


def _tighten(path: Path) -> None:
    """Take others' rights to a data folder that an older version made. Somebody else's folder, and /tmp, stay as they are."""
    found = path.stat()
    if found.st_mode & 0o077 and found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
        with contextlib.suppress(OSError):  # a mounted volume may know no modes
            path.chmod(0o700)


def runs_folder() -> Path:
    """The folder of all run folders, made if it is absent."""
    path = home() / "runs"
    path.mkdir(exist_ok=True)
    return path


def uploads_folder() -> Path:
    """The folder of uploaded data files, made if it is absent."""
    path = home() / "uploads"
    path.mkdir(exist_ok=True)
    return path


def free_bytes(folder: Path) -> int:
    """Free disk space for an ordinary user on the volume of `folder`, in bytes."""
    return shutil.disk_usage(folder).free


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file as one step: a reader sees the old text or the new one, never half of it."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8", errors="replace") as file:  # a lone surrogate in a name is no reason to fail
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
