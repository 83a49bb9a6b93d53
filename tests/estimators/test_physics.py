"""What a step's memory and time follow from: gradients that stay, a GPU's attention kernels, other stacks, other phases."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import checks
from engine.adapters import attach
from engine.catalog import hardware
from engine.modeling import build
from engine.plan import Plan
from engine.recipes import text
from estimators.memory import run_phases
from estimators.simulate import accumulation, replay
from estimators.simulate.caching_allocator import MIB, CachingAllocator
from estimators.simulate.dry_run import Shape, dry_run
from estimators.simulate.gpu_kernels import attention
from estimators.simulate.trace import Recorder
from estimators.timing import roofline
from tests import tiny_models
from tests.estimators.test_allocator import arrays

SHAPE = Shape(batch=2, length=32)
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 256,
}
PLAN = Plan(model=TINY, method="full", precision="fp32", gpu="L40S", max_length=32, optim="sgd")


def tiny() -> torch.nn.Module:
    """The model of PLAN with real weights on the processor."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(build.load_config(PLAN), dtype=torch.float32)


# --- gradient accumulation ------------------------------------------------------------------------------------------


def really_in_the_second_batch() -> int:
    """Peak bytes of a second real batch whose gradients are added to those of the first."""
    model = tiny().train()
    batch = text.dry_batch(model.config, PLAN, SHAPE.batch, SHAPE.length)
    build.full_loss(model, batch).backward()
    recorder = Recorder()
    recorder.adopt([*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())], "weights")
    with recorder:
        build.full_loss(model, batch).backward()
    return recorder.segments[0].most_held


def test_with_accumulation_the_gradients_stay_beside_the_activations() -> None:
    run = dry_run(PLAN.with_(loss="full"), SHAPE, on_gpu=False)
    kept = replay.peak(accumulation.with_gradients_kept(run.step))
    gradients = 4 * run.trainable_params
    assert kept.parts["gradients"] >= gradients
    assert kept.bytes > replay.peak(run.step).bytes
    assert abs(kept.bytes / really_in_the_second_batch() - 1) < 0.05


# --- the kernels of a GPU -------------------------------------------------------------------------------------------


def test_a_gpu_keeps_no_matrix_of_tokens_for_an_encoder_with_dropout() -> None:
    """A processor's attention falls back to plain matrices where there is dropout; a GPU's kernel has it built in."""
    bert = {"model_type": "bert", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8}
    plan = Plan(model=bert, objective="classification", method="full", precision="fp32", gpu="L40S", optim="sgd")
    shape = Shape(batch=2, length=256)
    fused, eager = (dry_run(plan.with_(attn_implementation=kind), shape) for kind in ("sdpa", "eager"))
    one_matrix = 2 * 8 * 256 * 256 * 4  # batch, heads, tokens, tokens, bytes
    assert replay.peak(eager.step).bytes - replay.peak(fused.step).bytes > 4 * one_matrix
    assert {work.kind for work in replay.works(fused.step)} >= {"attention", "matmul"}


