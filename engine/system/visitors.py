"""Visitors of a public demo: each has a data folder of their own, may run what is small, and is forgotten after a while.

    visitors/<name>/        a home like the server's (see home.py); the name is a hash of the visitor's key
    visitors/<name>/seen    touched when they open the page or upload something

A visitor's requests run within `home.visiting(name)`; from there no other home can be named. What is bounded here: which
plans may run, how many runs at once and for how long, how much is uploaded, and how long anything is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from engine.issues import Issue, PlanError
from engine.system.home import current_visitor, home, runs_folder, visiting, visitors_folder

if TYPE_CHECKING:
    from engine.plan import Plan

DEMO_VARIABLE = "FITTINGROOM_DEMO"  # set by the server, so that the processes which it starts are bounded too
NOBODY = "nobody"  # a caller without a browser session: may plan, and has no data
SEEN = "seen"

KEPT_SECONDS, KEPT_WORDS = 3600.0, "an hour"
# A free Space has two cores and 16 GB, and its demo fine-tunes take one to three minutes (benchmarks/demos.py).
MOST_RUN_SECONDS = 900.0
MOST_ACTIVE_RUNS = 2  # at once, of all visitors together
MOST_METHODS = 4  # of a comparison
MOST_STAGES = 4  # of a chain
MOST_VISITORS = 2000  # with data of the last hour; each is a folder with a small database
MOST_UPLOAD_BYTES = 20 * 2**20  # of one visitor, all uploads together
MOST = {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 16, "num_train_epochs": 50, "max_steps": 2000}
ELSEWHERE = "Fitting Room on your own machine has no such limit: two commands, see its README."


class Busy(PlanError):
    """A run cannot start now because others are under way; later it can."""


def is_demo() -> bool:
    """Whether this process serves the visitors of a public demo."""
    return os.environ.get(DEMO_VARIABLE) == "1"


def secret(folder: Path) -> bytes:
    """The server's own random key, made once: cookies that it has signed stay good when it is started again."""
    file = folder / "secret"
    with contextlib.suppress(FileExistsError):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as written:
            written.write(secrets.token_hex(32))
    return file.read_bytes()


def name_of(key: str) -> str:
    """The folder name of the visitor with this key. It does not give the key away."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def all_names() -> list[str]:
    """Every visitor who has a home."""
    folder = visitors_folder()
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def note_visit() -> None:
    """Note that the visitor who is served now was here: what they made is kept for another hour."""
    visitor = current_visitor()
    if visitor is not None and (visitors_folder() / visitor).is_dir():
        (home() / SEEN).touch()


def has_room(visitor: str) -> bool:
    """Whether this visitor has a home already, or there is room for one more."""
    return (visitors_folder() / visitor).is_dir() or len(all_names()) < MOST_VISITORS


# --- bounds ---------------------------------------------------------------------------------------------------------


def check(plan: Plan) -> list[Issue]:
    """Why the visitor who is served now may not run this plan; they may plan anything. Empty where this is no demo."""
    if not is_demo():
        return []
    if current_visitor() in (None, NOBODY):
        return [Issue(field="run", message="belongs to nobody.", fix="Allow this page's cookie, and reload it.")]
    issues = []
    if not isinstance(plan.model, str) or not (plan.model.startswith("demo/") or _is_own_result(plan.model)):
        fix = f"Choose one whose name begins with demo/. {ELSEWHERE}"
        issues.append(Issue(field="model", message="is not one that this public demo trains.", fix=fix))
    for source in plan.datasets:
        if not source.path.startswith(("demo/", "upload/")):
            fix = f"Choose a demo set, or upload a file. {ELSEWHERE}"
            issues.append(Issue(field="datasets", message=f"{source.path[:80]!r} is not fetched by this demo.", fix=fix))
    for field, most in MOST.items():
        if getattr(plan, field) > most:
            issues.append(Issue(field=field, message=f"is above {most}, which is the most here.", fix=f"Lower it. {ELSEWHERE}"))
    return issues


def _is_own_result(model: str) -> bool:
    """Whether the model is what an earlier run of this visitor has left (a stage of a chain takes the last one's)."""
    return Path(model).resolve().is_relative_to(runs_folder())


def check_count(field: str, count: int, most: int) -> list[Issue]:
    """Why a visitor may not start so many runs with one click."""
    if not is_demo() or count <= most:
        return []
    return [Issue(field=field, message=f"has {count} runs; this public demo does {most}.", fix=f"Choose fewer. {ELSEWHERE}")]


@contextlib.contextmanager
def one_start_at_a_time(active_runs: Callable[[], int]) -> Iterator[None]:
    """Around the start of a run on a demo: visitors have lifecycle files of their own, so all of them are counted here.

    Args:
        active_runs: how many runs are under way in the home of whoever is served.

    Raises:
        Busy: as many runs as the demo has room for are under way.
    """
    if not is_demo():
        yield
        return
    with filelock.FileLock(visitors_folder() / "start.lock", timeout=30):
        active = 0
        for name in all_names():
            with visiting(name):
                active += active_runs()
        if active >= MOST_ACTIVE_RUNS:
            message = f"{active} runs are under way, and this public demo has room for no more."
            raise Busy([Issue(field="run", message=message, fix=f"Try again in a few minutes. {ELSEWHERE}")])
        yield
