"""A data file of a stranger costs the server little, whatever is in it, and gets one plain sentence.

The process that asks reads nothing itself: a reader with limits of memory and time does (`engine/data/sandbox.py`). The
readers keep to `engine/data/limits.py` besides, in every process. The bombs here are small on the disk; each adds less
than 100 MB to this process and is refused within ten seconds.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import decimal
import io
import json
import os
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from engine import data
from engine.data import images, limits, pictures, sandbox, scanning
from engine.data.demos import DEMOS, first_plan
from engine.data.formats import FORMATS, NAMES, Recognition
from engine.data.values import BadRow
from engine.issues import PlanError
from engine.modeling import xray
from engine.modeling.build import load_tokenizer
from engine.plan import DataSource
from engine.system.workers import CODE_FOLDER
from ui.tabs import data_tab
from ui.views import data_views

MB = 2**20
MOST_GROWTH = 100 * MB  # of this process
MOST_SECONDS = 10.0  # on a machine that does nothing else


class Watched:
    """How long a block took, and how much memory this process took meanwhile at the most."""

    def __enter__(self) -> Watched:
        self.process, self.over = psutil.Process(), threading.Event()
        self.before = self.peak = self.process.memory_info().rss
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # processes that share a core with this one
        self.seconds = (time.monotonic() - self.began) / crowd

    @property
    def growth(self) -> int:
        return self.peak - self.before


@pytest.fixture(scope="module", autouse=True)
def warm_reader() -> None:
    """The server starts a reader before anybody uploads a file."""
    sandbox.warm()
    sandbox.run("scan", {"file": os.devnull, "name": "x", "mapping": {}, "accepts": []}, name="x")


# --- bombs ----------------------------------------------------------------------------------------------------------


def write(file: Path, content: bytes | str) -> Path:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def table(folder: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(pyarrow.table(columns), folder / "bomb.parquet", compression="zstd")
    return folder / "bomb.parquet"


def zipped(folder: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return folder / "bomb.zip"


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


DOT = png(1, 1)


def repeated_text(folder: Path) -> Path:
    """2 GB of text: one of 2 MB, a thousand times."""
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, "int8"), pyarrow.array(["x" * 2_000_000]))
    return table(folder, {"text": text})


def many_rows(folder: Path) -> Path:
    """20 million rows in 20 KB."""
    return table(folder, {"label": pyarrow.nulls(20_000_000, "int8")})


def many_columns(folder: Path) -> Path:
    return table(folder, {f"c{number}": pyarrow.nulls(1, "int8") for number in range(limits.MOST_COLUMNS + 1)})


def long_list(folder: Path) -> Path:
    """One row with a list of nine million numbers."""
    zeros = pyarrow.Array.from_buffers(pyarrow.int64(), 9_000_000, [None, pyarrow.py_buffer(bytes(72_000_000))])
    return table(folder, {"text": pyarrow.ListArray.from_arrays(pyarrow.array([0, 9_000_000], "int32"), zeros)})


def zip_of_zeros(folder: Path) -> Path:
    return zipped(folder, {f"a/{number}.png": bytes(10 * MB) for number in range(10)})


def zip_of_metadata(folder: Path) -> Path:
    line = json.dumps({"file_name": "a.png", "text": "x" * 1000}).encode() + b"\n"
    return zipped(folder, {"a.png": DOT, "metadata.jsonl": line * 70_000})


def zip_of_a_million_names(folder: Path) -> Path:
    """A list of files that all are the same one."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0) + b"a.png"
    names = entry * 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(names), 0, 0)
    return write(folder / "bomb.zip", names + end)


def zip_of_large_images(folder: Path) -> Path:
    return zipped(folder, {"a/large.png": png(13_000, 13_000)})


def zip_that_understates(folder: Path) -> Path:
    """It says that its file has ten bytes."""
    file = zipped(folder, {"a/x.png": bytes(50 * MB)})
    return write(file, file.read_bytes().replace(struct.pack("<L", 50 * MB), struct.pack("<L", 10)))


