"""estimate(plan): the dry runs of a plan, put into figures.

This module runs where torch is: in the estimator's own process (`python -m estimators`), never in the web server.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import psutil

from engine import checks, hardware
from engine.plan import Plan, PlanError
from estimators import clock, replay, tokens
from estimators.dryrun import DryRun, Shape, dry_run
from estimators.estimate import Estimate, Memory, Range

# What a processor's memory allocator holds beyond what tensors do: the demo run's peak of 797 MB, measured, less what
# the dry run says that its tensors and the program hold.
CPU_FRAGMENTATION = 0.1
# Batches of other lengths between the longest ones leave gaps in the allocator's segments. Where the data are not known,
# the high end of the range comes from batches of this share of the longest one in turns with it.
SHORT_SHARE = 0.3
# The CUDA context of a process with lazily loaded kernels: 141 MiB measured on a T4, 300 to 600 on newer cards
# (estimation notes, section 3.5).
CUDA_CONTEXT_BYTES = 450 * 2**20
LOW, HIGH = 0.97, 1.03  # beside what the replay shows, the range for what it does not (kernels' workspaces)
TIGHT_SHARE = 0.97  # nobody should count on the last 3 % of a card
BYTES_PER_PARAM = {"fp32": 4, "bf16": 2, "fp16": 2}


def estimate(plan: Plan) -> Estimate:
    """What the plan needs.

    Raises:
        PlanError: the plan is not sound; or an error of the libraries that `faults.explain` puts into words.
    """
    issues = [issue for issue in checks.check(plan) if issue.severity == "error"]
    if issues:
        raise PlanError(issues)
    gpu = hardware.find_gpu(plan.gpu)
    rows = tokens.lengths(plan)
    batch = plan.per_device_train_batch_size
    longest = plan.max_length if plan.packing else rows.longest
    run = _dry_run(plan, Shape(batch=batch, length=longest), not gpu.is_cpu)
    mean = _dry_run(plan, Shape(batch=batch, length=_mean_length(plan, rows)), not gpu.is_cpu)
    memory = _memory(plan, run, mean, longest, gpu)
    times = _times(plan, rows, mean, gpu)
    merged = run.total_params * BYTES_PER_PARAM[plan.precision]
    adapter = run.adapter_params * 4
    result = merged if plan.method == "full" else adapter
    return Estimate(
        trainable_params=run.trainable_params,
        total_params=run.total_params + run.adapter_params,
        memory=memory,
        fits=verdict(memory),
        host_memory=run.weight_bytes + _own_memory(),
        disk=result + merged,
        phases=_phases(run, memory, merged),
        device=gpu.name,
        source=_sources(run, rows, gpu),
        **times,
    )


def on_another_gpu(plan: Plan, found: Estimate) -> Estimate:
    """The estimate of a plan of which only the GPU differs from that of `found`: the step is the same, so it is not replayed.

    Both must be processors, or neither. For surveys of many GPUs; the plan is not checked again.
    """
    gpu = hardware.find_gpu(plan.gpu)
    rows = tokens.lengths(plan)
    mean = _dry_run(plan, Shape(batch=plan.per_device_train_batch_size, length=_mean_length(plan, rows)), not gpu.is_cpu)
    memory = dataclasses.replace(found.memory, capacity=gpu.memory)
    changed = {"memory": memory, "fits": verdict(memory), "device": gpu.name, **_times(plan, rows, mean, gpu)}
    return dataclasses.replace(found, **changed, source=_sources(mean, rows, gpu))


@functools.lru_cache(maxsize=256)
def _dry_run_of(key: str, shape: Shape, on_gpu: bool) -> DryRun:
    return dry_run(Plan.from_json(key), shape, on_gpu=on_gpu)


def _dry_run(plan: Plan, shape: Shape, on_gpu: bool) -> DryRun:
    """The dry run, remembered by what it depends on: not by the data, the length of the run or its seed."""
    neutral = Plan()
    ignored = ("datasets", "num_train_epochs", "max_steps", "seed", "learning_rate", "warmup_ratio", "eval_fraction", "gpu")
    key = plan.with_(**{name: getattr(neutral, name) for name in ignored}).to_json()
    return _dry_run_of(key, shape, on_gpu)


# --- memory ---------------------------------------------------------------------------------------------------------


def _memory(plan: Plan, run: DryRun, mean: DryRun, longest: int, gpu: hardware.Gpu) -> Memory:
    """The peak by part. What is reserved comes from replaying the steps: all of the longest batch, or others between."""
    peak = replay.peak(run.step)
    if gpu.is_cpu:
        likely = varied = round(peak.bytes * (1 + CPU_FRAGMENTATION))
        overhead = _own_memory()
    else:
        other = mean
        if mean is run and not plan.packing:
            short = Shape(batch=plan.per_device_train_batch_size, length=max(1, round(SHORT_SHARE * longest)))
            other = _dry_run(plan, short, True)
        likely = replay.reserved([run.step, run.step])
        varied = max(likely, replay.reserved([other.step, run.step, other.step, run.step]))
        overhead = CUDA_CONTEXT_BYTES
    parts = {name: peak.parts.get(name, 0) for name in ("weights", "gradients", "optimizer", "activations", "loss")}
    return Memory(
        **parts,
        fragments=likely - peak.bytes,
        overhead=overhead,
        allocated=peak.bytes,
        peak=likely,
        low=round((peak.bytes + overhead) * LOW),
        high=round((varied + overhead) * HIGH),
        capacity=gpu.memory,
    )


@functools.cache
def _own_memory() -> int:
    """What a process with torch, transformers, peft and trl in it needs: this one has them, so it is measured."""
    import trl  # noqa: F401

    return psutil.Process().memory_info().rss


def verdict(memory: Memory) -> str:
    """yes: even the high end fits. no: even the low end does not. tight: in between."""
    if memory.low > memory.capacity:
        return "no"
    return "yes" if memory.high <= TIGHT_SHARE * memory.capacity else "tight"


def _phases(run: DryRun, memory: Memory, merged: int) -> dict[str, int]:
    """Peak bytes of each phase of a run. Evaluation is the step's forward pass without what is kept for the backward."""
    peak = replay.peak(run.step)
    steady = run.weight_bytes + run.trainable_params * 4
    return {
        "load": run.weight_bytes,
        "train": memory.peak,
        "evaluate": replay.peak_of_evaluation(run.step),
        "save": min(steady, peak.bytes),
        "merge": merged + run.adapter_params * 4,
    }


