"""Checkpoints that a run goes on from: only its own, and only those whose every byte is as the worker wrote it.

A checkpoint holds pickles (`rng_state.pth`, `optimizer.pt`) that are opened when the run goes on. So the worker writes a
manifest last, `MANIFEST`: the run, the step, and the size and sha256 of each file. A checkpoint without one is not
complete. Before anything of it is opened, each file is hashed again; where one differs, is missing, or is not in the
manifest, the checkpoint before it is taken, if there is one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.issues import Issue, PlanError
from engine.system.home import write_atomically

TRAINER_FOLDER = "trainer"  # of a run: the trainer's own files, and the checkpoints of one that has not finished
MANIFEST = "manifest.json"
NAME = re.compile(r"^checkpoint-[0-9]{1,12}$")  # the trainer's
KEPT = 2  # checkpoints of a run: where the newest one is damaged, the one before it is still there
LARGEST_MANIFEST = 10**6  # bytes; one names some 20 files
CHUNK = 2**20
NOT_READ = "training_args.bin"  # the trainer writes its settings as a pickle, which nothing reads


def seal(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint that the trainer has just written: from now on it is complete."""
    (checkpoint / NOT_READ).unlink(missing_ok=True)
    files = {name: _described(checkpoint / name) for name in _names(checkpoint)}
    manifest = {"run": _run_of(checkpoint), "step": step_of(checkpoint), "files": files}
    write_atomically(checkpoint / MANIFEST, json.dumps(manifest, indent=1))


def newest(run_folder: Path) -> Path | None:
    """The newest checkpoint that has all its files, by their names and sizes. Cheap: nothing is hashed."""
    return next((one for one in _newest_first(run_folder) if _problem(one, hashed=False) is None), None)


def verified(run_folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """(the newest checkpoint whose every byte is as it was written, what is wrong with those after it).

    Those after it are removed: the trainer will write others in their place, and nothing of theirs may be among those.
    Raises `PlanError` with the first problem if there are checkpoints and none of them is as it was written.
    """
    problems: list[str] = []
    bad: list[Path] = []
    for checkpoint in _newest_first(run_folder):
        problem = _problem(checkpoint, hashed=True)
        if problem is None:
            for damaged in bad:
                _remove(damaged)
            return checkpoint, tuple(problems)
        bad.append(checkpoint)
        problems.append(f"{checkpoint.name} is not used: {problem}")
    if not problems:
        return None, ()
    raise PlanError([Issue(field="run", message=f"cannot go on: {problems[0]}", fix="Start its plan again from History.")])


def _remove(checkpoint: Path) -> None:
    if checkpoint.is_symlink():
        checkpoint.unlink()
    else:
        shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _newest_first(run_folder: Path) -> list[Path]:
    """The folders that are named like checkpoints, in the order in which they are tried."""
    named = (path for path in (run_folder / TRAINER_FOLDER).glob("checkpoint-*") if NAME.match(path.name))
    return sorted((path for path in named if path.is_dir()), key=step_of, reverse=True)


def _problem(checkpoint: Path, *, hashed: bool) -> str | None:
    """What is wrong with a checkpoint, naming the file; None, if it can be gone on from."""
    manifest = _read(checkpoint)
    if manifest is None:
        return f"its {MANIFEST} is missing or damaged, so it is not complete, or not this program's."
    if manifest["run"] != _run_of(checkpoint) or manifest["step"] != step_of(checkpoint):
        return f"its {MANIFEST} is that of another run or step."
    expected: dict[str, Any] = manifest["files"]
    if checkpoint.is_symlink():
        return "it is a link."
    names = set(_names(checkpoint))
    strange, missing = sorted(names - set(expected)), sorted(set(expected) - names)
    if strange:
        return f"{strange[0]} was not written by this run."
    if missing:
        return f"{missing[0]} is missing."
    for name, described in expected.items():
        file = checkpoint / name
        if not stat.S_ISREG(file.lstat().st_mode):
            return f"{name} is not a regular file."
        if file.stat().st_size != described["bytes"] or (hashed and _described(file) != described):
            return f"{name} is not as it was written."
    return None


def _read(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest; None if there is none, or one of another form."""
    file = checkpoint / MANIFEST
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.lstat().st_size > LARGEST_MANIFEST:
            return None
        manifest = json.loads(file.read_text(encoding="utf-8"))
        known = manifest["run"], manifest["step"], manifest["files"]
        sound = all(isinstance(one["bytes"], int) and isinstance(one["sha256"], str) for one in manifest["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if sound and known else None


def _run_of(checkpoint: Path) -> str:
    """The id of the run whose checkpoint this is: the name of its folder."""
    return checkpoint.parent.parent.name


def _names(checkpoint: Path) -> Iterator[str]:
    """The names of all files in a checkpoint but its manifest, those in its folders too, links among them."""
    for where, folders, names in os.walk(checkpoint):
        inner = [*names, *(name for name in folders if Path(where, name).is_symlink())]
        yield from (
            name for name in (Path(where, one).relative_to(checkpoint).as_posix() for one in sorted(inner)) if name != MANIFEST
        )


def _described(file: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}
