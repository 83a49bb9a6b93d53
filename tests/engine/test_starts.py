"""EVA and LoftQ: LoRA begins where the papers say, and is an ordinary LoRA from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from engine import checks
from engine.adapters import attach, lora_init
from engine.issues import PlanError
from engine.methods import METHODS
from engine.modeling import build
from engine.plan import Plan
from tests import tiny_models

RANK = 4


def batches(count: int = 6, length: int = 12) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(3)
    words = [torch.randint(3, tiny_models.WORDS - 1, (4, length), generator=draw) for _ in range(count)]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in words]


def with_eva() -> Any:
    return METHODS["eva"].apply(tiny_models.make("llama"), tiny_models.options("eva") | {"r": RANK, "lora_alpha": RANK})


def test_eva_starts_from_the_strongest_directions_of_the_data(tmp_path: Path) -> None:
    model = with_eva().eval()
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    seen: list[torch.Tensor] = []
    watching = layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten(0, 1)))
    rows = batches()
    with torch.no_grad():
        before = [model(**row).logits for row in rows]
    watching.remove()
    lora_init.look_at_rows(model, rows)
    start = layer.lora_A["default"].weight
    assert torch.allclose(start @ start.T, torch.eye(RANK), atol=1e-4), "orthonormal rows"
    inputs = torch.cat(seen)
    caught = ((inputs - inputs.mean(0)) @ start.T).square().sum()
    best = torch.linalg.svdvals(inputs - inputs.mean(0))[:RANK].square().sum()
    assert caught / best > 0.9
    with torch.no_grad():
        assert torch.allclose(model(**rows[0]).logits, before[0]), "the second matrix is 0: nothing has changed yet"
    attach.save(model, tmp_path)
    assert attach.load(tiny_models.make("llama"), tmp_path).peft_config["default"].init_lora_weights is True


def test_eva_gives_up_where_the_rows_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_init, "EVA_MOST_BATCHES", 3)
    single = [{name: tensor[:1, :2] for name, tensor in batches(1)[0].items()}]
    with pytest.raises(PlanError, match="more tokens than the rank"):
        lora_init.look_at_rows(with_eva(), single)


def test_loftq_makes_up_for_what_the_quantisation_lost(tmp_path: Path) -> None:
    whole = tiny_models.make("llama", hidden_size=64, intermediate_size=128)
    whole.save_pretrained(tmp_path / "base")
    plan = Plan(model=str(tmp_path / "base"), method="loftq", quantization="nf4", precision="bf16")
    model = build.build(plan, "cpu")
    layers = list(attach.quantized_layers(model))
    assert len(layers) == 2 * 7
    for name, layer in layers:
        packed = layer.get_base_layer().weight
        kept = dequantize_4bit(packed.data, packed.quant_state).float()
        lost = whole.get_parameter(f"{name}.weight") - kept
        low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        left = lost - layer.scaling["default"] * high.float() @ low.float()
        assert left.norm() < 0.8 * lost.norm(), name
    trained = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: tuple(p.shape) for name, p in build.build(plan, "meta").named_parameters() if p.requires_grad}
    assert shapes == trained


@pytest.mark.parametrize("start", ["eva", "loftq", "corda"])
def test_as_a_word_alone_such_a_start_is_refused_with_the_method_to_take(start: str) -> None:
    (issue,) = checks.check(Plan(method_options={"init_lora_weights": start}, max_length=64))
    assert issue.field == "init_lora_weights"
    assert "method" in issue.fix


def test_eva_is_for_plain_texts() -> None:
    (issue,) = checks.check(Plan(method="eva", objective="dpo", max_length=64))
    assert "plain texts" in issue.message
