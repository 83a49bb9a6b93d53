"""Images: their classes, their descriptions, and answers to questions about them."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import EvalPrediction, PretrainedConfig, Trainer, TrainingArguments

from engine.data import tokenization
from engine.data.pictures import open_image
from engine.issues import Issue, PlanError
from engine.modeling import build
from engine.modeling.image_processors import has_grid, vision_config
from engine.plan import Plan
from engine.recipes import Batch, Models, Recipe, Row, Setup, grids, tiles
from engine.recipes.causal import arguments, ones
from engine.recipes.images import pixel_shape
from engine.recipes.labels import IGNORED, accuracy, own_loss

_NO_COUNT = "TRANSFORMERS_DISABLE_TORCH_CHECK"  # read by transformers 5 at each check


def pictures_trainer(setup: Setup, collate: Any, metrics: Any = None, logits: Any = None, **changes: Any) -> Trainer:
    """transformers' Trainer on rows as they are: pictures are opened batch by batch, never all at once.

    Args:
        metrics, logits: its `compute_metrics` and `preprocess_logits_for_metrics`.
        changes: further settings.
    """
    return Trainer(
        model=setup.model,
        args=arguments(
            setup,
            TrainingArguments,
            remove_unused_columns=False,
            label_names=["labels"],
            prediction_loss_only=metrics is None,
            **changes,
        ),
        data_collator=collate,
        train_dataset=setup.train_rows,
        eval_dataset=setup.eval_rows or None,
        processing_class=setup.processor,
        compute_metrics=metrics,
        preprocess_logits_for_metrics=logits,
    )


# --- classes --------------------------------------------------------------------------------------------------------


def class_trainer(setup: Setup) -> Trainer:
    """A class for each image."""
    places = {name: place for place, name in enumerate(build.labels_of(setup.plan))}

    def collate(rows: list[Row]) -> Batch:
        pixels = setup.processor(images=[open_image(row["image"]) for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([places[str(row["label"])] for row in rows])}

    return pictures_trainer(setup, collate, accuracy)


def class_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """pixel_values float [batch, 3, side, side] and labels int64 [batch]."""
    return {"pixel_values": torch.zeros(pixel_shape(config, batch)), "labels": torch.zeros(batch, dtype=torch.int64)}


# --- words about images ---------------------------------------------------------------------------------------------


def words_trainer(setup: Setup) -> Trainer:
    """Captions, answers to questions, chats about images: only the words of the last answer count."""

    def collate(rows: list[Row]) -> Batch:
        return answer_batch(setup.processor, [images_of(row) for row in rows], [tokenization.image_chat(row) for row in rows])

    return pictures_trainer(setup, collate, right_answers, likeliest)


def likeliest(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The likeliest token at each place, int64 [batch, tokens]: all that is kept of the logits of an evaluation."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def right_answers(prediction: EvalPrediction) -> dict[str, float]:
    """How many answers, and how many of their tokens, are right when the likeliest token is taken at each place.

    The likeliest token is looked up after the right beginning. An answer that is right at each of its places, its end
    too, is the one that greedy decoding writes, and no other is: so `exact_match` is that of written answers.
    """
    said, wanted = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
    counted = wanted != IGNORED
    right = (said == wanted) & counted
    return {
        "exact_match": float((right == counted).all(1).mean()),
        "mean_token_accuracy": float(right.sum() / max(1, counted.sum())),
    }


def images_of(row: Row) -> list[Any]:
    """The row's images, opened, in the order of its text."""
    return [open_image(image) for image in (row["images"] if "images" in row else [row["image"]])]


def answer_batch(processor: Any, images: list[list[Any]], chats: list[list[Row]]) -> Batch:
    """The inputs of a vision-language model with the last answers as labels.

    Models with a chat template get the chat, in which the images have their places; others (BLIP) get the answer alone.

    Args:
        images: of each row, as its chat names them.
        chats: messages whose content is a list of parts, as chat templates read them; the last one is the answer.
    """
    tokenizer = processor.tokenizer
    if getattr(processor, "chat_template", None) is None:
        batch = processed(processor, images, [tokenization.words_of(chat[-1]) for chat in chats])
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return batch | {"labels": labels}
    tokenizer.padding_side = "right"  # so that the prompt is the beginning of each row
    prompts = [chat_prompt(processor, chat[:-1]) for chat in chats]
    whole = [tokenization.answered(prompt, chat, tokenizer) for prompt, chat in zip(prompts, chats, strict=True)]
    batch = processed(processor, images, whole)
    lengths = processed(processor, images, prompts)["attention_mask"].sum(1)
    positions = torch.arange(batch["input_ids"].size(1)).unsqueeze(0)
    not_answer = (batch["attention_mask"] == 0) | (positions < lengths.unsqueeze(1))
    return batch | {"labels": batch["input_ids"].masked_fill(not_answer, IGNORED)}


