"""What would make it fit: changes of a plan, each one estimated like the plan itself, never guessed.

    fixes(plan, estimate(plan))

`KINDS` lists the changes from the cheapest to the dearest: first what costs time alone, then what changes the result,
then what costs money. The order of the fixes is that order, so a page can show each one as soon as it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine import checks
from engine.catalog import hardware, shardings
from engine.catalog.hardware import THIS_MACHINE
from engine.issues import PlanError
from engine.methods import METHODS, option_values
from engine.objectives import packs
from engine.plan import Plan
from engine.system import formatting
from engine.system.errors import in_plain_words
from estimators.estimate import Estimate

LEAST_SAVING = 0.02  # of the memory: a change that saves less is not worth a line
MORE_GPUS = (2, 4, 8)  # that one server has
SHORTEST = 64  # tokens; shorter rows teach little
MOST_CUT = 0.5  # of the rows; a length that cuts more of them is no advice
# Kinds of one candidate each: at most two of them go with a plan, so they double or triple the time of an estimate.
QUICK = ("gaps", "checkpointing", "four bits", "adapter")


@dataclass(frozen=True, kw_only=True)
class Fix:
    """One change and what it does, measured against the plan as it is."""

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of the plan, as JSON values
    memory_saved: int  # bytes; 0 for another GPU
    time_factor: float | None  # of the whole run; None where a device has no published rates
    fits: str  # the verdict after the change
    note: str = ""  # what else it changes


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A change to try."""

    label: str
    changes: Mapping[str, Any]
    note: str = ""


def wanted(found: Estimate) -> bool:
    """Whether a plan needs fixing at all."""
    return found.fits != "yes"


def fixes(plan: Plan, found: Estimate, kinds: Iterable[str] | None = None) -> tuple[Fix, ...]:
    """The changes that lower the peak, or find a GPU that is large enough; none for a plan that fits.

    Args:
        plan: a checked plan.
        found: its estimate.
        kinds: which of `KINDS` to try; all, if None.
    """
    return tuple(search(lambda kind: of_kind(kind, plan, found), kinds)) if wanted(found) else ()


def search(try_kind: Callable[[str], Iterable[Fix]], kinds: Iterable[str] | None = None) -> Iterator[Fix]:
    """The fixes of one kind after the other; several changes at once only where no single one is enough."""
    enough = False
    for kind in KINDS if kinds is None else kinds:
        if kind == "together" and enough:
            continue
        for fix in try_kind(kind):
            enough = enough or fix.fits == "yes"
            yield fix


def of_kind(kind: str, plan: Plan, found: Estimate) -> tuple[Fix, ...]:
    """The fixes of one kind: the first of its candidates that fits, else the last one that helps."""
    best: Fix | None = None
    for candidate in KINDS[kind](plan):
        fix = _estimated(plan, found, candidate)
        if fix is not None and (best is None or fix.fits != "no" or fix.memory_saved > best.memory_saved):
            best = fix
        if best is not None and best.fits == "yes":
            break
    return () if best is None else (best,)


def _estimated(plan: Plan, found: Estimate, candidate: Candidate) -> Fix | None:
    """The candidate with its figures; None where it does not go with the plan, or does not help."""
    from estimators.estimator import estimate  # brings torch: the page reads this module without it

    try:
        with in_plain_words():
            changed = estimate(plan.with_(**candidate.changes))
    except PlanError:
        return None
    saved = found.memory.total - changed.memory.total
    elsewhere = "gpu" in candidate.changes
    if not elsewhere and saved < LEAST_SAVING * found.memory.total:
        return None
    return Fix(
        label=candidate.label,
        changes=dict(candidate.changes),
        memory_saved=saved,
        time_factor=_time_factor(found, changed),
        fits=changed.fits,
        note=_cost_note(changed) if elsewhere else candidate.note,
    )


def _time_factor(before: Estimate, after: Estimate) -> float | None:
    if before.total_seconds is None or after.total_seconds is None:
        return None
    return after.total_seconds.likely / before.total_seconds.likely


def _cost_note(changed: Estimate) -> str:
    memory = f"{formatting.size(changed.memory.capacity)} usable"
    return f"{memory}, {formatting.money(changed.cost.likely)} for the run" if changed.cost else memory


# --- the kinds ------------------------------------------------------------------------------------------------------


def _checkpointing(plan: Plan) -> Iterator[Candidate]:
    if not plan.gradient_checkpointing:
        yield Candidate(label="Gradient checkpointing", changes={"gradient_checkpointing": True})


def _fewer_gaps(plan: Plan) -> Iterator[Candidate]:
    """The allocator's other way to grow, which costs nothing: only NVIDIA's driver can do it."""
    if hardware.find_gpu(plan.gpu).vendor == "NVIDIA" and not plan.expandable_segments:
        note = "fewer gaps in the GPU's memory, nothing else changes"
        yield Candidate(label="Expandable segments", changes={"expandable_segments": True}, note=note)


def _gradients_sent(plan: Plan) -> Iterator[Candidate]:
    if plan.sharding == "fsdp" and plan.gradient_accumulation_steps > 1 and not plan.sync_each_batch:
        note = "more is sent between the GPUs"
        yield Candidate(label="Send gradients after each batch", changes={"sync_each_batch": True}, note=note)


