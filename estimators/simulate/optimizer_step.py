"""The optimizer's step in the dry run: the real class, stepped on fake tensors; what it keeps, what it holds for a moment."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.modeling import build
from engine.plan import Plan
from estimators.simulate.trace import Alloc, Free, Place, Recorder, Ref, Segment, Work

PAGED_FROM = 100_000  # elements: larger states of a paged optimizer lie in host memory (bitsandbytes 0.50, `get_state_buffer`)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What an optimizer needs to know of a parameter: tensors that agree in it cost it the same."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    embedding: bool  # the Trainer keeps the states of embeddings in 32 bits where the others have 8


def optimizer_step(
    plan: Plan, trainable: list[torch.nn.Parameter], embeddings: set[int], *, on_gpu: bool
) -> tuple[list[int], Segment]:
    """(sizes of the states that the optimizer keeps on the device between steps, one of its later steps).

    Each distinct tensor is stepped by itself. An optimizer that takes all tensors at once (`foreach`) holds its temporaries
    for all of them together, another one for one tensor at a time: two tensors at once show which it is.

    Args:
        trainable: the parameters of the full stack.
        embeddings: the ids of those that are embeddings.
    """
    kinds = [Tensor(shape=tuple(p.shape), dtype=p.dtype, embedding=id(p) in embeddings) for p in trainable]
    counts = Counter(kinds)
    steps = {kind: _step_one(plan.optim, kind, on_gpu) for kind in counts}
    segment = Segment(Place("optimizer"))
    for kind, count in counts.items():
        segment.works.update({work: each * count for work, each in steps[kind].works.items()})
    if plan.max_grad_norm > 0:
        segment.works[_clipping(kinds)] += 1
    temporaries = [steps[kind].temporary for kind in kinds]
    if kinds and _takes_all_at_once(plan.optim, max(kinds, key=lambda kind: steps[kind].temporary), on_gpu):
        segment.events = [Alloc(size) for size in temporaries]
    else:
        segment.events = [Alloc(max(temporaries, default=0))]
    segment.allocations = len(segment.events)
    segment.events += [Free(Ref(segment.place, index)) for index in range(segment.allocations)]
    return [size for kind in kinds for size in steps[kind].states], segment


def _clipping(kinds: list[Tensor]) -> Work:
    """`torch.nn.utils.clip_grad_norm_`: all gradients are read for their norm, then read and written to scale them."""
    size = sum(math.prod(kind.shape) * kind.dtype.itemsize for kind in kinds)
    return Work("other", "fp32", flops=0, bytes=3 * size)


@dataclass(frozen=True, kw_only=True)
class TensorStep:
    """One optimizer step of one tensor: bytes of the states that stay, bytes of the temporaries at their highest, the work."""

    states: tuple[int, ...]
    temporary: int
    works: Counter[Work]


@functools.lru_cache(maxsize=4096)
def _step_one(optim: str, kind: Tensor, on_gpu: bool) -> TensorStep:
    states, segment = _record_optimizer(optim, (kind,), on_gpu=on_gpu)
    return TensorStep(states=tuple(states), temporary=segment.most_held, works=segment.works)


@functools.lru_cache(maxsize=4096)
def _takes_all_at_once(optim: str, kind: Tensor, on_gpu: bool) -> bool:
    one, two = (_record_optimizer(optim, (kind,) * count, on_gpu=on_gpu)[1].most_held for count in (1, 2))
    return two > 1.5 * one


def _record_optimizer(optim: str, kinds: tuple[Tensor, ...], *, on_gpu: bool) -> tuple[list[int], Segment]:
    """(sizes of the states on the device, the second step): the first one makes the states."""
    from transformers import Trainer

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        parameters = [torch.nn.Parameter(torch.empty(kind.shape, dtype=kind.dtype)) for kind in kinds]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
    recorder = Recorder()
    recorder.adopt((tensor for p in parameters for tensor in (p, p.grad)), "weights")
    arguments = build.training_arguments(Plan(optim=optim), Path("unused"))
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if on_gpu and optim == "adamw_torch":
        settings = {**settings, "foreach": True}  # torch's own choice on a GPU; it costs temporaries
    optimizer = optimizer_class(parameters, **settings)
    wide = [parameter for parameter, kind in zip(parameters, kinds, strict=True) if kind.embedding]
    with mode, _states_in_32_bits(optimizer, wide), recorder:
        optimizer.step()
        kept = [tensor for state in optimizer.state.values() for tensor in state.values() if isinstance(tensor, torch.Tensor)]
        if on_gpu and getattr(optimizer, "is_paged", False):
            kept = [tensor for tensor in kept if tensor.numel() < PAGED_FROM]
        states = [tensor.untyped_storage().nbytes() for tensor in kept]
        recorder.enter("optimizer")
        optimizer.step()
    return states, recorder.close()[-1]


@contextlib.contextmanager
def _states_in_32_bits(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """What the Trainer asks of bitsandbytes for embeddings (`Trainer.create_optimizer`), taken back at the end."""
    if not parameters or not hasattr(optimizer, "mng"):
        yield
        return
    for parameter in parameters:
        optimizer.mng.override_config(parameter, "optim_bits", 32)
    try:
        yield
    finally:
        for parameter in parameters:
            optimizer.mng.pid2config.pop(id(parameter), None)
