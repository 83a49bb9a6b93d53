"""The worker really teaches: each demo set, with the default run, on held-out prompts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from engine.data import as_trl
from engine.data.demos import DEMOS, Demo, first_plan
from engine.inference.worker import Pair, stream
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.modeling.build import add_sft_loss, load_base, load_tokenizer, sft_loss
from engine.plan import DataSource, Plan
from engine.system import events
from engine.train import load_rows, make_trainer
from tests.conftest import log_of, run_to_its_end


def rates_of_right_answers(run: Run, demo: Demo) -> tuple[float, float]:
    """(base, tuned): the share of held-out prompts that each answers right."""
    pair = Pair(run.folder)
    rows = [json.loads(line) for line in demo.held_out_file.read_text(encoding="utf-8").splitlines()]
    right = {"base": 0, "tuned": 0}
    for row in rows:
        prompt = row["messages"][0]["content"]
        with pair.as_base():
            right["base"] += demo.is_right(answer_of(pair.tuned if pair.has_adapter else pair.base, pair, prompt), row)
        right["tuned"] += demo.is_right(answer_of(pair.tuned, pair, prompt), row)
    return right["base"] / len(rows), right["tuned"] / len(rows)


def held_out_prompts(demo: Demo) -> list[str]:
    return [json.loads(line)["messages"][0]["content"] for line in demo.held_out_file.read_text().splitlines()]


def answer_of(model: object, pair: Pair, prompt: str) -> str:
    return list(stream(model, pair.tokenizer, prompt, {"max_new_tokens": 64}))[-1]  # type: ignore[arg-type]


@pytest.mark.trains
def test_the_first_run_teaches_the_voice(pirate_run: Run) -> None:
    base, tuned = rates_of_right_answers(pirate_run, DEMOS["pirate"])
    assert base < 0.1
    assert tuned > 0.9


@pytest.mark.trains
@pytest.mark.parametrize("key", ["json_answers", "facts"])
def test_the_default_run_teaches_the_demo_set(key: str) -> None:
    run = run_to_its_end(first_plan().with_(datasets=(DataSource(path=DEMOS[key].path),)))
    assert run.state == "finished", log_of(run)
    base, tuned = rates_of_right_answers(run, DEMOS[key])
    assert base < 0.1
    assert tuned > 0.9


@pytest.mark.trains
@pytest.mark.parametrize("method", ["full", "qlora"])
def test_the_other_methods_teach_the_format_too(method: str) -> None:
    demo = DEMOS["json_answers"]
    run = run_to_its_end(first_plan().with_(method=method, datasets=(DataSource(path=demo.path),), max_steps=60))
    assert run.state == "finished", log_of(run)
    pair = Pair(run.folder)
    answers = [answer_of(pair.tuned, pair, prompt) for prompt in held_out_prompts(demo)[:20]]
    assert sum(set(json.loads(answer)) == {"answer", "topic"} for answer in answers if answer.endswith("}")) > 18
    whole = method == "full"
    assert (run.folder / "model" / "model.safetensors").exists() == whole
    assert (run.folder / "adapter").exists() != whole


@pytest.mark.trains
def test_the_events_tell_the_whole_story(pirate_run: Run) -> None:
    seen, _ = events.since(pirate_run.folder)
    steps = [event for event in seen if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, steps[-1]["max_steps"] + 1))
    for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_peak", "epoch", "seconds_left"):
        assert all(math.isfinite(event[name]) for event in steps), name
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    evaluated = [event["eval_loss"] for event in seen if event["kind"] == "evaluated"]
    assert len(evaluated) >= 10
    assert evaluated[-1] < evaluated[0] / 2
    assert seen[-1]["kind"] == "finished"


@pytest.mark.trains
def test_a_loss_that_is_not_a_number_stops_the_run_and_says_so(short_plan: Plan, tmp_path: Path) -> None:
    broken = broken_model(tmp_path / "broken")
    run = run_to_its_end(short_plan.with_(model=str(broken), max_steps=50))
    assert run.state == "failed"
    assert "learning_rate" in run.reason
    assert "not a finite number" in run.reason
    steps = [event for event in events.since(run.folder)[0] if event["kind"] == "step"]
    assert len(steps) == 3
    assert all(math.isnan(events.number(event["loss"]) or 0.0) for event in steps), "never shown as 0.0"
    assert "Traceback" not in run.reason


def broken_model(folder: Path) -> Path:
    """The demo model with a weight that is not a number."""
    import torch

    plan = first_plan()
    model = load_base(plan, "cpu")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    model.save_pretrained(folder)
    load_tokenizer(plan).save_pretrained(folder)
    return folder


def test_our_loss_is_the_trainers_loss(short_plan: Plan, tmp_path: Path) -> None:
    """The estimator's dry run uses `sft_loss`: it must be what SFTTrainer computes, to the last bit."""
    import torch

    tokenizer = load_tokenizer(short_plan)
    train_rows, eval_rows = load_rows(short_plan)
    model = load_base(short_plan, "cpu")
    trainer = make_trainer(short_plan, tmp_path, model, tokenizer, train_rows, eval_rows)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    ours_model = load_base(short_plan, "cpu").train()
    add_sft_loss(ours_model)
    ours = sft_loss(ours_model, {name: batch[name] for name in ("input_ids", "attention_mask", "labels")})
    assert torch.equal(theirs.detach(), ours.detach())


def test_only_the_answers_are_trained_on(short_plan: Plan, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(short_plan)
    train_rows, eval_rows = load_rows(short_plan)
    trainer = make_trainer(short_plan, tmp_path, load_base(short_plan, "cpu"), tokenizer, train_rows, eval_rows)
    first = trainer.train_dataset[0]
    trained = [token for token, label in zip(first["input_ids"], first["labels"], strict=True) if label != -100]
    answer = train_rows[0]["messages"][-1]["content"]
    assert tokenizer.decode(trained).startswith(answer)
    assert tokenizer.eos_token_id in trained, "it learns to stop"


def test_without_marks_in_the_template_the_last_answer_is_the_completion() -> None:
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    assert as_trl(row, assistant_mask=True) == row
    assert as_trl(row, assistant_mask=False) == {"prompt": row["messages"][:1], "completion": row["messages"][1:]}


def test_a_folder_has_one_worker(tmp_path: Path) -> None:
    from engine import train
    from engine.system import workers

    with workers.hold_lock(tmp_path, runs.LOCK_FILE):
        assert train.main(tmp_path) == 3
