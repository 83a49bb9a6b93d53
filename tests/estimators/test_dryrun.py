"""The dry run against what is published of real models (`test_methods_peak.py` compares it with real steps)."""

from __future__ import annotations

import pytest
import torch

from engine.catalog import hardware, models
from engine.modeling import build
from engine.plan import Plan
from estimators.simulate import replay
from estimators.simulate.dry_run import Shape, dry_run
from estimators.simulate.trace import Recorder
from estimators.timing import roofline

SHAPE = Shape(batch=2, length=48)
TINY = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


@pytest.mark.parametrize(
    "model_id",
    [
        "meta-llama/Llama-3.2-3B",
        "Qwen/Qwen3-0.6B",
        "openai-community/gpt2",
        "google/gemma-3-1b-pt",
        "mistralai/Mixtral-8x7B-v0.1",
    ],
)
def test_total_parameters_are_the_published_ones(model_id: str) -> None:
    run = dry_run(Plan(model=model_id, gpu="L40S"), Shape(batch=1, length=16))
    assert run.total_params == models.catalogue()[model_id].params


def test_lora_on_a_4096_square_matrix_has_131072_parameters() -> None:
    """The LoRA literature's example: rank 16 on a 4096 x 4096 matrix trains 0.78 % of it."""
    plan = Plan(
        model={**TINY, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 1},
        method_options={"r": 16, "target_modules": ["q_proj"]},
        gpu="L40S",
    )
    assert dry_run(plan, SHAPE).trainable_params == 131_072


def test_a_4_bit_weight_takes_0_516_bytes() -> None:
    """NF4 with double quantisation: half a byte, a byte per 64, an fp32 per 64 x 256 (arXiv:2305.14314, section 3)."""
    whole, packed = (
        dry_run(Plan(model="meta-llama/Llama-3.2-3B", method=method, gpu="L40S"), SHAPE) for method in ("lora", "qlora")
    )
    linear = 28 * (3072 * 3072 * 2 + 3072 * 1024 * 2 + 3 * 3072 * 8192)
    adapters = whole.trainable_params * (4 - 2)  # fp32 beside bf16 weights, bf16 beside quantised ones
    saved = whole.weight_bytes - packed.weight_bytes - adapters
    assert saved / linear == pytest.approx(2 - 0.516, abs=0.001)


def test_checkpointing_trades_activations_for_time() -> None:
    plan = Plan(model="meta-llama/Llama-3.2-3B", gpu="L40S")
    plain, checkpointed = (dry_run(plan.with_(gradient_checkpointing=on), SHAPE) for on in (False, True))
    assert replay.peak(checkpointed.step).parts["activations"] < 0.3 * replay.peak(plain.step).parts["activations"]
    flops = [sum(work.flops * count for work, count in replay.works(run.step).items()) for run in (plain, checkpointed)]
    assert 1.2 < flops[1] / flops[0] < 1.5


@pytest.mark.parametrize("reentrant", [False, True])
def test_either_way_of_checkpointing_gives_the_gradients_of_none(reentrant: bool) -> None:
    """The real model, one real step: what the plan says reaches torch, and changes nothing but what is kept."""
    plan = Plan(model="demo/llama", method="lora", precision="fp32", method_options={"r": 4, "init_lora_weights": "gaussian"})
    rows = torch.arange(24).reshape(2, 12)

    def gradients(changed: Plan) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = build.build(changed, "cpu").train()
        model(input_ids=rows, labels=rows).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    checkpointed = gradients(plan.with_(gradient_checkpointing=True, use_reentrant=reentrant))
    for ours, plain in zip(checkpointed, gradients(plan), strict=True):
        torch.testing.assert_close(ours, plain)


def test_4_bit_weights_cost_time_and_no_arithmetic() -> None:
    """The products are the same as LoRA's; unpacking the weights comes on top, once per step."""
    rates = roofline.rates(hardware.gpus()["RTX 4090"])
    assert rates is not None
    flops, seconds = {}, {}
    for method in ("lora", "qlora"):
        works = replay.works(dry_run(Plan(model="Qwen/Qwen3-8B", method=method), Shape(batch=1, length=512)).step)
        flops[method] = sum(work.flops * count for work, count in works.items())
        seconds[method] = roofline.step_seconds(works, rates)
    assert flops["qlora"] == pytest.approx(flops["lora"], rel=0.02)
    assert 1.02 < seconds["qlora"] / seconds["lora"] < 2


def test_the_parts_add_up_to_the_peak() -> None:
    peak = replay.peak(dry_run(Plan(model="Qwen/Qwen3-0.6B", gpu="L40S"), SHAPE).step)
    assert sum(peak.parts.values()) == peak.bytes
    assert peak.parts["weights"] > 0


def test_a_recorder_follows_real_storages() -> None:
    recorder = Recorder()
    with recorder:
        one = torch.ones(1000)
        two = one + one
        view = two.view(10, 100)
        del one, two
        del view
    sizes = [event.size for event in recorder.segments[0].events if hasattr(event, "size")]
    assert sizes == [4000, 4000]
    assert len(recorder.segments[0].events) == 4
