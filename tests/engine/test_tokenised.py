"""Tokenised rows are kept: a second start takes them as they are, and anything that they depend on makes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trl.trainer import sft_trainer

from engine import build, tokenised
from engine.plan import Plan
from engine.train import make_trainer
from tests.engine import tiny

MODEL = tiny.causal_model()
ROWS = tiny.rows("messages", 12)


def tokens_of(plan: Plan, folder: Path, rows: list[dict[str, Any]] = ROWS) -> list[list[dict[str, Any]]]:
    """The training and the held-out rows as the trainer of a new start has them."""
    trainer = make_trainer(plan, folder, build.build(plan, "cpu"), build.load_processor(plan), rows[4:], rows[:4])
    return [list(trainer.train_dataset), list(trainer.eval_dataset)]


@pytest.mark.parametrize("key", ["sft", "dapt"])
def test_the_second_start_does_not_tokenise_again(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny.plan(key, MODEL)
    first = tokens_of(plan, tmp_path)
    assert all(part and {"input_ids", "labels"} <= set(part[0]) for part in first)
    seen: list[Any] = []
    tokenise = sft_trainer._tokenize
    monkeypatch.setattr(sft_trainer, "_tokenize", lambda *args, **rest: (seen.append(args), tokenise(*args, **rest))[1])
    assert tokens_of(plan.with_(learning_rate=1e-4, max_steps=3), tmp_path) == first
    assert seen == []
    for changed, rows in ((plan.with_(max_length=16), ROWS), (plan, ROWS[:-1]), (plan, ROWS[::-1])):
        tokens_of(changed, tmp_path, rows)
        assert seen, "what the tokens depend on has changed"
        seen.clear()


def test_what_was_not_used_for_longest_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(tokenised, "MOST_KEPT", 2)
    rows = datasets.Dataset.from_list([{"input_ids": [1, 2]}])
    for name in ("a", "b"):
        tokenised.keep(name, rows)
    assert tokenised.kept("a") is not None
    tokenised.keep("c", rows)
    assert tokenised.kept("b") is None
    assert tokenised.kept("a")[0] == {"input_ids": [1, 2]}
