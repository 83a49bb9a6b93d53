"""Several GPUs and offloading: the memory of one GPU, turned into that of each of n.

Pure functions. The recorded step is walked through once more with each storage counted by its share: what the sharding
splits (weights, gradients, the optimizer's states) by 1/n, what it does not (activations, the loss) whole. What the
sharding itself needs (buckets, gathered layers, fp32 copies, NCCL) is added. `communication.py` has the time.

    state = states(plan, run)
    each = split(plan, state)                  # what each GPU holds
    step = on_each_gpu(plan, step, state)      # what its allocator is asked for
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine import checks
from engine.catalog import shardings
from engine.catalog.shardings import SHARDINGS, Sharding
from engine.plan import Plan
from estimators.memory import overhead
from estimators.simulate import fsdp_init, replay

if TYPE_CHECKING:
    from estimators.simulate.fsdp_init import Loading, Units
    from estimators.simulate.recorded import DryRun
    from estimators.simulate.replay import Step

MIB = 2**20

# --- what the libraries add -------------------------------------------------------------------------------------------

# FSDP gathers the layer at work and the next one (backward_prefetch, torch.distributed.fsdp).
GATHERED_LAYERS = 2
# While the loss is worked out only the first layer of the way back is there: it is prefetched with the outermost unit.
GATHERED_AT_LOSS = 1
# DeepSpeed's `auto` values under transformers: a bucket of hidden_size^2 elements to reduce, 0.9 of it to prefetch
# (transformers/integrations/deepspeed.py); `overlap_comm` keeps two of the first kind.
REDUCE_BUCKETS, PREFETCH_BUCKET = 2, 0.9
# stage3_max_live_parameters and stage3_max_reuse_distance of https://huggingface.co/docs/transformers/deepspeed: so many
# gathered elements may stay.
LIVE_ELEMENTS = 1_000_000_000
# What is in the computer's memory instead of the GPU's, by the plan's `offload`.
OFFLOADED = {"none": (), "optimizer": ("optimizer", "gradients"), "all": ("optimizer", "gradients", "weights")}


@dataclass(frozen=True, kw_only=True)
class States:
    """What the step of one GPU holds, in bytes. `peaks` has the highest moment of each phase, by part."""

    weights: int
    scales: int  # of the weights: what belongs to quantised ones and is in no parameter, so every GPU has all of it
    units: Units
    trainable_params: int
    gradients: int  # all of them
    optimizer: int
    largest_layer: int  # parameters of the largest layer, as they are stored
    trained_in_layer: int  # parameters of it that are trained (the mean layer's)
    outside_layers: int  # embeddings, head and what else is in no layer
    hidden_size: int
    saved: int = 0  # activations that the backward pass finds: with checkpointing, the inputs of the layers
    peaks: Mapping[str, Mapping[str, int]]

    @property
    def trained_bytes(self) -> float:
        """Bytes of one trained parameter as it is stored: its gradient is of the same type."""
        return self.gradients / self.trainable_params if self.trainable_params else 0.0


@dataclass(frozen=True, kw_only=True)
class Split:
    """What each GPU holds and what the computer holds for all of them. Bytes; `parts` is the highest moment."""

    parts: Mapping[str, int]
    added: int = 0  # of the parts: what only the sharding needs
    other_pools: int = 0  # reserved for what the steps do not show: gathered layers, buckets, gradients on their way
    loading: Loading | None = None  # what was allocated and freed before the training, where that leaves gaps
    overhead: int = 0  # beside the allocator
    host: int = 0

    @property
    def allocated(self) -> int:
        """What the tensors of one GPU hold."""
        return sum(self.parts.values())


def states(plan: Plan, run: DryRun) -> States:
    """What `applied` needs of a dry run."""
    from engine.modeling import build

    peaks, totals, saved = _walk(run.step)
    found = run.units
    config = build.load_config(plan).get_text_config()
    return States(
        weights=totals.get("weights", run.weight_bytes),
        scales=found.scales,
        units=found,
        trainable_params=run.trainable_params,
        gradients=totals.get("gradients", 0),
        optimizer=totals.get("optimizer", 0),
        largest_layer=max((unit.bytes for unit in found.layers), default=0),
        trained_in_layer=run.trainable_params // max(len(found.layers), 1),
        outside_layers=found.outside.bytes,
        hidden_size=getattr(config, "hidden_size", 0) or 0,
        saved=saved,
        peaks=peaks,
    )


def _walk(step: Step) -> tuple[dict[str, dict[str, int]], dict[str, int], int]:
    """What a step holds, in bytes.

    Returns:
        the highest moment of each phase by part; all of the weights, the gradients and the optimizer's states; what the
        backward pass finds of activations.
    """
    from estimators.simulate.walk import PHASES

    way = step.walk
    changes = np.where(way.taken, step.sizes[way.slots], -step.sizes[way.slots])
    totals = np.cumsum(changes)
    at_start = way.phases == PHASES.index("start")
    peaks, whole = {}, {}
    for number, phase in enumerate(PHASES):
        moments = np.flatnonzero(way.taken & (way.phases == number))
        if len(moments):
            until = moments[np.argmax(totals[moments])] + 1
            by_part = np.bincount(way.parts[:until], weights=changes[:until], minlength=len(way.part_names))
            peaks[phase] = {name: int(size) for name, size in zip(way.part_names, by_part, strict=True) if size}
    for number, name in enumerate(way.part_names):
        counted = way.taken & (way.parts == number) & (at_start | (name == "gradients"))
        whole[name] = int(changes[counted].sum())
    before_backward = (way.parts == way.part_names.index("activations")) & (way.phases < PHASES.index("backward"))
    return peaks, whole, int(changes[before_backward].sum())


# --- memory -----------------------------------------------------------------------------------------------------------


def wanted(plan: Plan) -> bool:
    """Whether a plan's estimate differs from that of one GPU."""
    return shardings.world(plan) > 1 or plan.offload != "none"


