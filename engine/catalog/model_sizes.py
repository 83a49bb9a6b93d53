"""What a config says of a model's sizes, read from its plain values: before transformers is imported or anything is built.

An absurd size is refused here, in an instant and without memory. The names of the fields differ from family to family;
these are the ones of transformers' own configs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.issues import Issue

# How many experts a config has. transformers 5 keeps them in one tensor, which bitsandbytes 0.50 leaves as it is
# (https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1849).
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
# Field names by what they mean, and the largest value that is believed: some ten times that of any published model
# (405 B: 126 layers of 16384; a vocabulary of 262144; 512 experts).
LARGEST = {
    ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "projection_dim"): 2**18,
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"): 2048,
    ("vocab_size",): 2**23,
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"): 4096,
    ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "moe_intermediate_size"): 2**21,
    EXPERTS: 8192,
    ("max_position_embeddings", "n_positions"): 2**28,
}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
LIMITS = {name: largest for names, largest in LARGEST.items() for name in names}
# Counts of any other name, by how such names begin or end: far beyond what any config of transformers' own has. What is
# built one by one is the least.
MOST_LAYERS = 2048
MOST_OF_A_KIND = 2**17
MOST_EXPERTS_IN_ALL = 2**18  # of all layers; Kimi K2 has 61 layers of 384
MAY_BE_ZERO = (*EXPERTS, "encoder_layers", "decoder_layers")
WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
# Where nothing but the head is a plain linear layer, which is what transformers quantises (5.23, `replace_with_bnb_linear`):
# models of convolutions, and Falcon, whose linear layers are of a class of their own.
WITHOUT_PLAIN_LINEAR_LAYERS = ("resnet", "regnet", "mobilenet_v1", "mobilenet_v2", "efficientnet", "falcon")


def check(config: Mapping[str, Any]) -> list[Issue]:
    """The sizes of a config that no model has, one issue for all of them."""
    wrong = list(dict.fromkeys(_wrong(config)))
    if not wrong:
        return []
    message = f"the config's {' and '.join(wrong[:3])} {'is' if len(wrong) == 1 else 'are'} no size that a model has."
    return [Issue(field="model", message=message, fix="Check the numbers in the config.")]


def _wrong(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        if name in LIMITS:
            if value is not None and not is_size(name, value):
                yield name
        elif isinstance(value, Mapping):
            yield from _wrong(value)
        elif not _is_count(name, value):
            yield name
    layers = next((config[name] for name in LAYERS if isinstance(config.get(name), int)), 1)
    if layers * max((config[name] for name in EXPERTS if isinstance(config.get(name), int)), default=0) > MOST_EXPERTS_IN_ALL:
        yield "number of experts"


def _is_count(name: str, value: Any) -> bool:
    """Whether a value of a name that `LIMITS` lacks can be built: how many layers, blocks or other parts it says."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    whole = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]
    if name.endswith(("layers", "depth", "depths", "blocks", "stages", "repeats")):
        return sum(whole) <= 2 * MOST_LAYERS and max(whole, default=0) <= MOST_LAYERS
    return not name.startswith(("num_", "n_")) or max(whole, default=0) <= MOST_OF_A_KIND


def is_size(name: str, value: Any) -> bool:
    """A whole number within the limits; some families have one per layer or stage."""
    if isinstance(value, (list, tuple)):
        return len(value) <= LIMITS["num_hidden_layers"] and all(is_size(name, one) for one in value)
    least = 0 if name in MAY_BE_ZERO else 1
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LIMITS[name]


def width(config: Mapping[str, Any] | None) -> int | None:
    """The width of the model's layers, where its config says it in one number."""
    if config is None:
        return None
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else config
    return next((inner[name] for name in WIDTHS if isinstance(inner.get(name), int)), None)


def experts(config: Mapping[str, Any] | None) -> int:
    """How many experts each layer of the model has; 0 where it is no mixture of experts."""
    text = (config or {}).get("text_config") or config or {}
    return max((text[name] for name in EXPERTS if isinstance(text.get(name), int)), default=0)
