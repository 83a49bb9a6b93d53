"""The table of objectives: every row can be trained, every option is the trainer's own, every mistake is one sentence."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers

from engine import checks, objectives
from engine.catalog import models
from engine.catalog.tasks import TASKS
from engine.data import SHAPES
from engine.data.demos import first_plan
from engine.issues import PlanError
from engine.objectives import OBJECTIVES, rewards
from engine.plan import Plan
from engine.recipes import Recipe

# Options that are this program's own: what the trainers take as arguments, or what our recipes compute.
OWN = {
    "reward_funcs", "pattern", "target_length", "reward_model", "policy_trainer", "teacher", "mlm_probability",
    "max_target_length", "sft_weight",
}  # fmt: skip


@pytest.mark.parametrize("key", OBJECTIVES)
def test_every_row_is_whole(key: str) -> None:
    row = OBJECTIVES[key]
    assert isinstance(objectives.recipe(Plan(objective=key)), Recipe)
    assert row.task in TASKS
    assert set(row.shapes) <= set(SHAPES)
    assert row.sentence.endswith(".")
    assert row.paper.startswith("https://")
    assert models.trainable_models(row.task)
    for option in row.options:
        assert list(checks.check_value(option.name, option.default, option.knob)) == [] or option.default == ""


@pytest.mark.parametrize("key", [key for key, row in OBJECTIVES.items() if row.trainer.startswith("trl")])
def test_options_carry_the_names_and_defaults_of_the_trainers_config(key: str) -> None:
    for path in OBJECTIVES[key].trainer.split(" or "):
        module, _, name = path.rpartition(".")
        config = getattr(importlib.import_module(module), name.replace("Trainer", "Config"))
        for option in OBJECTIVES[key].options:
            assert option.name in OWN or option.name in config.__dataclass_fields__, option.name


def test_every_task_names_classes_that_are_there() -> None:
    for task in TASKS.values():
        assert hasattr(transformers, task.auto_class)
        assert hasattr(transformers, task.processor)
        assert task.peft_type is None or task.peft_type in peft.TaskType.__members__


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "dppo"}, "Did you mean dpo?"),
        ({"objective": "dpo", "objective_options": {"betta": 1}}, "Did you mean beta?"),
        ({"objective": "dpo", "objective_options": {"loss_type": "sigmoidal"}}, "Did you mean sigmoid?"),
        ({"objective": "dpo", "objective_options": {"loss_type": "exo_pair"}}, "label_smoothing: is 0"),
        ({"objective": "dpo", "method": "adalora"}, "method: AdaLoRA cannot keep the reference"),
        ({"objective": "kto", "per_device_train_batch_size": 1}, "a batch of 1 has none"),
        ({"objective": "grpo", "per_device_train_batch_size": 4}, "num_generations: 8 answers per prompt do not divide the 4"),
        ({"objective": "grpo", "objective_options": {"reward_funcs": ["lenght"]}}, "Did you mean length?"),
        ({"objective": "grpo", "objective_options": {"reward_funcs": "a.py:f"}}, "this server does not run it"),
        ({"objective": "distillation"}, "teacher: is empty"),
        ({"objective": "rlhf", "objective_options": {"reward_model": "demo/none"}}, "reward_model: 'demo/none' is not a demo"),
        ({"objective": "image_classification"}, "Choose one for this: demo/vit, or the objective Instruction tuning (SFT)."),
        ({"objective": "sft", "objective_options": {"beta": 1}}, "beta: is not a field"),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    issues = checks.check(first_plan().with_(**changes))
    assert any(said in issue.sentence() for issue in issues), [issue.sentence() for issue in issues]


@pytest.mark.parametrize("key", OBJECTIVES)
def test_the_defaults_are_sound(key: str) -> None:
    others = {"teacher": "demo/llama", "reward_model": "demo/reward"}
    options = {option.name: others[option.name] for option in OBJECTIVES[key].options if option.name in others}
    model = models.trainable_models(OBJECTIVES[key].task)[0].id
    plan = first_plan().with_(objective=key, model=model, objective_options=options, max_length=32)
    assert [issue.sentence() for issue in checks.check(plan) if issue.severity == "error"] == []


# --- rewards --------------------------------------------------------------------------------------------------------


def test_the_rewards_count_what_they_say() -> None:
    rows = [{"answer": "four"}, {"answer": "four"}]
    options = {"pattern": r"\d+", "target_length": 10}
    assert rewards.exact_answer(["It is Four.", "fourteen"], rows, options) == [1.0, 0.0]
    assert rewards.format_matches([" 42 ", "42 cats"], rows, options) == [1.0, 0.0]
    assert rewards.near_length(["x" * 10, "x" * 15, "x" * 40], [{}] * 3, options) == [1.0, 0.5, 0.0]


def test_a_file_of_ones_own_runs_only_when_the_owner_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def shout(answers, rows, options):\n    return [float(a.isupper()) for a in answers]\n")
    with pytest.raises(PlanError, match="does not run it"):
        rewards.find(f"{file}:shout")
    monkeypatch.setenv(rewards.ALLOW_FILES, "1")
    assert rewards.find(f"{file}:shout")(["HI", "hi"], [{}, {}], {}) == [1.0, 0.0]
    with pytest.raises(PlanError, match=re.escape("mine.py has no function whisper")):
        rewards.find(f"{file}:whisper")
    with pytest.raises(PlanError, match="there is no file"):
        rewards.find(f"{tmp_path}/other.py:shout")
