"""The memory of a run's other phases: people fit the training, and then die while loading, evaluating or merging.

Each phase is what the engine really does there: `engine/modeling/build.py` loads, the trainer evaluates with the training's
batch size, `engine/train.py` saves, `engine/export/merge.py` merges in a process of its own. Bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine import checks
from engine.methods import METHODS
from engine.plan import Plan
from estimators.simulate import replay
from estimators.simulate.dry_run import DryRun
from estimators.simulate.replay import Step
from estimators.simulate.trace import Alloc, Segment
from estimators.simulate.walk import PHASES

BYTES_PER_PARAM = {"fp32": 4, "bf16": 2, "fp16": 2}
# What adding an adapter to one weight holds beside it: its checksums take two copies in 64 bits (`engine/export/merge.py`),
# which is more than PEFT's safe merge does (a copy, and the change of the weight twice in fp32).
MERGE_BYTES_PER_ELEMENT = 16
SHARD = 50e9  # bytes of a file of `save_pretrained` (transformers 5.23); safetensors copies its tensors to the host first


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Peak bytes of the device in each phase, of the host, and of the disk that the run's results take."""

    device: dict[str, int]
    host: int
    disk: int


def of_run(plan: Plan, run: DryRun, train_peak: int, *, on_gpu: bool, program: int) -> Phases:
    """The phases of a plan.

    Args:
        plan: a checked plan.
        run: its dry run with the largest batch.
        train_peak: what the training reserves, in bytes.
        on_gpu: else the weights are in the host's memory anyway.
        program: bytes of this program without any model.
    """
    weights, states = _held(run.step, "weights"), _held(run.step, "optimizer")
    largest = _largest_weight(plan, run.step)
    merged = run.total_params * BYTES_PER_PARAM[plan.precision]
    adapter = run.adapter_params * _bytes_of_adapter(plan)
    device = {
        "load": weights + _load_transient(plan, largest),
        "train": train_peak,
        "evaluate": replay.peak(run.evaluation).bytes,
        "save": weights + states,
        "merge": _merge(plan, weights, merged, adapter, largest) if METHODS[plan.method].mergeable else 0,
    }
    result = adapter or merged
    host = program + (min(result, round(SHARD)) + _paged(plan, run) if on_gpu else weights)
    return Phases(device=device, host=host, disk=result + (merged if METHODS[plan.method].mergeable else 0))


def _held(step: Step, part: str) -> int:
    """Bytes of one part of what is there before the step begins."""
    way = step.walk
    at_start = way.taken & (way.phases == PHASES.index("start"))
    mine = at_start & (way.parts == way.part_names.index(part))
    return int(step.sizes[way.slots[mine]].sum())


def _largest_weight(plan: Plan, step: Step) -> int:
    """Elements of the largest weight of a layer."""
    start = [segment for segment in step.segments if segment.place.phase == "start"]
    layers = [segment for segment in start if segment.place.layer is not None]
    largest = max((size for segment in layers or start for size in _weight_sizes(segment)), default=0)
    return round(largest / _stored_bytes(plan))


def _weight_sizes(segment: Segment) -> list[int]:
    allocs = [event.size for event in segment.events if isinstance(event, Alloc)]
    return [size for index, size in enumerate(allocs) if segment.parts.get(index) == "weights"]


def _stored_bytes(plan: Plan) -> float:
    """Bytes of one element of a frozen matrix, without its scales."""
    kind = checks.quantization(plan)
    if kind != "none":
        return 1.0 if kind == "int8" else 0.5
    return 4.0 if plan.master_weights else float(BYTES_PER_PARAM[plan.precision])


def _load_transient(plan: Plan, largest: int) -> int:
    """What loading needs beside the weights: they are read one after the other where they are quantised on the way
    (`core_model_loading`, transformers 5.23), and a weight is there in half precision while it is packed."""
    kind = checks.quantization(plan)
    if kind == "none":
        return 0  # read into their place
    copies = 2 if kind == "int8" else 1  # bitsandbytes quantises to int8 from fp16, so bf16 is copied first
    return largest * 2 * copies


def _bytes_of_adapter(plan: Plan) -> int:
    """Bytes of an adapter's parameter on the device and in its file."""
    if plan.adapter_dtype != "auto":
        return BYTES_PER_PARAM[plan.adapter_dtype]
    return 2 if checks.quantization(plan) != "none" else 4


def _merge(plan: Plan, weights: int, merged: int, adapter: int, largest: int) -> int:
    """The base with its adapter is there while each weight is added to. A quantised base is there twice: packed, for its
    answers, and unpacked, with an adapter of its own (`add_to_weights`)."""
    transient = largest * MERGE_BYTES_PER_ELEMENT
    if checks.quantization(plan) == "none":
        return merged + adapter + transient
    return weights + merged + adapter + transient


def _paged(plan: Plan, run: DryRun) -> int:
    """States that a paged optimizer may have to keep in the host's memory (bitsandbytes: two of 8 or 32 bits per parameter)."""
    if not plan.optim.startswith("paged"):
        return 0
    return run.trainable_params * (2 if "8bit" in plan.optim else 8)
