"""The sizes of a plan's images, and the shapes in which models read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from transformers import PretrainedConfig

from engine import data
from engine.catalog import models
from engine.data.pictures import size_of
from engine.modeling.image_processors import vision_config
from engine.objectives import OBJECTIVES
from engine.plan import Plan

USUAL_IMAGE = (512, 512)  # pixels, where a plan has no data (judgement)
LOOKED_AT = 200  # rows of which the largest image is taken
DEFAULT_SIDE = 224  # pixels; what a processor makes where a config does not say (ResNet, ConvNeXt)


def pixel_shape(config: PretrainedConfig, batch: int) -> tuple[int, int, int, int]:
    """[batch, channels, height, width] of a batch of images."""
    vision = vision_config(config)
    side = getattr(vision, "image_size", None) or DEFAULT_SIDE
    height, width = (side, side) if isinstance(side, int) else side
    return batch, getattr(vision, "num_channels", 3), height, width


def largest_image(plan: Plan) -> tuple[int, int]:
    """(width, height) in pixels of the plan's largest image, of those that are looked at."""
    return max(_sizes(plan), key=lambda size: size[0] * size[1], default=USUAL_IMAGE)


def image_settings(plan: Plan) -> dict[str, Any]:
    """What the folder of the plan's model says of its image processor; empty where it is not on this computer."""
    folder = models.find(plan.model).folder
    for name in ("preprocessor_config.json", "processor_config.json"):
        if folder is not None and (folder / name).is_file():
            said = json.loads((folder / name).read_text(encoding="utf-8"))
            return said.get("image_processor", said)
    return {}


def _sizes(plan: Plan) -> Iterator[tuple[int, int]]:
    for source in plan.datasets:
        for _, row in islice(data.iterate(source, OBJECTIVES[plan.objective].shapes), LOOKED_AT):
            yield from (size_of(image) for image in (row["images"] if "images" in row else [row["image"]]))
