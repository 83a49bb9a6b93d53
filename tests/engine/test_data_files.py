"""Files of every kind, exact lines for what is wrong with them, and the faults of encodings (F20 to F23, F25)."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from engine import data
from engine.data import hub, images, limits, reading, scanning
from engine.issues import PlanError
from engine.plan import DataSource

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc00000030101"
    "00c9fe92ef0000000049454e44ae426082"
)


def source(folder: Path, text: str | bytes, name: str = "rows.jsonl", **more: object) -> DataSource:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return DataSource(path=str(file), **more)  # type: ignore[arg-type]


# --- kinds of files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", 'prompt,completion\nHi,Hello\n"Two\nlines",Fine\n'),
        ("rows.csv", 'prompt;completion\nHi;Hello\n"Two\nlines";Fine\n'),
        ("rows.tsv", 'prompt\tcompletion\nHi\tHello\n"Two\nlines"\tFine\n'),
        ("rows.json", '[{"prompt": "Hi", "completion": "Hello"},\n\n {"prompt": "Two\\nlines", "completion": "Fine"}]'),
        ("rows.jsonl", '{"prompt": "Hi", "completion": "Hello"}\r\n\r\n{"prompt": "Two\\nlines", "completion": "Fine"}'),
    ],
)
def test_tables_and_lists_give_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    rows = data.load((source(tmp_path, text, name),))
    assert rows == [{"prompt": "Hi", "completion": "Hello"}, {"prompt": "Two\nlines", "completion": "Fine"}]


def test_parquet_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([CHAT] * 3), file)
    assert data.load((DataSource(path=str(file)),)) == [CHAT] * 3


def test_a_plain_text_has_a_row_per_line(tmp_path: Path) -> None:
    assert data.load((source(tmp_path, "One\n\nTwo\r\n", "book.txt"),)) == [{"text": "One"}, {"text": "Two"}]


def test_a_list_that_is_longer_than_the_window_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 50)
    rows = [{"text": f"Grüße {number} " + "x" * (number % 130)} for number in range(300)]
    where = source(tmp_path, json.dumps(rows, ensure_ascii=False, indent=1), "rows.json")
    assert data.load((where,)) == rows


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.csv", 'text,label\nfine,1\n"a\nb",2\nshort\n', "line 5 of rows.csv has 1 fields, and the first line names 2"),
        ("rows.csv", b"text,label\nfine,1\n" + "caf\xe9,2\n".encode("latin-1"), "line 3 of rows.csv is not UTF-8"),
        ("rows.csv", "text,text\na,b\n", "names a column twice"),
        ("rows.json", '[{"text": "a"}, {"text": "b"}, {"text": ]', "row 3 of rows.json is not valid JSON"),
        ("rows.json", '[{"text": "a"}, {"text": "b"}', "row 3 of rows.json is missing: the list has no end"),
        ("rows.json", '[{"text": "a"}, {"text": "b", "text": "c"}]', "row 2 of rows.json has the key 'text' twice"),
        ("rows.json", '{\n "text": "a"\n}\n', "is one JSON object over several lines"),
        ("rows.txt", b"fine\n" + b"caf\xe9\n", "line 2 of rows.txt is not UTF-8"),
        ("rows.parquet", b"PAR1 no", "cannot be read as Parquet"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_line(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    issues = data.scan(source(tmp_path, text, name)).errors
    assert said in issues[0].message
    assert issues[0].fix


# --- F20, F21 -------------------------------------------------------------------------------------------------------


def test_the_one_bad_line_of_a_million_is_named(tmp_path: Path) -> None:
    """F20. The line, the column, what stands there, and how many there are."""
    line = b'{"text": "A line that is fine"}\n'
    bad = b'{"text": "' + b"x" * 200 + b'" "label": oops}\n'
    where = source(tmp_path, line * 500_000 + bad + line * 499_999)
    scan = data.scan(where)
    assert (scan.rows, scan.bad, len(scan.errors)) == (999_999, 1, 1)
    message = scan.errors[0].message
    assert message.startswith("line 500001 of rows.jsonl is not valid JSON at column 213: …")
    assert '" "label": oops}' in message
    assert len(message) < 160
    with pytest.raises(PlanError, match="line 500001"):  # a start stops at it; the cleaning "Leave out rows" skips it
        data.load((where,))


def test_a_type_that_changes_on_the_way_is_reported(tmp_path: Path) -> None:
    """F21. `datasets` would write the number as a text, and say nothing."""
    rows = [json.dumps({"prompt": "2 + 2", "answer": "4"})] * 150_500
    rows[149_999] = json.dumps({"prompt": "2 + 2", "answer": 4})
    scan = data.scan(source(tmp_path, "\n".join(rows)))
    assert "line 150000 of rows.jsonl has a number in 'answer', where the rows before have a text" in scan.errors[0].message
    assert (scan.rows, scan.bad) == (150_499, 1)


# --- F22 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"text": "caf\xe9"}'.encode("latin-1"), "is not UTF-8 text at byte 14"),
        ('{"text": "Hi"}\n'.encode("utf-16"), "is in UTF-16"),
        (('{"text": "Hi"}\n' * 9).encode("utf-16-le"), "is in UTF-16"),
        (b'{"text": "a\x00b"}', "has a NUL character at column 12"),
        (b'{"text": "\\ud800"}', "has half of a Unicode character"),
        (b'{"text": "a", "text": "b"}', "has the key 'text' twice"),
        (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}", "is nested too deeply"),
        (b"", "has no rows"),
        (b"[]", "has no rows"),
    ],
)
def test_every_fault_of_a_file_is_one_plain_sentence(tmp_path: Path, text: bytes, said: str) -> None:
    issues = data.scan(source(tmp_path, text)).errors
    assert len(issues) == 1
    assert said in issues[0].message
    assert issues[0].fix


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + json.dumps(CHAT).encode(),
        json.dumps(CHAT).encode() + b"\r\n",
        json.dumps([CHAT]).encode(),
        b"\xef\xbb\xbf" + json.dumps([CHAT], indent=2).encode(),
        json.dumps({**CHAT, "note": 'a "key": in a text'}).encode(),
    ],
)
def test_what_only_looks_odd_is_read(tmp_path: Path, text: bytes) -> None:
    scan = data.scan(source(tmp_path, text))
    assert (scan.rows, scan.issues) == (1, ())


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 1000)
    where = source(tmp_path, json.dumps({"text": "x" * 5000}) + "\n" + json.dumps({"text": "fine"}))
    scan = scanning.read_through(data.locate(where), "rows.jsonl", data.Recognition())
    assert (scan.rows, scan.bad) == (1, 1)
    assert "line 1 of rows.jsonl is longer than" in scan.errors[0].message


# --- F23, F25 -------------------------------------------------------------------------------------------------------


def test_empty_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """F23, one half."""
    where = source(tmp_path, "\n".join(json.dumps({"text": text}) for text in ("a", "", "b", " ")))
    scan = data.scan(where)
    assert (scan.rows, scan.empty, scan.errors) == (2, 2, ())
    assert "line 2 of rows.jsonl has no text in 'text', and so have 1 more: left out" in scan.issues[0].message
    assert data.load((where,)) == [{"text": "a"}, {"text": "b"}]


def test_a_file_of_empty_rows_is_refused(tmp_path: Path) -> None:
    """F23, the other half: trained on, it would end at a loss of 0.0."""
    where = source(tmp_path, '{"text": ""}\n' * 9)
    with pytest.raises(PlanError, match="no row has anything to learn from"):
        data.load((where,))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": None}, "line 2 of rows.jsonl has nothing in 'text'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2 of rows.jsonl has a message of the unknown role 'robot'"),
        ({"messages": []}, "line 2 of rows.jsonl has no messages"),
    ],
)
def test_none_wrong_roles_and_nothing_are_named_with_their_line(tmp_path: Path, row: dict, said: str) -> None:
    """F25."""
    first = {"text": "a"} if "text" in row else CHAT
    scan = data.scan(source(tmp_path, f"{json.dumps(first)}\n{json.dumps(row)}"))
    assert said in scan.issues[0].message


# --- sources --------------------------------------------------------------------------------------------------------


def test_a_large_files_scan_is_kept_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "KEPT_ON_DISK", 0)
    where = source(tmp_path, json.dumps({"text": "a", "label": "x"}) + "\noops\n")
    first = data.scan(where)
    scanning._scans.clear()
    monkeypatch.setattr(scanning, "_read", lambda *_: pytest.fail("the file was read again"))
    assert data.scan(where) == first
    assert first.labels == (("x", 1),)


def test_weights_repeat_rows_or_take_a_part_of_them(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({"text": str(number)}) for number in range(10))
    one, two = source(tmp_path, text, "a.jsonl", weight=2.5), source(tmp_path, '{"text": "b"}', "b.jsonl")
    rows = data.load((one, two))
    assert len(rows) == 26
    assert rows == data.load((one, two))
    assert {rows.count({"text": str(number)}) for number in range(10)} == {2, 3}


def test_sets_of_two_kinds_do_not_mix(tmp_path: Path) -> None:
    one, two = source(tmp_path, json.dumps(CHAT), "a.jsonl"), source(tmp_path, '{"text": "b"}', "b.jsonl")
    with pytest.raises(PlanError, match="different formats"):
        data.load((one, two))


def test_a_mapping_that_names_no_column_says_so(tmp_path: Path) -> None:
    where = source(tmp_path, '{"Frage": "Hi", "Antwort": "Hallo"}', columns={"prompt": "Frage", "completion": "antwort"})
    assert "has no column 'antwort'" in data.scan(where).errors[0].message


def test_held_out_rows_stay_held_out_and_copies_stay_together() -> None:
    rows = [{"text": str(number % 150)} for number in range(200)]
    train, held_out = data.split(rows, eval_fraction=0.1, seed=3)
    assert len(held_out) == 20
    assert not {row["text"] for row in train} & {row["text"] for row in held_out}
    fewer = [{"text": str(number)} for number in range(150)]
    again = data.split(fewer, eval_fraction=0.1, seed=3)[1]
    assert len({row["text"] for row in again} & {row["text"] for row in held_out}) >= 10


def test_an_unrecognised_upload_is_kept_for_mapping(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("Frage,Antwort\nHi,Hallo\n")
    stored = data.store_upload(file)
    (issue,) = data.scan(stored).errors
    assert "has none of the known columns (it has Frage, Antwort)" in issue.message
    assert "Map its columns by hand" in issue.fix
    assert data.scan(stored).columns == ("Frage", "Antwort")
    mapped = DataSource(path=stored.path, columns={"prompt": "Frage", "completion": "Antwort"})
    assert data.load((mapped,)) == [{"prompt": "Hi", "completion": "Hallo"}]
    assert data.uploads() == [("mine.csv", stored.path)]
    assert data.title(stored) == "mine.csv"


def test_an_upload_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.pkl"
    file.write_bytes(b"x")
    with pytest.raises(PlanError, match="none of the kinds that are read"):
        data.store_upload(file)


@pytest.mark.parametrize("words", ["https://x/y.jsonl", "hf://a/b", "/etc/*", "file:///etc/passwd", "zip://x::a.jsonl"])
def test_urls_and_patterns_are_refused(words: str) -> None:
    with pytest.raises(PlanError, match="URL or a pattern"):
        data.locate(DataSource(path=words))


def test_a_path_is_refused_where_the_server_has_other_visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = source(tmp_path, json.dumps(CHAT))
    monkeypatch.setenv("FITTINGROOM_LOCAL_PATHS", "0")
    with pytest.raises(PlanError, match="not a data set of this server"):
        data.locate(where)


def test_a_hub_set_says_that_it_is_not_here_and_that_there_is_no_network() -> None:
    where = DataSource(path="tatsu-lab/alpaca", config="default")
    assert data.is_hub(where)
    issues = data.scan(where).issues
    assert issues[0].severity == "warning"
    assert "not on this computer yet" in issues[0].message
    with pytest.raises(
        PlanError, match=r"^datasets: tatsu-lab/alpaca is on the hub, and the hub cannot be reached\. Check the"
    ):
        data.fetch(where)


@pytest.fixture
def set_with_configs(tmp_path: Path) -> Path:
    """A folder as the hub has them: `datasets` reads both in the same way."""
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "two.jsonl").write_text('{"text": "c"}\n')
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}.jsonl\n"
        for name, split in (("one", "train"), ("two", "test"))
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "split", "said"),
    [
        ("", "train", "needs the name of a config: it has one, two"),
        ("three", "train", "needs the name of a config: it has one, two"),
        ("one", "test", "has no split 'test': it has train"),
    ],
)
def test_the_hubs_answers_become_one_sentence(set_with_configs: Path, config: str, split: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        list(hub._stream(DataSource(path=str(set_with_configs), config=config, split=split)))


def test_rows_of_a_config_and_a_split_are_streamed_and_no_script_is_run(set_with_configs: Path, tmp_path: Path) -> None:
    where = DataSource(path=str(set_with_configs), config="two", split="test")
    assert list(hub._stream(where)) == [{"text": "c"}]
    script = tmp_path / "script"
    script.mkdir()
    (script / "script.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(PlanError, match="loading script, which is never run here"):
        list(hub._stream(DataSource(path=str(script))))
    assert not (tmp_path / "canary").exists()


def test_a_fetched_set_is_a_file_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    where = DataSource(path="someone/rows", config="first", split="test")
    monkeypatch.setattr(hub, "_refuse_if_refused", lambda source: None)  # stands for the network alone
    monkeypatch.setattr(hub, "_stream", lambda source: iter([{"text": "a"}, {"text": "b"}]))
    hub.fetch_here(where)
    assert data.load((where,)) == [{"text": "a"}, {"text": "b"}]
    assert data.title(where) == "someone/rows"
    other = DataSource(path="someone/rows", config="second", split="test")
    assert "not on this computer yet" in data.scan(other).issues[0].message


# --- images ---------------------------------------------------------------------------------------------------------


def zipped(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return file


def test_a_zip_of_folders_is_images_with_labels(tmp_path: Path) -> None:
    members = {
        "shapes/circle/a.png": PNG,
        "shapes/square/b.png": PNG,
        "__MACOSX/shapes/._a.png": b"x",
        "shapes/notes.txt": b"x",
    }
    stored = data.store_upload(zipped(tmp_path / "shapes.zip", members))
    scan = data.scan(stored)
    assert (scan.format, dict(scan.labels), scan.issues) == ("image-label", {"circle": 1, "square": 1}, ())
    rows = data.load((stored,))
    assert [Path(row["image"]).read_bytes() for row in rows] == [PNG, PNG]
    assert data.title(stored) == "shapes.zip"


def test_a_zip_with_metadata_is_images_with_captions(tmp_path: Path) -> None:
    members = {"d/a.png": PNG, "d/metadata.jsonl": b'{"file_name": "a.png", "text": "A dot"}\n'}
    rows = data.load((data.store_upload(zipped(tmp_path / "dots.zip", members)),))
    assert rows[0]["text"] == "A dot"
    table = {"x/metadata.csv": b"file_name,question,answer\na.png,What?,A dot\n", "x/a.png": PNG}
    rows = data.load((data.store_upload(zipped(tmp_path / "vqa.zip", table)),))
    assert rows[0]["answer"] == "A dot"


def test_an_archive_that_would_escape_is_refused_and_leaves_nothing(tmp_path: Path, home: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as bundle:
        bundle.writestr(link, "/etc/passwd")
    for name, members in {
        "up.zip": {"../../out.png": PNG},
        "root.zip": {"/tmp/out.png": PNG},
        "drive.zip": {"C:\\out.png": PNG},
        "none.zip": {"notes.txt": b"x"},
    }.items():
        zipped(tmp_path / name, members)
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    for name in ("link", "up", "root", "drive", "none", "broken"):
        with pytest.raises(PlanError):
            data.store_upload(tmp_path / f"{name}.zip")
    assert list((home / "uploads").iterdir()) == []


def test_an_archive_beyond_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {f"a/{n}.png": b"0" * 100_000 for n in range(5)})
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr(limits, "UNPACKED_FREELY", 400_000)
    monkeypatch.setattr(limits, "MOST_RATIO", 1)
    with pytest.raises(PlanError, match="unpacks to more than"):
        images.unpack(bomb, tmp_path / "rows.jsonl")
    monkeypatch.setattr(limits, "MOST_RATIO", 1000)
    monkeypatch.setattr(limits, "MOST_FILES", 4)
    with pytest.raises(PlanError, match="more than 4 files"):
        images.unpack(bomb, tmp_path / "rows.jsonl")


def test_an_image_beside_the_file_is_read_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    names = ("a.png", "../secret.png", "link.png", "gone.png", str(tmp_path / "secret.png"))
    where = source(folder, "\n".join(json.dumps({"image": name, "text": "x"}) for name in names))
    scan = data.scan(where)
    assert (scan.rows, scan.bad) == (1, 4)
    assert "line 2 of rows.jsonl names an image that is not beside the file" in scan.errors[0].message
