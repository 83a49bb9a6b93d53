"""The stack of layers of a model: where it is, how its layers differ, and a config with fewer of them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Hashable

import torch
from transformers import PretrainedConfig, PreTrainedModel

from engine.methods import METHODS, option_values
from engine.plan import Plan
from estimators.simulate.splice import Depth


def base_of(model: torch.nn.Module) -> PreTrainedModel:
    """The model below the adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_stack(model: torch.nn.Module) -> tuple[str, torch.nn.ModuleList] | None:
    """The list of decoder layers (its name, itself): the longest ModuleList with as many layers as the config says."""
    config = getattr(model, "config", None)
    # RT-DETR has several small stacks, and says the size of none under this name.
    count = getattr(config.get_text_config(), "num_hidden_layers", 0) if config is not None else 0
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    return lists[0] if lists else None


def layer_kinds(model: PreTrainedModel) -> list[Hashable]:
    """What tells the layers of the stack apart: their class, their shapes, what is trained, and their type of attention."""
    stack = find_stack(model)
    if stack is None:
        return []
    types = getattr(model.config.get_text_config(), "layer_types", None) or [""] * len(stack[1])
    return [
        (type(layer).__name__, layer_type, tuple((n, tuple(p.shape), p.requires_grad) for n, p in layer.named_parameters()))
        for layer, layer_type in zip(stack[1], types, strict=True)
    ]


# Options of methods that choose some layers by their numbers; of names, those with a number in them do.
BY_NUMBER = ("num_layers", "name_pattern", "layers_to_transform", "adapter_layers", "rank_pattern", "alpha_pattern")


def tells_layers_apart(plan: Plan) -> bool:
    """Whether what the plan's method does to a layer may hang on the layer's number, or on how many there are."""
    options = option_values(plan)
    names = " ".join(str(value) for name, value in options.items() if name.endswith(("_modules", "_parameters")))
    by_number = any(options.get(name) for name in BY_NUMBER)
    return by_number or METHODS[plan.method].keeps_past or any(character.isdigit() for character in names)


# Config fields that hold one value per layer, beside `layer_types`.
PER_LAYER_FIELDS = ("layer_types", "mlp_layer_types", "no_rope_layers", "block_types", "layers_block_type")


def shortened(config: PretrainedConfig, depth: Depth) -> PretrainedConfig:
    """The config of the probe: fewer layers, each of the kind that it stands for."""
    if depth.extra == 0:
        return config
    short = copy.deepcopy(config)
    _shorten(short, depth)
    return short


def cut(model: torch.nn.Module, depth: Depth) -> None:
    """Take all layers out of a model but those of the probe: what a method has made of these stays."""
    base = base_of(model)
    stack = find_stack(base)
    if depth.extra == 0 or stack is None:
        return
    name, layers = stack
    base.set_submodule(name, torch.nn.ModuleList(layers[layer] for layer in depth.kept))
    _shorten(base.config, depth)


def _shorten(config: PretrainedConfig, depth: Depth) -> None:
    """Let the config say that there are the layers of the probe."""
    text = config.get_text_config()
    for name in PER_LAYER_FIELDS:
        values = getattr(text, name, None)
        if isinstance(values, list) and len(values) == depth.full:
            setattr(text, name, [values[layer] for layer in depth.kept])
    text.num_hidden_layers = depth.probed


def full_parameters(model: torch.nn.Module, depth: Depth) -> list[torch.nn.Parameter]:
    """The parameters of the full stack in their order: those of a probe's layer once for each layer that it stands for."""
    stack = find_stack(base_of(model))
    by_layer = [list(layer.parameters()) for layer in stack[1]] if stack is not None else []
    in_layers = {id(parameter) for layer in by_layer for parameter in layer}
    own = list(model.parameters())
    first = next((place for place, parameter in enumerate(own) if id(parameter) in in_layers), len(own))
    of_all_layers = [parameter for layer in range(depth.full) for parameter in by_layer[depth.probe_layer(layer)]]
    shared = shared_counts(model)
    of_each = [parameter for parameter in of_all_layers if id(parameter) not in shared]
    of_several = {id(parameter): parameter for parameter in of_all_layers if id(parameter) in shared}
    return [*own[:first], *of_several.values(), *of_each, *(p for p in own[first:] if id(p) not in in_layers)]


def shared_counts(model: torch.nn.Module) -> dict[int, int]:
    """The parameters that several layers of the stack share (some methods' adapters): id -> how many layers."""
    stack = find_stack(base_of(model))
    layers = list(stack[1]) if stack is not None else []
    counts = Counter(key for layer in layers for key in {id(parameter) for parameter in layer.parameters()})
    return {key: count for key, count in counts.items() if count > 1}
