"""Playing a recorded step: how much is allocated at its highest moment, and by which part.

`peak(step)` walks through the allocations of the whole step, layer by layer, and keeps the highest moment of each
phase with its parts.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from estimators import allocator
from estimators.splice import Depth, full_order, full_refs
from estimators.trace import Alloc, Ref, Segment, Work

PHASE_PARTS = {
    "start": "weights",
    "forward": "activations",
    "loss": "loss",
    "backward": "activations",
    "optimizer": "optimizer",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One recorded training step: its segments, and how they stand for the full depth.

    A step is itself and no other (no comparison by value), so what was worked out of it is remembered.
    """

    segments: Sequence[Segment]
    depth: Depth


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The highest moment of a step: bytes in all, by part, and the phase in which it comes."""

    bytes: int
    parts: dict[str, int]
    phase: str
    by_phase: dict[str, int] = field(default_factory=dict)  # the highest moment of each phase


@functools.lru_cache(maxsize=512)
def peak(step: Step) -> Peak:
    """Walk through the step. The parts are those at the highest moment, and add up to it."""
    live: dict[Ref, tuple[int, str]] = {}
    now: Counter[str] = Counter()
    total = 0
    highest, highest_parts, highest_phase = 0, Counter(), "start"
    by_phase: dict[str, int] = {}
    for place, segment in full_order(step.segments, step.depth):
        own_part, index = PHASE_PARTS[place.phase], 0
        for event in segment.events:
            if isinstance(event, Alloc):
                part = segment.parts.get(index, own_part)
                live[Ref(place, index)] = (event.size, part)
                now[part] += event.size
                total += event.size
                index += 1
                if total > by_phase.get(place.phase, 0):
                    by_phase[place.phase] = total
                if total > highest:
                    highest, highest_parts, highest_phase = total, Counter(now), place.phase
            else:
                for ref in full_refs(place, segment, event, step.depth):
                    size, part = live.pop(ref, (0, "activations"))
                    now[part] -= size
                    total -= size
    return Peak(bytes=highest, parts=dict(highest_parts), phase=highest_phase, by_phase=by_phase)


@functools.lru_cache(maxsize=512)
def works(step: Step, phases: tuple[str, ...] = tuple(PHASE_PARTS)) -> Counter[Work]:
    """All operations of some phases of the step (of the whole step, if not said otherwise) at full depth, counted."""
    total: Counter[Work] = Counter()
    for place, segment in full_order(step.segments, step.depth):
        if place.phase in phases:
            total.update(segment.works)
    return total


def held(step: Step) -> list[int]:
    """The sizes of what is there before the step begins and after it: weights, buffers, optimizer states."""
    return [
        event.size
        for place, segment in full_order(step.segments, step.depth)
        if place.phase == "start"
        for event in segment.events
        if isinstance(event, Alloc)
    ]


def allocations(step: Step) -> Iterator[tuple[Ref, int]]:
    """What the step itself allocates (storage, bytes) and frees (storage, -1), in order, at full depth."""
    for place, segment in full_order(step.segments, step.depth):
        if place.phase == "start":
            continue
        index = 0
        for event in segment.events:
            if isinstance(event, Alloc):
                yield Ref(place, index), event.size
                index += 1
            else:
                yield from ((ref, -1) for ref in full_refs(place, segment, event, step.depth) if ref.place.phase != "start")


@functools.lru_cache(maxsize=512)
def reserved(*steps: Step) -> int:
    """The most bytes that the caching allocator reserves while these steps, of one model, run one after the other."""
    return allocator.most_reserved((allocations(step) for step in steps), held(steps[0]))
