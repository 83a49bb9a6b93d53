"""`scan`: read a whole source once, one row at a time, and say what it holds and which lines cannot be used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.data import images, limits, pictures, previews, sandbox, sources
from engine.data.formats import Format, Recognition, texts
from engine.data.previews import Preview
from engine.data.reading import UnreadableFile, rows_of, unit
from engine.data.values import BadRow, EmptyRow, Row, UnknownColumns, check_number, classes_in, printable
from engine.issues import Issue, PlanError
from engine.plan import DataSource
from engine.system.home import home, write_atomically

SHOWN_ISSUES = 5  # the first few bad lines are told one by one, the rest are counted
SHOWN_LABELS = 50
LEAVE_OUT = "Mend that line, or leave it out (Data tab)."
MOST_LABELS = 10_000  # distinct ones that are counted
KEPT_ON_DISK = 8 * 2**20  # bytes; what is known of a larger file is kept for other processes
REMEMBERED = 256  # scans of this process
MOST_SAID = 400  # characters of a sentence about a row: names and values in it are a stranger's


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
    unmapped: bool = False  # there are rows whose columns are not known: they can be mapped by hand

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scan:
        """The scan from its JSON form."""
        issues = tuple(Issue(**issue) for issue in values["issues"])
        labels = tuple((label, count) for label, count in values["labels"])
        return cls(**{**values, "issues": issues, "columns": tuple(values["columns"]), "labels": labels})

    @property
    def errors(self) -> tuple[Issue, ...]:
        """What stops a start."""
        return tuple(issue for issue in self.issues if issue.severity == "error")


def scan(source: DataSource, accepts: tuple[str, ...] = ()) -> Scan:
    """Read the whole source once, in a process with limits; every row that cannot be used is an issue with its line.

    `accepts` are the shapes that the objective takes, for files whose rows could be read as several.
    """
    try:
        file = sources.locate(source)
    except PlanError as error:
        return Scan(rows=0, characters=0, longest=0, format="", issues=error.issues)
    stat = file.stat()
    mapping = tuple(sorted(source.columns.items()))
    key = (file, stat.st_mtime_ns, stat.st_size, mapping, tuple(accepts))
    with _being_read[hash(key) % len(_being_read)]:  # the page asks about one file from several places: it is read once
        if key not in _scans:
            try:
                found = _kept(key, stat.st_size) or _read(file, source, accepts, stat.st_size)
            except sandbox.Busy as error:
                return Scan(rows=0, characters=0, longest=0, format="", issues=error.issues)
            _keep(key, stat.st_size, found)
            _remember(key, found)
            return found
        return _scans[key]


_scans: dict[tuple, Scan] = {}
_being_read = [threading.Lock() for _ in range(64)]  # a file has one of them


def _remember(key: tuple, found: Scan) -> None:
    _scans[key] = found
    for oldest in list(_scans)[:-REMEMBERED]:
        _scans.pop(oldest, None)


def _read(file: Path, source: DataSource, accepts: tuple[str, ...], size: int) -> Scan:
    name = sources.file_name(file)
    if sandbox.is_ours(file):
        return read_through(file, name, Recognition(mapping=source.columns, accepts=accepts))
    request = {"file": str(file), "name": name, "mapping": dict(source.columns), "accepts": accepts}
    try:
        return Scan.from_dict(sandbox.run("scan", request, name=name, size=size))
    except sandbox.Busy:
        raise
    except PlanError as error:
        return Scan(rows=0, characters=0, longest=0, format="", issues=error.issues)


def _cache_file(key: tuple) -> Path:
    folder = home() / "cache" / "scans"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"


def _kept(key: tuple, size: int) -> Scan | None:
    """What another process has found out about a large file."""
    if size < KEPT_ON_DISK or not (file := _cache_file(key)).is_file():
        return None
    return Scan.from_dict(json.loads(file.read_text(encoding="utf-8")))


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
    for number, result in _results(file, recognition):
        if not isinstance(result, BadRow):
            yield number, *result


def _results(
    file: Path, recognition: Recognition, tally: _Tally | None = None
) -> Iterator[tuple[int, tuple[Format, Row] | BadRow]]:
    """The number and the row of each, or what is wrong with it. The columns of the first one go into the tally."""
    types: dict[str, type] = {}
    first = tally is not None
    for number, raw, problem in rows_of(file):
        if problem is not None:
            yield number, BadRow(problem)
            continue
        if first and tally is not None:
            tally.columns, first = _columns(raw), False
        try:
            if isinstance(raw, dict) and len(raw) > limits.MOST_COLUMNS:
                raise BadRow(f"has more than {limits.MOST_COLUMNS:,} columns")
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


def read_through(file: Path, name: str, recognition: Recognition) -> Scan:
    """Read a file from its beginning to its end, in this process. `name` is what a person calls it."""
    tally = _Tally()
    try:
        for number, result in _results(file, recognition, tally):
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
        unmapped=bool(tally.unknown),
    )


_units: dict[Path, str] = {}


def unit_of(file: Path) -> str:
    """`reading.unit`, remembered: it opens the file."""
    if file not in _units:
        _units[file] = unit(file)
    return _units[file]


def _columns(row: Any) -> tuple[str, ...]:
    names = [str(name) for name in row][: limits.MOST_COLUMNS] if isinstance(row, dict) else []
    return tuple(name for name in names if len(name) <= limits.MOST_NAME)


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
    if len(tally.shown) < SHOWN_ISSUES:
        sentence = printable(sentence if len(sentence) <= MOST_SAID else f"{sentence[:MOST_SAID]}…")
        tally.shown.append(sentence)
    if isinstance(problem, UnknownColumns):
        tally.unknown = sentence


# Columns whose values are kept as they are: one type from the first row to the last.
_FIXED = frozenset({"messages", "prompt", "completion", "chosen", "rejected", "text", "tools"})


def _refuse_drift(types: dict[str, type], row: Row) -> None:
    """Refuse a row in which a column's type changes, or a number does not fit: tables would change the value silently."""
    for column, value in row.items():
        if value is None or column in _FIXED:
            continue
        if type(value) is int or type(value) is float:
            check_number(value)
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


def preview(source: DataSource, accepts: tuple[str, ...], most: int) -> Preview:
    """The first rows of a source, for showing. Raises `PlanError`."""
    file = sources.locate(source)
    if sandbox.is_ours(file):
        return previews.preview(file, Recognition(mapping=source.columns, accepts=accepts), most)
    request = {"file": str(file), "mapping": dict(source.columns), "accepts": accepts, "most": most}
    return Preview.from_dict(sandbox.run("preview", request, name=sources.file_name(file)))
