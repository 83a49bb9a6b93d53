"""`scan`: read a whole source once, one row at a time, and say what it holds and which lines cannot be used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from engine.data import images, pictures, sources
from engine.data.formats import Format, Recognition, texts
from engine.data.reading import UnreadableFile, rows_of, unit
from engine.data.values import BadRow, EmptyRow, Row, UnknownColumns, classes_in
from engine.home import home, write_atomically
from engine.plan import DataSource, Issue, PlanError

SHOWN_ISSUES = 5  # the first few bad lines are told one by one, the rest are counted
SHOWN_LABELS = 50
LEAVE_OUT = "Mend that line, or leave it out (Data tab)."
MOST_LABELS = 10_000  # distinct ones that are counted
KEPT_ON_DISK = 8 * 2**20  # bytes; what is known of a larger file is kept for other processes


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What reading a whole file once has shown."""

    rows: int  # that can be used
    characters: int  # of all rows, as rendered text
    longest: int  # characters of the longest row
    format: str  # a key of SHAPES, "" if there are no rows
    issues: tuple[Issue, ...] = ()
    recognised: str = ""  # a key of FORMATS
    columns: tuple[str, ...] = ()  # of the file's first row
    bad: int = 0  # rows that cannot be used
    empty: int = 0  # rows that are left out, as there is nothing in them
    labels: tuple[tuple[str, int], ...] = ()  # (label, rows), the most frequent first

    @property
    def errors(self) -> tuple[Issue, ...]:
        """What stops a start."""
        return tuple(issue for issue in self.issues if issue.severity == "error")


def scan(source: DataSource, accepts: tuple[str, ...] = ()) -> Scan:
    """Read the whole source once; every row that cannot be used is an issue with its line.

    `accepts` are the shapes that the objective takes, for files whose rows could be read as several.
    """
    try:
        file = sources.locate(source)
    except PlanError as error:
        return Scan(rows=0, characters=0, longest=0, format="", issues=error.issues)
    stat = file.stat()
    mapping = tuple(sorted(source.columns.items()))
    key = (file, stat.st_mtime_ns, stat.st_size, mapping, tuple(accepts))
    if key not in _scans:
        _scans[key] = _kept(key, stat.st_size) or _read_through(file, Recognition(mapping=dict(mapping), accepts=key[4]))
        _keep(key, stat.st_size, _scans[key])
    return _scans[key]


_scans: dict[tuple, Scan] = {}


def _cache_file(key: tuple) -> Path:
    folder = home() / "cache" / "scans"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"


def _kept(key: tuple, size: int) -> Scan | None:
    """What another process has found out about a large file."""
    if size < KEPT_ON_DISK or not (file := _cache_file(key)).is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {"issues": tuple(Issue(**issue) for issue in values["issues"]), "columns": tuple(values["columns"])}
    return Scan(**values | {"labels": tuple((label, count) for label, count in values["labels"])})


def _keep(key: tuple, size: int, found: Scan) -> None:
    if size >= KEPT_ON_DISK and not (file := _cache_file(key)).is_file():
        write_atomically(file, json.dumps(dataclasses.asdict(found)))


# --- one pass -------------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What is counted while the rows go by."""

    rows: int = 0
    characters: int = 0
    longest: int = 0
    bad: int = 0
    empty: int = 0
    shown: list[str] = field(default_factory=list)
    first_empty: str = ""
    unknown: str = ""  # the first row whose columns are not known
    formats: dict[str, Format] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    labels: Counter[str] = field(default_factory=Counter)


def usable_rows(file: Path, recognition: Recognition) -> Iterator[tuple[int, Format, Row]]:
    """(number, format, row in its shape) of each row that can be used. Bad rows and empty ones are passed over."""
    for number, result in _read(file, recognition):
        if not isinstance(result, BadRow):
            yield number, *result


def _read(file: Path, recognition: Recognition) -> Iterator[tuple[int, tuple[Format, Row] | BadRow]]:
    types: dict[str, type] = {}
    for number, raw, problem in rows_of(file):
        if problem is not None:
            yield number, BadRow(problem)
            continue
        try:
            found, row = recognition.read(raw)
            if "image" in row or "images" in row:
                row = _with_images(row, file.parent)
            _refuse_drift(types, row)
            yield number, (found, row)
        except BadRow as error:
            yield number, error


def _with_images(row: Row, folder: Path) -> Row:
    found = [_beside(image, folder) for image in (row["images"] if "images" in row else [row["image"]])]
    row = {**row, "images": found} if "images" in row else {**row, "image": found[0]}
    pictures.check(row)
    return row


def _beside(image: Any, folder: Path) -> Any:
    found = images.resolve(image, folder)
    if found is None:
        raise BadRow(f"names an image that is not beside the file: {str(image)[:80]}")
    return found


