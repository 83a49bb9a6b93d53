"""Training data: where it is, whether every row can be read, and the rows as TRL takes them.

A source is a demo set (`demo/pirate`), an upload (`upload/<id>`), or - while the app serves nobody but its owner - a
local file. Files are JSONL or a JSON array. Rows may be chat `messages`, ShareGPT `conversations`, `prompt` and
`completion`, Alpaca's `instruction`/`input`/`output`, or plain `text`; all become one of TRL's own formats.
`scan` reads a file line by line with exact line numbers (the libraries' own are wrong) and holds one row at a time.
No torch in here; the web process uses it too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from engine.demos import DEMOS
from engine.home import uploads_folder, write_atomically
from engine.models import local_paths_allowed
from engine.plan import DataSource, Issue, PlanError, nearest

UPLOAD_ID = re.compile(r"^upload/[0-9a-f]{16}$")
SHOWN_ISSUES = 5  # the first few bad lines are told one by one, the rest are counted
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What reading a whole file once has shown."""

    rows: int
    characters: int  # of all rows, as rendered text
    longest: int  # characters of the longest row
    format: str  # "messages", "prompt-completion" or "text"
    issues: tuple[Issue, ...] = ()


# --- where the rows are ---------------------------------------------------------------------------------------------


def locate(source: DataSource) -> Path:
    """The file of a data source. Raises `PlanError` on `datasets` if the words name none, or none that may be read."""
    path = source.path.strip()
    if path.startswith("demo/"):
        demos = {demo.path: demo.train_file for demo in DEMOS.values()}
        if path not in demos:
            raise _wrong(f"{path!r} is not a demo set.", nearest(path, demos))
        return demos[path]
    if UPLOAD_ID.match(path):
        return _existing(uploads_folder() / f"{path.removeprefix('upload/')}.jsonl", "The upload is gone: upload it again.")
    if not local_paths_allowed():
        raise _wrong(f"{path[:80]!r} is not a data set of this server.", "Upload the file, or choose a demo set.")
    if "://" in path or any(sign in path for sign in "*?[]"):
        raise _wrong(f"{path[:80]!r} is a URL or a pattern.", "Name one .jsonl or .json file.")
    file = Path(path).expanduser()
    if file.suffix not in (".jsonl", ".json"):
        raise _wrong(f"{path[:80]!r} is not a .jsonl or .json file.", "Upload the file, or choose a demo set.")
    return _existing(file, "Check the path.")


def title(source: DataSource) -> str:
    """What a person calls the data: a demo's title, the name of the file that was uploaded, else the file's name."""
    titles = {demo.path: demo.title for demo in DEMOS.values()}
    try:
        return titles.get(source.path) or _name(locate(source))
    except PlanError:
        return Path(source.path).name


def _existing(file: Path, fix: str) -> Path:
    if not file.is_file():
        raise _wrong(f"there is no file {file.name}.", fix)
    return file


def store_upload(file: Path) -> DataSource:
    """Copy an uploaded file's bytes under a name of our own and return it as a source. Symbolic links are refused."""
    if file.is_symlink() or not file.is_file():
        raise _wrong("the upload is not a regular file.", "Upload a .jsonl or .json file.")
    upload_id = secrets.token_hex(8)
    target = uploads_folder() / f"{upload_id}.jsonl"
    target.write_bytes(file.read_bytes())
    source = DataSource(path=f"upload/{upload_id}")
    write_atomically(target.with_suffix(".name"), file.name[:200])
    found = scan(source)
    if found.issues:
        target.unlink()
        target.with_suffix(".name").unlink()
        raise PlanError(found.issues)
    return source


# --- reading, line by line ------------------------------------------------------------------------------------------


def scan(source: DataSource) -> Scan:
    """Read the whole source once; every row that cannot be used is an issue with its line."""
    try:
        file = locate(source)
    except PlanError as error:
        return Scan(rows=0, characters=0, longest=0, format="", issues=error.issues)
    stat = file.stat()
    return _scan_file(file, stat.st_mtime_ns, stat.st_size, tuple(sorted(source.columns.items())))


_scans: dict[tuple, Scan] = {}


def _scan_file(file: Path, *version: Any) -> Scan:
    """`scan` of a file, remembered for as long as the file stays the same."""
    key = (file, *version)
    if key not in _scans:
        _scans[key] = _read_through(file)
    return _scans[key]


def _read_through(file: Path) -> Scan:
    rows = characters = longest = bad = 0
    formats: set[str] = set()
    issues: list[Issue] = []
    for line, row, problem in _lines(file):
        if problem is None:
            row, problem = _normal(row)
        if problem is not None:
            bad += 1
            if bad <= SHOWN_ISSUES:
                issues.append(_bad_line(file, line, problem))
            continue
        rows += 1
        formats.add(_format(row))
        size = sum(len(text) for text in texts(row))
        characters, longest = characters + size, max(longest, size)
    if bad > SHOWN_ISSUES:
        issues.append(Issue(field="datasets", message=f"{bad - SHOWN_ISSUES} more rows cannot be used.", fix="Mend the file."))
    if not rows and not bad:
        issues.append(
            Issue(field="datasets", message=f"{_name(file)} has no rows.", fix="Choose a file with one JSON object per line.")
        )
    if len(formats) > 1:
        issues.append(
            Issue(
                field="datasets",
                message=f"{_name(file)} mixes {' and '.join(sorted(formats))} rows.",
                fix="Use one format per file.",
            )
        )
    return Scan(rows=rows, characters=characters, longest=longest, format=min(formats, default=""), issues=tuple(issues))


