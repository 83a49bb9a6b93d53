"""Where rows are: demo sets, uploads, hub sets that were fetched, and files of this computer while it serves its owner.

An upload keeps its bytes under a name of ours, `uploads/<id>.<kind>`; its own name stands beside it in `<id>.name`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import shutil
from pathlib import Path

from engine.data import images
from engine.data.reading import SUFFIXES
from engine.demos import DEMOS
from engine.home import home, uploads_folder, write_atomically
from engine.local_paths import LONGEST_PATH, is_file, local_path
from engine.models import local_paths_allowed
from engine.plan import DataSource, Issue, PlanError, nearest

UPLOAD_ID = re.compile(r"^upload/[0-9a-f]{16}$")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")  # huggingface_hub's rule for owner/name
UPLOAD_SUFFIXES = (*SUFFIXES, ".zip")
KINDS = "JSONL, JSON, CSV, TSV, Parquet, plain text, or a zip of images"
LISTED_UPLOADS = 50


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
    if "://" in path or any(sign in path for sign in "*?[]"):
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
        if (file := uploads_folder() / f"{name}{suffix}").is_file():
            return file
    raise wrong(f"there is no upload {name}.", "The upload is gone: upload the file again.")


def _existing(file: Path, fix: str) -> Path:
    if not is_file(file):
        raise wrong(f"there is no file {file.name}.", fix)
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
    """A place for a data file: the source that names it, and the path to write it to (as one step, `keep`)."""
    upload_id = secrets.token_hex(8)
    target = uploads_folder() / f"{upload_id}{suffix}"
    write_atomically(target.with_suffix(".name"), name[:200])
    return DataSource(path=f"upload/{upload_id}"), target


def remove_upload(target: Path) -> None:
    """Remove what `new_upload` made, and what was written there."""
    for file in (target, target.with_suffix(".name")):
        file.unlink(missing_ok=True)
    shutil.rmtree(target.with_suffix(""), ignore_errors=True)


def copy_upload(file: Path) -> tuple[DataSource, Path]:
    """Copy an uploaded file's bytes under a name of ours. Raises `PlanError`: links and other kinds of files are refused."""
    if file.is_symlink() or not file.is_file():
        raise wrong("the upload is not a regular file.", f"Upload {KINDS}.")
    suffix = file.suffix.lower()
    if suffix not in UPLOAD_SUFFIXES:
        raise wrong(f"{file.name[:80]!r} is none of the kinds that are read.", f"Upload {KINDS}.")
    source, target = new_upload(file.name, ".jsonl" if suffix == ".zip" else suffix)
    if suffix == ".zip":
        try:
            images.unpack(file, target)
        except PlanError:
            remove_upload(target)
            raise
    else:
        shutil.copyfile(file, target)
    return source, target


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
