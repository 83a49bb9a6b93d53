"""Several GPUs and offloading: what a step sends, how long it waits for that, and what a run then takes in all.

    found = applied(plan, found, state)        # the times of one GPU become those of the plan's GPUs

The memory of each GPU is in `sharding.py`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from engine.catalog import hardware, shardings
from engine.catalog.shardings import SHARDINGS
from engine.plan import Plan
from estimators.distributed import sharding
from estimators.estimate import Estimate, Range
from estimators.simulate import replay

# --- rates ------------------------------------------------------------------------------------------------------------

# Share of the nominal rate that collectives reach, (low, likely, high). NVLink: judgement. PCIe: fsdp_qlora's runs on two
# to eight cards (https://github.com/AnswerDotAI/fsdp_qlora, benchmarks), with the clock's rates for the arithmetic: RTX
# A5000 0.42 to 0.48, RTX 6000 Ada 0.14 to 0.32; of 32 GB/s nominal the RTX 3090 machine reached 0.09, the RTX 4090
# machine 0.86 or more; LOMO's ZeRO-3 on 2 to 8 RTX 3090 (https://arxiv.org/abs/2306.09782, table 2) 0.05 to 0.08.
# GeForce cards copy through the computer's memory, so the machine decides more than the card does.
NVLINK_SHARE = Range(low=0.5, likely=0.75, high=0.9)
PCIE_SHARE = Range(low=0.08, likely=0.4, high=0.6)
GEFORCE_PCIE_SHARE = Range(low=0.06, likely=0.2, high=0.8)
NO_LINK = 12e9  # bytes/s where the table knows no interconnect: PCIe 3.0 (judgement)
# Share of the communication that can be hidden behind arithmetic: the same 7B runs on two RTX 3090. With 4.6 s of transfers
# in a step of 6.9 s of arithmetic 3.8 s are seen, with 10.3 s of arithmetic 3.7 s, with 1.7 s of it 4.3 s.
HIDDEN_SHARE = 0.3
# Seconds in which the computer's processor gets a unit of FSDP through one pass (its hooks, its collectives): where the
# layers are small or the batch is, the GPU waits for it. IBM's runs of PowerLM-3b with LoRA on two A100, nine units a layer and
# three passes, need 2.0 and 2.1 ms for each (benchmarks/fms_acceleration.json), fsdp_qlora's shortest run 1.7.
UNIT_SECONDS = Range(low=1.2e-3, likely=1.9e-3, high=2.6e-3)
# To the computer's memory and back: pinned copies over PCIe 4.0, with all GPUs at it (judgement).
HOST_BYTES_PER_SECOND = 12e9
# AdamW on the processor moves 28 bytes per parameter (read and write of weight, two states; read of the gradient) through
# a server's memory (judgement: 100 GB/s of the two sockets' 200 to 400).
CPU_ADAM_BYTES, CPU_MEMORY_BYTES_PER_SECOND = 28, 100e9


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a step sends. Bytes per GPU: between the GPUs, and to the computer's memory and back."""

    between: float
    to_host: float
    cpu_params: float  # that the processor updates


# --- time -------------------------------------------------------------------------------------------------------------


def traffic(plan: Plan, state: sharding.States) -> Traffic:
    """What each GPU sends in one optimizer step.

    A ring's all-reduce moves 2 (n - 1) / n of the bytes, an all-gather or a reduce-scatter half of that
    (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md). Sharded weights are gathered for each forward
    and each backward pass; sharded gradients are reduced after each backward pass, FSDP's after the last one of a step.
    """
    n, passes = shardings.world(plan), plan.gradient_accumulation_steps
    part = (n - 1) / n
    kept = sharding.kept_bytes(plan, SHARDINGS[plan.sharding], state)
    gathered = kept["weights"] * sharding.computed_share(plan, state)
    sent_gradients = 1 if sharding.gradients_whole(plan) else passes
    sent = {
        "none": 0.0,
        "ddp": 2 * part * kept["gradients"],
        "zero2": part * (kept["gradients"] * passes + state.trainable_params * 2),
        "fsdp": part * (2 * gathered * passes + state.trainable_params * sharding.gathered_bytes(plan) * sent_gradients),
        "zero3": part * (2 * gathered + kept["gradients"]) * passes,
    }[plan.sharding]
    updated = state.trainable_params / n if plan.offload != "none" else 0.0
    copied = updated * 4.0  # the gradients there and the weights back, in 16 bits
    if plan.offload == "all":
        copied += 2 * kept["weights"] / n * passes
    return Traffic(between=sent, to_host=copied, cpu_params=updated)


def link(gpu: hardware.Gpu) -> tuple[float, Range]:
    """(nominal bytes/s to the other GPUs, the share of it that collectives reach)."""
    if gpu.link_bandwidth is None:
        return NO_LINK, Range(low=0.5, likely=1.0, high=1.5)
    if "PCIe" not in gpu.interconnect:
        return gpu.link_bandwidth, NVLINK_SHARE
    return gpu.link_bandwidth, GEFORCE_PCIE_SHARE if gpu.kind == "consumer" else PCIE_SHARE


