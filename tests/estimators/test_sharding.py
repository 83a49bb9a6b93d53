"""Several GPUs: the shares add up, the published runs on 2 to 8 GPUs come out, and the communication is what was seen."""

from __future__ import annotations

import dataclasses

import pytest

from engine.catalog import hardware
from engine.plan import Plan
from estimators.distributed import communication, sharding
from estimators.distributed.sharding import States
from estimators.estimate import Estimate
from estimators.estimator import estimate
from estimators.memory import overhead
from estimators.simulate.dry_run import Shape, dry_run
from estimators.simulate.fsdp_init import NO_UNITS

GIB = 2**30
SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 256,
}
PLAN = Plan(model=SMALL, method="full", max_length=128, gpu="L40S", optim="adamw_torch_fused")
LOMO = Plan(
    model="huggyllama/llama-7b",
    method="full",
    max_length=1024,
    per_device_train_batch_size=1,
    gradient_checkpointing=True,
    loss="full",
    gpu="RTX 3090",
    num_gpus=8,
    sharding="zero3",
)


def one_gpu(plan: Plan) -> tuple[Estimate, States]:
    """The estimate of a plan on one GPU, and what its step holds."""
    run = dry_run(plan, Shape(batch=plan.per_device_train_batch_size, length=plan.max_length))
    return estimate(plan), sharding.states(plan, run)


@pytest.fixture(scope="module")
def small() -> tuple[Estimate, States]:
    return one_gpu(PLAN)


def sharded(n: int, how: str, **more: str) -> Estimate:
    return estimate(PLAN.with_(num_gpus=n, sharding=how, **more))


def test_the_states_are_those_of_the_model(small: tuple[Estimate, States]) -> None:
    found, state = small
    assert state.trainable_params == found.trainable_params == found.total_params
    assert state.weights == pytest.approx(2 * found.total_params, rel=0.02), "bf16"
    assert state.gradients == 2 * found.total_params
    assert state.optimizer == pytest.approx(4 * found.total_params, rel=0.02), "two states of AdamW"
    assert state.largest_layer * 6 + state.outside_layers == pytest.approx(state.weights, rel=0.01)


def test_one_gpu_stays_as_it_is(small: tuple[Estimate, States]) -> None:
    assert communication.applied(PLAN, *small) == small[0]


def test_ddp_holds_everything_and_its_buckets(small: tuple[Estimate, States]) -> None:
    found, state = small
    both = sharded(2, "ddp")
    assert both.memory.weights == state.weights
    assert both.memory.allocated == found.memory.allocated + state.gradients
    assert both.memory.overhead == found.memory.overhead + 342 * 2**20


@pytest.mark.parametrize("how", ["fsdp", "zero3"])
def test_what_is_split_falls_with_the_gpus(small: tuple[Estimate, States], how: str) -> None:
    parts = [sharding.split(PLAN.with_(num_gpus=n, sharding=how), small[1]).parts for n in (2, 4, 8)]
    assert [part["optimizer"] for part in parts] == sorted((part["optimizer"] for part in parts), reverse=True)
    assert parts[0]["optimizer"] == pytest.approx(4 * parts[2]["optimizer"], rel=0.01)
    assert len({part.get("activations") for part in parts}) == 1, "activations are not split"


def test_zero2_keeps_the_weights_whole(small: tuple[Estimate, States]) -> None:
    parts = sharding.split(PLAN.with_(num_gpus=8, sharding="zero2"), small[1]).parts
    assert parts["weights"] == small[1].weights
    # DeepSpeed keeps two fp32 states and an fp32 copy of the weights: 12 bytes for each parameter.
    assert parts["optimizer"] == pytest.approx(12 * small[1].trainable_params / 8, rel=0.02)


def test_fsdp_of_a_bf16_model_trains_in_fp32(small: tuple[Estimate, States]) -> None:
    """accelerate turns what is trained into fp32: 16 bytes per parameter over all GPUs, beside what is gathered."""
    state = small[1]
    plan = PLAN.with_(num_gpus=4, sharding="fsdp")
    kept = sharding.kept_bytes(plan, sharding.SHARDINGS["fsdp"], state)
    assert sum(kept.values()) == pytest.approx(16 * state.trainable_params, rel=0.02)


def test_fsdp_adds_up_whole_gradients(small: tuple[Estimate, States]) -> None:
    """The Trainer runs all but the last batch of a step under `no_sync`: every GPU holds all gradients, in bf16."""
    state = small[1]
    plan = PLAN.with_(num_gpus=4, sharding="fsdp", gradient_accumulation_steps=8)
    assert sharding.split(plan, state).parts["gradients"] >= 2 * state.trainable_params
    assert sharding.split(plan.with_(sharding="zero3"), state).parts["gradients"] < 2 * state.trainable_params
    sent, once = communication.traffic(plan, state), communication.traffic(plan.with_(gradient_accumulation_steps=1), state)
    assert sent.between < 8 * once.between, "the gradients are sent once"
    each_time = plan.with_(sync_each_batch=True)
    assert sharding.split(each_time, state).parts["gradients"] < 2 * state.trainable_params
    assert communication.traffic(each_time, state).between > sent.between


