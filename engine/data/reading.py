"""Files as rows, one at a time, each with its exact line: JSONL, a JSON list, CSV, TSV, Parquet, plain text, COCO's JSON.

`rows_of(file)` yields (number, row, problem). The libraries' own readers count rows within a block, so their numbers
are wrong (`datasets` reported line 500,001 as row 33,250); these are counted from the start of the file. Nothing
holds more than one row, or one block of a few MB, in memory.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from engine.data import coco
from engine.data.values import BadRow

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
MAX_LINE_BYTES = 64 * 2**20  # of one row; judgement: the longest book is 20 MB
BLOCK = 4 * 2**20  # characters of a JSON list that are looked at together
PARQUET_BLOCK = 1024  # rows
SAMPLE = 64 * 2**10  # bytes, to tell how a file is written
EXCERPT = 80  # characters of a bad line that are shown
BOM = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Numbered = tuple[int, Any, str | None]  # the line (of a list or a table: the row), the row, what is wrong with it


class UnreadableFile(ValueError):
    """The file as a whole cannot be read; `fix` is the remedy. The text goes on from the file's name."""

    def __init__(self, message: str, fix: str):
        self.fix = fix
        super().__init__(message)


def unit(file: Path) -> str:
    """What the numbers of `rows_of` count: "line", or "row" where a file has no lines that a person could go to."""
    without_lines = file.suffix.lower() == ".parquet" or _is_json_list(file) or _coco(file) is not None
    return "row" if without_lines else "line"


