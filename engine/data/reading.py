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
from typing import IO, TYPE_CHECKING, Any

import orjson

from engine.data import coco, limits
from engine.data.limits import MAX_LINE_BYTES
from engine.data.values import BadRow, keys_in, printable

if TYPE_CHECKING:
    from pyarrow import parquet

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
BLOCK = 4 * 2**20  # characters of a JSON list that are looked at together
PARQUET_BLOCK = 1024  # rows, at most
PARQUET_BYTES = 16 * 2**20  # of a block, as its file says
LONG_LINE = 2**20  # bytes from which the values of a row are counted before they are made
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
    """Each row with its number, or what is wrong with it. Raises `UnreadableFile` if it is not a file of rows at all.

    What `limits.py` does not allow is never yielded: a row of it is one that is wrong, a file of it is unreadable.
    """
    for count, numbered in enumerate(_rows_of(file)):
        if count == limits.MOST_ROWS:
            raise UnreadableFile(f"has more than {limits.MOST_ROWS:,} rows.", "Split it into several files.")
        yield numbered


def _rows_of(file: Path) -> Iterator[Numbered]:
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
    if len(line) > LONG_LINE and line.count(b",") > limits.MOST_VALUES:
        return None, f"has more than {limits.MOST_VALUES:,} values"
    try:
        row = orjson.loads(line)
        keys = keys_in(row)
    except orjson.JSONDecodeError as error:
        return None, _problem(line, error)
    except BadRow as error:
        return None, str(error)
    # A key that is written twice is lost without a word. Keys are counted cheaply; only a wrong count is looked into.
    if line.count(b'":') + line.count(b'" :') != keys:
        return row, _repeated_key(line)
    return row, None


def _repeated_key(line: bytes) -> str | None:
    try:
        json.loads(line, object_pairs_hook=_object)
    except RepeatedKey as error:
        return f"has the key {str(error)[:40]!r} twice"
    return None


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
    shown = printable(re.sub(r"[^\S ]", " ", text[start : start + EXCERPT]).rstrip())
    return f"{'…' if start else ''}{shown}{'…' if start + EXCERPT < len(text.rstrip()) else ''}"


def _list(stream: IO[bytes]) -> Iterator[Numbered]:
    """The objects of one JSON list, decoded one after the other from a window that moves through the file."""
    import codecs

    decode = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole_number, parse_constant=_no_number)
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
            except (json.JSONDecodeError, RecursionError, RepeatedKey, BadRow) as error:
                if not ended and isinstance(error, json.JSONDecodeError):
                    if len(text) - place > MAX_LINE_BYTES or text.count(",", place) > limits.MOST_VALUES:
                        yield number + 1, None, f"is longer than {MAX_LINE_BYTES // 2**20} MB, or has no end"
                        return
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
            yield number, row, _unfit(row)
    except UnicodeDecodeError:
        yield number + 1, None, "or one after it is not UTF-8 text (often it is Latin-1 or Windows text)"


