"""From a few layers to all of them: a deep model's step, put together from the step of a shallow one.

Layers that are alike do alike things. A probe with a few of them is recorded; the segments of its middle layers then
stand for all the middle layers of the real depth. An allocation that is freed in another layer's segment is found
again by the distance of the two layers. The result is the whole step's sequence of allocations, as the whole model
would have made it (`tests/estimators/test_splice.py` compares the two, event by event).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from estimators.simulate.trace import Free, Place, Ref, Segment


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How the layers of a real stack map to those of its probe.

    The first `prefix` layers are unlike the rest; then the kinds of layers repeat every `period`; the last ones may be
    unlike them again. The probe has `probed` layers, the real stack `full`. The probe's first `head` layers are the real
    stack's first ones and its other layers the last ones; all between are stood for by the last `period` layers of the head.
    """

    prefix: int
    period: int
    probed: int
    full: int

    @property
    def extra(self) -> int:
        """How many layers the probe lacks."""
        return self.full - self.probed

    @property
    def head(self) -> int:
        """How many of the probe's layers come first in the real stack: one more than a period, for the first is special."""
        return self.prefix + 1 + self.period

    @property
    def kept(self) -> list[int]:
        """The layers of the real stack that the probe has."""
        return list(range(self.full)) if self.extra == 0 else [*range(self.head), *range(self.head + self.extra, self.full)]

    def probe_layer(self, layer: int) -> int:
        """The probe's layer that stands for a layer of the full stack."""
        if layer < self.head or self.extra == 0:
            return layer
        if layer >= self.head + self.extra:
            return layer - self.extra
        return self.prefix + 1 + (layer - self.prefix - 1) % self.period


# Layers of the probe after those that stand for others: what a layer does on the way back can hang on the one after it.
TAIL = 2


# Layers at either end that are looked at one by one for being unlike the rest.
ENDS = 8


def plan_depth(kinds: Sequence[Hashable]) -> Depth:
    """The shallowest probe for a stack whose layers are of these kinds; the whole stack if nothing repeats."""
    full = len(kinds)
    best = Depth(prefix=0, period=full or 1, probed=full, full=full)
    last_run = _run(kinds[::-1])
    for suffix in {0, last_run} if last_run < full else {0}:
        end = full - suffix
        for prefix in sorted({*range(min(end, ENDS)), _run(kinds[:end]) % full if end else 0}):
            for period in range(1, (end - prefix) // 2 + 1):
                if all(kinds[i] == kinds[i + period] for i in range(prefix, end - period)):
                    least = prefix + 1 + period + TAIL
                    probed = least + (end - least) % period + suffix  # so that it ends as the stack does
                    if probed < min(best.probed, full):
                        best = Depth(prefix=prefix, period=period, probed=probed, full=full)
                    break
    return best


def _run(kinds: Sequence[Hashable]) -> int:
    """How many layers at the beginning are of one kind."""
    return next((place for place, kind in enumerate(kinds) if kind != kinds[0]), len(kinds))


def full_order(segments: Sequence[Segment], depth: Depth) -> Iterator[tuple[Place, Segment]]:
    """The segments of the full stack in the order of the step: (where in the full stack, the segment that stands for it)."""
    if depth.extra == 0:
        yield from ((segment.place, segment) for segment in segments)
        return
    by_place = {segment.place: segment for segment in segments}
    done: set[tuple[str, int]] = set()
    for segment in segments:
        phase, layer, visit = segment.place
        if layer is None:
            yield segment.place, segment
        elif (phase, visit) not in done:
            done.add((phase, visit))
            for full_layer in _layer_order(phase, depth.full):
                stand_in = by_place.get(Place(phase, depth.probe_layer(full_layer), visit))
                if stand_in is not None:  # layers below the lowest trainable one have no backward pass
                    yield Place(phase, full_layer, visit), stand_in


def _layer_order(phase: str, layers: int) -> range:
    return range(layers - 1, -1, -1) if phase == "backward" else range(layers)


def can_be_spliced(segments: Sequence[Segment]) -> bool:
    """Whether the passes came one after the other, each through its layers in order: then layers stand for one another."""
    places = [segment.place for segment in segments if segment.place.layer is not None and segment.place.phase != "start"]
    passes = [list(places) for _, places in itertools.groupby(places, key=lambda place: (place.phase, place.visit))]
    names = [(one[0].phase, one[0].visit) for one in passes]
    in_order = all(one == sorted(one, reverse=one[0].phase == "backward") for one in passes)
    return in_order and len(names) == len(set(names))


def full_refs(place: Place, segment: Segment, event: Free, depth: Depth) -> Iterator[Ref]:
    """Which allocations of the full stack a free of the probe stands for, when its segment stands at `place`."""
    target = event.ref.place
    if depth.extra == 0:
        yield event.ref
    elif target.layer is None:
        if place.layer is None or _comes_last(place, depth):
            yield event.ref
    elif place.layer is not None:
        assert segment.place.layer is not None
        yield Ref(Place(target.phase, place.layer + target.layer - segment.place.layer, target.visit), event.ref.index)
    else:  # outside of the stack, one free stands for those of all layers that its layer stands for
        for layer in range(depth.full):
            if depth.probe_layer(layer) == target.layer:
                yield Ref(Place(target.phase, layer, target.visit), event.ref.index)


def _comes_last(place: Place, depth: Depth) -> bool:
    """Whether no layer that the same segment stands for comes after it: the last to hold a storage of all layers frees it."""
    assert place.layer is not None
    following = place.layer - depth.period if place.phase == "backward" else place.layer + depth.period
    return depth.probe_layer(following) != depth.probe_layer(place.layer)
