"""Where rows are: demo sets, uploads, hub sets that were fetched, and files of this computer while it serves its owner.

An upload keeps its bytes under a name of ours, `uploads/<id>.<kind>`; its own name stands beside it in `<id>.name`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from engine.catalog.models import local_paths_allowed
from engine.data import limits, sandbox
from engine.data.demos import DEMOS
from engine.data.reading import SUFFIXES
from engine.data.values import printable
from engine.issues import Issue, PlanError, nearest
from engine.plan import DataSource
from engine.system.events import is_disk_full
from engine.system.home import free_bytes, home, uploads_folder, write_atomically
from engine.system.local_paths import LONGEST_PATH, is_file, local_path
from engine.system.visitors import ELSEWHERE, MOST_UPLOAD_BYTES, is_demo

UPLOAD_ID = re.compile(r"^upload/(?:[0-9a-f]{32}|[0-9a-f]{16})$")  # the short ones are of an earlier version
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")  # huggingface_hub's rule for owner/name
UPLOAD_SUFFIXES = (*SUFFIXES, ".zip")
KINDS = "JSONL, JSON, CSV, TSV, Parquet, plain text, or a zip of images"
LISTED_UPLOADS = 50
COPY_BYTES = 2**20


def locate(source: DataSource) -> Path:
    """The file of a data source. Raises `PlanError` on `datasets` if the words name none, or none that may be read."""
    path = source.path.strip()
    if len(path) > LONGEST_PATH:
        raise wrong(f"a path of {len(path):,} characters is too long.", "Check the path.")
    if path.startswith("demo/"):
        demos = {demo.path: demo.train_file for demo in DEMOS.values()}
        if path not in demos:
            raise wrong(f"{path[:80]!r} is not a demo set.", nearest(path, demos))
        return demos[path]
    if UPLOAD_ID.match(path):
        return _uploaded(path)
    if "://" in path or "::" in path or any(sign in path for sign in "*?[]"):
        raise wrong(f"{path[:80]!r} is a URL or a pattern.", "Name one file or one data set of the hub, owner/name.")
    if is_hub(source):
        return _fetched(source)
    if not local_paths_allowed():
        raise wrong(f"{path[:80]!r} is not a data set of this server.", "Upload the file, or choose a demo set.")
    file = local_path(path, field="datasets")
    if file.suffix.lower() not in SUFFIXES:
        raise wrong(f"{path[:80]!r} is not a {', '.join(SUFFIXES)} file.", "Upload the file, or choose a demo set.")
    return _existing(file, "Check the path.")


def is_hub(source: DataSource) -> bool:
    """Whether the words are a hub id, owner/name, and no file of this computer that may be read."""
    path = source.path.strip()
    if path.startswith(("demo/", "upload/")) or not HUB_ID.match(path):
        return False
    return Path(path).suffix.lower() not in SUFFIXES and not (local_paths_allowed() and Path(path).exists())


def hub_copy(source: DataSource) -> Path:
    """The file that a hub set is fetched into: one per set, config and split."""
    key = json.dumps([source.path.strip(), source.config, source.split])
    folder = home() / "hub"
    folder.mkdir(exist_ok=True)
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl"


def _fetched(source: DataSource) -> Path:
    copy = hub_copy(source)
    if not copy.is_file():
        # A warning: the start of a run fetches it, and the Data tab has a button.
        message = f"{source.path} is a data set of the hub that is not on this computer yet."
        raise PlanError([Issue(field="datasets", message=message, fix="Fetch it on the Data tab.", severity="warning")])
    return copy


def _uploaded(path: str) -> Path:
    name = path.removeprefix("upload/")
    for suffix in SUFFIXES:
        file = uploads_folder() / f"{name}{suffix}"
        if file.is_file() and not file.is_symlink():
            return file
    raise wrong(f"there is no upload {name}.", "The upload is gone: upload the file again.")


def _existing(file: Path, fix: str) -> Path:
    if not is_file(file):
        raise wrong(f"there is no file {shown_name(file.name)[:80]}.", fix)
    return file


def title(source: DataSource) -> str:
    """What a person calls the data: a demo's title, the name of the file that was uploaded, else the file's name."""
    titles = {demo.path: demo.title for demo in DEMOS.values()}
    if is_hub(source):
        return source.path.strip()
    try:
        return titles.get(source.path) or file_name(locate(source))
    except PlanError:
        return Path(source.path).name


def file_name(file: Path) -> str:
    """The file's name as its owner knows it."""
    given = file.with_suffix(".name")
    return given.read_text(encoding="utf-8") if given.is_file() else file.name


def uploads() -> list[tuple[str, str]]:
    """(name, path) of what was uploaded to this computer, the newest first. Only for the owner of the computer."""
    files = [file for file in uploads_folder().glob("*.name") if UPLOAD_ID.match(f"upload/{file.stem}")]
    files.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return [(file.read_text(encoding="utf-8"), f"upload/{file.stem}") for file in files[:LISTED_UPLOADS]]


