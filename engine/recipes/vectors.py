"""Vectors in which what belongs together lies close: sentence embeddings, and images with their texts (CLIP)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import EvalPrediction, PretrainedConfig, Trainer, TrainingArguments

from engine.data.pictures import open_image
from engine.objectives import option_values
from engine.plan import Plan
from engine.recipes import Batch, Models, Recipe, Row, Setup
from engine.recipes.causal import arguments, ones
from engine.recipes.images import pixel_shape

Pair = tuple[torch.Tensor, torch.Tensor]  # unit vectors [batch, width] of the two sides
PARTS = ("input_ids", "attention_mask")


class PairTrainer(Trainer):
    """A Trainer whose loss comes from a function, and whose evaluation collects the vectors of both sides."""

    def __init__(
        self, *, loss_of: Callable[..., torch.Tensor], vectors_of: Callable[[Any, Batch], Pair], plan: Plan, **settings: Any
    ):
        self.loss_of, self.vectors_of, self.plan = loss_of, vectors_of, plan
        super().__init__(**settings)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        loss = self.loss_of(model, inputs, self.plan, {})
        return (loss, {}) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.loss_of(model, inputs, self.plan, {})
            left, right = self.vectors_of(model, inputs)
        return loss.detach(), (left.float(), right.float()), torch.arange(len(left))


def pair_trainer(setup: Setup, collate: Callable[[list[Row]], Batch], vectors_of: Callable[[Any, Batch], Pair]) -> Trainer:
    """The trainer on rows as they are; the collator turns them into inputs, batch by batch."""
    return PairTrainer(
        model=setup.model,
        args=arguments(setup, TrainingArguments, remove_unused_columns=False, prediction_loss_only=False),
        data_collator=collate,
        train_dataset=setup.train_rows,
        eval_dataset=setup.eval_rows or None,
        processing_class=setup.processor,
        compute_metrics=recall_at_1,
        loss_of=RECIPES[setup.plan.objective].dry_loss,
        vectors_of=vectors_of,
        plan=setup.plan,
    )


def recall_at_1(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose nearest vector of the other side, among all held-out rows, is their own partner."""
    left, right = prediction.predictions
    return {"recall_at_1": float((np.argmax(left @ right.T, 1) == np.arange(len(left))).mean())}


# --- sentence embeddings --------------------------------------------------------------------------------------------


def sentence_trainer(setup: Setup) -> Trainer:
    """Anchors and positives; where rows have a hard `negative`, it joins the counter-examples."""

    def collate(rows: list[Row]) -> Batch:
        sides = ["anchor", "positive", *(["negative"] if all("negative" in row for row in rows) else [])]
        batch: Batch = {}
        for side in sides:
            tokens = setup.processor(
                [row[side] for row in rows],
                padding=True,
                truncation=True,
                max_length=setup.plan.max_length,
                return_tensors="pt",
            )
            batch |= {f"{side}_{part}": tokens[part] for part in PARTS}
        return batch

    if setup.processor.pad_token is None:
        setup.processor.pad_token = setup.processor.eos_token
    return pair_trainer(setup, collate, sentence_vectors)


def embed(model: torch.nn.Module, batch: Batch, side: str) -> torch.Tensor:
    """Unit vectors [batch, width]: the mean of the last hidden states over the real tokens."""
    mask = batch[f"{side}_attention_mask"]
    hidden = model(input_ids=batch[f"{side}_input_ids"], attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return F.normalize((hidden * weights).sum(1) / weights.sum(1).clamp(min=1), dim=-1)


def sentence_vectors(model: Any, batch: Batch) -> Pair:
    """Both sides of a batch."""
    return embed(model, batch, "anchor"), embed(model, batch, "positive")


def sentence_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """Each anchor should find its positive among those of the whole batch (InfoNCE; multiple negatives ranking)."""
    anchors, candidates = sentence_vectors(model, batch)
    if "negative_input_ids" in batch:
        candidates = torch.cat([candidates, embed(model, batch, "negative")])
    scores = anchors @ candidates.T / option_values(plan)["temperature"]
    return F.cross_entropy(scores, torch.arange(anchors.size(0), device=scores.device))


def sentence_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids and attention_mask of anchors and positives, each int64 [batch, length]."""
    return {f"{side}_{part}": ones(batch, length) for side in ("anchor", "positive") for part in PARTS}


# --- images and texts -----------------------------------------------------------------------------------------------


def clip_trainer(setup: Setup) -> Trainer:
    """CLIP's own loss; evaluation looks for the text of each held-out image."""

    def collate(rows: list[Row]) -> Batch:
        inputs = setup.processor(
            images=[open_image(row["image"]) for row in rows],
            text=[row["text"] for row in rows],
            padding=True,
            truncation=True,
            max_length=setup.plan.max_length,
            return_tensors="pt",
        )
        return {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}

    return pair_trainer(setup, collate, clip_vectors)


def clip_vectors(model: Any, batch: Batch) -> Pair:
    """Images and their texts."""
    outputs = model(**batch)
    return outputs.image_embeds, outputs.text_embeds


def clip_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The model's own contrastive loss, in both directions."""
    return model(**batch, return_loss=True).loss


def clip_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """Texts int64 [batch, tokens], at most as long as the model reads, and pixel_values float [batch, 3, side, side]."""
    length = min(length, config.text_config.max_position_embeddings)
    return {name: ones(batch, length) for name in PARTS} | {"pixel_values": torch.zeros(pixel_shape(config, batch))}


RECIPES = {
    "sentence_embeddings": Recipe(make_trainer=sentence_trainer, dry_batch=sentence_batch, dry_loss=sentence_loss),
    "clip": Recipe(make_trainer=clip_trainer, dry_batch=clip_batch, dry_loss=clip_loss),
}
