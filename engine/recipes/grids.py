"""Models that read an image as a grid of patches of its own size (Qwen2-VL, Qwen2.5-VL, Qwen3-VL and their kin).

    ImageAndText     image processor and tokenizer as one, where the model's own processor needs torchvision (for videos)
    image_inputs     what such a model reads of images in a dry run

The vision tower takes what follows from the grid alone either from numbers or worked out before; a dry run has no
numbers, so it works them out (`transformers/vision_utils.py`, 5.23).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from engine.modeling.image_processors import vision_config
from engine.plan import Plan
from engine.recipes.images import image_settings, largest_image

PIXELS = (56 * 56, 28 * 28 * 1280)  # fewest and most: Qwen2VLImageProcessor's own where a folder says nothing (5.23)


# --- reading --------------------------------------------------------------------------------------------------------


# --- the dry run ----------------------------------------------------------------------------------------------------


def grid_of(config: PretrainedConfig, plan: Plan) -> tuple[int, int]:
    """(rows, columns) of patches of the plan's largest image, of those that were looked at."""
    vision = vision_config(config)
    width, height = largest_image(plan)
    fewest, most = _pixel_limits(plan)
    made = smart_resize(height, width, vision.patch_size * vision.spatial_merge_size, fewest, most)
    return made[0] // vision.patch_size, made[1] // vision.patch_size


def _pixel_limits(plan: Plan) -> tuple[int, int]:
    said = image_settings(plan)
    size = said.get("size") or {}
    fewest = said.get("min_pixels") or size.get("shortest_edge") or PIXELS[0]
    return fewest, said.get("max_pixels") or size.get("longest_edge") or PIXELS[1]


def image_tokens(config: PretrainedConfig, plan: Plan) -> int:
    """How many tokens of a text an image takes."""
    high, wide = grid_of(config, plan)
    return high * wide // vision_config(config).spatial_merge_size ** 2


def image_inputs(config: PretrainedConfig, plan: Plan, batch: int) -> dict[str, Any]:
    """What the model reads of `batch` images, one to a text: patches as rows, their grid, and what follows from it.

    What the model asks for its numbers (the grid, the ends of windows) are numpy arrays: a dry run's tensors have none.
    Where each word stands, `position_ids` int64 [3, batch, tokens], is for the caller to add.
    """
    vision, (high, wide) = vision_config(config), grid_of(config, plan)
    patches, merged = batch * high * wide, vision.spatial_merge_size**2
    depth = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
    inputs: dict[str, Any] = {
        "pixel_values": torch.zeros(patches, depth),
        "image_grid_thw": np.array([[1, high, wide]] * batch),
        "image_position_ids": torch.zeros(patches, 2, dtype=torch.int64),
        "image_cu_seqlens": np.arange(batch + 1) * high * wide,
    }
    if hasattr(vision, "window_size"):
        ends = list(accumulate(size for _ in range(batch) for size in _windows(vision, high, wide)))
        inputs["image_window_index"] = torch.arange(patches // merged)
        inputs["image_cu_window_seqlens"] = np.array([0, *ends])
    if hasattr(vision, "num_position_embeddings"):
        inputs["image_interp_indices"] = torch.zeros(patches, 4, dtype=torch.int64)
        inputs["image_interp_weights"] = torch.zeros(patches, 4)
    return inputs


def _windows(vision: PretrainedConfig, high: int, wide: int) -> list[int]:
    """Patches of each window of attention, from the top left; those at the edges are smaller."""
    merge = vision.spatial_merge_size
    side = vision.window_size // merge // vision.patch_size
    rows, columns = ([min(side, whole // merge - at) for at in range(0, whole // merge, side)] for whole in (high, wide))
    return [down * across * merge**2 for down in rows for across in columns]


@contextlib.contextmanager
def images_first(model: torch.nn.Module, tokens: int) -> Iterator[None]:
    """Within it, Qwen3-VL adds what it has seen to the first `tokens` places of each text, where a dry batch has its image.

    It looks for these places in a mask, whose numbers a dry run does not have (`_deepstack_process`, transformers 5.23).
    """
    adding = [module for module in model.modules() if hasattr(module, "_deepstack_process")]

    def add(hidden: torch.Tensor, places: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        hidden[:, :tokens] = hidden[:, :tokens] + seen.view(hidden.size(0), tokens, -1)
        return hidden

    for module in adding:
        module._deepstack_process = add
    try:
        yield
    finally:
        for module in adding:
            del module._deepstack_process