def new_upload(name: str, suffix: str = ".jsonl") -> tuple[DataSource, Path]:
    """A place for a data file: the source that names it, and the path to write it to, where nothing is yet."""
    upload_id = secrets.token_hex(16)
    target = uploads_folder() / f"{upload_id}{suffix}"
    write_atomically(target.with_suffix(".name"), shown_name(name))
    return DataSource(path=f"upload/{upload_id}"), target


def shown_name(name: str) -> str:
    """The name of a file as it can be shown: no line ends, no signs that turn the text round, not too long."""
    return printable(name[-limits.MOST_NAME :])


def remove_upload(target: Path) -> None:
    """Remove what `new_upload` made, and what was written there."""
    for file in (target, target.with_suffix(".name")):
        file.unlink(missing_ok=True)
    shutil.rmtree(target.with_suffix(""), ignore_errors=True)


def copy_upload(file: Path) -> tuple[DataSource, Path]:
    """Copy an uploaded file's bytes under a name of ours, or unpack it there.

    Raises `PlanError`, and keeps nothing: links and other kinds of files are refused, and what the disk has no room for.
    """
    suffix = file.suffix.lower()
    if suffix not in UPLOAD_SUFFIXES:
        raise wrong(f"{shown_name(file.name)[-80:]!r} is none of the kinds that are read.", f"Upload {KINDS}.")
    with _opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        _refuse_without_room(size)
        source, target = new_upload(file.name, ".jsonl" if suffix == ".zip" else suffix)
        try:
            if suffix == ".zip":
                _unpack(stream, target, name=shown_name(file.name), size=size)
            else:
                _copy(stream, target)
        except BaseException as error:
            remove_upload(target)
            if isinstance(error, OSError) and is_disk_full(error):
                raise _no_room() from None
            raise
    return source, target


def _opened(file: Path) -> BinaryIO:
    """An uploaded file, open. Raises `PlanError` if it is no regular file, or a link leads to it."""
    refused = wrong("the upload is not a regular file.", f"Upload {KINDS}.")
    if file.parent.is_symlink() or file.parent.parent.is_symlink():  # Gradio's folder for this file, and that of all
        raise refused
    try:
        # Not to wait for a pipe's other end.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):
        raise refused from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refused
    return open(descriptor, "rb")


def _copy(stream: BinaryIO, target: Path) -> None:
    """Write the bytes where no file is yet: a link that somebody has put there is not followed."""
    with open(target, "xb") as copy:
        shutil.copyfileobj(stream, copy, COPY_BYTES)


def _unpack(stream: BinaryIO, target: Path, *, name: str, size: int) -> None:
    """Unpack a zip in a reader, from a copy of ours: nobody can change it in the meantime."""
    archive = target.with_suffix(".zip")
    try:
        _copy(stream, archive)
        sandbox.run("unpack", {"archive": str(archive), "target": str(target)}, name=name, size=size)
    finally:
        archive.unlink(missing_ok=True)


def uploads_bytes(paths: Iterable[str] | None = None) -> int:
    """The bytes on the disk of all uploads, or of those with these paths (`upload/<id>`)."""
    wanted = None if paths is None else {path.removeprefix("upload/") for path in paths}
    return sum(
        (Path(folder) / name).lstat().st_size
        for folder, _, names in os.walk(uploads_folder())
        for name in names
        if wanted is None or name.partition(".")[0] in wanted or Path(folder).name in wanted
    )


def _refuse_without_room(size: int) -> None:
    if is_demo() and uploads_bytes() + size > MOST_UPLOAD_BYTES:
        message = f"uploads of one visitor have at most {MOST_UPLOAD_BYTES // 2**20} MB on this public demo."
        raise wrong(message, f"Upload fewer rows. {ELSEWHERE}")
    if uploads_bytes() + size > limits.MOST_UPLOADED:
        message = f"the uploads of this server have reached {limits.MOST_UPLOADED // limits.GB} GB."
        raise wrong(message, "Ask its owner to remove old ones (the folder uploads of its data folder).")
    if free_bytes(uploads_folder()) < size + limits.LEFT_FREE:
        raise _no_room()


def _no_room() -> PlanError:
    return wrong("the disk of this server has no room for the upload.", "Free some space, and upload it again.")


def fingerprint(sources: tuple[DataSource, ...]) -> str:
    """A short hash of what the sources hold now, for caches and for telling two runs apart."""
    digest = hashlib.sha256()
    for source in sources:
        stat = locate(source).stat()
        digest.update(repr((dataclasses.astuple(source), stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def wrong(message: str, fix: str) -> PlanError:
    """The error of one issue with the data."""
    return PlanError([Issue(field="datasets", message=message, fix=fix)])