def on_each_gpu(plan: Plan, step: Step, state: States) -> Step:
    """The step with each storage as large as one GPU's share of it: what the arithmetic's stream asks its allocator for.

    What FSDP gathers and reduces comes from streams of its own, in memory that nothing else uses (`Split.other_pools`), and
    its shards are those of `Split.loading`.
    """
    row, n = SHARDINGS[plan.sharding], shardings.world(plan)
    kept = kept_bytes(plan, row, state)
    share = _share_of_one(row, n)
    share["optimizer"] *= kept["optimizer"] / state.optimizer if state.optimizer else 1.0
    share |= dict.fromkeys(OFFLOADED[plan.offload], 0.0)
    if row.key == "fsdp":
        share |= {"weights": 0.0, "gradients": 0.0}
    return _shared(step, tuple(sorted(share.items())))


def _share_of_one(row: Sharding, n: int) -> dict[str, float]:
    """What one of n GPUs holds of all weights, gradients and optimizer states."""
    return {part: 1 / n if part in row.splits else 1.0 for part in ("weights", "gradients", "optimizer")}


@functools.lru_cache(maxsize=64)
def _shared(step: Step, share: tuple[tuple[str, float], ...]) -> Step:
    way, of_part = step.walk, dict(share)
    by_part = np.array([of_part.get(name, 1.0) for name in way.part_names])
    by_slot = np.ones(len(step.sizes))
    by_slot[way.slots[way.taken]] = by_part[way.parts[way.taken]]
    return replay.like(step, step.segments, np.rint(step.sizes * by_slot).astype(np.int64))


def split(plan: Plan, state: States) -> Split:
    """What one GPU holds at its highest moment, and the computer for all of them."""
    row, n = SHARDINGS[plan.sharding], shardings.world(plan)
    kept = kept_bytes(plan, row, state)
    share = _share_of_one(row, n)
    here = {part: size * share[part] for part, size in kept.items()}
    here["weights"] += state.scales
    away = _offloaded(plan, here, state)
    added = _added(plan, row, state, n)
    held_longer = _held_longer(plan, row, state)
    moments, without = [], []
    for phase, parts in state.peaks.items():
        moment = {part: float(size) for part, size in parts.items()}
        moment["weights"] = here["weights"] - away["weights"] + _gathered_in(phase, added["weights"], plan, state)
        moment["optimizer"] = _optimizer_moment(parts, state, here, away, share["optimizer"])
        moment["gradients"] = _gradient_moment(parts, state, here, away, plan)
        moment["gradients"] += 0.0 if phase == "optimizer" and row.key == "fsdp" else added["gradients"]
        without.append(sum(moment.values()))
        moment["activations"] = moment.get("activations", 0.0) + (held_longer if phase == "backward" else 0.0)
        moments.append({part: round(size) for part, size in moment.items()})
    highest = max(moments, key=lambda moment: sum(moment.values()))
    higher = sum(highest.values()) - max(without)  # than the moments that the recorded step shows
    return Split(
        parts=highest,
        added=round(sum(added.values())),
        other_pools=round(_other_pools(plan, row, state, added, here["gradients"] - away["gradients"]) + higher),
        loading=_loading(plan, row, state, n) if row.key == "fsdp" else None,
        overhead=overhead.nccl_bytes(n) if plan.sharding != "none" else 0,
        host=round(sum(away.values()) * n),
    )


