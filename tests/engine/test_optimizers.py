"""The optimizers that belong to a method, and those that need a package."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import checks
from engine.methods import METHODS, optimizers
from engine.modeling import build
from engine.plan import Plan
from tests import tiny_models


def made(method: str, **options: Any) -> tuple[Any, torch.optim.Optimizer]:
    """A tiny model with the method, and the method's optimizer."""
    values = tiny_models.options(method) | options
    model = METHODS[method].apply(tiny_models.make("llama"), values)
    plan = Plan(method=method, method_options=values, learning_rate=1e-2, precision="fp32")
    optimizer = build.make_optimizer(plan, model)
    assert optimizer is not None
    return model, optimizer


def step(model: Any, optimizer: torch.optim.Optimizer) -> float:
    loss = model(**tiny_models.batch_of("llama")).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def test_the_trainer_makes_what_the_plan_names() -> None:
    assert build.make_optimizer(Plan(), tiny_models.make("llama")) is None


def test_lora_plus_takes_larger_steps_with_the_second_matrix() -> None:
    model, optimizer = made("lora_plus", loraplus_lr_ratio=16.0)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1e-2 * (16 if "lora_B" in name else 1))


def test_lora_fa_leaves_the_first_matrix_as_it_was_drawn() -> None:
    model, optimizer = made("lora_fa")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    losses = [step(model, optimizer) for _ in range(4)]
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora_B" in name}
    assert losses[-1] < losses[0]


def test_adalora_moves_ranks_while_it_trains() -> None:
    model, optimizer = made("adalora", init_r=6, target_r=2, tinit=1, tfinal=2, total_step=8)
    for _ in range(8):
        step(model, optimizer)
    assert optimizer.param_groups[0]["adalora_step"] == 8
    kept = [sum(flags) for flags in model.peft_config["default"].rank_pattern.values()]
    assert sum(kept) == 2 * len(kept), "the budget is the mean rank at the end"
    again = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    again.param_groups[0] |= {key: value for key, value in optimizer.state_dict()["param_groups"][0].items() if key != "params"}
    assert again.param_groups[0]["adalora_step"] == 8, "a resumed run goes on from there"


@pytest.mark.parametrize("optim", optimizers.PACKAGES)
def test_an_optimizer_that_is_not_installed_says_what_to_install(optim: str) -> None:
    (issue,) = checks.check(Plan(method="full", optim=optim, max_length=64))
    assert issue.field == "optim"
    assert f"pip install {optimizers.PACKAGES[optim][1]}" in issue.fix
    (issue,) = checks.check(Plan(method="lora", optim=optim, max_length=64))
    assert "whole weights" in issue.message
