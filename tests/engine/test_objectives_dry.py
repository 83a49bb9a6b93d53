"""The estimator's `dry_loss` is the trainer's own loss: the same batch through both, on tiny real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import set_seed

from engine import objectives
from engine.modeling import build
from engine.objectives import OBJECTIVES
from engine.plan import Plan
from engine.train import make_trainer
from estimators.simulate.dry_run import make_fake
from tests.engine import tiny

SMALL = {"num_generations": 2, "max_completion_length": 8}


def cases() -> list[tuple[str, dict[str, Any], str]]:
    """Every objective and loss with an adapter; those with a reference model also without one."""
    with_reference = [("dpo", {}), ("kto", {}), ("grpo", {"beta": 0.1} | SMALL), ("distillation", {"max_completion_length": 8})]
    return [(*case, "lora") for case in losses()] + [(*case, "full") for case in with_reference]


def losses() -> list[tuple[str, dict[str, Any]]]:
    pair_losses = ("sigmoid", "ipo", "hinge", "robust", "sigmoid_norm")
    return [
        ("sft", {}),
        ("dapt", {}),
        *(("dpo", {"loss_type": kind, "label_smoothing": 0.1 if kind == "robust" else 0.0}) for kind in pair_losses),
        ("dpo", {"sft_weight": 0.5}),
        ("kto", {}),
        ("kto", {"loss_type": "apo_zero_unpaired"}),
        ("orpo", {}),
        *(("cpo", {"loss_type": kind}) for kind in ("sigmoid", "ipo", "hinge")),
        ("simpo", {}),
        ("reward", {}),
        ("reward", {"center_rewards_coefficient": 0.01}),
        *(("grpo", {"loss_type": kind, "beta": beta} | SMALL) for kind in ("dapo", "grpo") for beta in (0.0, 0.1)),
        ("grpo", {"loss_type": "dr_grpo"} | SMALL),
        ("rloo", SMALL),
        ("rlhf", SMALL | {"policy_trainer": "grpo", "beta": 0.0}),
        ("distillation", {"max_completion_length": 8}),
        ("distillation_offline", {}),
    ]


@pytest.mark.parametrize(("key", "options", "method"), cases())
def test_the_dry_loss_is_the_trainers_loss(key: str, options: dict[str, Any], method: str, tmp_path: Path) -> None:
    plan = plan_of(key, options, method)
    recipe = objectives.recipe(plan)
    set_seed(0)
    trainer = make_trainer(plan, tmp_path, build.build(plan, "cpu"), build.load_processor(plan), tiny.rows(shape_of(key)), [])
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.current_gradient_accumulation_steps = 1
    if "advantages" in batch:  # an untrained model earns nothing, and all answers were alike
        batch["advantages"] = torch.linspace(-1, 1, len(batch["advantages"]))
    stir(trainer.model)
    theirs = trainer.compute_loss(trainer.model, dict(batch))

    set_seed(0)
    ours = build.build(plan, "cpu").train()
    recipe.prepare(ours, plan)
    stir(ours)
    held = {part.role: build.load_base(part.plan, "cpu").eval() for part in recipe.held(plan)}
    for part in recipe.held(plan):
        recipe.prepare(held[part.role], part.plan)
    loss = recipe.dry_loss(ours, dict(batch), plan, held)
    assert torch.allclose(theirs, loss, atol=1e-6), key
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in ours.parameters()), "it trains something"


def stir(model: torch.nn.Module) -> None:
    """Move every trained weight a little, alike in both: where nothing was learned yet, many losses are the same number."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def shape_of(key: str) -> str:
    return OBJECTIVES[key].shapes[0] if key != "sft" else "messages"


def plan_of(key: str, options: dict[str, Any], method: str = "lora") -> Plan:
    others = {"teacher": tiny.causal_model(hidden=48, seed=1), "reward_model": tiny.causal_model(seed=2)}
    known = {option.name for option in OBJECTIVES[key].options}
    options = options | {name: model for name, model in others.items() if name in known}
    return tiny.plan(key, tiny.model_for(key), method=method, objective_options=options)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("key", OBJECTIVES)
def test_every_objective_runs_without_numbers(key: str, method: str) -> None:
    """As the estimator does it: the model on "meta", its weights as fake tensors, batch, phases, loss, backward."""
    plan = plan_of(key, SMALL if OBJECTIVES[key].recipe == "online" and key.startswith(("grpo", "rlo", "rlhf")) else {}, method)
    recipe, config = objectives.recipe(plan), build.load_config(plan)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = build.build(plan, "meta").train()
    recipe.prepare(model, plan)
    make_fake(model, mode)
    held = {part.role: without_numbers(part.plan, plan, mode) for part in recipe.held(plan)}
    with mode:
        batch = recipe.dry_batch(config, plan, 2, 24)
        for phase in recipe.phases(model, batch, plan, held):
            assert phase.times >= 1
            phase.run()
        loss = recipe.dry_loss(model, batch, plan, held)
        assert loss.shape == ()
        loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert sum(parameter.grad is not None for parameter in trained) >= len(trained) / 2


def without_numbers(held_plan: Plan, plan: Plan, mode: FakeTensorMode) -> torch.nn.Module:
    model = build.build(held_plan, "meta").eval().requires_grad_(False)
    objectives.recipe(plan).prepare(model, held_plan)
    make_fake(model, mode)
    return model
