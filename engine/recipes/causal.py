"""What the recipes of text-writing models share: settings, the reference model, and log-probabilities as TRL takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import datasets
import torch
from transformers import PretrainedConfig, Trainer
from trl.trainer.utils import add_fused_lm_head, use_adapter

from engine import data
from engine.adapters import meta_init
from engine.data import token_cache
from engine.modeling import build
from engine.objectives import option_values
from engine.plan import Plan
from engine.recipes import Batch, Held, Models, Row, Setup

REFERENCE = "ref"  # the adapter that TRL adds beside the trained one, a copy of how it began


def to_dataset(rows: list[Row]) -> datasets.Dataset:
    """Rows as TRL's trainers take them."""
    return data.as_dataset(rows)


def arguments(setup: Setup, config_class: type, **changes: Any) -> Any:
    """The plan as this trainer's config, with its evaluations spread over the run and the objective's own options."""
    evaluates = bool(setup.eval_rows)
    settings = {
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": 1 / setup.evaluations if evaluates else None,
        "eval_on_start": evaluates,
    }
    return build.training_arguments(setup.plan, setup.folder, config_class, **settings | changes)


def own_options(plan: Plan, *without: str) -> dict[str, Any]:
    """The objective's options, except for those that the trainer's config does not have."""
    return {name: value for name, value in option_values(plan).items() if name not in without}


def trainer_settings(setup: Setup) -> dict[str, Any]:
    """What every trainer of TRL is given beside its config."""
    return {
        "model": setup.model,
        "processing_class": setup.processor,
        "train_dataset": to_dataset(setup.train_rows),
        "eval_dataset": to_dataset(setup.eval_rows) if setup.eval_rows else None,
    }


def tokenised_trainer(setup: Setup, make: Callable[..., Trainer], args: Any, **more: Any) -> Trainer:
    """A trainer of TRL that tokenises its rows when it is made, with the tokens of an earlier start where they are kept.

    Args:
        make: the class of the trainer.
        args: its config. Of it the batch size counts too: KTO pairs each prompt with an answer of the same batch.
        more: what else the trainer is given, such as `ref_model`.
    """

    def given(train: datasets.Dataset, held_out: datasets.Dataset | None) -> Trainer:
        common = {"model": setup.model, "processing_class": setup.processor, "args": args}
        return make(**common, train_dataset=train, eval_dataset=held_out, **more)

    depends_on = {
        "trainer": setup.plan.objective,
        "max_length": setup.plan.max_length,
        "batch": setup.plan.per_device_train_batch_size,
        "options": option_values(setup.plan),
    }
    return token_cache.trainer(given, setup.train_rows, setup.eval_rows, setup.processor, depends_on)


# --- the reference model --------------------------------------------------------------------------------------------


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether PEFT wraps the model: then the reference is the same model with an untrained adapter."""
    return hasattr(model, "peft_config")


def adds_adapter(plan: Plan) -> bool:
    """Whether the plan's method leaves an adapter beside the base (full fine-tuning and its kin change the base itself)."""
    from engine.methods import METHODS

    return not METHODS[plan.method].whole_model


def reference_held(plan: Plan) -> tuple[Held, ...]:
    """A second copy of the model as it was, where there is no adapter to set back."""
    return () if adds_adapter(plan) else (Held(role="reference", plan=plan),)


def load_reference(setup: Setup) -> torch.nn.Module | None:
    """The reference model for a trainer; None where TRL takes the same model with its adapter as it began."""
    return None if has_adapter(setup.model) else build.load_base(setup.plan, build.device_here())


def add_reference_adapter(model: torch.nn.Module) -> None:
    """Add the frozen copy of the adapter as TRL's trainers do (trl 1.16, `DPOTrainer.__init__`)."""
    if not has_adapter(model):
        return
    config = model.peft_config["default"]
    without_numbers = (
        meta_init.only(config.peft_type.value.lower(), config, model) if meta_init.is_meta(model) else contextlib.nullcontext()
    )
    with without_numbers:  # DoRA's lengths are worked out from the weights
        model.add_adapter(REFERENCE, config)


def fuse_head(model: torch.nn.Module, *outputs: str, temperature: float = 1.0) -> None:
    """Give the model TRL's LM head: log-probabilities in tiles, never all logits. A reward model has no such head."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base.get_output_embeddings() is None:
        return
    add_fused_lm_head(base, temperature=temperature, outputs=outputs or ("log_probs",))


def as_reference(model: torch.nn.Module, held: Models) -> Any:
    """Within it, `reference_of(model, held)` answers as the model did before its training."""
    if "reference" in held:
        return contextlib.nullcontext()
    return use_adapter(model, REFERENCE if REFERENCE in model.peft_config else None)


def reference_of(model: torch.nn.Module, held: Models) -> torch.nn.Module:
    """The held reference model, or the trained one (used within `as_reference`)."""
    return held.get("reference", model)


# --- batches and log-probabilities ----------------------------------------------------------------------------------


def ones(*size: int) -> torch.Tensor:
    """Token ids, masks or labels of a dry batch: int64, all 1."""
    return torch.ones(size, dtype=torch.int64)


def token_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids, attention_mask and labels, each int64 [batch, length]: what a causal collator makes."""
    return {name: ones(batch, length) for name in ("input_ids", "attention_mask", "labels")}


def completion_logps(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token of the completions [rows, tokens - 1]; 0 elsewhere, as TRL's fused head gives it."""
    labels = ids.masked_fill(completion == 0, -100)
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True)
    return outputs.log_probs[:, -(ids.size(1) - 1) :]
