"""Images: their classes, their descriptions, and answers to questions about them."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PretrainedConfig, Trainer, TrainingArguments

from engine import build
from engine.plan import Plan
from engine.recipes import Batch, Models, Recipe, Row, Setup
from engine.recipes.causal import arguments, ones
from engine.recipes.images import open_image, pixel_shape, vision_config
from engine.recipes.labels import IGNORED, accuracy, own_loss

_NO_COUNT = "TRANSFORMERS_DISABLE_TORCH_CHECK"  # read by transformers 5 at each check
DESCRIBE = "Describe the image."  # the question behind a caption


def _trainer(setup: Setup, collate: Any, metrics: Any = None) -> Trainer:
    """transformers' Trainer on rows as they are: pictures are opened batch by batch, never all at once."""
    return Trainer(
        model=setup.model,
        args=arguments(
            setup,
            TrainingArguments,
            remove_unused_columns=False,
            label_names=["labels"],
            prediction_loss_only=metrics is None,
        ),
        data_collator=collate,
        train_dataset=setup.train_rows,
        eval_dataset=setup.eval_rows or None,
        processing_class=setup.processor,
        compute_metrics=metrics,
    )


# --- classes --------------------------------------------------------------------------------------------------------


def class_trainer(setup: Setup) -> Trainer:
    """A class for each image."""
    places = {name: place for place, name in enumerate(build.labels_of(setup.plan))}

    def collate(rows: list[Row]) -> Batch:
        pixels = setup.processor(images=[open_image(row["image"]) for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([places[str(row["label"])] for row in rows])}

    return _trainer(setup, collate, accuracy)


def class_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """pixel_values float [batch, 3, side, side] and labels int64 [batch]."""
    return {"pixel_values": torch.zeros(pixel_shape(config, batch)), "labels": torch.zeros(batch, dtype=torch.int64)}


# --- words about an image -------------------------------------------------------------------------------------------


def words_trainer(setup: Setup) -> Trainer:
    """Captions, or answers to questions: only the answer's words count."""

    def collate(rows: list[Row]) -> Batch:
        images = [open_image(row["image"]) for row in rows]
        return answer_batch(setup.processor, images, [question_and_answer(row) for row in rows], setup.plan.max_length)

    return _trainer(setup, collate)


def question_and_answer(row: Row) -> tuple[str, str]:
    """What is asked about the image, and the answer."""
    return (row["question"], row["answer"]) if "question" in row else (DESCRIBE, row["text"])


def answer_batch(processor: Any, images: list[Any], turns: list[tuple[str, str]], max_length: int) -> Batch:
    """The inputs of a vision-language model with the answers as labels.

    Models with a chat template get question and answer as a chat with the image; others (BLIP) get the words alone.
    """
    tokenizer = processor.tokenizer
    if getattr(processor, "chat_template", None) is None:
        batch = _processed(processor, images, [answer for _, answer in turns], max_length)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return batch | {"labels": labels}
    tokenizer.padding_side = "right"  # so that the prompt is the beginning of each row
    prompts = [_chat(processor, question) for question, _ in turns]
    end = tokenizer.eos_token or ""
    whole = [prompt + answer + end for prompt, (_, answer) in zip(prompts, turns, strict=True)]
    batch = _processed(processor, images, whole, max_length)
    lengths = _processed(processor, images, prompts, max_length)["attention_mask"].sum(1)
    positions = torch.arange(batch["input_ids"].size(1)).unsqueeze(0)
    not_answer = (batch["attention_mask"] == 0) | (positions < lengths.unsqueeze(1))
    return batch | {"labels": batch["input_ids"].masked_fill(not_answer, IGNORED)}


def _chat(processor: Any, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _processed(processor: Any, images: list[Any], texts: list[str], max_length: int) -> Batch:
    # Not cut to max_length: a row that is cut inside of its image cannot be read at all.
    nested = [[image] for image in images] if getattr(processor, "chat_template", None) else images
    return dict(processor(images=nested, text=texts, padding=True, return_tensors="pt"))


def words_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """Text int64 [batch, length] that begins with the image's tokens, its labels, and the image's pixels."""
    ids = ones(batch, length)
    image_token = getattr(config, "image_token_id", None)
    if image_token is not None:
        # Where the image's tokens stand is data; that there are as many as the vision tower gives is what counts.
        ids[:, : min(image_tokens(config), length)] = image_token
    return {
        "input_ids": ids,
        "attention_mask": ones(batch, length),
        "labels": ones(batch, length),
        "pixel_values": torch.zeros(one_per_row(config, batch)),
    }


def words_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The model's own loss. Models count their image tokens first, which a dry run without numbers cannot."""
    kept = os.environ.get(_NO_COUNT)
    os.environ[_NO_COUNT] = "1"
    try:
        return own_loss(model, batch, plan, held)
    finally:
        os.environ.pop(_NO_COUNT) if kept is None else os.environ.update({_NO_COUNT: kept})


def image_tokens(config: PretrainedConfig) -> int:
    """How many tokens of a text an image takes: what the config says, or the patches of the vision tower.

    Idefics3 and SmolVLM fold `scale_factor` squared patches into one token.
    """
    for name in ("mm_tokens_per_image", "image_seq_length"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    vision = vision_config(config)
    return (vision.image_size // vision.patch_size) ** 2 // getattr(config, "scale_factor", 1) ** 2


def one_per_row(config: PretrainedConfig, batch: int) -> tuple[int, ...]:
    """The shape of the pixels: Idefics3 and SmolVLM take [batch, images, channels, height, width]."""
    shape = pixel_shape(config, batch)
    return (shape[0], 1, *shape[1:]) if hasattr(config, "scale_factor") else shape


RECIPES = {
    "image_classification": Recipe(make_trainer=class_trainer, dry_batch=class_batch, dry_loss=own_loss),
    "captioning": Recipe(make_trainer=words_trainer, dry_batch=words_batch, dry_loss=words_loss),
    "vqa": Recipe(make_trainer=words_trainer, dry_batch=words_batch, dry_loss=words_loss),
}
