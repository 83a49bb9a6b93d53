"""estimate(plan): the dry runs of a plan, put into figures.

This module runs where torch is: in the estimator's own process (`python -m estimators`), never in the web server.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from concurrent.futures import ThreadPoolExecutor

import psutil

from engine import checks
from engine.catalog import hardware, shardings
from engine.issues import PlanError
from engine.objectives import packs, task_of
from engine.plan import Plan
from estimators import tokens
from estimators.distributed import communication, sharding
from estimators.estimate import Estimate, Memory, Range
from estimators.memory import overhead, run_phases
from estimators.simulate import accumulation, dry_run, replay
from estimators.simulate.recorded import DryRun, Shape
from estimators.simulate.replay import Step
from estimators.timing import measured, roofline

# What a processor's memory allocator holds beyond what tensors do: the demo run's peak of 797 MB, measured, less what
# the dry run says that its tensors and the program hold.
CPU_FRAGMENTATION = 0.1
# Batches of other lengths between the longest ones leave gaps in the allocator's segments. Where the data are not known,
# the high end of the range comes from batches of this share of the longest one in turns with it.
SHORT_SHARE = 0.3
LOW, HIGH = 0.97, 1.03  # beside what the replay shows, the range for what it does not (kernels' workspaces)
TIGHT_SHARE = 0.97  # nobody should count on the last 3 % of a card
# Fields that change what a run does, and nothing about one step on one device.
IRRELEVANT = (
    "datasets", "num_train_epochs", "max_steps", "seed", "learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay",
    "max_grad_norm", "eval_fraction", "gpu", "num_gpus", "sharding", "offload", "max_length",
    "per_device_train_batch_size", "gradient_accumulation_steps", "expandable_segments",
)  # fmt: skip
BATCH_PHASES = ("forward", "loss", "backward")


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
    longest = _longest(plan, rows)
    run = _dry_run(plan, Shape(batch=plan.per_device_train_batch_size, length=longest), not gpu.is_cpu)
    mean = _dry_run(plan, _mean_shape(plan, rows), not gpu.is_cpu)
    learnt = measured.correction(gpu.name)
    state = sharding.states(plan, run) if sharding.wanted(plan) else None
    memory = _memory(plan, run, mean, longest, gpu, learnt, state)
    other = run_phases.of_run(plan, run, memory.peak, on_gpu=not gpu.is_cpu, program=_own_memory())
    found = Estimate(
        trainable_params=run.trainable_params,
        total_params=run.total_params + run.adapter_params,
        memory=memory,
        fits=verdict(memory),
        host_memory=other.host,
        disk=other.disk,
        phases=other.device,
        device=gpu.name,
        source=_sources(run, rows, gpu, learnt),
        **_times(plan, rows, mean, gpu, learnt),
    )
    return communication.applied(plan, found, state) if state else found


def on_another_gpu(plan: Plan, found: Estimate) -> Estimate:
    """The estimate of a plan of which only the GPU differs from that of `found`: the step is the same, and remembered.

    Both must be processors, or neither. For surveys of many GPUs; the plan is not checked again.
    """
    if sharding.wanted(plan):
        return estimate(plan)
    gpu = hardware.find_gpu(plan.gpu)
    rows, learnt = tokens.lengths(plan), measured.correction(gpu.name)
    longest = _longest(plan, rows)
    run = _dry_run(plan, Shape(batch=plan.per_device_train_batch_size, length=longest), not gpu.is_cpu)
    mean = _dry_run(plan, _mean_shape(plan, rows), not gpu.is_cpu)
    memory = _memory(plan, run, mean, longest, gpu, learnt, None)
    changed = {"memory": memory, "fits": verdict(memory), "device": gpu.name, **_times(plan, rows, mean, gpu, learnt)}
    return dataclasses.replace(found, **changed, source=_sources(mean, rows, gpu, learnt))


def probe(plan: Plan) -> bool:
    """Record one more batch, so that the plan can soon be answered at once with any other. False if nothing is left to learn.

    For idle moments of a process that may be asked more about this plan.
    """
    rows, on_gpu = tokens.lengths(plan), not hardware.find_gpu(plan.gpu).is_cpu
    longest = _longest(plan, rows)
    shape = Shape(batch=plan.per_device_train_batch_size, length=longest)
    return dry_run.probe(_what_decides(plan, on_gpu), shape, on_gpu=on_gpu)


@functools.lru_cache(maxsize=48)
def _dry_run_of(key: str, shape: Shape, on_gpu: bool) -> DryRun:
    return dry_run.dry_run(Plan.from_json(key), shape, on_gpu=on_gpu)


def _dry_run(plan: Plan, shape: Shape, on_gpu: bool) -> DryRun:
    """The dry run, remembered by what it depends on."""
    return _dry_run_of(_what_decides(plan, on_gpu).to_json(), shape, on_gpu)


def _what_decides(plan: Plan, on_gpu: bool) -> Plan:
    """The plan without what its dry run does not depend on: the data, the length of the run, where it happens.

    Both half types take the same bytes, so on a GPU one dry run stands for both.
    """
    neutral = Plan()
    values = {name: getattr(neutral, name) for name in IRRELEVANT}
    values["max_grad_norm"] = float(plan.max_grad_norm > 0)
    if task_of(plan).shaped_by_data:
        values["datasets"] = plan.datasets
    if on_gpu and plan.precision == "fp16":
        values["precision"] = "bf16"
    return plan.with_(**values)


def _longest(plan: Plan, rows: tokens.Lengths) -> int:
    return plan.max_length if packs(plan) else rows.longest


def _mean_shape(plan: Plan, rows: tokens.Lengths) -> Shape:
    """The mean batch, padded to its longest row. Of several GPUs, all wait for the one with the longest."""
    if packs(plan):
        return Shape(batch=plan.per_device_train_batch_size, length=plan.max_length)
    together = plan.per_device_train_batch_size * shardings.world(plan)
    length = max(1, round(tokens.mean_padded_length(rows.train, together)))
    return Shape(batch=plan.per_device_train_batch_size, length=length)


# --- memory ---------------------------------------------------------------------------------------------------------


def _memory(
    plan: Plan,
    run: DryRun,
    mean: DryRun,
    longest: int,
    gpu: hardware.Gpu,
    learnt: measured.Correction,
    state: sharding.States | None,
) -> Memory:
    """The peak of each GPU, by part. What is reserved comes from replaying steps: of the longest batch, or others between."""
    sequences = [[*(phase.step for phase in run.before), run.step]]
    if plan.gradient_accumulation_steps > 1:
        sequences.append([accumulation.with_gradients_kept(run.step)])
    highest = max((replay.peak(step) for steps in sequences for step in steps), key=lambda one: one.bytes)
    each = sharding.split(plan, state) if state else sharding.Split(parts=highest.parts)
    outside = _overhead(gpu, learnt) + each.overhead
    if gpu.is_cpu:
        fragments = most_fragments = round(each.allocated * CPU_FRAGMENTATION)
    else:
        other = mean
        if mean is run and not packs(plan):
            short = Shape(batch=plan.per_device_train_batch_size, length=max(1, round(SHORT_SHARE * longest)))
            other = _dry_run(plan, short, True)
        after = other.step
        if state:
            after = sharding.on_each_gpu(plan, after, state)
            sequences = [[sharding.on_each_gpu(plan, step, state) for step in steps] for steps in sequences]
        fragments, most_fragments = _fragments(
            sequences, after, each, gpu.memory - outside, expandable=plan.expandable_segments
        )
    parts = {name: each.parts.get(name, 0) for name in ("weights", "gradients", "optimizer", "activations", "loss")}
    return Memory(
        **parts,
        fragments=fragments,
        overhead=outside,
        allocated=each.allocated,
        peak=each.allocated + fragments,
        low=round((each.allocated + outside) * LOW - each.added / 2),
        high=round((each.allocated + most_fragments + outside) * HIGH + each.added / 2),
        capacity=gpu.memory,
    )


def _fragments(
    sequences: list[list[Step]], other: Step, each: sharding.Split, device: int, *, expandable: bool
) -> tuple[int, int]:
    """What the allocator reserves beyond what is allocated: (likely, the most), in bytes.

    Args:
        sequences: the steps of the longest batch, in the orders in which they may come.
        other: a step of another length, which may come between them.
        each: what the GPU holds.
        device: bytes that the allocator can have. Where it finds no more, it gives back what it caches.
        expandable: with `expandable_segments:True`.
    """
    late = replay.states_matter(sequences[0][-1])
    reserved = functools.partial(replay.reserved, expandable=expandable, loading=each.loading, late=late)
    after_other = [[other, *steps] for steps in sequences]
    orders = after_other if late else [after_other[0], *sequences]  # the first batch is seldom one of the longest
    with ThreadPoolExecutor(max_workers=1) as beside:  # two cores
        first = beside.submit(reserved, *orders[0])
        rest = [reserved(*steps) for steps in orders[1:]]
        most = max([first.result(), *rest])
    likely = most if late else max(rest)
    if likely + each.other_pools > device >= each.allocated:
        likely = max(reserved(*steps, limit=device - each.other_pools) for steps in orders[-len(sequences) :])
    likely, most = (max(0, found + each.other_pools - each.allocated) for found in (likely, most))
    return likely, most


def _overhead(gpu: hardware.Gpu, learnt: measured.Correction) -> int:
    """What lies outside of the allocator: the program itself or the CUDA context, and what runs there have taught."""
    return (_own_memory() if gpu.is_cpu else overhead.context_bytes(gpu)) + learnt.added_bytes


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


# --- time and money -------------------------------------------------------------------------------------------------


def _times(plan: Plan, rows: tokens.Lengths, mean: DryRun, gpu: hardware.Gpu, learnt: measured.Correction) -> dict:
    """steps, tokens, step_seconds, tokens_per_second, total_seconds and cost: None where it is not known."""
    steps, tokens_per_step = _steps(plan, rows)
    found: dict = {"steps": steps, "tokens": round(tokens_per_step * steps) if steps else None}
    found |= dict.fromkeys(("step_seconds", "tokens_per_second", "total_seconds", "cost"))
    rates = roofline.rates(gpu)
    if rates is None:
        return found
    step = _step_seconds(plan, mean, rates) * learnt.time
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


def _step_seconds(plan: Plan, run: DryRun, rates: roofline.Rates) -> float:
    """Seconds of one optimizer step: its batches, what comes before them, and the optimizer once."""
    batch = roofline.step_seconds(replay.works(run.step, BATCH_PHASES), rates)
    before = sum(phase.times * roofline.step_seconds(replay.works(phase.step), rates) for phase in run.before)
    optimizer = roofline.step_seconds(replay.works(run.step, ("optimizer",)), rates)
    return (batch + before) * plan.gradient_accumulation_steps + optimizer


def _steps(plan: Plan, rows: tokens.Lengths) -> tuple[int | None, float]:
    """(optimizer steps of the whole run, real tokens of one of them)."""
    batch, accumulation = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    if not rows.known:
        return plan.max_steps if plan.max_steps > 0 else None, float(batch * accumulation * plan.max_length)
    sequences = math.ceil(rows.tokens / plan.max_length) if packs(plan) else len(rows.train)
    steps_per_epoch = math.ceil(math.ceil(sequences / batch) / accumulation)
    steps = plan.max_steps if plan.max_steps > 0 else math.ceil(steps_per_epoch * plan.num_train_epochs)
    return steps, rows.tokens / steps_per_epoch


def _range(likely: float) -> Range:
    return Range(low=likely * (1 - roofline.UNCERTAINTY), likely=likely, high=likely * (1 + roofline.UNCERTAINTY))


# --- where it comes from --------------------------------------------------------------------------------------------


def _sources(run: DryRun, rows: tokens.Lengths, gpu: hardware.Gpu, learnt: measured.Correction) -> dict[str, str]:
    depth = run.step.depth
    layers = f"all {depth.full} layers" if depth.extra == 0 else f"{depth.probed} of {depth.full} layers, put together to all"
    rates = roofline.rates(gpu)
    counted = "counted with the model's own tokenizer" if rows.exact else "about 4 characters per token (no tokenizer here)"
    counted += f", of a sample of {rows.sampled:,} rows" if rows.sampled else ""
    counted = counted if rows.known else "no data chosen: every row as long as the longest sequence"
    outside = "this program's own memory, measured" if gpu.is_cpu else "the CUDA context and cuBLAS' workspace"
    return {
        "parameters": "counted on the built model; the total holds the adapter too",
        "memory": f"a dry run of the real training step ({layers})",
        "fragments": "a share measured on the demo run"
        if gpu.is_cpu
        else "the recorded allocations replayed through the rules of PyTorch's caching allocator",
        "overhead": outside,
        "tokens": counted,
        "time": rates.source if rates else f"{gpu.name} has no published rates",
        **({"measured": learnt.source} if learnt.runs else {}),
        "cost": f"{gpu.price_per_hour} USD per hour ({gpu.price_source})" if gpu.price_per_hour else "no price for this device",
    }
