"""A zip of images as rows: a folder per label, a `metadata.jsonl`/`metadata.csv` that names each file, or COCO's JSON.

The archive is never unpacked as a whole: each member is checked, its bytes are copied under a number of ours, and its
name is only ever data. The layout is the one of `datasets`' ImageFolder (https://huggingface.co/docs/datasets/image_dataset).
"""

from __future__ import annotations

import csv
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from engine.data import coco, limits, pictures
from engine.data.values import BadRow, keys_in
from engine.issues import Issue, PlanError
from engine.system.errors import disk_is_full

METADATA = ("metadata.jsonl", "metadata.csv")
COPY_BYTES = 2**20
LINES_OF_ROW = 10  # of metadata in CSV: a caption in quotes may have several
THUMBNAILS = 4  # of the images of one row
# How Python packs and what Windows, macOS and Linux make by default; other methods are parsers that nobody needs here.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError, struct.error, zlib.error)


def unpack(archive: Path, target: Path) -> None:
    """Write the images into the folder `target` without its suffix, and a row for each into `target` (JSONL).

    Raises `PlanError` for an archive that is broken or too large, has links or names that lead out of it, or no image
    that can be read. What was written until then is the caller's to remove.
    """
    try:
        _refuse_long_directory(archive)
        with zipfile.ZipFile(archive) as bundle:
            _write(bundle, list(_members(bundle, archive.stat().st_size)), target)
    except PlanError:
        raise
    except BROKEN as error:
        raise _wrong(f"the zip cannot be read ({str(error)[:80]}).", "Make it again, without a password.") from None
    except OSError as error:
        if disk_is_full(error):
            raise
        message = "the zip cannot be read (its list names places that are not in it)."
        raise _wrong(message, "Make it again.") from None


def _refuse_long_directory(archive: Path) -> None:
    """Raise `PlanError` if the list of files is too long, before an object is made of each of them.

    The list's size stands at the end of the archive (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.16
    and 4.3.14), and zipfile reads so many bytes.
    """
    with open(archive, "rb") as file:
        length = file.seek(0, io.SEEK_END)
        file.seek(max(0, length - END_BYTES))
        end = file.read()
    place = end.rfind(b"PK\x05\x06")
    if place < 0 or len(end) - place < 22:
        return  # no zip: zipfile says so
    (size,) = struct.unpack_from("<L", end, place + 12)
    large = end.rfind(b"PK\x06\x06", 0, place)
    if size == 0xFFFFFFFF and large >= 0 and place - large >= 56:
        (size,) = struct.unpack_from("<Q", end, large + 40)
    if size > limits.MOST_DIRECTORY_BYTES:
        raise _too_many()


END_BYTES = 2**16 + 22 + 20 + 56  # a comment, the end record, and the two of large archives


def _too_many_rows() -> PlanError:
    return _wrong(f"the metadata has more than {limits.MOST_FILES:,} rows.", "Write a row for each image.")


def _too_many() -> PlanError:
    return _wrong(f"the zip has more than {limits.MOST_FILES:,} files.", "Use fewer images.")


def _members(bundle: zipfile.ZipFile, size: int) -> Iterator[zipfile.ZipInfo]:
    """The files of an archive that is safe to read, `size` bytes on the disk."""
    members = bundle.infolist()
    if len(members) > limits.MOST_FILES:
        raise _too_many()
    if sum(member.file_size for member in members) > limits.may_unpack(size):
        message = f"the zip unpacks to more than {limits.may_unpack(size) // limits.MB:,} MB, far more than its size."
        raise _wrong(message, "Zip images that are compressed themselves (PNG, JPEG).")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
            raise _wrong("the zip has a name that leads out of it.", "Zip the folder itself.")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _wrong("the zip has a link or a device in it.", "Zip the images themselves.")
        if member.flag_bits & 1:
            raise _wrong("the zip has a password.", "Make it again, without a password.")
        if member.compress_type not in METHODS:
            raise _wrong("the zip is packed with a method that is not read here.", "Make it again, with deflate.")
        if member.file_size > limits.MOST_FILE_BYTES:
            most = limits.MOST_FILE_BYTES // limits.MB
            raise _wrong(f"the zip has a file of more than {most} MB.", "Use smaller images.")
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if path.parts and not member.is_dir() and not hidden:
            yield member