def kept_bytes(plan: Plan, row: Sharding, state: States) -> dict[str, float]:
    """Bytes of all parameters, gradients and optimizer states, in the number types that the sharding keeps them in."""
    weights, gradients, optimizer = float(state.weights - state.scales), float(state.gradients), float(state.optimizer)
    trained, each = state.trainable_params, state.trained_bytes
    factor = _widened(plan, row, state)
    if factor > 1:  # the states follow, unless they are of 8 bits
        weights += trained * each * (factor - 1)
        gradients *= factor
        optimizer *= factor if "8bit" not in plan.optim else 1.0
    if row.master == "deepspeed" and plan.precision != "fp32":
        # 16-bit weights and gradients, and an fp32 copy beside the states (stage_1_and_2.py and stage3.py of DeepSpeed).
        weights += trained * (2 - each)
        gradients = trained * 2.0
        states_each = state.optimizer / trained / each * 4 if trained and each and "8bit" not in plan.optim else 0.0
        optimizer = (trained * states_each if states_each else optimizer) + trained * 4.0
    return {"weights": weights, "gradients": gradients, "optimizer": optimizer}


def _widened(plan: Plan, row: Sharding, state: States) -> float:
    """How many times larger what is trained is kept than it was loaded: accelerate's `prepare_model` turns it into fp32."""
    each = state.trained_bytes
    return 4 / each if row.master == "fsdp" and plan.precision != "fp32" and plan.autocast and 0 < each < 4 else 1.0


def _offloaded(plan: Plan, here: Mapping[str, float], state: States) -> dict[str, float]:
    """Bytes of one GPU's share that are in the computer's memory instead. Gradients go where the optimizer is."""
    stays = {"weights": state.scales}
    return {part: size - stays.get(part, 0) if part in OFFLOADED[plan.offload] else 0.0 for part, size in here.items()}


def _optimizer_moment(
    parts: Mapping[str, int], state: States, here: Mapping[str, float], away: Mapping[str, float], share: float
) -> float:
    """The states that stay, and the step's temporaries: they are as large as what one GPU updates."""
    temporary = max(0, parts.get("optimizer", 0) - state.optimizer)
    return here["optimizer"] - away["optimizer"] + (0.0 if away["optimizer"] else temporary * share)


def _gradient_moment(
    parts: Mapping[str, int], state: States, here: Mapping[str, float], away: Mapping[str, float], plan: Plan
) -> float:
    """As large a share of the gradients as is there at this moment; with accumulation, all of them are.

    FSDP adds up whole gradients on each GPU until the last batch of a step: the Trainer runs the others under `no_sync`.
    They are of the arithmetic's number type (`_post_backward_hook` of torch/distributed/fsdp/_runtime_utils.py). With
    accelerate's `sync_each_batch` they are sent each time, and each GPU keeps its share.
    """
    if not state.gradients:
        return 0.0
    if gradients_whole(plan):
        return state.trainable_params * gathered_bytes(plan)
    there = 1.0 if plan.gradient_accumulation_steps > 1 else parts.get("gradients", 0) / state.gradients
    return (here["gradients"] - away["gradients"]) * there


def gradients_whole(plan: Plan) -> bool:
    """Whether each GPU adds up all gradients before it sends them."""
    return plan.sharding == "fsdp" and plan.gradient_accumulation_steps > 1 and not plan.sync_each_batch


def gathered_bytes(plan: Plan) -> float:
    """Bytes of one trained parameter where a layer is at work, and of its gradient."""
    return 4.0 if plan.precision == "fp32" else 2.0


