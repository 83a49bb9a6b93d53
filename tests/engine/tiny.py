"""Tiny models with random weights and tiny rows, for the tests of the objectives."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from engine.modeling.build import load_tokenizer
from engine.objectives import OBJECTIVES
from engine.plan import Plan

WORDS = ["the", "cat", "dog", "sea", "sky", "tree", "house", "bird", "fish", "king", "day", "night", "red", "blue", "green"]


@functools.cache
def folder() -> Path:
    """A folder that lives as long as the tests."""
    return Path(tempfile.mkdtemp(prefix="fittingroom-tiny-"))


@functools.cache
def causal_model(hidden: int = 32, seed: int = 0) -> str:
    """A Llama of 2 layers with the demo model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = load_tokenizer(Plan())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return _saved(LlamaForCausalLM(config), tokenizer, f"causal{hidden}-{seed}")


FAMILIES = {
    "sequence-classification": "demo/encoder",
    "regression": "demo/encoder",
    "token-classification": "demo/encoder",
    "question-answering": "demo/encoder",
    "masked-lm": "demo/encoder",
    "seq2seq": "demo/seq2seq",
    "sentence-embedding": "demo/encoder",
    "image-classification": "demo/vit",
    "object-detection": "demo/yolos",
    "image-text-contrastive": "demo/clip",
    "image-text-to-text": "demo/vlm",
}


def model_for(objective: str) -> str:
    """The smallest model at hand of the objective's kind."""
    row = OBJECTIVES[objective]
    text_objectives = ("text", "preference", "online")
    return causal_model() if row.recipe in text_objectives else FAMILIES[row.task]


def _saved(model: Any, processor: Any, name: str) -> str:
    where = folder() / name
    model.save_pretrained(where)
    processor.save_pretrained(where)
    return str(where)


def plan(objective: str, model: str, **changes: Any) -> Plan:
    """A plan of a few small steps in fp32, so that two ways to the same number agree."""
    settings: dict[str, Any] = {
        "objective": objective, "model": model, "precision": "fp32", "max_length": 48, "per_device_train_batch_size": 4,
        "method": "lora", "warmup_ratio": 0.0, "lr_scheduler_type": "constant",
    }  # fmt: skip
    return Plan(**settings | changes)


def sentence(seed: int, words: int) -> str:
    """A few words, the same for the same seed."""
    return " ".join(WORDS[(seed * 7 + place * place + place) % len(WORDS)] for place in range(words))


def rows(shape: str, count: int = 16) -> list[dict[str, Any]]:
    """Rows of a shape, of different lengths."""
    makers = {
        "text": lambda n: {"text": sentence(n, 12 + n % 5)},
        "messages": lambda n: {"messages": [_turn("user", sentence(n, 4)), _turn("assistant", sentence(n + 1, 3 + n % 4))]},
        "preference": lambda n: {
            "prompt": [_turn("user", sentence(n, 4))],
            "chosen": [_turn("assistant", f"blue {sentence(n, 2 + n % 4)}")],
            "rejected": [_turn("assistant", f"red {sentence(n + 2, 3 + n % 3)}")],
        },
        "unpaired-preference": lambda n: {
            "prompt": [_turn("user", sentence(n, 4))],
            "completion": [_turn("assistant", f"{'blue' if n % 2 else 'red'} {sentence(n, 2 + n % 4)}")],
            "label": bool(n % 2),
        },
        "prompt-only": lambda n: {"prompt": [_turn("user", sentence(n, 3 + n % 3))], "answer": "blue"},
    }
    return [makers[shape](number) for number in range(count)]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
