"""FORMATS: every row of the table reads its own example; names, mappings and the objective's wish decide what is unclear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import data
from engine.data import FORMATS, SHAPES, Format, Recognition
from engine.data.values import BadRow, EmptyRow
from engine.objectives import OBJECTIVES
from engine.plan import DataSource

PEER = Path(__file__).resolve().parents[3] / "shared" / "data"
ASKED = [{"role": "user", "content": "Hi"}]
ANSWERED = [{"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_every_format_recognises_its_example_and_gives_its_shape(row: Format) -> None:
    found, read = Recognition().read(dict(row.example))
    assert found.key == row.key
    assert set(SHAPES[row.becomes]) <= set(read)
    assert list(data.texts(read)) or "image" in read


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_every_format_can_be_mapped_by_hand(row: Format) -> None:
    odd = {f"Spalte {place}": value for place, value in enumerate(row.example.values())}
    mapping = dict(zip(row.example, odd, strict=True))
    found, read = Recognition(mapping=mapping).read(odd | {"noise": 1})
    assert found.key == row.key
    assert set(SHAPES[row.becomes]) <= set(read)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_asks_for_shapes_that_formats_give(objective: Any) -> None:
    assert set(objective.shapes) <= {row.becomes for row in FORMATS.values()}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"instruction": "Add", "input": "1 and 2", "output": "3", "system": "Be brief", "history": [["Hi", "Hello"]]},
            {"messages": [{"role": "system", "content": "Be brief"}, *ASKED, *ANSWERED,
                          {"role": "user", "content": "Add\n\n1 and 2"}, {"role": "assistant", "content": "3"}]},
        ),
        (
            {"system": "Be brief", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            {"messages": [{"role": "system", "content": "Be brief"}, *ASKED, *ANSWERED]},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, *ANSWERED]},
            {"messages": ASKED + ANSWERED},
        ),
        ({"prompt": ASKED, "completion": "Hello"}, {"prompt": ASKED, "completion": ANSWERED}),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}),
        (
            {"prompt": "Hi", "chosen": ASKED + ANSWERED, "rejected": [*ASKED, {"role": "assistant", "content": "Go"}]},
            {"prompt": ASKED, "chosen": ANSWERED, "rejected": [{"role": "assistant", "content": "Go"}]},
        ),
        (
            {"chosen": "Human: Hi Assistant: Hello", "rejected": "Human: Hi Assistant: Help yourself"},
            {"prompt": "Human: Hi Assistant:", "chosen": " Hello", "rejected": " Help yourself"},
        ),
        ({"prompt": "Hi", "completion": "Hello", "label": "false"}, {"prompt": "Hi", "completion": "Hello", "label": False}),
        ({"messages": ASKED + ANSWERED, "label": 1}, {"prompt": ASKED, "completion": ANSWERED, "label": True}),
        ({"prompt": "2 + 2", "answer": "4", "level": 1}, {"prompt": "2 + 2", "answer": "4", "level": 1}),
        ({"sentence1": "a", "sentence2": "b", "label": 0.5}, {"text": "a", "text_pair": "b", "label": 0.5}),
        ({"tokens": '["Ada"]', "ner_tags": "[1]"}, {"tokens": ["Ada"], "tags": [1]}),
        ({"dialogue": "Long", "summary": "Short"}, {"source": "Long", "target": "Short"}),
        ({"query": "a", "positive": "b", "negative": "c"}, {"anchor": "a", "positive": "b", "negative": "c"}),
    ],
)  # fmt: skip
def test_what_people_write_becomes_what_trl_reads(row: dict, expected: dict) -> None:
    assert Recognition().read(row)[1] == expected


def test_tool_calls_become_messages_that_a_template_can_render() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
            {"from": "observation", "value": '{"sun": true}'},
            {"from": "gpt", "value": "Sunny"},
        ],
        "tools": '[{"name": "weather", "parameters": {}}]',
    }
    read = Recognition().read(row)[1]
    assert [turn["role"] for turn in read["messages"]] == ["user", "assistant", "tool", "assistant"]
    call = read["messages"][1]["tool_calls"][0]["function"]
    assert call == {"name": "weather", "arguments": {"city": "Bonn"}}
    assert json.loads(read["tools"])[0]["name"] == "weather"


def test_calls_with_other_arguments_keep_their_own_in_a_table() -> None:
    def row(**arguments: Any) -> dict:
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        return {"messages": [*ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]}

    table = data.as_dataset([row(city="Bonn"), row(day=3), {"messages": ASKED + ANSWERED}])
    calls = [table[place]["messages"][1]["tool_calls"] for place in range(3)]
    assert [call and call[0]["function"]["arguments"] for call in calls] == [{"city": "Bonn"}, {"day": 3}, None]


@pytest.mark.parametrize(
    ("accepts", "shape"),
    [((), "prompt-completion"), (("prompt-only", "prompt-completion"), "prompt-only"), (("messages",), "prompt-completion")],
)
def test_the_objective_decides_what_could_be_read_in_two_ways(accepts: tuple[str, ...], shape: str) -> None:
    found, row = Recognition(accepts=accepts).read({"question": "2 + 2", "answer": "4"})
    assert found.becomes == shape
    assert row["prompt"] == "2 + 2"


@pytest.mark.parametrize(
    ("row", "error", "problem"),
    [
        ({"messages": None}, BadRow, "has nothing in 'messages'"),
        ({"messages": ["Hi"]}, BadRow, "a message that is not an object"),
        ({"messages": ASKED + ANSWERED, "label": "maybe"}, BadRow, "neither true nor false"),
        ({"messages": [*ASKED, {"role": "assistant", "content": " "}]}, EmptyRow, "an empty answer"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, EmptyRow, "the same text as chosen and as rejected"),
        ({"chosen": "a", "rejected": "b"}, BadRow, "share no prompt"),
        ({"tokens": ["a"], "tags": [1, 2]}, BadRow, "has 1 tokens and 2 tags"),
        ({"text": "a", "label": None}, BadRow, "nothing as its label"),
        (
            {"question": "Who?", "context": "Ada", "answers": {"text": ["Bob"], "answer_start": [0]}},
            BadRow,
            "does not stand in the context",
        ),
        ({"instruction": "Hi", "output": "x", "history": ["a"]}, BadRow, "a history that is not a list of pairs"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, BadRow, "no valid JSON in 'function_call'"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_says_why(row: dict, error: type[BadRow], problem: str) -> None:
    with pytest.raises(error, match=problem):
        Recognition().read(row)


@pytest.mark.skipif(not PEER.is_dir(), reason="the peer's data sets are not here")
@pytest.mark.parametrize(
    ("name", "rows", "recognised", "shape"),
    [
        ("alpaca_en_demo.json", 999, "alpaca", "messages"),
        ("c4_demo.jsonl", 300, "text", "text"),
        ("dpo_en_demo.json", 300, "preference-sharegpt", "preference"),
        ("glaive_toolcall_en_demo.json", 300, "sharegpt", "messages"),
        ("identity.json", 91, "alpaca", "messages"),
        ("kto_en_demo.json", 300, "kto-messages", "unpaired-preference"),
    ],
)
def test_real_sets_of_a_peer_are_taken_as_they_are(name: str, rows: int, recognised: str, shape: str) -> None:
    source = DataSource(path=str(PEER / name))
    scan = data.scan(source)
    assert (scan.rows, scan.recognised, scan.format, scan.issues) == (rows, recognised, shape, ())
    assert len(data.as_dataset(data.load((source,))[:50])) == 50