def chat_prompt(processor: Any, chat: list[Row]) -> str:
    """A chat as a text, up to where the answer begins."""
    return processor.apply_chat_template(chat, add_generation_prompt=True)


def processed(processor: Any, images: list[list[Any]], texts: list[str]) -> Batch:
    """What the model reads of texts and their images."""
    # Not cut to max_length: a row that is cut inside of its image cannot be read at all.
    if getattr(processor, "chat_template", None) is None:
        images = [row[0] for row in images]
    return dict(processor(images=images, text=texts, padding=True, return_tensors="pt"))


def words_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """Text that begins with its image's tokens, int64 [batch, image tokens + length], its labels, and what is seen.

    `length` is that of the words: rows are not cut, and an image's tokens come on top.
    """
    _refuse_unknown_images(config)
    taken = image_tokens(config, plan)
    ids = ones(batch, taken + length)
    if taken:
        # Where the image's tokens stand is data; that there are as many as the vision tower gives is what counts.
        ids[:, :taken] = config.image_token_id
    if has_grid(config):
        places = torch.zeros(3, batch, taken + length, dtype=torch.int64)
        seen = grids.image_inputs(config, plan, batch) | {"position_ids": places}
    elif tiles.has_tiles(config):
        seen = tiles.image_inputs(config, plan, batch)
    else:
        seen = {"pixel_values": torch.zeros(pixel_shape(config, batch))}
    return {
        "input_ids": ids,
        "attention_mask": ones(batch, taken + length),
        "labels": ones(batch, taken + length),
        **seen,
    }


# Kinds of models that cut, pad or count their images in ways that `image_tokens` does not know.
IMAGES_UNKNOWN = ("blip-2", "gemma3n", "gemma4", "llama4", "llava_next", "mllama")


def _refuse_unknown_images(config: PretrainedConfig) -> None:
    """Say it where what an image costs is not known, rather than to guess."""
    if config.model_type in IMAGES_UNKNOWN:
        message = f"how {config.model_type} models take their images cannot be planned here yet."
        fix = "Choose a LLaVA 1.5, SmolVLM, Qwen-VL, PaliGemma, Gemma 3 or BLIP model."
        raise PlanError([Issue(field="model", message=message, fix=fix)])


def words_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The model's own loss. Models count their image tokens first, which a dry run without numbers cannot."""
    kept = os.environ.get(_NO_COUNT)
    os.environ[_NO_COUNT] = "1"
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    try:
        with grids.images_first(base, image_tokens(base.config, plan)):
            return own_loss(model, tiles.seen_first(model, batch) if tiles.has_tiles(base.config) else batch, plan, held)
    finally:
        os.environ.pop(_NO_COUNT) if kept is None else os.environ.update({_NO_COUNT: kept})


def image_tokens(config: PretrainedConfig, plan: Plan) -> int:
    """How many tokens of a text an image takes: what the config says, or the patches of the vision tower; 0 where the
    image is not among the words (BLIP)."""
    if getattr(config, "image_token_id", None) is None:
        return 0
    if has_grid(config):
        return grids.image_tokens(config, plan)
    if tiles.has_tiles(config):
        return tiles.image_tokens(config, plan)
    for name in ("mm_tokens_per_image", "image_seq_length"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    vision = vision_config(config)
    return (vision.image_size // vision.patch_size) ** 2


RECIPES = {
    "image_classification": Recipe(make_trainer=class_trainer, dry_batch=class_batch, dry_loss=own_loss),
    "captioning": Recipe(make_trainer=words_trainer, dry_batch=words_batch, dry_loss=words_loss),
    "vqa": Recipe(make_trainer=words_trainer, dry_batch=words_batch, dry_loss=words_loss),
}