def test_the_kernel_without_a_mask_skips_what_lies_ahead() -> None:
    query = torch.empty(1, 4, 64, 16, dtype=torch.bfloat16, device="meta")
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool, device="meta")
    flops = []
    for given_mask in (None, mask):
        with Recorder() as recorder:
            out = attention(query, query, query, attn_mask=given_mask, is_causal=given_mask is None)
        assert out.shape == query.shape
        flops.append(sum(work.flops * count for work, count in recorder.segments[0].works.items()))
    assert flops == [4 * 64 * 64 * 16 * 4 // 2, 4 * 64 * 64 * 16 * 4], "two products of 2 x tokens^2 x head size per head"


def test_rows_of_one_length_need_no_mask() -> None:
    names = [set(text.dry_batch(None, plan, batch, 8)) for plan, batch in ((PLAN, 1), (PLAN.with_(packing=True), 4), (PLAN, 4))]
    assert ["attention_mask" in one for one in names] == [False, False, True]


# --- what other stacks do -------------------------------------------------------------------------------------------


def test_a_plan_can_say_how_other_stacks_store_adapters_and_prepare_for_4_bits() -> None:
    for adapter, quantization, expected in (
        ("auto", "none", torch.float32),
        ("bf16", "none", torch.bfloat16),
        ("auto", "nf4", torch.bfloat16),
        ("fp32", "nf4", torch.float32),
    ):
        plan = PLAN.with_(method="lora", precision="bf16", quantization=quantization, adapter_dtype=adapter)
        assert checks.check(plan) == []
        trained = {p.dtype for p in build.build(plan, "meta").parameters() if p.requires_grad}
        assert trained == {expected}, (adapter, quantization)
    plan = PLAN.with_(method="lora", precision="bf16", quantization="nf4", prepare_model_for_kbit_training=True)
    assert build.build(plan, "meta").get_input_embeddings().weight.dtype == torch.float32


def test_the_losses_of_all_logits_are_one_number_and_their_memory_is_not() -> None:
    model = tiny()
    batch = text.dry_batch(model.config, PLAN, 2, 16)
    batch["input_ids"] = torch.randint(0, 256, (2, 16))
    batch["labels"] = batch["input_ids"].clone()
    torch.testing.assert_close(build.full_loss(model, batch), build.shifted_loss(model, batch))
    plan = PLAN.with_(method="lora", precision="bf16", autocast=False)
    peaks = [
        replay.peak(dry_run(plan.with_(loss=loss, keep_outputs=keep), Shape(batch=4, length=256)).step).bytes
        for loss, keep in (("full", False), ("full", True), ("shifted", True))
    ]
    in_bf16 = 4 * 256 * 256 * 2  # batch, tokens and vocabulary
    assert peaks[1] - peaks[0] == in_bf16, "a loop that keeps the outputs keeps the logits"
    assert 1.9 * in_bf16 < peaks[2] - peaks[0] <= 2 * in_bf16, "older models gave them out in fp32"


def test_clipping_reads_and_scales_all_gradients() -> None:
    clipped, free = (replay.works(dry_run(PLAN.with_(max_grad_norm=norm), SHAPE).step) for norm in (1.0, 0.0))
    [(work, times)] = (clipped - free).items()
    assert times == 1
    assert work.bytes == 3 * 4 * dry_run(PLAN, SHAPE).trainable_params


def test_older_bitsandbytes_kept_the_inputs_of_4_bit_layers() -> None:
    """In bf16: that of gate and up, and that of down. Those of the others are kept anyway, by LoRA and by attention."""
    plan = Plan(
        model=TINY, method="qlora", precision="bf16", autocast=False, gpu="L40S", method_options={"target_modules": ["q_proj"]}
    )
    shape = Shape(batch=4, length=256)
    now, then = (replay.peak(dry_run(p, shape).step) for p in (plan, plan.with_(keep_quantized_inputs=True)))
    inputs = 2 * (TINY["hidden_size"] + TINY["intermediate_size"]) * shape.batch * shape.length
    more = then.parts["activations"] - now.parts["activations"]
    assert 0.8 * inputs * TINY["num_hidden_layers"] < more <= inputs * TINY["num_hidden_layers"]
    checkpointed = plan.with_(gradient_checkpointing=True)
    again = replay.peak(dry_run(checkpointed.with_(keep_quantized_inputs=True), shape).step)
    assert again.bytes == replay.peak(dry_run(checkpointed, shape).step).bytes


# --- the other phases -----------------------------------------------------------------------------------------------


def test_the_merge_needs_what_a_real_one_allocates() -> None:
    """PEFT's merge of a real adapter into real weights, with the checksums that `engine/export/merge.py` takes around it."""
    plan = PLAN.with_(method="lora")
    run = dry_run(plan, SHAPE, on_gpu=False)
    found = run_phases.of_run(plan, run, replay.peak(run.step).bytes, on_gpu=True, program=0)
    model = attach.with_peft("lora", tiny(), {"r": 8, "target_modules": "all-linear"})
    recorder = Recorder()
    recorder.adopt([*model.parameters(), *model.buffers()], "weights")
    with recorder:
        for weight in [parameter for name, parameter in model.named_parameters() if "base_layer.weight" in name]:
            weight.detach().double().abs().sum().item()
        attach.merge(model)
    really = recorder.segments[0].most_held
    assert really <= found.device["merge"] < 1.25 * really


def test_the_phases_hang_together() -> None:
    big = Plan(model="Qwen/Qwen3-0.6B", gpu="L40S", max_length=64)
    lora, qlora, full = (
        run_phases.of_run(plan, run, replay.peak(run.step).bytes, on_gpu=True, program=0)
        for plan, run in ((p, dry_run(p, SHAPE)) for p in (big, big.with_(method="qlora"), big.with_(method="full")))
    )
    assert qlora.device["load"] < lora.device["load"] < qlora.device["merge"], "4-bit weights are unpacked to be merged"
    assert full.device["merge"] == 0
    assert full.device["save"] > lora.device["save"], "the optimizer's states are still there"
    assert lora.disk > full.disk > lora.disk / 2, "the adapter and the merged model; the model alone"


# --- the allocator's other way to grow ------------------------------------------------------------------------------


def test_expandable_segments_use_what_is_free_at_the_end() -> None:
    moves = [(0, 30 * MIB), (0, -1), (1, 50 * MIB)]
    plain, expandable = CachingAllocator(), CachingAllocator(expandable=True)
    for allocator in (plain, expandable):
        allocator.replay(*arrays(moves))
    assert plain.reserved == 80 * MIB, "the first segment is too small for the second tensor"
    assert expandable.reserved == 60 * MIB, "it grew by pages of 20 MiB"


@given(st.lists(st.integers(1, 60 * MIB), min_size=1, max_size=20))
def test_expandable_segments_hold_what_is_allocated_and_no_more_than_a_page_beyond(sizes: list[int]) -> None:
    allocator = CachingAllocator(expandable=True)
    allocator.replay(*arrays(list(enumerate(sizes))))
    assert allocator.allocated <= allocator.reserved <= allocator.allocated + 22 * MIB


# --- the clock ------------------------------------------------------------------------------------------------------


def test_every_gpu_with_published_rates_has_a_speed_below_its_datasheet() -> None:
    for gpu in hardware.gpus().values():
        rates = roofline.rates(gpu)
        if rates is None:
            continue
        best = max(gpu.flops.values())
        assert 0 < rates.flops["bf16"] <= best, gpu.name
        assert 0 < rates.attention["bf16"] <= best, gpu.name
        assert rates.bandwidth <= (gpu.bandwidth or 0), gpu.name


def test_every_family_of_tiny_models_runs_with_the_kernels_of_a_gpu() -> None:
    """The kernels take what each family's attention gives them: masks, groups, dropout, windows."""
    for name in ("llama", "gemma3", "gpt2", "gpt_neox", "bert", "modernbert"):
        family = tiny_models.FAMILIES[name]
        model = {"model_type": family.model_type, **family.config}
        objective = "sft" if family.inputs == "text" else "classification"
        run = dry_run(Plan(model=model, objective=objective, method="full", gpu="L40S", optim="sgd"), SHAPE)
        assert replay.peak(run.step).bytes > run.weight_bytes, name