def _read_through(file: Path, recognition: Recognition) -> Scan:
    tally, name = _Tally(), sources.file_name(file)
    try:
        tally.columns = _first_columns(file)
        for number, result in _read(file, recognition):
            if isinstance(result, BadRow):
                _count_problem(tally, f"{unit_of(file)} {number} of {name} {result}", result)
            else:
                _count(tally, *result)
    except UnreadableFile as error:
        issue = Issue(field="datasets", message=f"{name} {error}", fix=error.fix)
        return Scan(rows=0, characters=0, longest=0, format="", issues=(issue,))
    formats = {row.becomes for row in tally.formats.values()}
    return Scan(
        rows=tally.rows,
        characters=tally.characters,
        longest=tally.longest,
        format=min(formats, default=""),
        recognised=min(tally.formats, default=""),
        issues=tuple(_issues(tally, name)),
        columns=tally.columns,
        bad=tally.bad,
        empty=tally.empty,
        labels=tuple(tally.labels.most_common(SHOWN_LABELS)),
    )


_units: dict[Path, str] = {}


def unit_of(file: Path) -> str:
    """`reading.unit`, remembered: it opens the file."""
    if file not in _units:
        _units[file] = unit(file)
    return _units[file]


def _first_columns(file: Path) -> tuple[str, ...]:
    first = next((row for _, row, problem in rows_of(file) if problem is None), None)
    return tuple(map(str, first)) if isinstance(first, dict) else ()


def _count(tally: _Tally, found: Format, row: Row) -> None:
    size = sum(map(len, texts(row)))
    tally.rows += 1
    tally.formats.setdefault(found.key, found)
    tally.characters += size
    if size > tally.longest:
        tally.longest = size
    for name in [str(row["label"])] if "label" in row else classes_in(row):
        if len(tally.labels) < MOST_LABELS or name in tally.labels:
            tally.labels[name] += 1


def _count_problem(tally: _Tally, sentence: str, problem: BadRow) -> None:
    if isinstance(problem, EmptyRow):
        tally.empty += 1
        tally.first_empty = tally.first_empty or sentence
        return
    tally.bad += 1
    if isinstance(problem, UnknownColumns) and tally.unknown:
        return  # told once: the other rows have the same columns
    if isinstance(problem, UnknownColumns):
        tally.unknown = sentence
    if len(tally.shown) < SHOWN_ISSUES:
        tally.shown.append(sentence)


# Columns whose values are kept as they are: one type from the first row to the last.
_FIXED = frozenset({"messages", "prompt", "completion", "chosen", "rejected", "text", "tools"})


def _refuse_drift(types: dict[str, type], row: Row) -> None:
    """Refuse a row in which a column's type changes: tables with one type per column would change the value silently."""
    for column, value in row.items():
        if value is None or column in _FIXED:
            continue
        kind = float if type(value) is int else type(value)
        if types.setdefault(column, kind) is not kind:
            raise BadRow(f"has {_named(kind)} in {column!r}, where the rows before have {_named(types[column])}")


def _named(kind: type) -> str:
    return {float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "an object"}.get(kind, kind.__name__)


def _issues(tally: _Tally, name: str) -> Iterator[Issue]:
    for sentence in tally.shown:
        fix = "Map its columns by hand (Data tab), or rename them." if sentence == tally.unknown else LEAVE_OUT
        yield Issue(field="datasets", message=f"{sentence}.", fix=fix)
    if tally.bad > len(tally.shown):
        message = f"{tally.bad - len(tally.shown):,} more rows of {name} cannot be used."
        yield Issue(field="datasets", message=message, fix="Mend the file, or leave them out (Data tab).")
    if tally.rows:
        yield from _empty_rows(tally, name)
    elif tally.empty:
        yield Issue(field="datasets", message=f"{tally.first_empty}, and no row has anything to learn from.",
                    fix="Choose a file with texts.")  # fmt: skip
    elif not tally.bad:
        yield Issue(field="datasets", message=f"{name} has no rows.", fix="Choose a file with one JSON object per line.")
    shapes = sorted({row.becomes for row in tally.formats.values()})
    if len(shapes) > 1:
        yield Issue(field="datasets", message=f"{name} mixes {' and '.join(shapes)} rows.", fix="Use one format per file.")


def _empty_rows(tally: _Tally, name: str) -> Iterator[Issue]:
    if tally.empty:
        more = f", and so have {tally.empty - 1:,} more" if tally.empty > 1 else ""
        message = f"{tally.first_empty}{more}: left out."
        yield Issue(field="datasets", message=message, fix="", severity="warning")


def first_rows(source: DataSource, most: int) -> list[tuple[int, Any]]:
    """The first rows of a file as they are, with their numbers, for showing. Raises `PlanError`."""
    file = sources.locate(source)
    found: list[tuple[int, Any]] = []
    try:
        for number, row, problem in rows_of(file):
            if problem is None:
                found.append((number, row))
            if len(found) >= most:
                break
    except UnreadableFile as error:
        raise sources.wrong(f"{sources.file_name(file)} {error}", error.fix) from None
    return found


def as_json(row: Any) -> str:
    """A row as one line of JSON; bytes of images are left out."""
    return orjson.dumps(row, default=lambda value: f"<{type(value).__name__}>").decode()
