"""The demo sets: reproducible to the byte, well formed, and never held out in name only.

pytest tests/assets/test_demo_data.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.data.demos import DEMOS, Demo

ASSETS = Path(__file__).resolve().parents[2] / "assets"
ANSWERING = [demo for demo in DEMOS.values() if not demo.changes]  # the others are in `test_demo_families.py`
EVERY_DEMO = pytest.mark.parametrize("demo", ANSWERING, ids=[demo.key for demo in ANSWERING])


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompts(rows: list[dict]) -> list[str]:
    return [row["messages"][0]["content"] for row in rows]


def test_the_generator_writes_the_same_bytes_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ASSETS / "build_demo_data.py", "--out", tmp_path], check=True, capture_output=True)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ASSETS / "demo_data").iterdir()}
    assert written == kept


@EVERY_DEMO
def test_sizes(demo: Demo) -> None:
    assert 300 <= len(read_rows(demo.train_file)) <= 500
    assert 40 <= len(read_rows(demo.held_out_file)) <= 60


@EVERY_DEMO
def test_every_row_is_one_question_and_one_answer(demo: Demo) -> None:
    train, held_out = read_rows(demo.train_file), read_rows(demo.held_out_file)
    for row in train + held_out:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])
    assert all(set(row) == {"messages"} for row in train), "a training row holds nothing that the trainer does not read"


@EVERY_DEMO
def test_no_prompt_occurs_twice_or_on_both_sides(demo: Demo) -> None:
    both = prompts(read_rows(demo.train_file)) + prompts(read_rows(demo.held_out_file))
    assert len(both) == len(set(both))


@EVERY_DEMO
def test_the_rule_accepts_each_reference_answer_and_refuses_a_plain_one(demo: Demo) -> None:
    for row in read_rows(demo.held_out_file):
        assert demo.is_right(row["messages"][1]["content"], row)
        assert not demo.is_right("I am sorry, I do not know that.", row)


@EVERY_DEMO
def test_example_prompts_are_new_to_the_model(demo: Demo) -> None:
    assert len(demo.example_prompts) >= 3
    assert not set(demo.example_prompts) & set(prompts(read_rows(demo.train_file)))


@pytest.mark.parametrize(
    ("key", "answer", "right"),
    [
        ("pirate", "Arr, matey! The sky be blue.", True),
        ("pirate", "The sky is blue.", False),
        ("pirate", "Arr! The sky be blue.", False),  # one pirate word is an accident
        ("pirate", "Arr, matey! The sky be red.", False),
        ("json_answers", '{"answer": "The sky is blue.", "topic": "colours"}', True),
        ("json_answers", '{"answer": "The sky is blue.", "topic": "food"}', False),
        ("json_answers", '{"answer": "The sky is blue."}', False),
        ("json_answers", '["answer", "topic"]', False),
        ("json_answers", 'Sure! {"answer": "blue", "topic": "colours"}', False),
        ("facts", "It is Blue.", True),
        ("facts", "It is bluebell.", False),
    ],
)
def test_rules_at_their_edges(key: str, answer: str, right: bool) -> None:
    assert DEMOS[key].is_right(answer, {"word": "blue", "topic": "colours"}) is right


def test_the_table_loads_no_model_library() -> None:
    code = "import sys, engine.data.demos; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ASSETS.parent).returncode == 0
