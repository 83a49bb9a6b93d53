"""Tiny models of every family, made from configs: no weights are downloaded, a step takes milliseconds.

`make("llama")` is a model with random weights; `batch_of(model)` is a batch that it can learn by heart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from engine.methods import METHODS

WORDS = 96  # the vocabulary of all of them
CLASSES = 3
_TEXT = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA_LIKE = _TEXT | {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
_BERT_LIKE = _TEXT | {"intermediate_size": 64, "max_position_embeddings": 64, "num_labels": CLASSES}
_VIT_LIKE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of model: the class that makes it, its config, and what a batch of it holds."""

    auto_class: str
    model_type: str
    config: Mapping[str, Any]
    inputs: str  # text | classified | seq2seq | image | pairs | image-text
    nested: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # sub-configs


_CAUSAL = "AutoModelForCausalLM"
_SEQ_CLS = "AutoModelForSequenceClassification"

FAMILIES: dict[str, Family] = {
    "llama": Family(auto_class=_CAUSAL, model_type="llama", config=_LLAMA_LIKE, inputs="text"),
    "qwen3": Family(auto_class=_CAUSAL, model_type="qwen3", config=_LLAMA_LIKE | {"head_dim": 8}, inputs="text"),
    "gemma3": Family(auto_class=_CAUSAL, model_type="gemma3_text", config=_LLAMA_LIKE | {"head_dim": 8}, inputs="text"),
    "gpt2": Family(
        auto_class=_CAUSAL,
        model_type="gpt2",
        config={"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **_ENDS},
        inputs="text",
    ),
    "gpt_neox": Family(auto_class=_CAUSAL, model_type="gpt_neox", config=_TEXT | {"intermediate_size": 64}, inputs="text"),
    "bert": Family(auto_class=_SEQ_CLS, model_type="bert", config=_BERT_LIKE, inputs="classified"),
    "roberta": Family(auto_class=_SEQ_CLS, model_type="roberta", config=_BERT_LIKE, inputs="classified"),
    "modernbert": Family(
        auto_class=_SEQ_CLS,
        model_type="modernbert",
        config=_BERT_LIKE | {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
        inputs="classified",
    ),
    "t5": Family(
        auto_class="AutoModelForSeq2SeqLM",
        model_type="t5",
        config={
            "vocab_size": WORDS,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
        inputs="seq2seq",
    ),
    "bart": Family(
        auto_class="AutoModelForSeq2SeqLM",
        model_type="bart",
        config={
            "vocab_size": WORDS,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        inputs="seq2seq",
    ),
    "vit": Family(
        auto_class="AutoModelForImageClassification",
        model_type="vit",
        config=_VIT_LIKE | {"num_labels": CLASSES},
        inputs="image",
    ),
    "resnet": Family(
        auto_class="AutoModelForImageClassification",
        model_type="resnet",
        config={"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic", "num_labels": CLASSES},
        inputs="image",
    ),
    "clip": Family(
        auto_class="AutoModel",
        model_type="clip",
        config={"projection_dim": 16},
        nested={
            "text_config": _TEXT
            | {"intermediate_size": 64, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": WORDS - 1},
            "vision_config": _VIT_LIKE,
        },
        inputs="pairs",
    ),
    "llava": Family(
        auto_class="AutoModelForImageTextToText",
        model_type="llava",
        config={"image_token_index": WORDS - 1, "image_seq_length": 4, "vision_feature_layer": -1},
        nested={
            "text_config": _LLAMA_LIKE | {"model_type": "llama"},
            "vision_config": _VIT_LIKE | {"model_type": "clip_vision_model"},
        },
        inputs="image-text",
    ),
}
# What the methods' defaults, made for models of thousands of numbers' width, become on a width of 32.
TINY_OPTIONS: dict[str, dict[str, Any]] = {
    "freeze": {"num_layers": 1},
    "trainable_tokens": {"token_indices": list(range(3, 60))},
    "miss": {"r": 8},
    "vera": {"r": 8},
    "pvera": {"r": 8},
    "randlora": {"r": 8},
    "vblora": {"vector_length": 4, "num_vectors": 16},
    "c3a": {"block_size": 8},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "psoft": {"r": 8},
    "oft": {"oft_block_size": 8},
    "fourierft": {"n_frequency": 40},
    "waveft": {"n_frequency": 40},
    "adalora": {"init_r": 6, "target_r": 4, "total_step": 100},
    "lora_fa": {"r": 8, "lora_alpha": 16},
    "rslora": {"r": 8, "lora_alpha": 16},
    "houlsby": {"reduction_factor": 4},
    "pfeiffer": {"reduction_factor": 4},
    "adaption_prompt": {"adapter_len": 4},
    "p_tuning_v2": {"num_virtual_tokens": 8},
    "cartridge": {"num_virtual_tokens": 8},
}
DECODERS = tuple(name for name, family in FAMILIES.items() if family.inputs == "text")


def make(name: str, *, device: str = "cpu", **changes: Any) -> transformers.PreTrainedModel:
    """The family's tiny model, frozen, with the weights that seed 0 draws."""
    family = FAMILIES[name]
    nested = {key: dict(value) for key, value in family.nested.items()}
    config = transformers.AutoConfig.for_model(family.model_type, **{**family.config, **nested, **changes})
    torch.manual_seed(0)
    with torch.device(device):
        model = getattr(transformers, family.auto_class).from_config(config)
    model.config.use_cache = False
    return model.requires_grad_(False)


def options(method: str) -> dict[str, Any]:
    """The method's defaults, made for a tiny model."""
    row = METHODS[method]
    return {option.name: option.default for option in row.options} | TINY_OPTIONS.get(method, {})


def batch_of(name: str, size: int = 4, length: int = 12) -> dict[str, torch.Tensor]:
    """A batch of random inputs whose labels can be learned by heart. Integers are int64, images [size, 3, 16, 16]."""
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(3, WORDS - 1, (size, length), generator=draw)
    images = torch.randn(size, 3, 16, 16, generator=draw)
    texts = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    classes = {"labels": torch.arange(size) % CLASSES}
    kind = FAMILIES[name].inputs
    if kind == "text":
        return texts | {"labels": words}
    if kind == "classified":
        return texts | classes
    if kind == "seq2seq":
        return texts | {"labels": torch.randint(3, WORDS - 1, (size, 6), generator=draw)}
    if kind == "image":
        return {"pixel_values": images} | classes
    if kind == "pairs":
        return {**texts, "pixel_values": images, "return_loss": True}  # type: ignore[dict-item]
    with_image = words.clone()
    with_image[:, :4] = WORDS - 1  # the places of the image
    labels = words.clone()
    labels[:, :4] = -100
    return {"input_ids": with_image, "attention_mask": torch.ones_like(words), "pixel_values": images, "labels": labels}