def exposed_seconds(transfer: float, arithmetic: float) -> float:
    """The part of the transfers that a step waits for: the more arithmetic there is beside them, the more is hidden."""
    if transfer <= 0:
        return 0.0
    return transfer * (1 - HIDDEN_SHARE * arithmetic / (arithmetic + transfer))


def waiting(plan: Plan, state: sharding.States, arithmetic: float) -> Range:
    """Seconds that a step of `arithmetic` seconds waits for communication and for the processor's part."""
    found = traffic(plan, state)
    nominal, share = link(hardware.find_gpu(plan.gpu))
    processor = found.to_host / HOST_BYTES_PER_SECOND + found.cpu_params * shardings.world(plan) * CPU_ADAM_BYTES / (
        CPU_MEMORY_BYTES_PER_SECOND
    )
    wait = Range(
        low=exposed_seconds(found.between / (nominal * share.high), arithmetic) + processor / 2,
        likely=exposed_seconds(found.between / (nominal * share.likely), arithmetic) + processor,
        high=exposed_seconds(found.between / (nominal * share.low), arithmetic) + processor * 2,
    )
    units = unit_passes(plan, state)
    return Range(
        low=max(wait.low, units * UNIT_SECONDS.low - arithmetic),
        likely=max(wait.likely, units * UNIT_SECONDS.likely - arithmetic),
        high=max(wait.high, units * UNIT_SECONDS.high - arithmetic),
    )


def unit_passes(plan: Plan, state: sharding.States) -> int:
    """How often FSDP gathers a unit in one optimizer step: forward, once more with checkpointing, and backward."""
    if plan.sharding != "fsdp":
        return 0
    return state.units.count * (3 if plan.gradient_checkpointing else 2) * plan.gradient_accumulation_steps


# --- the estimate -----------------------------------------------------------------------------------------------------


def applied(plan: Plan, found: Estimate, state: sharding.States) -> Estimate:
    """The estimate with the time, the money, the steps and the computer's memory of all of the plan's GPUs together.

    Args:
        plan: a checked plan.
        found: its estimate: memory of each GPU, all else as if it ran on one.
        state: what the step holds.
    """
    if not sharding.wanted(plan):
        return found
    n = shardings.world(plan)
    here = sharding.split(plan, state)
    phases = {
        **found.phases,
        "load": replay.reserved(loading=here.loading) if here.loading else here.parts.get("weights", 0),
        "evaluate": min(found.phases.get("evaluate", found.memory.peak), found.memory.peak),
    }
    changed = dataclasses.replace(found, host_memory=found.host_memory * n + here.host, phases=phases)
    return dataclasses.replace(_timed(plan, changed, state, n), source={**found.source, **_sources(plan, n)})


def _timed(plan: Plan, found: Estimate, state: sharding.States, n: int) -> Estimate:
    """The times of n GPUs: each step waits for the communication, and there are n times fewer of them."""
    if found.step_seconds is None:
        return dataclasses.replace(found, steps=_steps(plan, found, n))
    one = found.step_seconds
    wait = waiting(plan, state, one.likely)
    step = Range(low=one.low + wait.low, likely=one.likely + wait.likely, high=one.high + wait.high)
    steps = _steps(plan, found, n)
    speed = found.tokens_per_second
    tokens = speed.likely * one.likely * n if speed else None  # of one step
    total = _times(step, steps) if steps else None
    rate = Range(low=tokens / step.high, likely=tokens / step.likely, high=tokens / step.low) if tokens else None
    price = hardware.find_gpu(plan.gpu).price_per_hour
    return dataclasses.replace(
        found,
        steps=steps,
        tokens=round(tokens * steps) if tokens and steps else found.tokens,
        step_seconds=step,
        tokens_per_second=rate,
        total_seconds=total,
        cost=_times(total, price * n / 3600) if total and price else None,
    )


def _times(range_: Range, factor: float) -> Range:
    return Range(low=range_.low * factor, likely=range_.likely * factor, high=range_.high * factor)


def _steps(plan: Plan, found: Estimate, n: int) -> int | None:
    """Optimizer steps of the run: each of them takes n times the rows."""
    if found.steps is None or plan.max_steps > 0:
        return found.steps
    return math.ceil(found.steps / n)


def _sources(plan: Plan, n: int) -> dict[str, str]:
    row, gpu = SHARDINGS[plan.sharding], hardware.find_gpu(plan.gpu)
    nominal, share = link(gpu)
    rate = f"{gpu.interconnect or 'an unknown interconnect'}, {nominal * share.likely / 1e9:.3g} GB/s in use"
    return {
        "sharding": f"per GPU, of {n} with {row.label}: {row.sentence} Gathered layers, buckets and NCCL are added.",
        "communication": f"what a step sends over {rate}; up to {HIDDEN_SHARE:.0%} of it is hidden behind arithmetic",
    }
