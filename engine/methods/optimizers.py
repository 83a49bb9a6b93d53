"""Optimizers: those of a method's own, and what the others need to be installed.

`make(plan, model)` gives the optimizer of a method that has one (LoRA+, LoRA-FA, AdaLoRA), None where the Trainer makes
the plan's. The worker and the estimator both call it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine.issues import Issue
from engine.methods import METHODS, option_values
from engine.plan import Plan

if TYPE_CHECKING:
    import torch

# Optimizers that the Trainer knows by name and that live in a package of their own: (module, what to install).
# The names are transformers' (`transformers.training_args.OptimizerNames`, 5.23).
PACKAGES: Mapping[str, tuple[str, str]] = {
    "galore_adamw": ("galore_torch", "galore-torch"),
    "galore_adamw_8bit": ("galore_torch", "galore-torch"),
    "apollo_adamw": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
}
# These keep their states for a projection of whole weight matrices, so they go with methods that train those.
FOR_WHOLE_WEIGHTS = tuple(PACKAGES)


def check(plan: Plan) -> list[Issue]:
    """What is wrong with the plan's optimizer: a missing package, or a method that it does not go with."""
    method = METHODS[plan.method]
    if method.optimizer and plan.optim not in ("adamw_torch", "adamw_torch_fused"):
        message = f"{plan.optim} does not go with {method.label}, which has an optimizer of its own."
        return [Issue(field="optim", message=message, fix="Use adamw_torch.")]
    if plan.optim not in PACKAGES:
        return []
    if not method.whole_model:
        message = f"{plan.optim} is for training whole weights, and {method.label} trains an adapter."
        return [Issue(field="optim", message=message, fix="Use adamw_torch, or the method Full.")]
    module, package = PACKAGES[plan.optim]
    if importlib.util.find_spec(module) is None:
        message = f"{plan.optim} needs the package {package}, which is not installed."
        return [Issue(field="optim", message=message, fix=f"Install it with `pip install {package}`, or use adafactor.")]
    return []


def arguments(plan: Plan) -> dict[str, Any]:
    """What the plan's optimizer needs of `TrainingArguments` beside its name."""
    return {"optim_target_modules": "all-linear"} if plan.optim.startswith(("galore", "apollo")) else {}


def make(plan: Plan, model: torch.nn.Module, rate: float) -> torch.optim.Optimizer | None:
    """The optimizer of the plan's method, or None where the Trainer makes the plan's own.

    It is AdamW (`check` allows no other here) with the Trainer's defaults. No `TrainingArguments` are made on the way:
    they would reset accelerate's state under a trainer that is there already.

    Args:
        plan: a checked plan.
        model: what `build` returned.
        rate: the peak learning rate.
    """
    import torch

    own = METHODS[plan.method].optimizer
    if not own:
        return None
    fused = plan.optim == "adamw_torch_fused"
    settings = {"lr": rate, "betas": (0.9, 0.999), "eps": 1e-8, "fused": fused}  # transformers' TrainingArguments, 5.23
    return OF_METHODS[own](plan, model, torch.optim.AdamW, settings)


def _lora_plus(plan: Plan, model: Any, kind: Any, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW with larger steps for LoRA's second matrices (arXiv:2402.12354)."""
    from peft.optimizers import create_loraplus_optimizer

    ratio = option_values(plan)["loraplus_lr_ratio"]
    rest = {name: value for name, value in settings.items() if name != "lr"} | {"weight_decay": plan.weight_decay}
    return create_loraplus_optimizer(model, kind, lr=settings["lr"], loraplus_lr_ratio=ratio, **rest)


def _lora_fa(plan: Plan, model: Any, kind: Any, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW on LoRA's second matrices, with gradients corrected for the frozen first ones (arXiv:2308.03303)."""
    from peft.optimizers import create_lorafa_optimizer

    options = option_values(plan)
    return create_lorafa_optimizer(
        model, r=options["r"], lora_alpha=options["lora_alpha"], lr=settings["lr"], weight_decay=plan.weight_decay
    )


IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of peft's RankAllocator: by parameter, how much each number matters


def _adalora(plan: Plan, model: Any, kind: Any, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The plan's optimizer, after each step of which AdaLoRA moves rank to where the gradients ask for it.

    The number of the step and the ranks' importances are kept in the optimizer's groups, so that they are saved and
    resumed with them.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = kind(trained, **{**settings, "weight_decay": plan.weight_decay})
    optimizer.param_groups[0] |= {"adalora_step": 0, "adalora_importances": {}}
    allocator = model.base_model.rankallocator

    def move_ranks(optimizer: Any, inputs: tuple, rest: dict[str, Any]) -> None:
        group = optimizer.param_groups[0]
        group["adalora_step"] += 1
        for table in IMPORTANCES:  # what a resumed run had seen; the allocator fills its own tables from then on
            getattr(allocator, table).update(group["adalora_importances"].get(table, {}))
        model.base_model.update_and_allocate(group["adalora_step"])
        group["adalora_importances"] = {table: getattr(allocator, table) for table in IMPORTANCES}

    optimizer.register_step_post_hook(move_ranks)
    return optimizer


OF_METHODS: dict[str, Callable[..., Any]] = {"lora_plus": _lora_plus, "lora_fa": _lora_fa, "adalora": _adalora}
