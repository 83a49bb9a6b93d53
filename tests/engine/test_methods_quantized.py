"""Methods on weights of 8 and 4 bits: a step trains, shapes agree, and what is saved answers the same from its base.

On a GPT-NeoX, whose layers have biases and whose norms are LayerNorms: both are harder than what a Llama has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.adapters import attach
from engine.catalog.tasks import TASKS
from engine.export import merge
from engine.methods import METHODS, unfit
from engine.modeling import build
from engine.plan import Plan
from tests import tiny_models

PAIRS = [(key, kind) for key, row in METHODS.items() for kind in row.quantizations if kind in ("int8", "nf4")]
FAMILY = "gpt_neox"


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models on the disk; widths of 64 are one block of a 4-bit weight."""
    where = tmp_path_factory.mktemp("tiny")
    for family in (FAMILY, "llama"):
        tiny_models.make(family, hidden_size=64, intermediate_size=128).save_pretrained(where / family)
    return {family: where / family for family in (FAMILY, "llama")}


def family_for(method: str) -> str:
    return FAMILY if not unfit(METHODS[method], FAMILY, TASKS["causal-lm"]) else "llama"


def unpacked(model: Any) -> dict[str, Any]:
    """What is known of all parameters but the packed weights."""
    parameters = model.named_parameters()
    return {
        name: (tuple(p.shape), p.dtype, p.requires_grad)
        for name, p in parameters
        if not hasattr(p, "quant_type") and not hasattr(p, "SCB")
    }


def mixed(model: Any, **more: Any) -> Any:
    """The model's output under autocast, as the Trainer computes it."""
    batch = tiny_models.batch_of(FAMILY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **more)


@pytest.mark.parametrize(("method", "kind"), PAIRS)
def test_a_step_trains_and_is_saved(method: str, kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    options = tiny_models.TINY_OPTIONS.get(method, {})
    folder = folders[family_for(method)]
    plan = Plan(model=str(folder), method=method, method_options=options, quantization=kind, precision="bf16")
    model = build.build(plan, "cpu").eval()
    assert unpacked(build.build(plan, "meta")) == unpacked(model)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    mixed(model, labels=tiny_models.batch_of(FAMILY)["labels"]).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    optimizer.step()

    length = tiny_models.batch_of(FAMILY)["input_ids"].shape[1]
    with torch.no_grad():
        expected = mixed(model).logits[:, -length:].float()
    attach.save(model, tmp_path / "adapter")
    again = attach.load(build.load_base(plan, "cpu"), tmp_path / "adapter").eval()
    batch = tiny_models.batch_of(FAMILY)
    with torch.no_grad():
        found = again(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -length:].float()
    assert (found - expected).abs().max() < 0.05  # bf16 keeps 8 bits of logits below 4


@pytest.mark.parametrize("method", ["lora", "ia3", "miss", "oft", "hira", "vera", "ln_tuning"])
def test_merged_into_the_unpacked_weights_it_answers_the_same(method: str, folders: dict[str, Path], tmp_path: Path) -> None:
    options = tiny_models.TINY_OPTIONS.get(method, {})
    plan = Plan(model=str(folders["llama"]), method=method, method_options=options, quantization="nf4", precision="fp32")
    model = build.build(plan, "cpu").eval()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
        expected = mixed(model).logits.float()
        attach.save(model, tmp_path / "adapter")
        merged = attach.merge(attach.load(merge.unpacked_base(plan), tmp_path / "adapter")).eval()
        found = merged(input_ids=tiny_models.batch_of(FAMILY)["input_ids"]).logits
    assert (found - expected).abs().max() < 0.05  # bf16 keeps 8 bits of logits below 4