def text_chunk(folder: Path) -> Path:
    """An image whose comment unpacks to 200 MB."""
    chunk = b"zTXtk\0\0" + zlib.compress(bytes(200 * MB), 9)
    packed = struct.pack(">L", len(chunk) - 4) + chunk + struct.pack(">L", zlib.crc32(chunk))
    return zipped(folder, {"a/x.png": DOT[:33] + packed + DOT[33:]})


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a text a thousand times": (repeated_text, "memory to be read"),
    "20 million rows": (many_rows, "more than 2,000,000 rows"),
    "a table of a thousand columns": (many_columns, "more than 1,000 columns"),
    "a list of nine million numbers": (long_list, "unpacks to far more than its"),
    "images of zeros": (zip_of_zeros, "the zip unpacks to more than 64 MB"),
    "metadata": (zip_of_metadata, "the zip unpacks to more than 64 MB"),
    "a million names": (zip_of_a_million_names, "more than 100,000 files"),
    "images of 13,000 x 13,000 pixels": (zip_of_large_images, "13,000 x 13,000 pixels"),
    "a size that is a lie": (zip_that_understates, "the zip cannot be read"),
    "a comment of an image": (text_chunk, "no image that can be read"),
    "JSON of depth 100,000": (
        lambda folder: write(folder / "a.jsonl", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        "nested too deeply",
    ),
    "JSON of depth 500": (
        lambda folder: write(folder / "a.jsonl", '{"text": "a", "x": ' + "[" * 500 + "]" * 500 + "}"),
        "nested too deeply",
    ),
    "a JSON list of depth 100,000": (
        lambda folder: write(folder / "a.json", '[{"text": ' + "[" * 100_000 + "]" * 100_000 + "}]"),
        "nested too deeply",
    ),
    "a line of millions of values": (
        lambda folder: write(folder / "a.jsonl", '{"text": "a", "x": [' + "[]," * 3_000_000 + "1]}"),
        "more than 2,000,000 values",
    ),
    "a list without end": (lambda folder: write(folder / "a.json", "[[" + "[]," * 5_000_000), "is longer than"),
    "a line of 65 MB": (lambda folder: write(folder / "a.jsonl", '{"text": "' + "x" * 65 * MB), "longer than 64 MB"),
    "a text of 65 MB": (lambda folder: write(folder / "a.txt", "x" * 65 * MB), "a line of more than 64 MB"),
    "a million columns": (lambda folder: write(folder / "a.csv", "a,b" * 1_000_000 + "\n1\n"), "more than 1,000 columns"),
    "a field without end": (lambda folder: write(folder / "a.csv", 'text\n"' + "x\n" * 5 * MB), "a quote that is never closed"),
    "an object of a million keys": (
        lambda folder: write(folder / "a.jsonl", "{" + ",".join(f'"k{n}":1' for n in range(500_000)) + ',"k0":1}'),
        "has the key 'k0' twice",
    ),
    "a row of 2,000 columns": (
        lambda folder: write(folder / "a.jsonl", json.dumps({f"k{number}": 1 for number in range(2000)})),
        "more than 1,000 columns",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_sentence_and_leaves_nothing(name: str, tmp_path: Path, home: Path) -> None:
    make, said = BOMBS[name]
    file = make(tmp_path)
    pyarrow.default_memory_pool().release_unused()
    with Watched() as cost, pytest.raises(PlanError) as refused:
        data.store_upload(file)
    (issue, *more) = refused.value.issues
    assert said in issue.message, issue.message
    assert issue.fix
    assert len(issue.message) < 500
    assert not more
    assert cost.growth < MOST_GROWTH, f"{cost.growth / MB:.0f} MB"
    assert cost.seconds < MOST_SECONDS
    assert list((home / "uploads").iterdir()) == []


def test_rows_that_each_have_other_columns_take_no_more_memory_than_others() -> None:
    recognition = Recognition()
    for number in range(20_000):
        with pytest.raises(BadRow):
            recognition.read({f"column {number}": 1})
    assert len(recognition._known) == 1


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0)
    file = write(tmp_path / "long.jsonl", '{"text": "a"}\n' * 1_500_000)
    monkeypatch.setattr(sandbox, "BYTES_PER_SECOND", 2**40)
    with Watched() as cost:
        (issue,) = data.scan(DataSource(path=str(file))).issues
    assert "long.jsonl takes too long to be read" in issue.message
    assert cost.seconds < MOST_SECONDS


def test_the_server_outlives_a_parser_that_crashes_and_reads_the_next_file(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", '{"text": "a"}\n' * 1_000_000)
    asked: list[Any] = []
    before = {child.pid for child in psutil.Process().children()}
    thread = threading.Thread(target=lambda: asked.append(data.scan(DataSource(path=str(file)))))
    thread.start()
    while thread.is_alive():
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if "engine.data.reader" in child.cmdline() and child.cpu_percent(0.1) > 20:
                    child.kill()
                    thread.join()
    assert "the program that parses it stopped" in asked[0].issues[0].message
    assert data.scan(DataSource(path=str(write(tmp_path / "next.jsonl", '{"text": "a"}')))).rows == 1
    assert len({child.pid for child in psutil.Process().children()} - before) <= sandbox.MOST_AT_ONCE


def test_a_reader_has_no_token_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY")
    reader = sandbox.Reader()
    try:
        reader.ask({"work": "scan", "seconds": 5, "file": os.devnull, "name": "x", "mapping": {}, "accepts": []}, "x")
        assert "hf_CANARY" not in str(psutil.Process(reader.child.pid).environ())
    finally:
        reader.close()


def test_a_reader_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    reader = sandbox.Reader()
    reader.child.stdin.close()  # type: ignore[union-attr]
    assert reader.child.wait(10) == 0


def test_an_ordinary_file_is_read_as_fast_as_before(tmp_path: Path) -> None:
    seconds = []
    for number in range(5):
        file = write(tmp_path / f"{number}.jsonl", '{"text": "a"}\n' * 100)
        began = time.monotonic()
        assert data.scan(DataSource(path=str(file))).rows == 100
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.05
    sets = [DataSource(path=demo.path) for demo in DEMOS.values()]
    scanning._scans.clear()
    used = [reader.child.pid for reader in sandbox._idle]
    assert all(data.scan(source).rows for source in sets)
    assert used == [reader.child.pid for reader in sandbox._idle]  # what came with the program is read here


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "EPS", "PPM", "PCX", "TGA"])
def test_only_the_kinds_of_images_that_are_meant_are_parsed(kind: str, tmp_path: Path) -> None:
    """Whatever its name is: an EPS would start Ghostscript."""
    file = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(file, kind)
    for look in (pictures.size_of, pictures.open_image):
        with pytest.raises(BadRow, match="of no known kind"):
            look(str(file))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_image_that_is_cut_short_or_changed_is_one_sentence(kind: str, tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(whole, kind)
    content = whole.getvalue()
    cut = [content[:length] for length in range(0, len(content), max(1, len(content) // 40))]
    changed = [content[:place] + b"\xff" * 4 + content[place + 4 :] for place in range(0, min(len(content), 120), 2)]
    refused = 0
    for broken in [*cut, *changed]:
        for look in (pictures.size_of, pictures.open_image):
            with contextlib.suppress(BadRow):  # anything else fails this test
                look({"bytes": broken})
                continue
            refused += 1
    assert refused > len(cut) // 2


def test_a_path_inside_of_an_image_of_a_table_is_never_opened(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.png", DOT)
    row = {"image": {"bytes": None, "path": str(secret)}, "label": "a"}
    folder = tmp_path / "set"
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "rows.parquet")
    source = DataSource(path=str(folder / "rows.parquet"))
    assert "has no image in 'image'" in data.scan(source).issues[0].message
    assert images.as_thumbnails(row, folder) == row


@pytest.mark.parametrize("name", ["a\0.png", "x" * 5000, "\ud800.png", "/dev/zero", ".", "", "a/" * 3000 + "x.png"])
def test_a_name_that_no_image_can_have_is_one_sentence(name: str, tmp_path: Path) -> None:
    assert images.resolve(name, tmp_path) is None


# --- rows -----------------------------------------------------------------------------------------------------------

# What stands in a file -> what is said of it; "" where the row is fine.
ROWS: dict[str, tuple[str, str]] = {
    "a NUL": ('{"text": "a\0b"}', "has a NUL character"),
    "a NUL that is escaped": (r'{"text": "a\u0000b"}', ""),
    "half a character": (r'{"text": "\ud800"}', "half of a Unicode character"),
    "text that turns round": ('{"text": "a\u202eb\u2066c"}', ""),
    "a column that turns round": ('{"a\u202eb": 1}', "it has a\ufffdb"),
    "a whole number beyond 64 bits": ('{"text": "a", "label": 123456789012345678901234567890}', "longer than 64 bits"),
    "a whole number of 5,000 digits": ('{"text": "a", "label": ' + "9" * 5000 + "}", "is not valid JSON"),
    "NaN": ('{"text": "a", "label": NaN}', "is not valid JSON"),
    "infinity": ('{"text": "a", "label": 1e999}', "is not valid JSON"),
    "a key twice": ('{"text": "a", "text": "b"}', "has the key 'text' twice"),
    "a label of a megabyte": ('{"text": "a", "label": "' + "x" * MB + '"}', "label of more than 200 characters"),
    "a column of a megabyte": ('{"' + "x" * MB + '": 1}', "none of the known columns"),
    "a role of a megabyte": ('{"messages": [{"role": "' + "x" * MB + '", "content": ""}]}', "unknown role"),
    "a history that is a number": ('{"instruction": "a", "output": "b", "history": 5}', "has a history"),
    "deep arguments": (
        json.dumps({"messages": [{"role": "tool_call", "content": f'{{"name": "a", "arguments": {"[" * 300 + "]" * 300}}}'}]}),
        "nested too deeply",
    ),
}  # fmt: skip


def shown(source: DataSource) -> str:
    """What the Data tab says of a source; it must be sent as JSON in UTF-8."""
    scan = data.scan(source)
    html = data_views.source_facts(scan) + data_tab.preview(source, (), scan.format)
    return json.dumps(html, allow_nan=False).encode("utf-8").decode()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_strange_row_is_read_or_is_one_sentence(name: str, suffix: str, tmp_path: Path) -> None:
    text, said = ROWS[name]
    content = text if suffix == ".jsonl" else f"[{text}]"
    source = DataSource(path=str(write(tmp_path / f"rows{suffix}", content.encode("utf-8", "surrogatepass"))))
    errors = data.scan(source).errors
    assert shown(source)
    if not said:
        assert errors == ()
        return
    assert len(errors) == 1
    assert len(errors[0].message) < 500
    assert errors[0].message.isprintable()
    if suffix == ".jsonl":
        assert said in errors[0].message


def test_strange_values_of_tables_are_read_or_are_one_sentence(tmp_path: Path) -> None:
    values = [
        pyarrow.array([float("nan")]),
        pyarrow.array([2**64 - 1], "uint64"),
        pyarrow.array([2**40], pyarrow.timestamp("s")),
        pyarrow.array([decimal.Decimal("1e30")]),
        pyarrow.array([datetime.date(1, 1, 1)]),
        pyarrow.Array.from_buffers(pyarrow.string(), 1, pyarrow.array([b"\xff"]).buffers()),
        pyarrow.array([b"\xff"]),
        pyarrow.array([[[[1]]]]),
        pyarrow.array([{"a": {"b": None}}]),
        pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int8())),
    ]  # fmt: skip
    for number, value in enumerate(values):
        for role in ("text", "label", "prompt", "extra"):
            columns = {"prompt": ["a"], "text": ["a"], "label": ["b"]} | {role: value}
            file = tmp_path / f"{number}-{role}.parquet"
            parquet.write_table(pyarrow.table(columns), file)
            source = DataSource(path=str(file))
            assert shown(source)
            issues = data.scan(source, ("prompt-only",)).issues + data.scan(source, ("text-label",)).issues
            assert not [issue for issue in issues if "stopped" in issue.message or "\n" in issue.message]


HOSTILE: tuple[Any, ...] = (
    None, True, 5, 1e308, float("nan"), 2**70, "", "[", "[1]", "{}", "[[1]]", "\0", "\u202e", [], [None], [1], ["a"], [[]],
    [{}], {}, {"a": 1}, {1: 2, 3: 4}, {"text": 1}, {"text": ["a"], "answer_start": [-1]},
    {"text": ["a"], "answer_start": [2**70]},
    {"bbox": 1}, {"bbox": [[1, 2, 3, float("nan")]], "label": [1]}, [{"role": []}], [{"role": "user", "content": {}}],
    [{"from": "gpt", "value": None}], [{"role": "assistant", "content": [{"type": "text", "text": 5}]}],
    [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "a", "arguments": "[[["}}]}],
    b"x", {"bytes": b"x"}, {"bytes": "x"}, {"path": "/etc/passwd"}, {"en": "a", "de": None},
)  # fmt: skip


