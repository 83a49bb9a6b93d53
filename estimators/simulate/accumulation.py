"""Gradient accumulation: from the second batch of an optimizer step on, all gradients are there from the start.

A recorded step makes its gradients on the way back, when the activations are going already. With accumulation they stay,
beside all activations of the next batch, and each new gradient is added to its old one and freed (`AccumulateGrad` of
torch's autograd).

    later = with_gradients_kept(run.step)      # the step of any batch but the first
"""

from __future__ import annotations

import functools

from estimators.simulate.replay import Step
from estimators.simulate.trace import Alloc, Free, Ref, Segment


@functools.lru_cache(maxsize=256)
def with_gradients_kept(step: Step) -> Step:
    """The same step with its gradients held before it begins; those that it makes itself are freed at once."""
    starts = {segment.place.layer: _copy(segment) for segment in step.segments if segment.place.phase == "start"}
    others = [segment for segment in step.segments if segment.place.phase != "start"]
    for segment in others:
        layer = segment.place.layer
        _hold(starts[layer if layer in starts else None], _gradient_sizes(segment))
    return Step(segments=[*starts.values(), *map(_freeing_gradients, others)], depth=step.depth)


def _gradient_sizes(segment: Segment) -> list[int]:
    sizes = [event.size for event in segment.events if isinstance(event, Alloc)]
    return [size for index, size in enumerate(sizes) if segment.parts.get(index) == "gradients"]


def _copy(segment: Segment) -> Segment:
    return Segment(segment.place, list(segment.events), dict(segment.parts), segment.works, segment.allocations)


def _hold(start: Segment, sizes: list[int]) -> None:
    """Note gradients that are there before the step begins."""
    for size in sizes:
        start.parts[start.allocations] = "gradients"
        start.events.append(Alloc(size))
        start.allocations += 1


def _freeing_gradients(segment: Segment) -> Segment:
    """The segment with each new gradient freed as soon as it is there."""
    if "gradients" not in segment.parts.values():
        return segment
    found, index = _copy(segment), 0
    found.events = []
    for event in segment.events:
        found.events.append(event)
        if isinstance(event, Alloc):
            if segment.parts.get(index) == "gradients":
                found.events.append(Free(Ref(segment.place, index)))
            index += 1
    return found
