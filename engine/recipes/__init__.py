"""How each objective is trained, and the same step for the estimator's dry run: one `Recipe` per objective.

OBJECTIVES (`engine/objectives/`) is the table that the page reads, without torch. Its rows name a module of this
package, and `objectives.recipe(plan)` gives the recipe. The worker calls `make_trainer`; the estimator calls `held`,
`prepare`, `dry_batch`, `phases` and `dry_loss` on fake tensors, so nothing in those five may read a number.

Imports modeling and the rooms before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.plan import Plan

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, Trainer

Row = dict[str, Any]
Batch = dict[str, "torch.Tensor"]
Models = Mapping[str, "torch.nn.Module"]  # role -> model: what the step holds beside the trained one


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a trainer is made from. The rows have the columns of TRL (or of the task), not yet tokens."""

    plan: Plan
    folder: Path  # where the trainer may write
    model: torch.nn.Module
    processor: Any  # the tokenizer, the image processor, or both in one
    train_rows: list[Row]
    eval_rows: list[Row]
    evaluations: int = 10  # over a whole run, beside the one before the first step


@dataclass(frozen=True, kw_only=True)
class Held:
    """A model that a step needs beside the trained one: frozen, in evaluation mode, built like any other."""

    role: str  # reference | teacher | reward
    plan: Plan  # `build.load_base` and `build.build_bare` make it from this


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Work of one optimizer step that comes before the loss, without gradients, such as writing the completions."""

    name: str
    run: Callable[[], Any]
    times: float = 1.0  # how often it happens in one step: one decoding pass stands for each new token


def nothing_held(plan: Plan) -> tuple[Held, ...]:
    """Most objectives train one model and hold no other."""
    return ()


def leave_as_is(model: torch.nn.Module, plan: Plan) -> None:
    """Most trainers of transformers change nothing about the model."""


def no_phases(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> Iterator[Phase]:
    """Most steps begin with the loss."""
    return iter(())


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one objective is trained.

    Attributes:
        make_trainer: the trainer of TRL or transformers, ready for `train()` and `evaluate()`.
        dry_batch: `(config, plan, batch, length)` gives the inputs as the collator makes them, all of the greatest
            length; made of plain `torch.ones` and `torch.zeros`, so that it works under any tensor mode.
        dry_loss: `(model, batch, plan, held)` gives the trainer's own loss of one batch, a scalar.
        held: the other models that the step needs, in the order in which they are loaded.
        prepare: `(model, plan)` does to a model what the trainer's constructor does (a fused LM head, an adapter for
            the reference). Called once on the built model before the dry run, and on each held one with its own plan.
        phases: what one step does before its loss.
    """

    make_trainer: Callable[[Setup], Trainer]
    dry_batch: Callable[[PretrainedConfig, Plan, int, int], Batch]
    dry_loss: Callable[[torch.nn.Module, Batch, Plan, Models], torch.Tensor]
    held: Callable[[Plan], tuple[Held, ...]] = nothing_held
    prepare: Callable[[torch.nn.Module, Plan], None] = leave_as_is
    phases: Callable[[torch.nn.Module, Batch, Plan, Models], Iterator[Phase]] = no_phases
