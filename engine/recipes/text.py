"""SFT and domain-adaptive pretraining: the likelihood of given texts."""

from __future__ import annotations

import torch
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from engine import build, data
from engine.plan import Plan
from engine.recipes import Batch, Models, Recipe, Row, Setup
from engine.recipes.causal import arguments, to_dataset, token_batch


def marks_answers(setup: Setup) -> bool:
    """Whether the chat template tells the assistant's words from the others."""
    return "{% generation %}" in (setup.processor.chat_template or "")


def sft_trainer(setup: Setup) -> Trainer:
    """TRL's SFTTrainer on answers alone."""
    marks = marks_answers(setup)
    train, held_out = ([data.as_trl(row, assistant_mask=marks) for row in rows] for rows in (setup.train_rows, setup.eval_rows))
    return _trainer(setup, train, held_out, assistant_only_loss="messages" in train[0])


def dapt_trainer(setup: Setup) -> Trainer:
    """TRL's SFTTrainer on whole texts, cut into full sequences wherever they end (packing_strategy "wrapped")."""
    train, held_out = ([{"text": whole_text(row)} for row in rows] for rows in (setup.train_rows, setup.eval_rows))
    return _trainer(setup, train, held_out, packing=True, packing_strategy="wrapped", dataset_text_field="text")


def whole_text(row: Row) -> str:
    """A row of any format as one plain text."""
    return "\n\n".join(data.texts(row))


def _trainer(setup: Setup, train: list[Row], held_out: list[Row], **changes: object) -> Trainer:
    plan = setup.plan
    settings = {"max_length": plan.max_length, "packing": plan.packing} | changes
    return SFTTrainer(
        model=setup.model,
        args=arguments(setup, SFTConfig, **settings),
        processing_class=setup.processor,
        train_dataset=to_dataset(train),
        eval_dataset=to_dataset(held_out) if held_out else None,
    )


def prepare(model: torch.nn.Module, plan: Plan) -> None:
    """The fused LM head of the SFTTrainer, unless the plan asks for a plain Trainer's loss."""
    if plan.loss == "chunked":
        build.add_sft_loss(model)


def loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens."""
    return build.full_loss(model, batch) if plan.loss == "full" else build.sft_loss(model, batch)


RECIPES = {
    "sft": Recipe(make_trainer=sft_trainer, dry_batch=token_batch, dry_loss=loss, prepare=prepare),
    "dapt": Recipe(make_trainer=dapt_trainer, dry_batch=token_batch, dry_loss=loss, prepare=prepare),
}
