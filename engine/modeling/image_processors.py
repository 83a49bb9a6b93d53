"""Image processor and tokenizer as one, where a model's own processor needs torchvision (Qwen2-VL and its kin, for videos)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig


def vision_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a config that describes the eye of a model."""
    return getattr(config, "vision_config", None) or config


def has_grid(config: PretrainedConfig) -> bool:
    """Whether the model reads images as grids of patches, merged by squares."""
    return hasattr(vision_config(config), "spatial_merge_size")


class ImageAndText:
    """An image processor on PIL images and a tokenizer, used like a processor of transformers."""

    def __init__(self, image_processor: Any, tokenizer: Any, image_token: str):
        self.image_processor, self.tokenizer, self.image_token = image_processor, tokenizer, image_token

    @classmethod
    def from_pretrained(cls, where: str, config: PretrainedConfig) -> ImageAndText:
        """From a folder or a hub id."""
        from transformers import AutoImageProcessor, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        image_processor = AutoImageProcessor.from_pretrained(where, backend="pil", trust_remote_code=False)
        return cls(image_processor, tokenizer, tokenizer.convert_ids_to_tokens(config.image_token_id))

    @property
    def chat_template(self) -> str | None:
        return self.tokenizer.chat_template

    def apply_chat_template(self, messages: list[dict[str, Any]], **settings: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **settings)

    def __call__(self, images: list[list[Any]], text: list[str], **settings: Any) -> dict[str, Any]:
        """The inputs of texts that have an image token for each of their images; `images` are those of each text."""
        seen = self.image_processor(images=[image for row in images for image in row], return_tensors="pt")
        merged = self.image_processor.merge_size**2
        counts = iter((seen["image_grid_thw"].prod(-1) // merged).tolist())
        words = self.tokenizer([self._with_room(one, counts) for one in text], **settings)
        is_image = words["input_ids"] == self.tokenizer.convert_tokens_to_ids(self.image_token)
        return {**words, **seen, "mm_token_type_ids": is_image.long()}

    def _with_room(self, text: str, counts: Iterator[int]) -> str:
        """The text with as many image tokens in the place of each as its image takes."""
        first, *others = text.split(self.image_token)
        return first + "".join(self.image_token * next(counts) + part for part in others)

    def decode(self, *args: Any, **settings: Any) -> str:
        return self.tokenizer.decode(*args, **settings)

    def save_pretrained(self, folder: Path) -> None:
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
