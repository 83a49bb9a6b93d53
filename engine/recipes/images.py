"""Images as rows name them (a path, the bytes of a file, or a PIL image), and the shapes in which models read them."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from transformers import PretrainedConfig

DEFAULT_SIDE = 224  # pixels; what a processor makes where a config does not say (ResNet, ConvNeXt)


def open_image(image: Any) -> Image.Image:
    """The picture in RGB."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, dict):
        image = image.get("path") or io.BytesIO(image["bytes"])
    with Image.open(image) as picture:
        return picture.convert("RGB")


def vision_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a config that describes the eye of a model."""
    return getattr(config, "vision_config", None) or config


def pixel_shape(config: PretrainedConfig, batch: int) -> tuple[int, int, int, int]:
    """[batch, channels, height, width] of a batch of images."""
    vision = vision_config(config)
    side = getattr(vision, "image_size", None) or DEFAULT_SIDE
    height, width = (side, side) if isinstance(side, int) else side
    return batch, getattr(vision, "num_channels", 3), height, width
