"""Delete a run, an upload, a chain or a comparison: whole or not at all, and nothing else.

    trash.delete_run(run_id); trash.delete_upload("upload/..."); trash.delete_folder("chain", chain_id)
    trash.finish()                                   # at the start of the server: what a crash has interrupted

A deletion is decided by making its folder in `.trash/`. Then what belongs to the item is moved there, its row in the
lifecycle file goes, and the folder is removed. Where a crash comes between, `finish` does the rest, so the item is whole or
gone. Only ids are taken, never paths; the locks of the item's processes are held meanwhile, so nothing that is at work is
deleted and nothing can start on it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from engine.export import merge
from engine.issues import Issue, PlanError
from engine.jobs import runs, series
from engine.pipelines import chain_runs, compare
from engine.system import events, workers
from engine.system.home import home, runs_folder, uploads_folder

FOLDER = ".trash"
GRAVE = re.compile(r"^(run|upload|chain|comparison)-([0-9a-f]{16}|[0-9a-f]{32})$")


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How the items of a kind are named, and which locks their living processes hold."""

    name: str
    ids: re.Pattern[str]
    locks: tuple[str, ...]


RUN = _Kind(name="run", ids=re.compile(r"[0-9a-f]{32}"), locks=(runs.LOCK_FILE, merge.LOCK_FILE))
UPLOAD = _Kind(name="upload", ids=re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}"), locks=())
CHAIN = _Kind(name="chain", ids=re.compile(r"[0-9a-f]{32}"), locks=(series.LOCK_FILE,))
COMPARISON = _Kind(name="comparison", ids=re.compile(r"[0-9a-f]{32}"), locks=(series.LOCK_FILE,))
KINDS = {kind.name: kind for kind in (RUN, UPLOAD, CHAIN, COMPARISON)}


# --- what is asked for ----------------------------------------------------------------------------------------------


def delete_run(run_id: str) -> None:
    """Delete a run that has ended: its folder and its row. Raises `PlanError` if it is active, in use, or not there."""
    _check_id(RUN, run_id)
    run = runs.get(run_id)
    if run is None:
        raise _wrong("run", "there is no such run.", "It may be deleted already.")
    _parts(RUN, run_id)  # before its locks are tried: behind a link they would be made elsewhere
    if runs.settle(run).is_active or runs.is_alive(run):
        raise _wrong("run", "is still at work.", "Stop it first.")
    if merge.status(run).state == "running":
        raise _wrong("run", "is being merged.", "Wait until that is done.")
    _refuse_run_of_living_series(run_id)
    _bury(RUN, run_id)


def delete_upload(upload_id: str) -> None:
    """Delete an uploaded data file, named as in a plan ("upload/<id>") or by its id alone. Raises `PlanError`."""
    upload_id = upload_id.removeprefix("upload/")
    _check_id(UPLOAD, upload_id)
    if not _parts(UPLOAD, upload_id):
        raise _wrong("upload", "there is no such upload.", "It may be deleted already.")
    for run in runs.active_runs():
        if any(source.path.strip() == f"upload/{upload_id}" for source in run.plan.datasets):
            raise _wrong("upload", "a run trains on it.", "Stop the run first.")
    _bury(UPLOAD, upload_id)


def delete_folder(kind: str, item_id: str) -> None:
    """Delete a "chain" or a "comparison", without its runs. Raises `PlanError` if it is active, or not there."""
    if kind not in (CHAIN.name, COMPARISON.name):
        raise _wrong("kind", "is none of those that are deleted.", "Use chain or comparison.")
    _check_id(KINDS[kind], item_id)
    if not _parts(KINDS[kind], item_id):
        raise _wrong(kind, f"there is no such {kind}.", "It may be deleted already.")
    folder = _folder_of(KINDS[kind]) / item_id
    if series.state(folder, events.since(folder)[0])[0] in runs.ACTIVE:
        raise _wrong(kind, "is still at work.", "Stop it first.")
    _bury(KINDS[kind], item_id)