class RepeatedKey(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in pairs:
        if name in row:
            raise RepeatedKey(name)
        row[name] = value
    return row


def _whole_number(digits: str) -> float:
    """A number as orjson reads it: one that is longer than 64 bits becomes a float."""
    return int(digits) if len(digits) <= 20 else float(digits)


def _no_number(word: str) -> float:
    raise BadRow(f"has {word}, which is no number of JSON")


def _after(text: str, place: int) -> int:
    return json.JSONDecoder().raw_decode(text, place)[1]


def _list_problem(text: str, error: Exception) -> str:
    if isinstance(error, RepeatedKey):
        return f"has the key {str(error)[:40]!r} twice"
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON ({error.msg}), and what follows it cannot be read: {_excerpt(text, error.pos)}"
    if isinstance(error, BadRow):
        return f"{error}, and what follows it cannot be read"
    return "is nested too deeply, and what follows it cannot be read"


def _unfit(row: Any) -> str | None:
    """What a line of JSON could not hold. Python reads half of a Unicode character where other programs refuse it."""
    try:
        keys_in(row)
        orjson.dumps(row)
    except BadRow as error:
        return str(error)
    except (orjson.JSONEncodeError, TypeError):
        return "has half of a Unicode character"
    return None


# --- tables and texts -----------------------------------------------------------------------------------------------


def _csv(stream: IO[bytes], *, tabs: bool) -> Iterator[Numbered]:
    """Rows of a table whose first line names the columns. A record's number is the line that it starts on."""
    csv.field_size_limit(MAX_LINE_BYTES)
    inside = 0  # lines of the record that is being read

    def decoded() -> Iterator[str]:
        nonlocal inside
        for line in _short_lines(stream):
            inside += 1
            if inside > limits.MOST_LINES_OF_RECORD:
                raise UnreadableFile("has a quote that is never closed.", "Close it, or write the table as JSONL.")
            yield line.decode("utf-8", "surrogateescape")

    lines = decoded()
    head = next(lines, "").removeprefix("\ufeff")
    delimiter = "\t" if tabs else max(",;\t|", key=head.count)
    if head.count(delimiter) >= limits.MOST_COLUMNS:
        raise _too_wide()
    names = next(csv.reader([head], delimiter=delimiter), [])
    if _unclean(head):
        raise UnreadableFile(f"{_unclean(head)} in its first line.", "Save it again as UTF-8.")
    if len(set(names)) < len(names):
        raise UnreadableFile("names a column twice in its first line.", "Give each column its own name.")
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        number, inside = reader.line_num + 2, 0  # after the names
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


def _short_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of a stream. Raises `UnreadableFile` at one that is longer than a row may be."""
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise UnreadableFile(f"has a line of more than {MAX_LINE_BYTES // 2**20} MB.", "Write shorter lines.")
        yield line


def _too_wide() -> UnreadableFile:
    return UnreadableFile(f"has more than {limits.MOST_COLUMNS:,} columns.", "Leave out the columns that are not trained on.")


def _unclean(text: str) -> str | None:
    if not text.isascii() and any("\udc80" <= sign <= "\udcff" for sign in text):
        return "is not UTF-8 text (often it is Latin-1 or Windows text)"
    return "has a NUL character" if "\x00" in text else None


def _plain(stream: IO[bytes]) -> Iterator[Numbered]:
    """Each line that is not empty is a text."""
    for number, line in enumerate(_short_lines(stream), start=1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
        if text.strip():
            yield number, {"text": text}, _unclean(text)


def _parquet(file: Path) -> Iterator[Numbered]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            _refuse_wide(table)
            number, unpacked, most = 0, 0, limits.may_unpack(file.stat().st_size)
            for batch in table.iter_batches(batch_size=_block_of(table), use_threads=False):
                unpacked += batch.nbytes
                if unpacked > most or batch.nbytes > limits.MOST_BATCH_BYTES:
                    message = f"unpacks to far more than its {file.stat().st_size / 2**20:,.1f} MB."
                    raise UnreadableFile(message, "Write it again, or upload JSONL.")
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, None
    except MemoryError:  # one of Arrow's errors is both; a reader with limits says what it means
        raise
    except UnicodeDecodeError:
        raise UnreadableFile("has a text that is not UTF-8.", "Write it again, or upload JSONL.") from None
    except UnreadableFile:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, ArithmeticError, KeyError, RecursionError) as error:
        first_line = (str(error).splitlines() or ["no reason given"])[0][:120]
        raise UnreadableFile(f"cannot be read as Parquet ({first_line}).", "Write it again, or upload JSONL.") from None


def _refuse_wide(table: parquet.ParquetFile) -> None:
    """Raise `UnreadableFile` for a table with too many rows or columns, as it says itself, or with values too deep."""
    said = table.metadata
    if said.num_rows > limits.MOST_ROWS:
        raise UnreadableFile(f"has more than {limits.MOST_ROWS:,} rows.", "Split it into several files.")
    if said.num_columns > limits.MOST_COLUMNS:
        raise _too_wide()
    names = table.schema_arrow.names
    if len(set(names)) < len(names):
        raise UnreadableFile("names a column twice.", "Give each column its own name.")
    if any(table.schema.column(place).max_definition_level > limits.MOST_DEPTH for place in range(said.num_columns)):
        raise UnreadableFile("has a column that is nested too deeply.", "Write it again, or upload JSONL.")


def _block_of(table: parquet.ParquetFile) -> int:
    """How many rows are read at a time: fewer, the larger they are."""
    said = table.metadata
    size = sum(said.row_group(place).total_byte_size for place in range(said.num_row_groups))
    return max(1, min(PARQUET_BLOCK, PARQUET_BYTES * max(1, said.num_rows) // max(1, size)))
