"""A training that goes on from a checkpoint ends where one without a break does, for a method of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine import train
from engine.data import split
from engine.issues import PlanError
from engine.jobs import runs
from engine.modeling import build, checkpoints
from engine.plan import Plan
from engine.system import events
from tests.conftest import log_of, run_to_its_end
from tests.engine import tiny

STEPS, SAVED_AT = 4, 2
STEPS_OF_A_RUN = 40  # enough that it can be stopped on its way
# One of each kind: adapted layers, the model itself, a trained past, layers of our own, two adapters at once.
EXACT = ("lora", "full", "prefix_tuning", "houlsby", "lora_prompt_tuning")
OPTIONS: dict[str, dict[str, Any]] = {
    "houlsby": {"reduction_factor": 4},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "lora_prompt_tuning": {"num_virtual_tokens": 4},
    "adalora": {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1},
}


def trainer_of(method: str, folder: Path) -> Any:
    """The worker's own trainer, which writes a checkpoint on its way."""
    plan: Plan = tiny.plan("sft", tiny.causal_model(), method=method, method_options=OPTIONS.get(method, {}), max_steps=STEPS)
    plan = plan.with_(learning_rate=1e-2)
    transformers.set_seed(0)
    model = build.build(plan, "cpu")
    rows, _ = split(tiny.rows("messages", 16), eval_fraction=0.0, seed=0)
    trainer = train.make_trainer(plan, folder, model, build.load_processor(plan), rows, [])
    trainer.optimizer = build.make_optimizer(plan, model)
    trainer.args.save_strategy, trainer.args.save_steps, trainer.args.save_total_limit = "steps", SAVED_AT, None
    return trainer


def trained(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("method", EXACT)
def test_it_ends_where_a_training_without_a_break_does(method: str, tmp_path: Path) -> None:
    whole = trainer_of(method, tmp_path)
    whole.train()
    resumed = trainer_of(method, tmp_path)
    start = trained(resumed)
    resumed.train(resume_from_checkpoint=str(next(tmp_path.glob(f"**/checkpoint-{SAVED_AT}"))))
    assert resumed.state.global_step == STEPS
    expected, found = trained(whole), trained(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    assert any(not torch.equal(found[name], start[name]) for name in start)


def test_adalora_goes_on_with_its_schedule(tmp_path: Path) -> None:
    """Ranks that were out of use start from 0 again, so the numbers may differ a little; its budget and step do not."""
    whole = trainer_of("adalora", tmp_path)
    whole.train()
    resumed = trainer_of("adalora", tmp_path)
    resumed.train(resume_from_checkpoint=str(next(tmp_path.glob(f"**/checkpoint-{SAVED_AT}"))))
    assert resumed.optimizer.param_groups[0]["adalora_step"] == STEPS
    kept = [sum(flags) for flags in resumed.model.peft_config["default"].rank_pattern.values()]
    assert sum(kept) == 2 * len(kept), "the budget is the mean rank at the end"


@pytest.mark.trains
def test_a_stopped_run_goes_on_and_ends_where_it_would_have(short_plan: Plan) -> None:
    plan = short_plan.with_(max_steps=STEPS_OF_A_RUN, per_device_train_batch_size=4)
    run = runs.start(plan)
    for event in runs.follow(run.id):
        if event["kind"] == "step" and event["step"] == 3:
            runs.stop(run.id)
    stopped = runs.get(run.id)
    assert stopped is not None
    assert stopped.state == "stopped", log_of(stopped)
    checkpoint = runs.resumable(stopped)
    assert checkpoint is not None
    before = checkpoints.step_of(checkpoint)
    assert 3 <= before < STEPS_OF_A_RUN

    runs.resume(run.id)
    with pytest.raises(PlanError, match="still running"):
        runs.start(plan)
    list(runs.follow(run.id))
    resumed = runs.get(run.id)
    assert resumed is not None
    assert (resumed.state, resumed.reason) == ("finished", ""), log_of(resumed)
    assert runs.resumable(resumed) is None
    steps = [event for event in events.since(run.folder)[0] if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, STEPS_OF_A_RUN + 1)), "no step is done twice or left out"

    whole = run_to_its_end(plan)
    expected = [event["loss"] for event in events.since(whole.folder)[0] if event["kind"] == "step"]
    assert [event["loss"] for event in steps] == pytest.approx(expected, rel=1e-3)


def test_a_run_without_a_checkpoint_says_so() -> None:
    with pytest.raises(PlanError, match="There is no run with this id"):
        runs.resume("0" * 32)
