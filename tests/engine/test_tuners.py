"""Bottleneck adapters behave as PEFT's own tuners do: several at once, switched off, saved, and never merged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from engine.adapters import attach
from engine.adapters.tuners.bottleneck import PLACES, BottleneckConfig, BottleneckLayer
from tests import tiny_models

# Sub-layers per layer: attention and feed-forward; a decoder beside an encoder has cross-attention too.
PLACES_PER_LAYER = {"t5": (10, 4), "bart": (10, 4), "clip": (8, 4), "llava": (8, 4)}


def adapted(placement: str = "houlsby", **options: Any) -> PeftModel:
    return attach.with_bottlenecks(tiny_models.make("llama"), {"placement": placement, "reduction_factor": 4, **options})


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=tiny_models.batch_of("llama")["input_ids"]).logits


def disturb(model: Any, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)


@pytest.mark.parametrize("family", [name for name in tiny_models.FAMILIES if name != "resnet"])
def test_the_places_are_found_in_every_family(family: str) -> None:
    names = [name for name, _ in tiny_models.make(family, device="meta").named_modules()]
    found = {place: sum(re.fullmatch(pattern, name) is not None for name in names) for place, pattern in PLACES.items()}
    assert (found["houlsby"], found["pfeiffer"]) == PLACES_PER_LAYER.get(family, (4, 2))


def test_it_has_the_parameters_of_the_paper() -> None:
    """2 m d + d + m numbers for each adapter (arXiv:1902.00751, section 2.1), two adapters in each of two layers."""
    width, inner = 32, 8
    trained = sum(parameter.numel() for parameter in adapted().parameters() if parameter.requires_grad)
    assert trained == 4 * (2 * inner * width + width + inner)


def test_it_starts_as_the_base_and_computes_what_the_paper_says() -> None:
    base = logits(tiny_models.make("llama"))
    model = adapted()
    assert torch.equal(logits(model), base)
    disturb(model)
    layer = next(module for module in model.modules() if isinstance(module, BottleneckLayer))
    x = torch.randn(3, layer.in_features)
    h = layer.base_layer(x)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    inner = torch.nn.functional.gelu(h @ down.weight.T + down.bias)
    assert torch.allclose(layer(x), h + inner @ up.weight.T + up.bias, atol=1e-6)


def test_two_adapters_live_side_by_side(tmp_path: Path) -> None:
    model = adapted()
    disturb(model)
    first = logits(model)
    model.add_adapter("second", BottleneckConfig(placement="pfeiffer", reduction_factor=8))
    model.set_adapter("second")
    disturb(model, seed=1)
    second = logits(model)
    assert not torch.allclose(first, second)
    model.set_adapter("default")
    assert torch.allclose(logits(model), first)

    model.save_pretrained(tmp_path)
    again = attach.load(tiny_models.make("llama"), tmp_path)
    again.load_adapter(tmp_path / "second", "second")
    assert torch.allclose(logits(again), first, atol=1e-6)
    again.set_adapter("second")
    assert torch.allclose(logits(again), second, atol=1e-6)


def test_it_is_never_merged_and_can_be_taken_off() -> None:
    model = adapted("pfeiffer")
    disturb(model)
    with pytest.raises(ValueError, match="not linear"):
        model.merge_and_unload()
    assert torch.equal(logits(model.unload()), logits(tiny_models.make("llama")))


def test_chosen_layers_alone_get_one() -> None:
    model = adapted(layers_to_transform=[1], layers_pattern="layers", target_modules=["down_proj"])
    names = [name for name, module in model.named_modules() if isinstance(module, BottleneckLayer)]
    assert len(names) == 1
    assert "layers.1" in names[0]