def finish() -> None:
    """Do the rest of every deletion that a crash has interrupted. For the start, before anything is served.

    What cannot be deleted now (a link was put in its place, a folder may not be written to) is tried at the next start.
    """
    for grave in sorted(_trash().iterdir()):
        found = GRAVE.match(grave.name)
        if found is not None:
            with contextlib.suppress(PlanError, OSError):
                _bury(KINDS[found[1]], found[2])


# --- the steps ------------------------------------------------------------------------------------------------------


def _bury(kind: _Kind, item_id: str) -> None:
    """All steps of a deletion; each may be repeated."""
    parts = _parts(kind, item_id)
    grave = _trash() / f"{kind.name}-{item_id}"
    if grave.is_symlink():
        raise _wrong(kind.name, f"a link stands in {FOLDER} in its place, so nothing is deleted.", "Remove the link by hand.")
    with _locked(kind, parts), _row_of(kind, item_id):
        grave.mkdir(exist_ok=True)  # from here on it is decided
        for part in parts:
            part.rename(grave / part.name)
    shutil.rmtree(grave)


@contextlib.contextmanager
def _row_of(kind: _Kind, item_id: str) -> Iterator[None]:
    """Within it a run cannot be resumed; when it ends well, its row is gone. Other kinds have no row."""
    if kind is not RUN:
        yield
        return
    with runs.removal(item_id) as run:
        if run is not None and run.is_active:
            raise _wrong("run", "is still at work.", "Stop it first.")
        yield


@contextlib.contextmanager
def _locked(kind: _Kind, parts: list[Path]) -> Iterator[None]:
    """Hold the locks that the item's processes hold while they live. Raises `PlanError` if one of them lives."""
    with contextlib.ExitStack() as held:
        for folder in filter(Path.is_dir, parts):
            for name in kind.locks:
                try:
                    held.enter_context(workers.hold_lock(folder, name))
                except filelock.Timeout:
                    raise _wrong(kind.name, "is still at work.", "Stop it first.") from None
        yield


def _parts(kind: _Kind, item_id: str) -> list[Path]:
    """The files and folders of an item, directly in the folder of its kind. Raises `PlanError` where one is a link."""
    folder = _folder_of(kind)
    parts = sorted(folder.glob(item_id))
    if kind is UPLOAD:  # <id>.jsonl and <id>.name, beside a folder of images
        parts += sorted(folder.glob(f"{item_id}.*"))
    for part in (folder, *parts):
        if part.is_symlink() or part.resolve().parent != part.parent.resolve() or home() not in part.resolve().parents:
            raise _wrong(kind.name, "a link stands in its place, so nothing is deleted.", "Remove the link by hand.")
    return parts


def _folder_of(kind: _Kind) -> Path:
    match kind.name:
        case "run":
            return runs_folder()
        case "upload":
            return uploads_folder()
        case "chain":
            return chain_runs.chains_folder()
        case _:
            return compare.folder()


def _trash() -> Path:
    folder = home() / FOLDER
    if folder.is_symlink():
        raise _wrong("disk", f"{FOLDER} in the data folder is a link, so nothing is deleted.", "Remove the link by hand.")
    folder.mkdir(exist_ok=True)
    return folder


def _check_id(kind: _Kind, item_id: str) -> None:
    if not kind.ids.fullmatch(item_id):
        raise _wrong(kind.name, "is not named by an id.", "Choose one of the list.")


def _refuse_run_of_living_series(run_id: str) -> None:
    """A chain or a comparison that is under way still needs the runs that it has started."""
    for kind in (CHAIN, COMPARISON):
        for folder in _folder_of(kind).iterdir():
            happened = events.since(folder)[0]
            named = any(event.get("run") == run_id for event in happened)
            if named and series.state(folder, happened)[0] in runs.ACTIVE:
                raise _wrong("run", f"belongs to a {kind.name} that is under way.", f"Stop the {kind.name} first.")


def _wrong(field: str, message: str, fix: str) -> PlanError:
    return PlanError([Issue(field=field, message=message, fix=fix)])