@pytest.mark.parametrize("key", FORMATS)
def test_no_value_in_any_role_is_an_unexpected_fault(key: str) -> None:
    """Each value of HOSTILE in each role of each format: the row is read, or `BadRow` says what is wrong with it."""
    wanted = FORMATS[key]
    for role in (*wanted.columns, *wanted.optional):
        for value in HOSTILE:
            row = {name: wanted.example[name] for name in wanted.example} | {NAMES.get(role, (role,))[0]: value}
            try:
                read = Recognition(mapping={name: name for name in row}).read(row)[1]
            except BadRow:
                continue
            data.row_id(read)
            list(data.texts(read))


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_file_of_boxes_with_parts_of_the_wrong_kind_is_one_sentence(part: str, tmp_path: Path) -> None:
    good = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for number, bad in enumerate(
        ([5], [{}], [{"id": []}], [{"id": {}, "file_name": "a"}], [{"image_id": 1, "category_id": []}])
    ):
        source = DataSource(path=str(write(tmp_path / f"{number}.json", json.dumps(good | {part: bad}))))
        assert not [issue for issue in data.scan(source).issues if "stopped" in issue.message]
        assert shown(source)


def test_the_look_through_the_rows_takes_what_the_scan_took(tmp_path: Path) -> None:
    """The X-ray shows rows with signs that turn text round, escaped NULs and emoji of many parts."""
    texts = ["a\0b", "a\u202eb\u2066c", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\ufeff", "e\u0301" * 50, "a" * 5000]
    file = write(tmp_path / "rows.jsonl", "\n".join(json.dumps({"text": f"{text} words"}) for text in texts))
    plan = first_plan().with_(datasets=(DataSource(path=str(file)),), eval_fraction=0.0)
    tokenizer = load_tokenizer(plan)
    assert xray.xray(plan, tokenizer).rows == len(texts)
    for number in range(1, len(texts) + 1):
        assert json.dumps(data_views.row(xray.look(plan, number, tokenizer))).encode()


# --- libraries, and what is written ---------------------------------------------------------------------------------


def test_an_old_library_that_parses_files_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    limits.check_libraries()
    for name, floor in limits.FLOORS.items():
        older = ".".join(map(str, (floor[0] - 1, *floor[1:])))
        monkeypatch.setattr(
            limits.metadata, "version", lambda asked, name=name, older=older: older if asked == name else "99.0"
        )
        with pytest.raises(PlanError, match=f"{name} {older}.*Install {name}"):
            limits.check_libraries()


def modules() -> Iterator[Path]:
    for package in ("engine", "estimators", "ui"):
        yield from (CODE_FOLDER / package).rglob("*.py")


def test_no_table_is_written_that_a_spreadsheet_would_run() -> None:
    """A cell that starts with = + - @ is a formula there. Rows are only ever written as JSON; if a table is to be written
    one day, its cells need a sign before them, and this test a look at them."""
    writers = {"writer", "DictWriter", "to_csv", "to_excel", "write_csv"}
    for file in modules():
        calls = [node.func for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)]
        names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
        assert not names & writers, file
