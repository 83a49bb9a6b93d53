"""The order of a whole step as arrays: every allocation and every free of the full stack, one after the other.

It follows from what the recorded segments look like (`outline`), not from the sizes in them, so steps of other batch
sizes and lengths share it; with the sizes, its highest moment is a running sum.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from estimators.simulate.splice import Depth, full_order, full_refs
from estimators.simulate.trace import Alloc, Free, Place, Ref, Segment

PHASE_PARTS = {
    "start": "weights",
    "forward": "activations",
    "loss": "loss",
    "backward": "activations",
    "optimizer": "optimizer",
}
PHASES = tuple(PHASE_PARTS)


class Outline(NamedTuple):
    """A segment without its sizes and works."""

    place: Place
    moves: tuple[Ref | None, ...]  # None allocates, a Ref is freed
    parts: tuple[tuple[int, str], ...]  # allocation -> part, where it is not the segment's own

    @property
    def events(self) -> list[Free]:
        """What is freed."""
        return [Free(ref) for ref in self.moves if ref is not None]


class Walk(NamedTuple):
    """The moves of the full stack in their order. Arrays are [moves] if not said otherwise.

    Args:
        slots: int32, which of the recorded allocations (counted through all segments) the move's size is that of.
        names: int32, which allocation of the full stack is made or freed.
        taken: bool, whether it is made.
        phases, parts: int8, numbers of PHASES and of `part_names`.
        part_names: the parts.
        times: how often each segment stands in the full stack.
    """

    slots: np.ndarray
    names: np.ndarray
    taken: np.ndarray
    phases: np.ndarray
    parts: np.ndarray
    part_names: tuple[str, ...]
    times: Counter[Place]


def outline(segments: Sequence[Segment]) -> tuple[Outline, ...]:
    """What the segments look like: equal for steps that share their walk."""
    return tuple(
        Outline(
            segment.place,
            tuple(None if isinstance(event, Alloc) else event.ref for event in segment.events),
            tuple(sorted(segment.parts.items())),
        )
        for segment in segments
    )


def sizes(segments: Sequence[Segment]) -> np.ndarray:
    """int64 [slots], the bytes of each recorded allocation."""
    found = (event.size for segment in segments for event in segment.events if isinstance(event, Alloc))
    return np.fromiter(found, dtype=np.int64)


@functools.lru_cache(maxsize=24)
def walk(outlines: tuple[Outline, ...], depth: Depth) -> Walk:
    """Lay the segments out at full depth. What a free means that finds nothing (a layer without a backward pass): nothing."""
    part_names = tuple(dict.fromkeys([*PHASE_PARTS.values(), *(part for one in outlines for _, part in one.parts)]))
    first_slots = dict(zip((one.place for one in outlines), _first_slots(outlines), strict=True))
    made = {one.place: _Made(one, first_slots[one.place], part_names) for one in outlines}
    base: dict[Place, int] = {}  # the first name of each place of the full stack
    pieces: list[np.ndarray] = []  # each [4, moves]: name (-1: nothing), taken, slot, part
    phases: list[np.ndarray] = []
    count = 0
    times: Counter[Place] = Counter()
    for place, stand_in in full_order(outlines, depth):
        one = made[stand_in.place]
        base[place] = count
        piece = one.at(place, base, depth)
        pieces.append(piece)
        phases.append(np.full(piece.shape[1], PHASES.index(place.phase), dtype=np.int8))
        times[stand_in.place] += 1
        count += one.allocations
    names, taken, slots, parts = np.concatenate(pieces, axis=1)
    kept = _once(names, taken.astype(bool))
    of_name = np.zeros((2, count), dtype=np.int64)
    made_here = taken == 1
    of_name[:, names[made_here]] = slots[made_here], parts[made_here]
    slots, parts = of_name[:, names[kept]]
    return Walk(
        slots=slots.astype(np.int32),
        names=names[kept].astype(np.int32),
        taken=made_here[kept],
        phases=np.concatenate(phases)[kept],
        parts=parts.astype(np.int8),
        part_names=part_names,
        times=times,
    )


def _first_slots(outlines: Sequence[Outline]) -> list[int]:
    counts = [sum(move is None for move in one.moves) for one in outlines]
    return [0, *np.cumsum(counts).tolist()][: len(outlines)]


def _once(names: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The places of the moves that count: a storage is freed once, after it was made."""
    made_at = np.full(int(names.max(initial=0)) + 2, len(names))
    made_at[names[taken]] = np.flatnonzero(taken)
    frees = np.flatnonzero(~taken & (names >= 0))
    frees = frees[made_at[names[frees]] < frees]
    _, first = np.unique(names[frees], return_index=True)
    return np.sort(np.concatenate([np.flatnonzero(taken), frees[first]]))


class _Made:
    """A segment's moves as arrays, ready to be put at any layer that it stands for."""

    def __init__(self, one: Outline, first_slot: int, part_names: tuple[str, ...]) -> None:
        self.outline = one
        moves = one.moves
        self.taken = np.array([move is None for move in moves], dtype=bool)
        self.allocations = int(self.taken.sum())
        own = part_names.index(PHASE_PARTS[one.place.phase])
        parts = np.full(self.allocations, own)
        for index, part in one.parts:
            parts[index] = part_names.index(part)
        self.template = np.zeros((4, len(moves)), dtype=np.int64)
        self.template[1] = self.taken
        self.template[2, self.taken] = first_slot + np.arange(self.allocations)
        self.template[3, self.taken] = parts
        groups: dict[Place, list[tuple[int, int]]] = defaultdict(list)
        for number, move in enumerate(moves):
            if move is not None:
                groups[move.place].append((number, move.index))
        self.frees = {place: np.array(found).T for place, found in groups.items()}

    def at(self, place: Place, base: dict[Place, int], depth: Depth) -> np.ndarray:
        """The moves [4, moves] where the segment stands for `place`."""
        if place.layer is None and depth.extra:
            return self._outside(base, depth)
        found = self.template.copy()
        found[0, self.taken] = base[place] + np.arange(self.allocations)
        for target, (numbers, indices) in self.frees.items():
            found[0, numbers] = -1
            for ref in full_refs(place, self.outline, Free(Ref(target, 0)), depth):
                if ref.place in base:
                    found[0, numbers] = base[ref.place] + indices
        return found

    def _outside(self, base: dict[Place, int], depth: Depth) -> np.ndarray:
        """Outside of the stack one free stands for several: those of all layers that its layer stands for."""
        columns: list[tuple[int, int, int, int]] = []
        name = base[self.outline.place]
        for number, move in enumerate(self.outline.moves):
            if move is None:
                columns.append((name, 1, int(self.template[2, number]), int(self.template[3, number])))
                name += 1
                continue
            refs = full_refs(self.outline.place, self.outline, Free(move), depth)
            columns += [(base[ref.place] + ref.index, 0, 0, 0) for ref in refs if ref.place in base]
        return np.array(columns, dtype=np.int64).reshape(-1, 4).T