def _added(plan: Plan, row: Sharding, state: States, n: int) -> dict[str, float]:
    """What only the sharding needs: gathered weights (counted as weights), buckets (counted as gradients)."""
    if plan.sharding == "none" or n == 1:
        return {"weights": 0.0, "gradients": 0.0}
    if plan.sharding == "ddp":
        # DDP copies the gradients into buckets of 25 MB that together hold all of them (gradient_as_bucket_view=False).
        return {"weights": 0.0, "gradients": float(state.gradients)}
    gathered_trained = state.trained_in_layer * gathered_bytes(plan)
    if row.key == "fsdp":
        # The outermost unit (embeddings, head) stays gathered; a layer's gradient is whole until it is reduced.
        gathered = (state.outside_layers + GATHERED_LAYERS * state.largest_layer) * computed_share(plan, state)
        copied = state.largest_layer * _copied_share(plan, n)
        return {"weights": gathered + copied, "gradients": gathered_trained}
    bucket = REDUCE_BUCKETS * state.hidden_size**2 * (4 if plan.precision == "fp32" else 2)
    if row.key == "zero2":
        return {"weights": 0.0, "gradients": bucket + gathered_trained}
    each = 4 if plan.precision == "fp32" else 2
    live = min(state.weights * computed_share(plan, state) * (1 - 1 / n), LIVE_ELEMENTS * each)
    prefetch = PREFETCH_BUCKET * state.hidden_size**2 * each
    return {"weights": live + prefetch, "gradients": bucket + gathered_trained}


def _gathered_in(phase: str, gathered: float, plan: Plan, state: States) -> float:
    """Bytes of weights that are there in a phase because they were gathered; at most, it is `gathered`."""
    if phase == "optimizer":
        return 0.0
    if phase == "loss" and plan.sharding == "fsdp" and gathered:
        return gathered - (GATHERED_LAYERS - GATHERED_AT_LOSS) * state.largest_layer * computed_share(plan, state)
    return gathered


def _other_pools(plan: Plan, row: Sharding, state: States, added: Mapping[str, float], gradients: float) -> float:
    """Bytes that other streams than the arithmetic's have reserved. What they free waits there for them alone.

    Args:
        added: what the sharding needs.
        gradients: one GPU's share of them.
    """
    if row.key != "fsdp":
        return sum(added.values())
    whole = state.trainable_params * gathered_bytes(plan)
    largest_copy = max(0, state.outside_layers - state.largest_layer) * _copied_share(plan, shardings.world(plan))
    return sum(added.values()) + (whole if gradients_whole(plan) else gradients) + largest_copy


def _held_longer(plan: Plan, row: Sharding, state: States) -> float:
    """Bytes of gradients with respect to the layers' inputs that FSDP keeps beside these inputs until the backward pass ends.

    A frozen layer is resharded by a hook on its inputs, which reentrant checkpointing has cut off from the layer before: the
    hook holds each input with its gradient until the end (`_register_post_backward_reshard_only_hook` of
    torch/distributed/fsdp/_runtime_utils.py). The highest moment is then in the last layer to come.
    """
    if row.key != "fsdp" or not (plan.gradient_checkpointing and plan.use_reentrant and state.units.frozen):
        return 0.0
    layers = len(state.units.layers)
    return state.saved * (layers - 1) / layers


def _copied_share(plan: Plan, n: int) -> float:
    """The share of a unit that FSDP copies from the computer's memory before it gathers the unit, and then frees.

    By a stream of its own, so the memory of the largest copy is nobody else's (`pre_unshard` of
    torch/distributed/fsdp/_flat_param.py).
    """
    return 1 / n if plan.sharding == "fsdp" and plan.offload == "all" else 0.0


def _loading(plan: Plan, row: Sharding, state: States, n: int) -> Loading:
    return fsdp_init.wrapped(state.units, n, widened=_widened(plan, row, state), offloaded=plan.offload == "all")


def computed_share(plan: Plan, state: States) -> float:
    """Bytes of a gathered weight over those of a stored one: fp32 weights are gathered in the type of the arithmetic."""
    stored_in_fp32 = plan.master_weights or (state.trained_bytes == 4 and checks.quantization(plan) == "none")
    whole_model = state.trainable_params * state.trained_bytes > 0.5 * state.weights
    return 0.5 if stored_in_fp32 and whole_model and plan.precision != "fp32" and plan.autocast else 1.0