def _smaller_batch(plan: Plan) -> Iterator[Candidate]:
    """Half the batch and twice the accumulation, again and again: an optimizer step still sees as many rows."""
    batch, accumulation = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    while batch > 1:
        factor = 2 if batch % 2 == 0 else batch
        batch, accumulation = batch // factor, accumulation * factor
        yield Candidate(
            label=f"Batch {batch} × {accumulation}",
            changes={"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation},
            note="the same rows per optimizer step",
        )


def _smaller_optimizer(plan: Plan) -> Iterator[Candidate]:
    if hardware.find_gpu(plan.gpu).is_cpu or "adamw" not in plan.optim:
        return
    for optim, label in (("adamw_8bit", "8-bit AdamW"), ("paged_adamw_8bit", "Paged 8-bit AdamW")):
        if optim != plan.optim:
            yield Candidate(label=label, changes={"optim": optim})


def _four_bits(plan: Plan) -> Iterator[Candidate]:
    """The frozen weights in 4 bits; of full fine-tuning there is nothing frozen."""
    if checks.quantization(plan) != "none":
        return
    if plan.method == "lora":
        yield Candidate(label="QLoRA (4-bit)", changes={"method": "qlora", "quantization": "nf4"})
    elif "nf4" in METHODS[plan.method].quantizations:
        yield Candidate(label="4-bit weights (NF4)", changes={"quantization": "nf4"})


def _adapter(plan: Plan) -> Iterator[Candidate]:
    if plan.method == "full":
        yield _other_method("lora", "LoRA instead of full", "trains a small adapter")


def _adapter_in_four_bits(plan: Plan) -> Iterator[Candidate]:
    if plan.method == "full":
        yield _other_method("qlora", "QLoRA instead of full", "trains a small adapter on 4-bit weights")


def _other_method(key: str, label: str, note: str) -> Candidate:
    """Another method with its own defaults: a learning rate for all weights is far too small for an adapter."""
    changes = {"method": key, "method_options": {}, "quantization": METHODS[key].quantization, "learning_rate": None}
    return Candidate(label=label, changes=changes, note=note)


def _shorter(plan: Plan) -> Iterator[Candidate]:
    """The powers of two below the longest row, as long as most rows stay whole."""
    from estimators import tokens

    rows = tokens.lengths(plan)
    length = SHORTEST
    while 2 * length < (plan.max_length if packs(plan) else rows.longest):
        length *= 2
    while length >= SHORTEST:
        cut = sum(count > length for count in rows.train)
        if cut > MOST_CUT * len(rows.train):
            return
        note = f"cuts {cut:,} of {len(rows.train):,} rows"
        yield Candidate(label=f"At most {length:,} tokens", changes={"max_length": length}, note=note)
        length //= 2


def _other_gpu(plan: Plan) -> Iterator[Candidate]:
    """The GPU on which the run is cheapest, of those that fit and have a price; never instead of this machine."""
    from estimators.advice.survey import gpu_rows

    if plan.gpu == THIS_MACHINE:
        return
    own = hardware.find_gpu(plan.gpu)
    larger = [
        name for name, gpu in hardware.gpus().items() if gpu.price_per_hour and gpu.bf16 == own.bf16 and gpu.memory > own.memory
    ]
    rows = [row for row in gpu_rows(plan, larger) if row.fits == "yes" and row.cost is not None]
    if rows:
        cheapest = min(rows, key=lambda row: row.cost or 0)
        yield Candidate(label=f"On {cheapest.name}", changes={"gpu": cheapest.gpu})


def _fewer_targets(plan: Plan) -> Iterator[Candidate]:
    """Adapt the attention alone where all layers are adapted: the inputs of the others need not be kept."""
    from estimators.advice import budget

    if option_values(plan).get("target_modules") != "all-linear":
        return
    for names in budget.target_sets(plan)[1:]:
        options = {**plan.method_options, "target_modules": list(names)}
        yield Candidate(
            label=f"Adapt only {', '.join(names)}", changes={"method_options": options}, note="fewer layers learn something"
        )


def _more_gpus(plan: Plan) -> Iterator[Candidate]:
    """Two, four or eight of the same GPU, each with its share of everything."""
    gpu = hardware.find_gpu(plan.gpu)
    most = gpu.count if plan.gpu == THIS_MACHINE else max(MORE_GPUS)
    if "weights" in shardings.SHARDINGS[plan.sharding].splits and plan.offload == "none":
        yield Candidate(label="Offload to the computer's memory", changes={"offload": "all"}, note="needs that memory")
    for number in MORE_GPUS:
        changed = plan.with_(num_gpus=number, sharding="fsdp")
        allowed = not any(issue.severity == "error" for issue in shardings.check(changed, checks.quantization(plan)))
        if plan.num_gpus < number <= most and allowed:
            changes = {"num_gpus": number, "sharding": "fsdp"}
            yield Candidate(label=f"{number} of them with FSDP", changes=changes, note=f"{number} × {gpu.name}")


def _together(plan: Plan) -> Iterator[Candidate]:
    """Several changes at once, the dearer ones last: checkpointing and single rows, then an adapter, then 4-bit weights."""
    batches = list(_smaller_batch(plan))[-1:]
    savings = [*_checkpointing(plan), *batches]
    for more in ((), tuple(_adapter(plan)), (*_four_bits(plan), *_adapter_in_four_bits(plan))):
        parts = [*more, *savings]
        if len(parts) > 1:
            changes = {name: value for part in parts for name, value in part.changes.items()}
            yield Candidate(label=" + ".join(part.label for part in parts), changes=changes)


KINDS: dict[str, Callable[[Plan], Iterator[Candidate]]] = {
    "gaps": _fewer_gaps,
    "checkpointing": _checkpointing,
    "gradients": _gradients_sent,
    "batch": _smaller_batch,
    "optimizer": _smaller_optimizer,
    "four bits": _four_bits,
    "adapter": _adapter,
    "adapter in four bits": _adapter_in_four_bits,
    "targets": _fewer_targets,
    "length": _shorter,
    "gpu": _other_gpu,
    "more gpus": _more_gpus,
    "together": _together,
}