def test_offloading_moves_the_states_to_the_computer(small: tuple[Estimate, States]) -> None:
    on_gpu, off = sharded(2, "zero3"), sharded(2, "zero3", offload="optimizer")
    assert off.memory.optimizer == 0
    assert off.memory.peak < on_gpu.memory.peak
    assert off.host_memory - on_gpu.host_memory >= 12 * small[1].trainable_params
    assert off.step_seconds.likely > on_gpu.step_seconds.likely, "the copies and the processor take time"


def test_more_gpus_take_fewer_steps(small: tuple[Estimate, States]) -> None:
    found = dataclasses.replace(small[0], steps=100)
    shared = communication.applied(PLAN.with_(num_gpus=4, sharding="ddp"), found, small[1])
    assert shared.steps == 25
    assert shared.step_seconds.likely >= found.step_seconds.likely
    assert shared.tokens_per_second.likely <= 4 * found.tokens_per_second.likely
    fixed = communication.applied(PLAN.with_(num_gpus=4, sharding="ddp", max_steps=100), found, small[1])
    assert fixed.steps == 100


def gib_per_gpu(plan: Plan) -> float:
    """What the tensors of each GPU hold at the highest moment."""
    run = dry_run(plan, Shape(batch=plan.per_device_train_batch_size, length=plan.max_length))
    return sum(sharding.split(plan, sharding.states(plan, run)).parts.values()) / GIB


@pytest.mark.parametrize(("optim", "measured_gib"), [("adamw_torch_fused", 14.678), ("sgd", 8.838)])
def test_zero3_of_a_7b_on_eight_cards(optim: str, measured_gib: float) -> None:
    """LOMO's table 2 (https://arxiv.org/abs/2306.09782): LLaMA-7B under ZeRO-3 on 8 RTX 3090, memory per GPU."""
    assert gib_per_gpu(LOMO.with_(optim=optim)) == pytest.approx(measured_gib, rel=0.10)


# Answer.AI's fsdp_qlora on two 24 GB cards (https://github.com/AnswerDotAI/fsdp_qlora/blob/main/benchmarks_03_2024.md).
FSDP = Plan(
    model="meta-llama/Llama-2-7b-hf",
    method="lora",
    method_options={"r": 64, "target_modules": ["k_proj", "q_proj", "v_proj", "up_proj", "down_proj", "gate_proj"]},
    autocast=False,
    adapter_dtype="bf16",
    double_quantization=False,
    prepare_model_for_kbit_training=False,
    loss="shifted",
    keep_outputs=True,
    packing=True,
    optim="adamw_torch",
    gradient_checkpointing=True,
    per_device_train_batch_size=1,
    max_length=2048,
    gpu="RTX 3090",
    num_gpus=2,
    sharding="fsdp",
)
QLORA = {"method": "qlora", "quantization": "nf4"}
LARGE = {**QLORA, "model": "meta-llama/Llama-2-70b-hf", "per_device_train_batch_size": 2, "offload": "all"}
RESERVED = {
    "512 tokens": (FSDP.with_(max_length=512), 10.24),
    "2048 tokens need no more, since the loading has left gaps": (FSDP, 10.22),
    "4 rows": (FSDP.with_(per_device_train_batch_size=4), 16.14),
    "4 bits": (FSDP.with_(**QLORA), 5.21),
    "10 rows, where the card is nearly full": (FSDP.with_(**QLORA, per_device_train_batch_size=10), 20.97),
    "70B offloaded, without the scales of its 4-bit weights": (FSDP.with_(**LARGE), 14.92),
}


@pytest.mark.parametrize("name", RESERVED)
def test_fsdp_reserves_what_was_measured(name: str) -> None:
    plan, measured = RESERVED[name]
    assert estimate(plan).memory.peak / GIB == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("tokens", "measured"), [(512, 8.28), (2048, 9.16)])
def test_fsdp_allocates_what_was_measured(tokens: int, measured: float) -> None:
    assert estimate(FSDP.with_(max_length=tokens)).memory.allocated / GIB == pytest.approx(measured, rel=0.05)


def test_a_model_that_fsdp_has_wrapped_has_reserved_what_was_measured() -> None:
    assert estimate(FSDP.with_(**QLORA, max_length=512)).phases["load"] / GIB == pytest.approx(3.72, rel=0.03)


def test_the_scales_of_4_bit_weights_are_on_every_gpu() -> None:
    """They are in no parameter: 4 bytes for 64 weights of the linear layers, on 2 GPUs as on 16, offloaded or not."""
    scales = 4 * (6_738_415_616 - 2 * 32000 * 4096) / 64
    on_two, on_many = (estimate(FSDP.with_(**QLORA, num_gpus=n, offload="all")).memory.weights for n in (2, 16))
    assert scales < on_many < on_two
    run = dry_run(FSDP.with_(**QLORA), Shape(batch=1, length=64))
    assert run.units.scales == pytest.approx(scales, rel=0.01)


