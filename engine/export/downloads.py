"""What a run offers for download, and how it is sent: streamed as a zip, without a copy on the disk.

Only the artifacts listed here are ever served, and of those only regular files inside the run's own folder.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zipstream

from engine.adapters.attach import BENEATH
from engine.jobs import runs
from engine.jobs.runs import Run

LABELS = {"merged": "Merged model", "model": "Model", "adapter": "Adapter"}
RUN_ID = re.compile(r"^[0-9a-f]{32}$")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder of a run that can be taken home. `bytes` is the size of its files."""

    name: str
    label: str
    bytes: int
    href: str


def artifacts(run: Run) -> tuple[Artifact, ...]:
    """What the run offers now, the most useful first."""
    return tuple(
        Artifact(
            name=name, label=label, bytes=sum(file.stat().st_size for file in files), href=f"/download/{run.id}/{name}.zip"
        )
        for name, label in LABELS.items()
        if (files := files_of(run, name))
    )


def find(run_id: str, name: str) -> list[Path] | None:
    """The files behind a download link, or None if the link names nothing that is offered."""
    if not RUN_ID.match(run_id) or name not in LABELS:
        return None
    run = runs.get(run_id)
    return (files_of(run, name) or None) if run is not None else None


def files_of(run: Run, name: str) -> list[Path]:
    """The regular files of an artifact, and of the adapter inside it where two were trained at once; no symbolic links."""
    folder = run.folder / name
    parts = [part for part in (folder, folder / BENEATH) if part.is_dir() and not part.is_symlink()]
    if folder not in parts:
        return []
    return sorted(file for part in parts for file in part.iterdir() if stat.S_ISREG(file.lstat().st_mode))


def zip_name(run_id: str, name: str) -> str:
    return f"fitting-room-{run_id[:8]}-{name}"


def zip_stream(files: list[Path], inside: str) -> tuple[int, Iterator[bytes]]:
    """(size in bytes, chunks) of a zip with `files` in the folder `inside`. Stored: weights do not compress."""
    archive = zipstream.ZipStream(sized=True)
    for file in files:
        archive.add_path(file, f"{inside}/{BENEATH}/{file.name}" if file.parent.name == BENEATH else f"{inside}/{file.name}")
    return len(archive), iter(archive)
