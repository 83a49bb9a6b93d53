"""Models that cut an image into tiles and read each of them whole (Idefics3, SmolVLM)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from engine.modeling.image_processors import vision_config
from engine.plan import Plan
from engine.recipes import Batch
from engine.recipes.images import image_settings, largest_image, pixel_shape


def has_tiles(config: PretrainedConfig) -> bool:
    """Whether the model reads tiles; such a model folds `scale_factor` squared patches into one token."""
    return hasattr(config, "scale_factor")


def tiles_of(plan: Plan) -> int:
    """How many tiles the plan's largest image is cut into, as its folder's processor does it, else as the library's."""
    from transformers import Idefics3ImageProcessorPil

    width, height = largest_image(plan)
    known = ("size", "max_image_size", "do_image_splitting")
    settings = {name: value for name, value in image_settings(plan).items() if name in known and value is not None}
    tiles, _, _ = Idefics3ImageProcessorPil().get_number_of_image_patches(height, width, settings)
    return max(1, tiles)


def image_tokens(config: PretrainedConfig, plan: Plan) -> int:
    """How many tokens of a text an image takes."""
    vision = vision_config(config)
    return tiles_of(plan) * (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2


def image_inputs(config: PretrainedConfig, plan: Plan, batch: int) -> Batch:
    """pixel_values float [batch, tiles, channels, side, side], one image to a text."""
    shape = pixel_shape(config, batch)
    return {"pixel_values": torch.zeros(shape[0], tiles_of(plan), *shape[1:])}


def seen_first(model: torch.nn.Module, batch: Batch) -> dict[str, Any]:
    """The batch with what the vision tower makes of its pixels, in the place of the pixels.

    The model itself would first look for tiles that are all zero, which are padding: a dry run has no numbers to look at.
    """
    eye = (model.get_base_model() if hasattr(model, "get_base_model") else model).model
    pixels = batch["pixel_values"].flatten(0, 1).to(eye.dtype)
    features = eye.connector(eye.vision_model(pixel_values=pixels).last_hidden_state).flatten(0, 1)
    others = {name: part for name, part in batch.items() if name != "pixel_values"}
    return others | {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=[features])}}