def _write(bundle: zipfile.ZipFile, members: list[zipfile.ZipInfo], target: Path) -> None:
    found = [member for member in members if Path(member.filename).suffix.lower() in limits.IMAGE_SUFFIXES]
    if not found:
        raise _wrong("the zip has no images.", f"Zip a folder with {', '.join(limits.IMAGE_SUFFIXES)} files.")
    described = _metadata(bundle, members)
    folder = target.with_suffix("")
    folder.mkdir()
    budget = limits.may_unpack(Path(str(bundle.filename)).stat().st_size)  # an archive may lie about its sizes
    problem, readable = "", 0
    with open(target, "xb") as rows:
        for number, member in enumerate(found):
            file = folder / f"{number:06d}{Path(member.filename).suffix.lower()}"
            budget -= _copy(bundle, member, file, min(budget, limits.MOST_FILE_BYTES))
            try:
                pictures.size_of(file)
                readable += 1
            except BadRow as error:
                problem = problem or f"{PurePosixPath(member.filename).name[:80]!r} {error}"
            row = {"image": f"{folder.name}/{file.name}", **_said_of(member, described)}
            rows.write(orjson.dumps(row) + b"\n")
    if not readable:
        raise _wrong(f"the zip has no image that can be read: {problem}.", "Zip images that open on your computer.")


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
        if text.count("\n") > LINES_OF_ROW * limits.MOST_FILES:  # before an object is made of each
            raise _too_many_rows()
        rows = list(csv.DictReader(io.StringIO(text))) if found.filename.endswith(".csv") else _json_rows(text)
    except (UnicodeDecodeError, orjson.JSONDecodeError, csv.Error, BadRow) as error:
        raise _wrong(f"{PurePosixPath(found.filename).name} cannot be read ({str(error)[:80]}).", "Mend it.") from None
    if len(rows) > limits.MOST_FILES:
        raise _too_many_rows()
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
    rows = [orjson.loads(line) for line in text.split("\n") if line.strip()]
    keys_in(rows)
    return rows


def _said_of(member: zipfile.ZipInfo, described: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    """The columns beside the image: the metadata's, else the name of its folder as a label."""
    path = PurePosixPath(member.filename)
    return {"label": path.parent.name[: limits.MOST_NAME] or "images"} if described is None else described.get(str(path), {})


def resolve(image: Any, folder: Path) -> Any | None:
    """An image of a row as a path that is there, inside of the data file's folder, and no link; None if it is not."""
    if not isinstance(image, str):
        return image
    file = folder / image
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        return str(file) if inside and file.is_file() and not file.is_symlink() else None
    except (OSError, ValueError, RuntimeError):  # a name that no file can have: too long, with a NUL, a loop of links
        return None


def as_thumbnails(row: Any, folder: Path) -> Any:
    """The row with small pictures in the place of its images, for a table; an image that cannot be read stays as it is."""
    if not isinstance(row, dict):
        return row
    several = row["images"][:THUMBNAILS] if isinstance(row.get("images"), list) else ()
    changed = {"image": _thumbnail(row["image"], folder)} if "image" in row else {}
    return {**row, **changed, **({"images": [_thumbnail(image, folder) for image in several]} if several else {})}


def _thumbnail(image: Any, folder: Path) -> Any:
    try:
        found = None if image is None else resolve(image, folder)
        return image if found is None else pictures.picture(found, most=pictures.CELL_PIXELS)
    except BadRow:
        return image


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="datasets", message=message, fix=fix)])
