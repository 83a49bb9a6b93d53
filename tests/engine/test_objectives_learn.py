"""Every objective, really trained for a few steps on a tiny model: the figure that it is for gets better on held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, set_seed

from engine import data
from engine.data import tokenization
from engine.modeling import build
from engine.objectives import OBJECTIVES
from engine.plan import DataSource, Plan
from engine.recipes import vision
from engine.train import make_trainer, measured
from tests.engine import tiny

# 64 answers of 8 tokens a step: an untrained model's answers are noise, and the mean of few of them too.
LENGTH = {"num_generations": 16, "max_completion_length": 8, "reward_funcs": ["length"], "target_length": 60}

# Objective -> (fields of the plan, by how much the figure must change; a factor for perplexities).
ON_WORDS: dict[str, tuple[dict[str, Any], float]] = {
    "sft": ({"max_steps": 20}, 0.5),
    "dapt": ({"max_steps": 20, "max_length": 24}, 0.5),
    "dpo": ({"max_steps": 15}, 0.1),
    "kto": ({"max_steps": 15}, 0.1),
    "orpo": ({"max_steps": 15}, 0.01),
    "cpo": ({"max_steps": 15}, 0.5),
    "simpo": ({"max_steps": 15}, 0.5),
    "reward": ({"max_steps": 15}, 0.4),
    "grpo": ({"max_steps": 20, "objective_options": LENGTH, "per_device_train_batch_size": 64, "learning_rate": 1e-2}, 0.04),
    "rloo": ({"max_steps": 20, "objective_options": LENGTH, "per_device_train_batch_size": 64, "learning_rate": 1e-2}, 0.04),
    "distillation": ({"max_steps": 15, "objective_options": {"max_completion_length": 8}}, 0.005),
    "distillation_offline": ({"max_steps": 15}, 0.002),
}
ON_DEMOS: dict[str, tuple[str, dict[str, Any], float]] = {
    "classification": ("topics", {"max_steps": 30, "learning_rate": 5e-3, "max_length": 48}, 0.2),
    "regression": ("counts", {"max_steps": 50, "learning_rate": 5e-3, "max_length": 48}, 2.0),
    "token_classification": ("names", {"max_steps": 15, "learning_rate": 5e-3, "max_length": 48}, 0.5),
    "question_answering": ("reading", {"max_steps": 40, "learning_rate": 2e-3, "method": "full", "max_length": 48}, 0.15),
    "masked_lm": ("velmora_text", {"max_steps": 12, "learning_rate": 5e-3, "max_length": 48}, 0.8),
    "seq2seq": ("phrases", {"max_steps": 110, "learning_rate": 5e-3, "method": "full", "max_length": 48}, 0.2),
    "sentence_embeddings": ("alike", {"max_steps": 20, "learning_rate": 3e-3, "max_length": 32}, 0.15),
    "image_classification": ("shapes", {"max_steps": 50, "learning_rate": 5e-3}, 0.3),
    "object_detection": ("boxes", {"max_steps": 40, "learning_rate": 5e-3}, 0.3),
    "clip": ("captions", {"max_steps": 60, "learning_rate": 1e-3, "method": "full", "max_length": 32}, 0.1),
    "captioning": ("captions", {"max_steps": 45, "learning_rate": 3e-3, "method": "full"}, 0.4),
    "vqa": ("questions", {"max_steps": 40, "learning_rate": 2e-3, "method": "full"}, 0.2),
}
WRITTEN = ("captioning", "vqa")  # whose answers are written out too, and compared word for word


def trained(
    plan: Plan, train: list[data.Row], held_out: list[data.Row], folder: Path
) -> tuple[Trainer, dict[str, float], dict[str, float]]:
    """(the trainer, what it measured on the held-out rows before, the same after the training)."""
    set_seed(plan.seed)
    trainer = make_trainer(plan, folder, build.build(plan, "cpu"), build.load_processor(plan), train, held_out)
    trainer.args.eval_strategy, trainer.args.eval_on_start = "no", False
    before = trainer.evaluate()
    trainer.train()
    return trainer, before, trainer.evaluate()


def is_better(objective: str, before: dict[str, float], after: dict[str, float], by: float) -> bool:
    """Whether the objective's own figure has changed for the better by so much."""
    metric = OBJECTIVES[objective].metric
    first, last = (measured(metric, logs, "eval_")["value"] for logs in (before, after))
    if metric.perplexity:
        return last < first * by
    return last > first + by if metric.higher_is_better else last < first - by


def share_written(trainer: Trainer, rows: list[data.Row]) -> float:
    """The share of the rows whose greedy answer, written token by token, is the right one word for word."""
    processor, right = trainer.processing_class, 0
    for row in rows:
        chat = tokenization.image_chat(row)
        inputs = vision.processed(processor, [vision.images_of(row)], [vision.chat_prompt(processor, chat[:-1])])
        written = trainer.model.generate(**inputs, do_sample=False, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
        right += processor.tokenizer.decode(written, skip_special_tokens=True) == tokenization.words_of(chat[-1])
    return right / len(rows)


@pytest.mark.parametrize("key", ON_WORDS)
def test_it_learns_from_words(key: str, tmp_path: Path) -> None:
    changes, change = ON_WORDS[key]
    teacher = {"teacher": tiny.causal_model(hidden=48, seed=1)} if key.startswith("distillation") else {}
    options = changes.get("objective_options", {}) | teacher
    fields = (
        {"method": "full", "learning_rate": 5e-3, "per_device_train_batch_size": 8} | changes | {"objective_options": options}
    )
    plan = tiny.plan(key, tiny.causal_model(), **fields)
    rows = tiny.rows(OBJECTIVES[key].shapes[0], 40)
    _, before, after = trained(plan, rows[8:], rows[:8], tmp_path)
    assert is_better(key, before, after, change), (before, after)


@pytest.mark.parametrize("key", ON_DEMOS)
def test_it_learns_from_its_demo(key: str, tmp_path: Path) -> None:
    demo, changes, change = ON_DEMOS[key]
    fields = {"per_device_train_batch_size": 32, "max_length": 64, "lr_scheduler_type": "linear"} | changes
    plan = tiny.plan(key, tiny.model_for(key), datasets=(DataSource(path=f"demo/{demo}"),), **fields)
    rows = data.load(plan.datasets, OBJECTIVES[key].shapes)
    train, held_out = data.split(rows, eval_fraction=0.1, seed=0)
    trainer, before, after = trained(plan, train, held_out, tmp_path)
    assert is_better(key, before, after, change), (before, after)
    if key in WRITTEN:
        assert after["eval_exact_match"] > before["eval_exact_match"] + 0.15
        assert after["eval_exact_match"] == share_written(trainer, held_out)


def test_every_objective_is_trained_here() -> None:
    """RLHF needs a reward model first: it is trained in the chain of `test_chains.py`."""
    assert {*ON_WORDS, *ON_DEMOS, "rlhf"} == set(OBJECTIVES)