def _lines(file: Path) -> Iterator[tuple[int, Any, str | None]]:
    """Each row with its line number (of a JSON array: its place), or what is wrong with that line."""
    with open(file, "rb") as stream:
        first = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        stream.seek(0)
        if first.startswith(b"["):
            yield from _array(stream.read())
            return
        for number, line in enumerate(stream, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield (number, *_parse(line))


def _array(text: bytes) -> Iterator[tuple[int, Any, str | None]]:
    rows, problem = _parse(text.removeprefix(b"\xef\xbb\xbf"))
    if problem is not None:
        yield 1, None, problem
        return
    yield from ((number, row, None) for number, row in enumerate(rows, start=1))


def _parse(line: bytes) -> tuple[Any, str | None]:
    try:
        return orjson.loads(line), None
    except orjson.JSONDecodeError as error:
        if "UTF-8" in str(error) or b"\x00" in line:
            return None, "is not UTF-8 text"
        return None, f"is not valid JSON at column {error.colno}"


def _bad_line(file: Path, line: int, problem: str) -> Issue:
    return Issue(field="datasets", message=f"line {line} of {_name(file)} {problem}.", fix="Mend that line, or remove it.")


def _name(file: Path) -> str:
    """The file's name as its owner knows it."""
    given = file.with_suffix(".name")
    return given.read_text(encoding="utf-8") if given.is_file() else file.name


# --- one row, in any of the formats that people have ----------------------------------------------------------------

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _normal(row: Any) -> tuple[Row, str | None]:
    """A row as {"messages"}, {"prompt", "completion"} or {"text"}, or what is wrong with it."""
    if not isinstance(row, dict):
        return {}, "is not a JSON object"
    if "messages" in row:
        return _messages(row["messages"], role="role", content="content")
    if "conversations" in row:
        return _messages(row["conversations"], role="from", content="value")
    if "prompt" in row and "completion" in row:
        return _texts_row(row, "prompt", "completion")
    if "instruction" in row and "output" in row:
        question = "\n\n".join(part for part in (row["instruction"], row.get("input")) if isinstance(part, str) and part)
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
        return _messages(turns, role="role", content="content")
    if "text" in row:
        return _texts_row(row, "text")
    return {}, f"has none of the known columns (it has {', '.join(map(str, list(row)[:6])) or 'none'})"


def _messages(turns: Any, *, role: str, content: str) -> tuple[Row, str | None]:
    if not isinstance(turns, list) or not turns:
        return {}, "has no messages"
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get(content), str):
            return {}, "has a message without text"
        who = SHAREGPT_ROLES.get(str(turn.get(role)))
        if who is None:
            return {}, f"has a message of the unknown role {turn.get(role)!r}"
        messages.append({"role": who, "content": turn[content]})
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        return {}, "does not end with an answer of the assistant"
    return {"messages": messages}, None


def _texts_row(row: Mapping[str, Any], *columns: str) -> tuple[Row, str | None]:
    for column in columns:
        if not isinstance(row[column], str) or not row[column].strip():
            return {}, f"has no text in {column!r}"
    return {column: row[column] for column in columns}, None


def _format(row: Row) -> str:
    return "messages" if "messages" in row else "text" if "text" in row else "prompt-completion"


def texts(row: Row) -> Iterator[str]:
    """The texts of a normalised row, in order."""
    if "messages" in row:
        yield from (message["content"] for message in row["messages"])
    else:
        yield from row.values()


# --- the rows of a plan ---------------------------------------------------------------------------------------------


def load(sources: tuple[DataSource, ...]) -> list[Row]:
    """All rows of the plan's sources, in the order of the sources. Raises `PlanError` with the lines of bad rows."""
    rows: list[Row] = []
    for source in sources:
        issues = scan(source).issues
        if issues:
            raise PlanError(issues)
        rows += [_normal(row)[0] for _, row, _ in _lines(locate(source))]
    if len({_format(row) for row in rows}) > 1:
        raise _wrong("the chosen sets have different formats.", "Choose sets of one format.")
    return rows


def split(rows: list[Row], *, eval_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows). The same rows, share and seed give the same split; at least one row trains."""
    held_out = min(round(len(rows) * eval_fraction), len(rows) - 1)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    kept_aside = set(order[:held_out])
    return (
        [row for place, row in enumerate(rows) if place not in kept_aside],
        [row for place, row in enumerate(rows) if place in kept_aside],
    )


def as_trl(row: Row, *, assistant_mask: bool) -> Row:
    """The row as TRL trains on answers alone.

    Where the chat template marks the assistant's words (`{% generation %}`), chats stay whole and every answer counts;
    else a chat becomes prompt and completion, and its last answer counts.
    """
    if "messages" in row and not assistant_mask:
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    return row


def fingerprint(sources: tuple[DataSource, ...]) -> str:
    """A short hash of what the sources hold now, for caches and for telling two runs apart."""
    digest = hashlib.sha256()
    for source in sources:
        stat = locate(source).stat()
        digest.update(repr((dataclasses.astuple(source), stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="datasets", message=message, fix=fix)])
