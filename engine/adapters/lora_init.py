"""Starts of LoRA that look at more than the adapter: EVA at the first rows, LoftQ at what the quantisation lost.

Both change where LoRA begins and nothing else: what is saved is an ordinary LoRA adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.adapters import attach, meta_init
from engine.issues import Issue, PlanError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

EVA_MOST_BATCHES = 1000  # judgement: the directions settle after some ten batches; so many means that they never will


# --- EVA ------------------------------------------------------------------------------------------------------------


def with_eva(model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """LoRA that `look_at_rows` gives its first matrices. Every layer keeps its rank, so that the size is known beforehand."""
    from peft import EvaConfig

    config = EvaConfig(rho=1.0, use_label_mask=False)  # rho 1: no rank moves from one layer to another
    return attach.with_peft("lora", model, {**options, "init_lora_weights": "eva", "eva_config": config})


def look_at_rows(model: PeftModel, batches: Iterable[Mapping[str, Any]]) -> None:
    """Start each first matrix from the strongest directions of what its layer is given (arXiv:2410.07170).

    Args:
        model: what `with_eva` returned.
        batches: the trainer's training batches, with input_ids and attention_mask; gone through until they say no more.

    Raises:
        PlanError: the directions do not settle, as when a batch has fewer tokens than the rank.
    """
    import torch
    from peft import get_eva_state_dict

    directions = get_eva_state_dict(model, batches, forward_fn=_at_most(EVA_MOST_BATCHES), show_progress_bar=False)
    with torch.no_grad():
        for name, strongest in directions.items():  # [r, in]
            model.get_submodule(name).lora_A["default"].weight.copy_(strongest)
    config = model.peft_config["default"]
    config.init_lora_weights, config.eva_config = True, None  # from here on it is a LoRA like any other


def _at_most(batches: int) -> Callable[[Any, Mapping[str, Any]], Any]:
    """A forward pass that can be asked for so often."""
    asked = iter(range(batches))

    def forward(model: Any, inputs: Mapping[str, Any]) -> Any:
        if next(asked, None) is None:
            fix = "Use a smaller rank or a larger batch, or the method LoRA."
            message = f"EVA found no steady start in {batches} batches: each must have more tokens than the rank."
            raise PlanError([Issue(field="r", message=message, fix=fix)])
        return model(**inputs)

    return forward


# --- LoftQ ----------------------------------------------------------------------------------------------------------


def with_loftq(model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """LoRA that starts as the best approximation of what 4 bits lost of each weight (arXiv:2310.08659, one iteration).

    Raises:
        PlanError: the weights as they were before the quantisation are not on this machine.
    """
    adapted = attach.with_peft("lora", model, options)
    layers = [] if meta_init.is_meta(model) else list(attach.quantized_layers(adapted))
    if layers:
        _fill_in(layers, _stored_weights(model))
    return adapted


def _fill_in(layers: Iterable[tuple[str, Any]], stored: Callable[[str], torch.Tensor | None]) -> None:
    """Let B A be the strongest part of W - Q: [out, in] of rank r, shared evenly between the two matrices."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    filled = 0
    for name, layer in layers:
        weight = stored(name)
        if weight is None:
            continue
        packed = layer.get_base_layer().weight
        kept = dequantize_4bit(packed.data, packed.quant_state).float()
        rank, scale = layer.r["default"], layer.scaling["default"]
        left, sizes, right = torch.svd_lowrank(weight.to(kept.device).float() - kept, q=rank, niter=4)
        root = (sizes / scale).sqrt()
        with torch.no_grad():
            layer.lora_B["default"].weight.copy_(left * root)  # [out, r]
            layer.lora_A["default"].weight.copy_((right * root).T)  # [r, in]
        filled += 1
    if not filled:
        fix = "Use the method QLoRA: it starts from nothing and needs no other weights."
        raise PlanError([Issue(field="method", message="LoftQ does not find this model's weights before 4 bits.", fix=fix)])


def _stored_weights(model: Any) -> Callable[[str], torch.Tensor | None]:
    """Name of a layer -> its weight as it is in the model's files, [out, in]; None where it is not there.

    Files may call a layer by an older name; transformers' own rules for loading them say which it is now.
    """
    from safetensors import safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    own = {f"{name}.weight": name for name, _ in model.named_modules()}
    files = {
        rename_source_key(key, renamings, [], model.base_model_prefix, own)[0]: (key, where)
        for key, where in _files_of(str(model.name_or_path))
    }

    def read(name: str) -> torch.Tensor | None:
        if f"{name}.weight" not in files:
            return None
        key, where = files[f"{name}.weight"]
        with safe_open(where, framework="pt") as file:
            return file.get_tensor(key)

    return read


def _files_of(location: str) -> Iterator[tuple[str, str]]:
    """(name of a tensor, its file) of a local folder, or of a model of the hub that was loaded before."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    def found(name: str) -> str | None:
        return cached_file(location, name, _raise_exceptions_for_missing_entries=False)

    whole, index = found("model.safetensors"), found("model.safetensors.index.json")
    if whole is not None:
        with safe_open(whole, framework="pt") as file:
            yield from ((name, whole) for name in file.keys())  # noqa: SIM118 - it is no mapping
    elif index is not None:
        for name, part in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].items():
            yield name, str(Path(index).with_name(part))
