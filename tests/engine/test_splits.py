"""A row that was held out once is never trained on: not when the file grows, and not when the set is mixed with others."""

from __future__ import annotations

import json
from pathlib import Path

from engine import data
from engine.data import holdout, token_counts
from engine.pipelines import chains
from engine.plan import DataSource, Plan
from engine.train import load_rows


def plan_of(file: Path, rows: range, **changes: object) -> Plan:
    """A plan on a file of texts; the share is large, so that chance would not hide a leak."""
    file.write_text("\n".join(json.dumps({"text": f"row number {number} of the file"}) for number in rows))
    return Plan(datasets=(DataSource(path=str(file)),), eval_fraction=0.2, **changes)


def ids(rows: list[data.Row]) -> set[str]:
    return {data.row_id(row) for row in rows}


def test_a_file_that_grew_keeps_its_held_out_rows(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    _, before = load_rows(plan_of(file, range(40)))
    train, after = load_rows(plan_of(file, range(200)))
    assert len(before) == 8
    assert ids(after) == ids(before)
    assert len(train) == 192
    seen = token_counts.load(plan_of(file, range(200)))
    assert ids(seen.held_out) == ids(before), "the X-ray and the estimate see the same split"


def test_another_seed_or_another_file_is_another_draw(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    _, before = load_rows(plan_of(file, range(40)))
    _, other_seed = load_rows(plan_of(file, range(40), seed=1))
    assert ids(other_seed) != ids(before)
    _, replaced = load_rows(plan_of(file, range(1000, 1040)))
    assert len(replaced) == 8, "nothing of what was written is there any more"


def test_rows_that_are_replayed_stay_held_out(tmp_path: Path) -> None:
    first = plan_of(tmp_path / "first.jsonl", range(100))
    second = plan_of(tmp_path / "second.jsonl", range(1000, 1100))
    _, before = load_rows(first)
    chain = chains.from_dict({"stages": [first.to_dict(), second.to_dict() | {"replay": 0.5}]})
    mixed = second.with_(datasets=chains.with_replay(chain, 1))
    train, held_out = load_rows(mixed)
    again = [row for row in (*train, *held_out) if int(row["text"].split()[2]) < 1000]
    assert len(again) == 50
    assert not ids(train) & ids(before)
    assert len(ids(held_out) & ids(before)) > 3, "half of the earlier rows are seen again, so about half of those aside are too"


def test_all_rows_train_where_nothing_is_held_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "mine.jsonl", range(10)).with_(eval_fraction=0.0)
    assert [len(rows) for rows in load_rows(plan)] == [10, 0]
    assert holdout.places(plan, []) == set()