def rows_of(file: Path) -> Iterator[Numbered]:
    """Each row with its number, or what is wrong with it. Raises `UnreadableFile` if it is not a file of rows at all."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(file)
        return
    with open(file, "rb") as stream:
        _refuse_other_encodings(stream.read(SAMPLE))
        stream.seek(0)
        if suffix in (".csv", ".tsv"):
            yield from _csv(stream, tabs=suffix == ".tsv")
        elif suffix in (".txt", ".md"):
            yield from _plain(stream)
        elif _is_json_list(file):
            yield from _list(stream)
        elif (described := _coco(file)) is not None:
            yield from _images(described)
        else:
            yield from _lines(stream, several_lines=suffix == ".json")


def _is_json_list(file: Path) -> bool:
    if file.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        return False
    with open(file, "rb") as stream:
        start = stream.read(SAMPLE).removeprefix(BOM).lstrip()
    if not start.startswith(b"["):
        return False
    first_line = start.split(b"\n", 1)[0]
    return not _is_whole(first_line) or b"{" in first_line or first_line.strip() == b"[]"


def _coco(file: Path) -> Any | None:
    """The whole of a COCO file, which is one JSON object; None for any other file."""
    if file.suffix.lower() != ".json" or file.stat().st_size > MAX_LINE_BYTES:
        return None
    content = file.read_bytes().removeprefix(BOM)
    if not content.lstrip().startswith(b"{") or b'"annotations"' not in content:
        return None
    try:
        values = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return values if coco.is_coco(values) else None


def _images(described: dict[str, Any]) -> Iterator[Numbered]:
    """A row for each image of a COCO file."""
    number = 0
    try:
        for row in coco.rows(described):
            number += 1
            yield number, {"image": row["file_name"], "objects": row["objects"]}, None
    except BadRow as error:
        raise UnreadableFile(f"{error}.", "Write it in COCO's layout.") from None


def _is_whole(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _refuse_other_encodings(sample: bytes) -> None:
    evenly = sample[: len(sample) // 2 * 2]
    zeros = (evenly[0::2].count(0), evenly[1::2].count(0))
    if sample.startswith(UTF16_MARKS) or max(zeros) > len(evenly) / 8:  # ASCII in UTF-16: every other byte is zero
        raise UnreadableFile("is in UTF-16, and rows are read as UTF-8.", "Save it again as UTF-8.")


# --- JSON -----------------------------------------------------------------------------------------------------------


def _lines(stream: IO[bytes], *, several_lines: bool) -> Iterator[Numbered]:
    """One JSON object per line. Empty lines are none."""
    for number in itertools.count(1):
        line = stream.readline(MAX_LINE_BYTES)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(BOM)
            if several_lines and line.strip() == b"{":
                raise UnreadableFile("is one JSON object over several lines.", "Write one object per line, or a list of them.")
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield number, None, f"is longer than {MAX_LINE_BYTES // 2**20} MB"
            _skip_line(stream)
            continue
        if line.strip():
            yield (number, *_parse(line))


def _skip_line(stream: IO[bytes]) -> None:
    while chunk := stream.readline(MAX_LINE_BYTES):
        if chunk.endswith(b"\n"):
            return


def _parse(line: bytes) -> tuple[Any, str | None]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return None, _problem(line, error)
    # A key that is written twice is lost without a word. Keys are counted cheaply; only a wrong count is looked into.
    if line.count(b'":') + line.count(b'" :') != _keys(row):
        return row, _repeated_key(line)
    return row, None


def _keys(value: Any) -> int:
    if type(value) is dict:
        count = len(value)
        for part in value.values():
            if type(part) is dict or type(part) is list:
                count += _keys(part)
        return count
    if type(value) is list:
        return sum(_keys(part) for part in value if type(part) is dict or type(part) is list)
    return 0


def _repeated_key(line: bytes) -> str | None:
    repeated: list[str] = []

    def watch(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        repeated.extend(name for name in names if names.count(name) > 1)

    json.loads(line, object_pairs_hook=watch)
    return f"has the key {repeated[0][:40]!r} twice" if repeated else None


def _problem(line: bytes, error: orjson.JSONDecodeError) -> str:
    """What is wrong with a line, with the column and what stands around it."""
    words = str(error)
    if "depth limit" in words:
        return "is nested too deeply"
    if "not valid UTF-8" in words:
        return _not_utf8(line)
    where = f"at column {error.colno}: {_excerpt(line.decode('utf-8', 'replace'), error.pos)}"
    if "surrogate" in words:
        return f"has half of a Unicode character {where}"
    if b"\x00" in line:
        return f"has a NUL character {where}"
    return f"is not valid JSON {where}"


def _not_utf8(line: bytes) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        shown = _excerpt(line.decode("utf-8", "replace"), len(line[: error.start].decode("utf-8", "replace")))
        return f"is not UTF-8 text at byte {error.start + 1} (often Latin-1 or Windows text): {shown}"
    return "is not UTF-8 text"


def _excerpt(text: str, place: int) -> str:
    """What stands around a place, as one line of printable characters."""
    start = max(0, min(place - EXCERPT // 2, len(text) - EXCERPT))
    shown = re.sub(r"[^\S ]", " ", text[start : start + EXCERPT]).rstrip()
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in shown)
    return f"{'…' if start else ''}{shown}{'…' if start + EXCERPT < len(text.rstrip()) else ''}"


def _list(stream: IO[bytes]) -> Iterator[Numbered]:
    """The objects of one JSON list, decoded one after the other from a window that moves through the file."""
    import codecs

    decode = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    text, place, ended, number = "", 0, False, 0
    between = re.compile(r"[\s,]*")

    def more() -> None:
        nonlocal text, place, ended
        chunk = stream.read(max(BLOCK, len(text) - place))
        text, place, ended = text[place:] + decode.decode(chunk, final=not chunk), 0, not chunk

    try:
        more()
        place = text.index("[") + 1
        while True:
            place = between.match(text, place).end()  # type: ignore[union-attr]
            if place >= len(text) and not ended:
                more()
                continue
            if place >= len(text):
                yield number + 1, None, "is missing: the list has no end"
                return
            if text[place] == "]":
                return
            try:
                row, end = decoder.raw_decode(text, place)
            except (json.JSONDecodeError, RecursionError, RepeatedKey) as error:
                if not ended and isinstance(error, json.JSONDecodeError):
                    more()
                    continue
                yield number + 1, None, _list_problem(text, error)
                if isinstance(error, RepeatedKey):
                    place = _after(text, place)
                    number += 1
                    continue
                return
            if end == len(text) and not ended:
                more()  # a number may go on in the next block
                continue
            number, place = number + 1, end
            yield number, row, _surrogate(row)
    except UnicodeDecodeError:
        yield number + 1, None, "or one after it is not UTF-8 text (often it is Latin-1 or Windows text)"


class RepeatedKey(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKey(next(name for name in names if names.count(name) > 1))
    return row


def _after(text: str, place: int) -> int:
    return json.JSONDecoder().raw_decode(text, place)[1]


def _list_problem(text: str, error: Exception) -> str:
    if isinstance(error, RepeatedKey):
        return f"has the key {str(error)[:40]!r} twice"
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON ({error.msg}), and what follows it cannot be read: {_excerpt(text, error.pos)}"
    return "is nested too deeply, and what follows it cannot be read"


def _surrogate(row: Any) -> str | None:
    """Python reads half of a Unicode character where other programs refuse it; it cannot be written again."""
    try:
        orjson.dumps(row)
    except (orjson.JSONEncodeError, TypeError):
        return "has half of a Unicode character, or a number that is too long"
    return None


# --- tables and texts -----------------------------------------------------------------------------------------------


def _csv(stream: IO[bytes], *, tabs: bool) -> Iterator[Numbered]:
    """Rows of a table whose first line names the columns. A record's number is the line that it starts on."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = (line.decode("utf-8", "surrogateescape") for line in stream)
    head = next(lines, "").removeprefix("\ufeff")
    delimiter = "\t" if tabs else max(",;\t|", key=head.count)
    names = next(csv.reader([head], delimiter=delimiter), [])
    if len(set(names)) < len(names):
        raise UnreadableFile("names a column twice in its first line.", "Give each column its own name.")
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        number = reader.line_num + 2  # after the names
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, None, f"is not valid CSV ({error})"
            continue
        if not fields:
            continue
        if len(fields) != len(names):
            yield number, None, f"has {len(fields)} fields, and the first line names {len(names)}"
        else:
            yield number, dict(zip(names, fields, strict=True)), _unclean("".join(fields))


def _unclean(text: str) -> str | None:
    if not text.isascii() and any("\udc80" <= sign <= "\udcff" for sign in text):
        return "is not UTF-8 text (often it is Latin-1 or Windows text)"
    return "has a NUL character" if "\x00" in text else None


def _plain(stream: IO[bytes]) -> Iterator[Numbered]:
    """Each line that is not empty is a text."""
    for number, line in enumerate(stream, start=1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
        if text.strip():
            yield number, {"text": text}, _unclean(text)


def _parquet(file: Path) -> Iterator[Numbered]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BLOCK):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, None
    except (pyarrow.ArrowInvalid, OSError) as error:
        first_line = (str(error).splitlines() or ["no reason given"])[0][:120]
        raise UnreadableFile(f"cannot be read as Parquet ({first_line}).", "Write it again, or upload JSONL.") from None
