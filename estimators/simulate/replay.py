"""Playing a recorded step: how much is allocated at its highest moment, by which part, and what the allocator reserves.

`peak(step)` is the running sum of the allocations of the whole step; `reserved(step)` replays them through the rules of
the caching allocator.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from estimators.simulate import walk
from estimators.simulate.splice import Depth
from estimators.simulate.trace import Segment, Work
from estimators.simulate.walk import PHASE_PARTS, PHASES, Walk

if TYPE_CHECKING:
    from estimators.simulate.fsdp_init import Loading

REMEMBERED = 64  # answers about steps, which stay in memory with them
LATE_SHARE = 0.05  # of a step's peak: fewer bytes of optimizer states find a place among its gaps anyway


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One recorded training step: its segments, and how they stand for the full depth.

    A step is itself and no other (no comparison by value), so what was worked out of it is remembered.
    """

    segments: Sequence[Segment]
    depth: Depth

    @functools.cached_property
    def walk(self) -> Walk:
        """Its moves at full depth, in order."""
        return walk.walk(walk.outline(self.segments), self.depth)

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """int64 [slots], the bytes of each recorded allocation."""
        return walk.sizes(self.segments)


def like(step: Step, segments: Sequence[Segment], sizes: np.ndarray) -> Step:
    """A step of other sizes that goes the same way: it is not laid out anew.

    Args:
        segments: with the moves of the step's own, in their order.
        sizes: int64 [slots], of these segments.
    """
    found = Step(segments=segments, depth=step.depth)
    vars(found).update(walk=step.walk, sizes=sizes)  # where `cached_property` looks for them
    return found


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The highest moment of a step: bytes in all, by part, and the phase in which it comes."""

    bytes: int
    parts: dict[str, int]
    phase: str
    by_phase: dict[str, int] = field(default_factory=dict)  # the highest moment of each phase


@functools.lru_cache(maxsize=REMEMBERED)
def peak(step: Step) -> Peak:
    """Walk through the step. The parts are those at the highest moment, and add up to it."""
    way = step.walk
    changes = np.where(way.taken, step.sizes[way.slots], -step.sizes[way.slots])
    totals = np.cumsum(changes)
    moment = int(np.argmax(totals))
    parts = {
        name: int(changes[: moment + 1][way.parts[: moment + 1] == number].sum()) for number, name in enumerate(way.part_names)
    }
    highest = {name: totals[way.taken & (way.phases == number)].max(initial=0) for number, name in enumerate(PHASES)}
    return Peak(
        bytes=int(totals[moment]),
        parts=parts,
        phase=PHASES[way.phases[moment]],
        by_phase={name: int(total) for name, total in highest.items() if total > 0},
    )


@functools.lru_cache(maxsize=2 * REMEMBERED)
def works(step: Step, phases: tuple[str, ...] = tuple(PHASE_PARTS)) -> Counter[Work]:
    """All operations of some phases of the step (of the whole step, if not said otherwise) at full depth, counted."""
    total: Counter[Work] = Counter()
    for segment in step.segments:
        times = step.walk.times[segment.place] if segment.place.phase in phases else 0
        for work, count in segment.works.items() if times else ():
            total[work] += count * times
    return total


def held(step: Step) -> tuple[np.ndarray, np.ndarray]:
    """int64, the sizes of what is there before the step begins and after it: (weights and buffers, optimizer states)."""
    way = step.walk
    at_start = way.taken & (way.phases == PHASES.index("start"))
    states = at_start & (way.parts == way.part_names.index("optimizer"))
    return step.sizes[way.slots[at_start & ~states]], step.sizes[way.slots[states]]


def allocations(step: Step) -> tuple[np.ndarray, np.ndarray]:
    """What the step itself allocates and frees, in order, at full depth.

    Returns:
        (int64 names of the storages, int64 bytes of an allocation or -1 for a free), each [moves].
    """
    way = step.walk
    at_start = way.phases == PHASES.index("start")
    of_start = np.zeros(len(way.names) + 1, dtype=bool)
    of_start[way.names[at_start & way.taken]] = True
    own = ~of_start[way.names]
    return way.names[own].astype(np.int64), np.where(way.taken, step.sizes[way.slots], -1)[own]


def _trains(step: Step) -> bool:
    return bool((step.walk.phases == PHASES.index("optimizer")).any())


def until_optimizer(step: Step) -> int:
    """How many of its `allocations` come before the optimizer's step."""
    way = step.walk
    names, _ = allocations(step)
    first = np.flatnonzero(way.phases == PHASES.index("optimizer"))
    return len(names) - (len(way.phases) - int(first[0])) if len(first) else len(names)


def states_matter(step: Step) -> bool:
    """Whether the optimizer's states are so large that it matters when they are made."""
    return bool(held(step)[1].sum() > LATE_SHARE * peak(step).bytes)


@functools.lru_cache(maxsize=REMEMBERED)
def reserved(
    *steps: Step, expandable: bool = False, limit: int | None = None, loading: Loading | None = None, late: bool = False
) -> int:
    """The most bytes that the caching allocator reserves while these steps, of one model, run one after the other.

    Args:
        expandable: with `expandable_segments:True`.
        limit: bytes that the driver has: beyond them what is cached is given back. A result beyond it is what the steps cannot
            do without.
        loading: what came before, and is held.
        late: the optimizer makes its states in the first step, among the gaps that its batch has left, and they stay there;
            else they are there from the beginning, which is as good where they are few (`states_matter`).
    """
    from estimators.simulate import caching_allocator  # brings numba, which takes half a second to load

    first = (loading.names, loading.sizes) if loading else None
    weights, states = held(steps[0]) if steps else (np.zeros(0, dtype=np.int64),) * 2
    moves = [allocations(step) for step in steps]
    made = None
    if late:
        number = next((number for number, step in enumerate(steps) if _trains(step)), 0)
        made = caching_allocator.Late(step=number, move=until_optimizer(steps[number]), sizes=states)
    else:
        weights = np.concatenate([weights, states])
    return caching_allocator.most_reserved(moves, weights, expandable=expandable, limit=limit, first=first, late=made)
