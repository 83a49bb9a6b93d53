"""SFT and domain-adaptive pretraining: the likelihood of given texts."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, Trainer
from trl import SFTConfig, SFTTrainer

from engine import build, data, tokenised
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
    """The trainer, with the rows as an earlier start has tokenised them; else it does, and they are kept."""
    plan = setup.plan
    settings = {"max_length": plan.max_length, "packing": plan.packing} | changes
    depends_on = settings | {"seed": plan.seed}  # packing mixes the rows
    names = [tokenised.name_of(rows, setup.processor, depends_on) for rows in (train, held_out)]
    ready = [tokenised.kept(name) if rows else None for name, rows in zip(names, (train, held_out), strict=True)]
    if ready[0] is not None and (ready[1] is not None or not held_out):
        settings["dataset_kwargs"] = {"skip_prepare_dataset": True}
    else:
        ready = [to_dataset(rows) if rows else None for rows in (train, held_out)]
    trainer = SFTTrainer(
        model=setup.model,
        args=arguments(setup, SFTConfig, **settings),
        processing_class=setup.processor,
        train_dataset=ready[0],
        eval_dataset=ready[1],
    )
    for name, rows in zip(names, (trainer.train_dataset, trainer.eval_dataset), strict=True):
        if rows is not None:
            tokenised.keep(name, rows)
    return trainer


def dry_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids, attention_mask and labels, each int64 [batch, length]; no mask where no row is padded.

    Transformers sees that such a mask is all ones and does without (`masking_utils._ignore_causal_mask_sdpa`, 5.23), which
    fake tensors cannot show it.
    """
    parts = token_batch(config, plan, batch, length)
    if batch == 1 or plan.packing:
        del parts["attention_mask"]
    return parts


def prepare(model: torch.nn.Module, plan: Plan) -> None:
    """The fused LM head of the SFTTrainer, unless the plan asks for a plain Trainer's loss."""
    if plan.loss == "chunked":
        build.add_sft_loss(model)


def loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens."""
    if plan.loss == "chunked":
        return build.sft_loss(model, batch)
    return LOSSES_OF_ALL_LOGITS[plan.loss](model, batch, keep_outputs=plan.keep_outputs)


LOSSES_OF_ALL_LOGITS = {"full": build.full_loss, "shifted": build.shifted_loss}


RECIPES = {
    "sft": Recipe(make_trainer=sft_trainer, dry_batch=dry_batch, dry_loss=loss, prepare=prepare),
    "dapt": Recipe(make_trainer=dapt_trainer, dry_batch=dry_batch, dry_loss=loss, prepare=prepare),
}
