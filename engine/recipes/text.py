"""SFT and domain-adaptive pretraining: the likelihood of given texts."""

from __future__ import annotations

import datasets
import torch
from transformers import PretrainedConfig, Trainer
from trl import SFTConfig, SFTTrainer

from engine import data
from engine.data import token_cache
from engine.modeling import build
from engine.objectives import packs
from engine.plan import Plan
from engine.recipes import Batch, Models, Recipe, Row, Setup
from engine.recipes.causal import arguments, token_batch


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
    """TRL's SFTTrainer with these settings on these rows."""
    settings = {"max_length": setup.plan.max_length, "packing": setup.plan.packing} | changes

    def make(train_rows: datasets.Dataset, eval_rows: datasets.Dataset | None) -> Trainer:
        return SFTTrainer(
            model=setup.model,
            args=arguments(setup, SFTConfig, **settings),
            processing_class=setup.processor,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
        )

    depends_on = settings | {"trainer": "sft", "seed": setup.plan.seed}  # packing mixes the rows
    return token_cache.trainer(make, train, held_out, setup.processor, depends_on)


def dry_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids, attention_mask and labels, each int64 [batch, length]; no mask where no row is padded.

    Transformers sees that such a mask is all ones and does without (`masking_utils._ignore_causal_mask_sdpa`, 5.23), which
    fake tensors cannot show it.
    """
    parts = token_batch(config, plan, batch, length)
    if batch == 1 or packs(plan):
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