def test_reentrant_checkpointing_keeps_the_inputs_of_frozen_layers_and_their_gradients() -> None:
    """A second copy of what the layers were given, of the 60 layers but one: 4 rows of 2048 tokens, 7168 wide, in bf16."""
    plan = FSDP.with_(**QLORA, model="01-ai/Yi-34B", per_device_train_batch_size=4, gpu="H100 SXM 80GB")
    plain, reentrant = (estimate(plan.with_(use_reentrant=on)).memory for on in (False, True))
    more = 59 * 4 * 2048 * 7168 * 2
    assert reentrant.allocated < plain.allocated + more, "the loss is higher than the first layer's backward pass"
    assert reentrant.allocated > plain.allocated + 0.5 * more
    assert reentrant.peak - plain.peak == pytest.approx(reentrant.allocated - plain.allocated, abs=GIB)
    one = plan.with_(num_gpus=1, sharding="none")
    alone = [estimate(one.with_(use_reentrant=on)).memory.allocated for on in (False, True)]
    assert alone[1] == pytest.approx(alone[0], rel=0.02), "on one GPU nothing is kept"


def test_8_to_128_gpus_free_what_torchtitan_saw_freed() -> None:
    """torchtitan's Llama-3.1-8B in fp32 (FSDP2, selective checkpointing): 82.4 GiB on 8 GPUs, 67.0 on 128: 15.4 less."""
    params = 8_030_261_248
    state = States(
        weights=4 * params,
        scales=0,
        units=NO_UNITS,
        trainable_params=params,
        gradients=4 * params,
        optimizer=8 * params,
        largest_layer=4 * 218_112_000,
        trained_in_layer=218_112_000,
        outside_layers=4 * 1_050_939_392,
        hidden_size=4096,
        peaks={"backward": {"weights": 4 * params, "gradients": 4 * params, "optimizer": 8 * params, "activations": 50 * GIB}},
    )
    totals = [
        sum(sharding.split(PLAN.with_(precision="fp32", num_gpus=n, sharding="fsdp"), state).parts.values()) for n in (8, 128)
    ]
    assert (totals[0] - totals[1]) / GIB == pytest.approx(15.4, rel=0.15)


# fsdp_qlora's LoRA of Llama-2-7B on two RTX 3090: rows at once, seconds of a step. The arithmetic of a row is that of the
# same run with whole copies (DDP): 6.88 s for 4 rows of 2048 tokens.
STEPS_3090 = [((1, 512), 5.07), ((1, 2048), 6.04), ((4, 2048), 10.67), ((6, 2048), 14.05)]


@pytest.mark.parametrize(("shape", "measured"), STEPS_3090)
def test_how_much_communication_is_hidden(shape: tuple[int, int], measured: float) -> None:
    arithmetic = 6.88 / 4 / 2048 * shape[0] * shape[1]
    sent = 2 * 0.5 * 13.5e9  # the bf16 weights, gathered for the forward and for the backward pass on two cards
    found = arithmetic + communication.exposed_seconds(sent / 2.9e9, arithmetic)
    assert found == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize(("gpu", "n", "speed_up"), [("A10G (AWS g5)", 8, 7.4), ("A100 80GB SXM", 4, 3.3)])
def test_ddp_of_a_lora_scales_as_measured_but_for_uneven_rows(gpu: str, n: int, speed_up: float) -> None:
    """H2O LLM Studio's 7B LoRA of rank 4: its gradients are small; what is lost is that a step waits for the longest rows."""
    trained = 2_097_152
    state = States(
        weights=2 * 6_738_415_616,
        scales=0,
        units=NO_UNITS,
        trainable_params=trained,
        gradients=4 * trained,
        optimizer=8 * trained,
        largest_layer=2 * 202_383_360,
        trained_in_layer=trained // 32,
        outside_layers=2 * 262_144_000,
        hidden_size=4096,
        peaks={},
    )
    alone = 0.5
    wait = communication.waiting(PLAN.with_(gpu=gpu, num_gpus=n, sharding="ddp"), state, alone)
    predicted = n * alone / (alone + wait.likely)
    assert speed_up <= predicted <= n
    assert predicted == pytest.approx(speed_up, rel=0.25)


def test_nvlink_is_faster_than_pcie_and_both_have_a_range() -> None:
    sxm, pcie = (communication.link(hardware.find_gpu(name)) for name in ("A100 80GB SXM", "A100 80GB PCIe"))
    assert sxm[0] * sxm[1].likely > 5 * pcie[0] * pcie[1].likely
    assert overhead.nccl_bytes(8) == 392 * 2**20
    assert overhead.nccl_bytes(1) == 0
