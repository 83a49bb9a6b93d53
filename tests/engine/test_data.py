"""Reading rows: the formats that people have, and exact lines for what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine import data
from engine.data.demos import DEMOS, Demo
from engine.issues import PlanError
from engine.objectives import OBJECTIVES
from engine.plan import DataSource

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def source(tmp_path: Path, text: str | bytes, name: str = "rows.jsonl") -> DataSource:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return DataSource(path=str(file))


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_every_line_of_a_demo_set_is_read_as_its_objective_wants_it(demo: Demo) -> None:
    objective = OBJECTIVES[demo.plan().objective]
    scan = data.scan(DataSource(path=demo.path), objective.shapes)
    assert scan.issues == ()
    assert scan.format in objective.shapes
    assert scan.rows > 0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (CHAT, CHAT),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            CHAT,
        ),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, CHAT),
        ({"prompt": "Hi", "completion": "Hello", "extra": 1}, {"prompt": "Hi", "completion": "Hello"}),
        ({"text": "Hello", "source": "web"}, {"text": "Hello"}),
    ],
)
def test_formats_are_recognised(tmp_path: Path, row: dict, expected: dict) -> None:
    assert data.load((source(tmp_path, json.dumps(row)),)) == [expected]


def test_a_json_array_is_read_too(tmp_path: Path) -> None:
    assert data.load((source(tmp_path, json.dumps([CHAT, CHAT]), "rows.json"),)) == [CHAT, CHAT]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a"', "is not valid JSON"),
        ("[1, 2]", "is not a JSON object"),
        ('{"foo": 1}', "has none of the known columns (it has foo)"),
        ('{"text": 5}', "has a number in 'text', not a text"),
        ('{"text": null}', "has nothing in 'text', not a text"),
        ('{"text": "  "}', "has no text"),
        ('{"messages": []}', "has no messages"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "unknown role 'robot'"),
        ('{"messages": [{"role": "user", "content": null}]}', "message without text"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "does not end with an answer"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    lines = [json.dumps(CHAT)] * 30_000
    lines[28_999] = line
    scan = data.scan(source(tmp_path, "\n".join(lines)))
    assert len(scan.issues) == 1
    assert "line 29000 of rows.jsonl" in scan.issues[0].message
    assert problem in scan.issues[0].message


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    scan = data.scan(source(tmp_path, "oops\n" * 100))
    assert len(scan.issues) == data.SHOWN_ISSUES + 1
    assert "95 more rows" in scan.issues[-1].message


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
def test_an_empty_file_says_so(tmp_path: Path, text: str) -> None:
    assert "has no rows" in data.scan(source(tmp_path, text)).issues[0].message


@pytest.mark.parametrize("text", [b"\xff\xfe{\x00", '{"text": "caf\xe9"}'.encode("latin-1")])
def test_another_encoding_is_one_sentence(tmp_path: Path, text: bytes) -> None:
    assert len(data.scan(source(tmp_path, text)).issues) == 1


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    scan = data.scan(source(tmp_path, b"\xef\xbb\xbf" + json.dumps(CHAT).encode() + b"\r\n"))
    assert (scan.rows, scan.issues) == (1, ())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    where = source(tmp_path, json.dumps(CHAT))
    assert data.scan(where).rows == 1
    source(tmp_path, f"{json.dumps(CHAT)}\n{json.dumps(CHAT)}")
    assert data.scan(where).rows == 2


def test_the_split_is_the_same_each_time_and_loses_no_row() -> None:
    rows = [{"text": str(number)} for number in range(100)]
    train, held_out = data.split(rows, eval_fraction=0.1, seed=7)
    assert (train, held_out) == data.split(rows, eval_fraction=0.1, seed=7)
    assert len(held_out) == 10
    assert sorted(train + held_out, key=lambda row: int(row["text"])) == rows
    assert held_out != data.split(rows, eval_fraction=0.1, seed=8)[1]


def test_an_upload_is_kept_under_a_name_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "$(touch x); my rows.jsonl"
    file.write_text(json.dumps(CHAT))
    stored = data.store_upload(file)
    assert data.UPLOAD_ID.match(stored.path)
    assert data.load((stored,)) == [CHAT]


def test_a_bad_upload_names_the_line_and_is_kept_to_be_mended(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(CHAT) + "\noops\n")
    stored = data.store_upload(file)
    assert "line 2 of mine.jsonl" in data.scan(stored).errors[0].message
    with pytest.raises(PlanError, match=r"line 2 of mine\.jsonl"):
        data.load((stored,))


def test_an_upload_without_any_row_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("oops\n")
    with pytest.raises(PlanError, match=r"line 1 of mine\.jsonl"):
        data.store_upload(file)
    assert list(data.uploads_folder().iterdir()) == []


def test_a_symbolic_link_is_no_upload(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps(CHAT))
    link = tmp_path / "link.jsonl"
    os.symlink(secret, link)
    with pytest.raises(PlanError, match="not a regular file"):
        data.store_upload(link)
