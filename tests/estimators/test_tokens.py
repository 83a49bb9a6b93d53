"""Token counts: exact with the model's tokenizer, and the worst case where there are no data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.data.demos import first_plan
from engine.modeling.build import load_tokenizer
from engine.plan import DataSource, Plan
from estimators import tokens
from estimators.estimator import estimate


def test_demo_rows_are_counted_as_the_trainer_reads_them(tmp_path: Path) -> None:
    from engine.modeling.build import load_base
    from engine.train import load_rows, make_trainer

    plan = first_plan()
    tokenizer = load_tokenizer(plan)
    trainer = make_trainer(plan, tmp_path, load_base(plan, "cpu"), tokenizer, *load_rows(plan))
    trained = sorted(len(row["input_ids"]) for row in trainer.train_dataset)
    assert sorted(tokens.lengths(plan).train) == trained


def test_rows_are_cut_at_the_longest_sequence() -> None:
    assert tokens.lengths(first_plan().with_(max_length=16)).longest == 16


def test_without_a_tokenizer_the_count_is_said_to_be_a_guess(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "word " * 80}) + "\n")
    found = tokens.lengths(Plan(model="Qwen/Qwen3-8B", gpu="L40S", datasets=(DataSource(path=str(file)),)))
    assert not found.exact
    assert 80 <= found.longest <= 120


def test_without_data_every_row_is_as_long_as_the_longest() -> None:
    plan = Plan(model="Qwen/Qwen3-0.6B", gpu="L40S", max_length=512)
    assert tokens.lengths(plan).longest == 512
    found = estimate(plan)
    assert found.steps is None
    assert found.total_seconds is None
    assert found.step_seconds is not None
    assert estimate(plan.with_(max_steps=10)).steps == 10


@pytest.mark.parametrize(("batch", "expected"), [(1, 2.5), (2, 3.0), (4, 4.0)])
def test_a_batch_is_as_long_as_its_longest_row(batch: int, expected: float) -> None:
    found = [tokens.mean_padded_length([1, 2, 3, 4], batch, seed) for seed in range(200)]
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.15)
