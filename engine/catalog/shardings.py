"""SHARDINGS: how the work is split over several GPUs, one row each, and which combinations cannot work.

A row says what each GPU holds a part of and where the rest may be offloaded to. The checks, the form and the estimator
(`estimators/distributed/sharding.py`) read it. Runs of this program use one GPU; a plan with more of them is for planning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.catalog import hardware
from engine.issues import Issue

if TYPE_CHECKING:
    from engine.plan import Plan

SOME_SHARDING = "ddp"  # what is proposed where a plan has several GPUs and no way to use them


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """One way to use several GPUs. `splits` names what each GPU holds only its share of."""

    key: str
    label: str
    sentence: str
    splits: frozenset[str] = frozenset()  # of: weights, gradients, optimizer
    master: str = ""  # "" | fsdp: what is trained is kept in fp32 | deepspeed: an fp32 copy beside the 16-bit weights
    offloads: tuple[str, ...] = ("none",)
    source: str


_ROWS = (
    Sharding(
        key="none",
        label="One GPU",
        sentence="Everything is on one GPU.",
        source="",
    ),
    Sharding(
        key="ddp",
        label="DDP",
        sentence="Each GPU holds everything and takes its own rows; the gradients are averaged.",
        source="https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html",
    ),
    Sharding(
        key="fsdp",
        label="FSDP (full shard)",
        sentence="Each GPU holds its share of everything, and gathers one layer at a time.",
        splits=frozenset({"weights", "gradients", "optimizer"}),
        master="fsdp",
        offloads=("none", "all"),
        source="https://huggingface.co/docs/accelerate/usage_guides/fsdp",
    ),
    Sharding(
        key="zero2",
        label="ZeRO-2",
        sentence="Each GPU holds the whole weights, and its share of the gradients and of the optimizer's states.",
        splits=frozenset({"gradients", "optimizer"}),
        master="deepspeed",
        offloads=("none", "optimizer"),
        source="https://huggingface.co/docs/transformers/deepspeed",
    ),
    Sharding(
        key="zero3",
        label="ZeRO-3",
        sentence="Each GPU holds its share of everything, and gathers the weights that it needs next.",
        splits=frozenset({"weights", "gradients", "optimizer"}),
        master="deepspeed",
        offloads=("none", "optimizer", "all"),
        source="https://huggingface.co/docs/transformers/deepspeed",
    ),
)

SHARDINGS: dict[str, Sharding] = {row.key: row for row in _ROWS}


def world(plan: Plan) -> int:
    """How many GPUs work on the plan: without a way to split the work it is one."""
    return plan.num_gpus if plan.sharding != "none" else 1


def check(plan: Plan, quantization: str) -> list[Issue]:
    """What is wrong with the plan's use of several GPUs.

    Args:
        plan: with a known GPU and known choices.
        quantization: how its frozen weights are stored, by `checks.quantization`.
    """
    return [*_check_count(plan), *_check_device(plan), *_check_weights(plan, quantization), *_check_offload(plan)]


def _check_count(plan: Plan) -> Iterator[Issue]:
    if plan.num_gpus > 1 and plan.sharding == "none":
        message = f"is none, so {plan.num_gpus - 1} of the {plan.num_gpus} GPUs have nothing to do."
        yield Issue(field="sharding", message=message, fix="Use ddp, or fsdp where one GPU is too small.", severity="warning")
    if plan.num_gpus == 1 and plan.sharding != "none":
        message = f"{plan.sharding} has nothing to split on one GPU."
        yield Issue(field="num_gpus", message=message, fix="Use 2 or more, or the sharding none.", severity="warning")


def _check_device(plan: Plan) -> Iterator[Issue]:
    gpu = hardware.find_gpu(plan.gpu)
    if plan.sharding != "none" and (gpu.is_cpu or gpu.vendor not in ("NVIDIA", "AMD")):
        message = f"{plan.sharding} needs GPUs that reach each other through NCCL or RCCL, and {gpu.name} does not."
        yield Issue(field="sharding", message=message, fix="Use none, or GPUs of NVIDIA or AMD.")


def _check_weights(plan: Plan, quantization: str) -> Iterator[Issue]:
    if quantization == "int8" and "weights" in SHARDINGS[plan.sharding].splits:
        yield Issue(
            field="sharding",
            message=f"{plan.sharding} cannot split 8-bit weights of bitsandbytes.",
            fix="Use nf4, or ddp or zero2, which keep the weights whole.",
        )
    if SHARDINGS[plan.sharding].splits and ("8bit" in plan.optim or plan.optim == "adafactor"):
        yield Issue(
            field="optim",
            message=f"{plan.optim} is made for whole matrices, and {plan.sharding} gives each GPU a piece of them.",
            fix="adamw_torch_fused is the safe choice: its states are split over the GPUs anyway.",
            severity="warning",
        )


def _check_offload(plan: Plan) -> Iterator[Issue]:
    allowed = SHARDINGS[plan.sharding].offloads
    if plan.offload in allowed:
        if plan.offload == "optimizer" and "adamw" not in plan.optim:
            yield Issue(
                field="optim",
                message=f"{plan.optim} does not run on the processor under DeepSpeed.",
                fix="Use adamw_torch, or no offload.",
            )
        return
    elsewhere = [row.key for row in SHARDINGS.values() if plan.offload in row.offloads]
    others = [choice for choice in allowed if choice != "none"]
    fix = f"Use {' or '.join(others)}" if others else "Use none"
    yield Issue(
        field="offload",
        message=f"{plan.offload} does not go with the sharding {plan.sharding}.",
        fix=f"{fix}, or the sharding {' or '.join(elsewhere)}.",
    )
