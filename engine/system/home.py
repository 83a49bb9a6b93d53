"""Where Fitting Room keeps what it must not lose: the data folder, outside of the checkout.

`$FITTINGROOM_HOME`, or the user's data folder of the operating system. On a public demo each visitor has a home of their own
inside it (`visitors/<key>/`, see visitors.py): code that asks for the home while it works for a visitor gets that one, so
nothing of another visitor can be named. Layout:

    fittingroom.db      the lifecycle of all runs (SQLite, see runs.py)
    server.lock/.json   held by the one web server of this home
    runs/<id>/          plan.json, events.jsonl, worker.log, adapter/ or model/, merged/
    chains/<id>/        chain.json, events.jsonl, conductor.log
    splits/             which rows of a data set are held out, for each seed and share
    uploads/<id>.jsonl  data files that people uploaded
    .trash/             what is being deleted, see trash.py
    compiled/           what numba compiled, where the program's own folder cannot be written to
    visitors/<key>/     the same layout again, for one visitor of a public demo

Nobody else on the computer reads it: the folder has mode 0700, and the programs make their files under `PRIVATE_UMASK`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import platformdirs

PRIVATE_UMASK = 0o077
ASSETS = Path(__file__).resolve().parents[2] / "assets"


# The visitor of a public demo for whom the running code works: set for each request of the server, and in the environment
# of each process that is started for a visitor. None is the owner of the whole data folder.
_visitor: ContextVar[str | None] = ContextVar("visitor", default=None)
VISITOR_VARIABLE = "FITTINGROOM_VISITOR"


def server_home() -> Path:
    """The data folder of the server, made if it is absent. Read anew each time, so that a test can point it elsewhere."""
    path = Path(os.environ.get("FITTINGROOM_HOME") or platformdirs.user_data_dir("fittingroom", appauthor=False))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tighten(path)
    return path.resolve()


def home() -> Path:
    """The data folder of whoever is served now, made if it is absent."""
    visitor = current_visitor()
    if visitor is None:
        return server_home()
    path = visitors_folder() / visitor
    path.mkdir(parents=True, exist_ok=True)
    return path


def visitors_folder() -> Path:
    """Where the homes of a demo's visitors are. It need not exist."""
    return server_home() / "visitors"


def current_visitor() -> str | None:
    """The visitor for whom the running code works, or None for the owner of the data folder."""
    return _visitor.get() or os.environ.get(VISITOR_VARIABLE) or None


@contextlib.contextmanager
def visiting(visitor: str | None) -> Iterator[None]:
    """Within it, `home()` is the home of this visitor (a name of `visitors.name_of`)."""
    token = _visitor.set(visitor)
    try:
        yield
    finally:
        _visitor.reset(token)


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
