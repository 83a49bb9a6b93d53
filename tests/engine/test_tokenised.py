"""Tokenised rows are kept: a second start takes them as they are, and anything that they depend on makes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from engine import data
from engine.data import token_cache
from engine.modeling import build
from engine.objectives import OBJECTIVES
from engine.plan import DataSource, Plan
from engine.train import make_trainer
from tests.engine import tiny

Rows = list[dict[str, Any]]

# Whose trainer tokenises all rows before the first step -> the demo whose rows it takes; "" for the tiny rows of its shape.
KEPT = {
    "sft": "", "dapt": "", "dpo": "", "kto": "", "orpo": "", "cpo": "", "reward": "",
    "classification": "topics", "regression": "counts", "token_classification": "names", "question_answering": "reading",
    "masked_lm": "velmora_text", "seq2seq": "phrases",
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the tokenizer was asked for."""
    seen: list[Any] = []
    encode = PreTrainedTokenizerBase.__call__

    def counted(self: Any, *args: Any, **rest: Any) -> Any:
        seen.append(args)
        return encode(self, *args, **rest)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", counted)
    return seen


def example(key: str) -> tuple[Plan, Rows]:
    """A plan of the objective with twelve rows."""
    demo = KEPT[key]
    if not demo:
        shape = "messages" if key == "dapt" else OBJECTIVES[key].shapes[0]
        return tiny.plan(key, tiny.causal_model()), tiny.rows(shape, 12)
    plan = tiny.plan(key, tiny.model_for(key), datasets=(DataSource(path=f"demo/{demo}"),))
    return plan, data.load(plan.datasets, OBJECTIVES[key].shapes)[:12]


def tokens_of(plan: Plan, folder: Path, rows: Rows) -> list[Rows]:
    """The training and the held-out rows as the trainer of a new start has them."""
    trainer = make_trainer(plan, folder, build.build(plan, "cpu"), build.load_processor(plan), rows[4:], rows[:4])
    return [list(trainer.train_dataset), list(trainer.eval_dataset)]


@pytest.mark.parametrize("key", KEPT)
def test_the_second_start_does_not_tokenise_again(key: str, tmp_path: Path, asked: list[Any]) -> None:
    plan, rows = example(key)
    first = tokens_of(plan, tmp_path, rows)
    assert all(any(name.endswith("ids") for name in part[0]) for part in first)
    for_all = len(asked)
    asked.clear()
    assert tokens_of(plan.with_(learning_rate=1e-4, max_steps=3), tmp_path, rows) == first
    assert len(asked) <= for_all / 4, "at most one training row and one held-out row of the twelve"
    for changed, others in ((plan.with_(max_length=16), rows), (plan, rows[:-1]), (plan, rows[::-1])):
        asked.clear()
        tokens_of(changed, tmp_path, others)
        assert len(asked) >= for_all / 2, "what the tokens depend on has changed"


def test_answers_of_a_reference_are_never_kept(tmp_path: Path, home: Path) -> None:
    """They stand beside the tokens, and another model gives others."""
    rows = tiny.rows("preference", 12)
    plan = tiny.plan("dpo", tiny.causal_model(), objective_options={"precompute_ref_log_probs": True})
    assert "ref_chosen_logps" in tokens_of(plan, tmp_path, rows)[0][0]
    assert not list((home / "cache").rglob("*.arrow"))


def test_what_was_not_used_for_longest_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(token_cache, "MOST_KEPT", 2)
    rows = datasets.Dataset.from_list([{"input_ids": [1, 2]}])
    for name in ("a", "b"):
        token_cache.keep(name, rows)
    assert token_cache.kept("a") is not None
    token_cache.keep("c", rows)
    assert token_cache.kept("b") is None
    assert token_cache.kept("a")[0] == {"input_ids": [1, 2]}
