"""A zip of images as rows: a folder per label, a `metadata.jsonl`/`metadata.csv` that names each file, or COCO's JSON.

The archive is never unpacked as a whole: each member is checked, its bytes are copied under a number of ours, and its
name is only ever data. The layout is the one of `datasets`' ImageFolder (https://huggingface.co/docs/datasets/image_dataset).
"""

from __future__ import annotations

import csv
import io
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from engine.data import coco, pictures
from engine.data.values import BadRow
from engine.plan import Issue, PlanError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
METADATA = ("metadata.jsonl", "metadata.csv")
# Limits; judgement: an upload is at most 200 MB, and pictures hardly shrink in an archive.
MOST_FILES = 200_000
MOST_BYTES = 4 * 2**30
MOST_BYTES_OF_ONE = 64 * 2**20
COPY_BYTES = 2**20


def unpack(archive: Path, target: Path) -> None:
    """Write the images into the folder `target` without its suffix, and a row for each into `target` (JSONL).

    Raises `PlanError` for an archive that is broken, too large, has links or names that lead out of it, or no images.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            _write(bundle, list(_members(bundle)), target)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # broken, an unknown method, a password
        raise _wrong(f"the zip cannot be read ({str(error)[:80]}).", "Make it again, without a password.") from None


def _members(bundle: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """The files of an archive that is safe to read."""
    members = bundle.infolist()
    if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
        raise _wrong(f"the zip has more than {MOST_FILES:,} files or {MOST_BYTES // 2**30} GB.", "Use fewer or smaller images.")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise _wrong("the zip has a name that leads out of it.", "Zip the folder itself.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _wrong("the zip has a symbolic link in it.", "Zip the images themselves.")
        if member.file_size > MOST_BYTES_OF_ONE:
            raise _wrong(f"the zip has a file of more than {MOST_BYTES_OF_ONE // 2**20} MB.", "Use smaller images.")
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if not member.is_dir() and not hidden:
            yield member


def _write(bundle: zipfile.ZipFile, members: list[zipfile.ZipInfo], target: Path) -> None:
    pictures = [member for member in members if Path(member.filename).suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        raise _wrong("the zip has no images.", f"Zip a folder with {', '.join(IMAGE_SUFFIXES[:4])} files.")
    described = _metadata(bundle, members)
    folder = target.with_suffix("")
    folder.mkdir()
    budget = MOST_BYTES  # an archive may lie about its sizes
    with open(target, "wb") as rows:
        for number, member in enumerate(pictures):
            file = folder / f"{number:06d}{Path(member.filename).suffix.lower()}"
            budget -= _copy(bundle, member, file, min(budget, MOST_BYTES_OF_ONE))
            row = {"image": f"{folder.name}/{file.name}", **_said_of(member, described)}
            rows.write(orjson.dumps(row) + b"\n")


def _copy(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path, most: int) -> int:
    written = 0
    with bundle.open(member) as packed, open(file, "xb") as copy:
        while chunk := packed.read(COPY_BYTES):
            written += len(chunk)
            if written > most:
                raise _wrong("the zip unpacks to more than it says.", "Make it again.")
            copy.write(chunk)
    return written


def _metadata(bundle: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, dict[str, Any]] | None:
    """What the archive's metadata says of each file, by its path; None without metadata."""
    found = next((member for member in members if PurePosixPath(member.filename).name in METADATA), None)
    if found is None:
        return _boxes(bundle, members) or None
    try:
        text = bundle.read(found).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text))) if found.filename.endswith(".csv") else _json_rows(text)
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise _wrong(f"{PurePosixPath(found.filename).name} cannot be read ({str(error)[:80]}).", "Mend it.") from None
    if not all(isinstance(row, dict) and isinstance(row.get("file_name"), str) for row in rows):
        raise _wrong("the metadata has a row without file_name.", 'Write {"file_name": "a.png", "text": "..."}.')
    home = PurePosixPath(found.filename).parent
    return {
        str(home / row["file_name"]): {key: value for key, value in row.items() if key not in ("file_name", None)}
        for row in rows
    }


def _boxes(bundle: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, dict[str, Any]]:
    """What the archive's COCO files say of each image, by its path; empty without one.

    A file is named from the folder of its JSON, or from a folder of images anywhere: then its name alone says which it is.
    """
    paths = {PurePosixPath(member.filename) for member in members}
    by_name: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        by_name.setdefault(path.name, []).append(path)
    said: dict[str, dict[str, Any]] = {}
    for member in members:
        if not member.filename.lower().endswith(".json"):
            continue
        for row in _coco_rows(bundle, member):
            path = PurePosixPath(member.filename).parent / row.pop("file_name")
            same = by_name.get(path.name, [])
            said[str(path if path in paths or len(same) != 1 else same[0])] = row
    return said


def _coco_rows(bundle: zipfile.ZipFile, member: zipfile.ZipInfo) -> list[dict[str, Any]]:
    """The rows of a JSON file, if it is one of COCO's; else none."""
    name = PurePosixPath(member.filename).name
    try:
        values = orjson.loads(bundle.read(member))
        return list(coco.rows(values)) if coco.is_coco(values) else []
    except orjson.JSONDecodeError as error:
        raise _wrong(f"{name} cannot be read ({str(error)[:80]}).", "Mend it.") from None
    except BadRow as error:
        raise _wrong(f"{name} {error}.", "Mend it.") from None


def _json_rows(text: str) -> list[Any]:
    return [orjson.loads(line) for line in text.splitlines() if line.strip()]


def _said_of(member: zipfile.ZipInfo, described: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    """The columns beside the image: the metadata's, else the name of its folder as a label."""
    path = PurePosixPath(member.filename)
    return {"label": path.parent.name or "images"} if described is None else described.get(str(path), {})


def resolve(image: Any, folder: Path) -> Any | None:
    """An image of a row as a path that is there, inside of the data file's folder, and no link; None if it is not."""
    if not isinstance(image, str):
        return image
    file = folder / image
    inside = file.resolve().is_relative_to(folder.resolve())
    return str(file) if inside and file.is_file() and not file.is_symlink() else None


def as_thumbnails(row: Any, folder: Path) -> Any:
    """The row with small pictures in the place of its images, for a table; an image that cannot be read stays as it is."""
    if not isinstance(row, dict):
        return row
    several = row.get("images") if isinstance(row.get("images"), list) else ()
    changed = {"image": _thumbnail(row["image"], folder)} if "image" in row else {}
    return {**row, **changed, **({"images": [_thumbnail(image, folder) for image in several]} if several else {})}


def _thumbnail(image: Any, folder: Path) -> Any:
    try:
        found = resolve(image, folder)
        return image if found is None else pictures.picture(found, most=pictures.CELL_PIXELS)
    except BadRow:
        return image


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="datasets", message=message, fix=fix)])
