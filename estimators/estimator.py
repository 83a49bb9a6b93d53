"""estimate(plan): the dry runs of a plan, put into figures.

This module runs where torch is: in the estimator's own process (`python -m estimators`), never in the web server.
"""

from __future__ import annotations

import functools
import math

import psutil

from engine import checks, hardware
from engine.plan import Plan, PlanError
from estimators import clock, replay, tokens
from estimators.dryrun import DryRun, Shape, dry_run
from estimators.estimate import Estimate, Memory, Range
from estimators.replay import Peak

# What the allocator reserves beyond what tensors hold: estimation notes, section 3.5 (1.05 for steps of fixed shapes).
FRAGMENTATION = 0.05
# The CUDA context of a process with lazily loaded kernels: 141 MiB measured on a T4, 300 to 600 on newer cards
# (estimation notes, section 3.5).
CUDA_CONTEXT_BYTES = 450 * 2**20
LOW, HIGH = 0.95, 1.08  # the range around the likely peak; published runs of the same stack fall inside
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
    worst = Shape(batch=plan.per_device_train_batch_size, length=plan.max_length if plan.packing else rows.longest)
    run = _dry_run(plan, worst, not gpu.is_cpu)
    memory = _memory(replay.peak(run.step), gpu)
    times = _times(plan, rows, gpu)
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


def _memory(peak: Peak, gpu: hardware.Gpu) -> Memory:
    fragments = round(peak.bytes * FRAGMENTATION)
    overhead = _own_memory() if gpu.is_cpu else CUDA_CONTEXT_BYTES
    total = peak.bytes + fragments + overhead
    parts = {name: peak.parts.get(name, 0) for name in ("weights", "gradients", "optimizer", "activations", "loss")}
    return Memory(
        **parts,
        fragments=fragments,
        overhead=overhead,
        allocated=peak.bytes,
        peak=peak.bytes + fragments,
        low=round(total * LOW),
        high=round(total * HIGH),
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


def _times(plan: Plan, rows: tokens.Lengths, gpu: hardware.Gpu) -> dict:
    """steps, tokens, step_seconds, tokens_per_second, total_seconds and cost of the whole run."""
    batch, accumulation = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    sequences = math.ceil(rows.tokens / plan.max_length) if plan.packing else len(rows.train)
    steps_per_epoch = math.ceil(math.ceil(sequences / batch) / accumulation)
    steps = plan.max_steps if plan.max_steps > 0 else math.ceil(steps_per_epoch * plan.num_train_epochs)
    tokens_per_step = rows.tokens / steps_per_epoch
    rates = clock.rates(gpu)
    if rates is None:
        return {"steps": steps, "tokens": round(tokens_per_step * steps)} | dict.fromkeys(
            ("step_seconds", "tokens_per_second", "total_seconds", "cost")
        )
    length = plan.max_length if plan.packing else round(tokens.mean_padded_length(rows.train, batch))
    mean = _dry_run(plan, Shape(batch=min(batch, sequences), length=max(length, 1)), not gpu.is_cpu)
    step = clock.step_seconds(replay.works(mean.step), rates) * accumulation
    seconds = _range(step)
    total = _range(step * steps)
    price = gpu.price_per_hour
    return {
        "steps": steps,
        "tokens": round(tokens_per_step * steps),
        "step_seconds": seconds,
        "tokens_per_second": Range(
            low=tokens_per_step / seconds.high, likely=tokens_per_step / step, high=tokens_per_step / seconds.low
        ),
        "total_seconds": total,
        "cost": Range(low=total.low * price / 3600, likely=total.likely * price / 3600, high=total.high * price / 3600)
        if price
        else None,
    }


def _range(likely: float) -> Range:
    return Range(low=likely * (1 - clock.UNCERTAINTY), likely=likely, high=likely * (1 + clock.UNCERTAINTY))


# --- where it comes from --------------------------------------------------------------------------------------------


def _sources(run: DryRun, rows: tokens.Lengths, gpu: hardware.Gpu) -> dict[str, str]:
    depth = run.step.depth
    layers = f"all {depth.full} layers" if depth.extra == 0 else f"{depth.probed} of {depth.full} layers, put together to all"
    rates = clock.rates(gpu)
    counted = "counted with the model's own tokenizer" if rows.exact else "about 4 characters per token (no tokenizer here)"
    overhead = "this program's own memory, measured" if gpu.is_cpu else "a CUDA context of 450 MiB"
    return {
        "parameters": "counted on the built model; the total holds the adapter too",
        "memory": f"a dry run of the real training step ({layers})",
        "fragments": f"{FRAGMENTATION:.0%} of what tensors hold",
        "overhead": overhead,
        "tokens": counted,
        "time": rates.source if rates else f"{gpu.name} has no published rates",
        "cost": f"{gpu.price_per_hour} USD per hour ({gpu.price_source})" if gpu.price_per_hour else "no price for this device",
    }
