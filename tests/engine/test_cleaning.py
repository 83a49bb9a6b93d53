"""Cleaning: a new version is written, the old one stays, and what was removed is told row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import data
from engine.data import cleaning, token_counts
from engine.data.cleaning import CLEANINGS, Cleaned
from engine.data.demos import first_plan
from engine.issues import PlanError
from engine.modeling.build import load_tokenizer
from engine.plan import DataSource


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(first_plan())


def written(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> DataSource:
    file = folder / name
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return data.store_upload(file)


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
ENGLISH = "The cat is on the mat and it was not for you"
TEXTS = [{"text": ENGLISH + f" {n * 31} {n}"} for n in range(20)]


@pytest.mark.parametrize(
    ("wishes", "rows", "left"),
    [
        ({"drop_bad": True}, [*TEXTS, "oops", {"text": " "}], 20),
        ({"deduplicate": True}, [*TEXTS, TEXTS[3], TEXTS[3]], 20),
        ({"deduplicate_nearly": True}, [{"text": LONG}, {"text": LONG.upper() + "."}, {"text": "Something else"}], 2),
        ({"drop_long": 20}, [{"text": "a b"}, {"text": LONG * 3}], 1),
        ({"drop_untrained": True}, [{"prompt": "a", "completion": "b"}, {"prompt": LONG * 30, "completion": "b"}], 1),
        ({"drop_languages": ""}, [*TEXTS, {"text": "Привет, как дела у вас сегодня?"}], 20),
        ({"drop_languages": "Cyrillic"}, [*TEXTS, {"text": "Привет, как дела у вас сегодня?"}], 1),
        ({"drop_containing": "CAT"}, [*TEXTS, {"text": "a dog"}], 1),
        ({"balance": True}, [{"text": f"a{n}", "label": "x" if n < 3 else "y"} for n in range(20)], 6),
        ({"cap": 7}, TEXTS, 7),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_each_cleaning_removes_what_it_says(tmp_path: Path, tokenizer: Any, wishes: dict, rows: list[Any], left: int) -> None:
    source = written(tmp_path, rows)
    plan = first_plan().with_(datasets=(source,), objective="classification" if "balance" in wishes else "sft")
    result = cleaning.clean(plan, source, wishes, tokenizer)
    assert (result.before, result.after) == (len(rows), left)
    assert sum(count for _, count in result.removed) == len(rows) - left
    assert len(data.load((result.source,))) == left
    assert data.scan(source).rows + data.scan(source).bad + data.scan(source).empty == len(rows)  # the old one stays
    assert Cleaned.from_dict(json.loads(json.dumps(_plain(result)))) == result


def _plain(value: Any) -> Any:
    import dataclasses

    return dataclasses.asdict(value)


def test_every_cleaning_is_tested() -> None:
    tried = test_each_cleaning_removes_what_it_says.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {key for wishes, *_ in tried for key in wishes} == set(CLEANINGS)


def test_rows_stay_as_they_were_written_and_versions_have_names(tmp_path: Path) -> None:
    rows = [{"instruction": "Hi", "input": "", "output": f"Hello {n}", "note": n} for n in range(3)]
    source = written(tmp_path, [*rows, rows[0]], "my rows.json")
    plan = first_plan()
    one = cleaning.clean(plan, source, {"deduplicate": True})
    file = data.locate(one.source)
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
    two = cleaning.clean(plan, one.source, {"cap": 2})
    assert (one.name, two.name) == ("my rows, cleaned.jsonl", "my rows, cleaned 2.jsonl")
    assert data.title(two.source) == two.name


def test_a_mapping_goes_along(tmp_path: Path) -> None:
    source = written(tmp_path, [{"Frage": "Hi", "Antwort": "Hallo"}, {"Frage": "Hi", "Antwort": "Hallo"}])
    mapped = DataSource(path=source.path, columns={"prompt": "Frage", "completion": "Antwort"}, weight=2)
    result = cleaning.clean(first_plan(), mapped, {"deduplicate": True})
    assert (result.source.columns, result.source.weight) == (mapped.columns, 2)
    assert data.load((result.source,)) == [{"prompt": "Hi", "completion": "Hallo"}] * 2


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"drop_containing": "the"}, "nothing would be left"),
        ({"cap": -1}, "needs a number"),
        ({"cap": "many"}, "needs a number"),
        ({"drop_long": 20}, "needs the model's tokenizer"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(tmp_path: Path, wishes: dict, said: str) -> None:
    source = written(tmp_path, TEXTS)
    with pytest.raises(PlanError, match=said):
        cleaning.clean(first_plan(), source, wishes)
    assert [path for _, path in data.uploads()] == [source.path]


def test_held_out_rows_stay_held_out_in_the_cleaned_version(tmp_path: Path) -> None:
    rows = [{"text": f"Row {n} {n * 7919}"} for n in range(100)]
    source = written(tmp_path, rows + rows[:40])
    plan = first_plan().with_(datasets=(source,), eval_fraction=0.1)
    before = {row["text"] for row in token_counts.load(plan).held_out}
    result = cleaning.clean(plan, source, {"deduplicate": True})
    after = {row["text"] for row in token_counts.load(plan.with_(datasets=(result.source,))).held_out}
    train = {row["text"] for row in token_counts.load(plan).train}
    assert len(after & before) >= 0.8 * min(len(after), len(before))
    assert not before & train