# --- time and money -------------------------------------------------------------------------------------------------


def _mean_length(plan: Plan, rows: tokens.Lengths) -> int:
    """The mean padded length of a batch."""
    if plan.packing:
        return plan.max_length
    return max(1, round(tokens.mean_padded_length(rows.train, plan.per_device_train_batch_size)))


def _times(plan: Plan, rows: tokens.Lengths, mean: DryRun, gpu: hardware.Gpu) -> dict:
    """steps, tokens, step_seconds, tokens_per_second, total_seconds and cost: None where it is not known."""
    steps, tokens_per_step = _steps(plan, rows)
    found: dict = {"steps": steps, "tokens": round(tokens_per_step * steps) if steps else None}
    found |= dict.fromkeys(("step_seconds", "tokens_per_second", "total_seconds", "cost"))
    rates = clock.rates(gpu)
    if rates is None:
        return found
    step = clock.step_seconds(replay.works(mean.step), rates) * plan.gradient_accumulation_steps
    seconds = _range(step)
    found["step_seconds"] = seconds
    found["tokens_per_second"] = Range(
        low=tokens_per_step / seconds.high, likely=tokens_per_step / step, high=tokens_per_step / seconds.low
    )
    if steps:
        total = found["total_seconds"] = _range(step * steps)
        if gpu.price_per_hour:
            found["cost"] = Range(**{name: value * gpu.price_per_hour / 3600 for name, value in vars(total).items()})
    return found


def _steps(plan: Plan, rows: tokens.Lengths) -> tuple[int | None, float]:
    """(optimizer steps of the whole run, real tokens of one of them)."""
    batch, accumulation = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    if not rows.known:
        return plan.max_steps if plan.max_steps > 0 else None, float(batch * accumulation * plan.max_length)
    sequences = math.ceil(rows.tokens / plan.max_length) if plan.packing else len(rows.train)
    steps_per_epoch = math.ceil(math.ceil(sequences / batch) / accumulation)
    steps = plan.max_steps if plan.max_steps > 0 else math.ceil(steps_per_epoch * plan.num_train_epochs)
    return steps, rows.tokens / steps_per_epoch


def _range(likely: float) -> Range:
    return Range(low=likely * (1 - clock.UNCERTAINTY), likely=likely, high=likely * (1 + clock.UNCERTAINTY))


# --- where it comes from --------------------------------------------------------------------------------------------


def _sources(run: DryRun, rows: tokens.Lengths, gpu: hardware.Gpu) -> dict[str, str]:
    depth = run.step.depth
    layers = f"all {depth.full} layers" if depth.extra == 0 else f"{depth.probed} of {depth.full} layers, put together to all"
    rates = clock.rates(gpu)
    counted = "counted with the model's own tokenizer" if rows.exact else "about 4 characters per token (no tokenizer here)"
    counted = counted if rows.known else "no data chosen: every row as long as the longest sequence"
    overhead = "this program's own memory, measured" if gpu.is_cpu else "a CUDA context of 450 MiB"
    return {
        "parameters": "counted on the built model; the total holds the adapter too",
        "memory": f"a dry run of the real training step ({layers})",
        "fragments": "a share measured on the demo run"
        if gpu.is_cpu
        else "the recorded allocations replayed through the rules of PyTorch's caching allocator",
        "overhead": overhead,
        "tokens": counted,
        "time": rates.source if rates else f"{gpu.name} has no published rates",
        "cost": f"{gpu.price_per_hour} USD per hour ({gpu.price_source})" if gpu.price_per_hour else "no price for this device",
    }
