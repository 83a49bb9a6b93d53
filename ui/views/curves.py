"""What a run has measured so far, ready to draw: `Curves().extend(events)`.

A long run has more steps than a screen has pixels, so each line keeps at most `MOST_POINTS` points. Thinning keeps
the lowest and the highest value of each stretch: a spike stays visible. A value that is not a number is a break in
the line and a note, never a 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.system.events import ENDINGS, number

MOST_POINTS = 1000
STRETCHES = 240  # each keeps up to four points: its ends are shared, its lowest, its highest, one break
MOST_BREAKS = 20

Point = tuple[float, float | None]  # (step, value); None: not a number
Line = tuple[Point, ...]

STEP_LINES = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_peak")
LINES = (*STEP_LINES, "eval_loss")


@dataclass(frozen=True, kw_only=True)
class Break:
    """A place where a measured value was no finite number."""

    line: str
    step: float
    word: str  # "nan", "inf" or "-inf"


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The lines of one run, and its newest facts."""

    loss: Line = ()
    eval_loss: Line = ()
    learning_rate: Line = ()
    grad_norm: Line = ()
    tokens_per_second: Line = ()
    memory_peak: Line = ()
    breaks: tuple[Break, ...] = ()
    started: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the newest step event
    evaluated: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""  # the newest note
    ended: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def extend(self, events: Iterable[Mapping[str, Any]]) -> Curves:
        """These curves and what the events add to them."""
        lines: dict[str, list[Point]] = {name: list(getattr(self, name)) for name in LINES}
        breaks = list(self.breaks)
        newest: dict[str, Any] = {}
        for event in events:
            kind = event["kind"]
            if kind == "resumed":  # what came after the checkpoint is done again
                lines = {name: [point for point in points if point[0] <= event["step"]] for name, points in lines.items()}
                newest |= {"ended": {}, "note": ""}
            names = STEP_LINES if kind == "step" else ("eval_loss",) if kind == "evaluated" else ()
            for name in names:
                _add(lines[name], breaks, name, event)
            newest |= _facts(kind, event)
        thinned = {name: thin(points) for name, points in lines.items()}
        return dataclasses.replace(self, **thinned, breaks=tuple(breaks[:MOST_BREAKS]), **newest)


def _add(points: list[Point], breaks: list[Break], name: str, event: Mapping[str, Any]) -> None:
    value = number(event.get(name))
    if value is None:
        return
    if math.isfinite(value):
        points.append((event["step"], value))
        return
    points.append((event["step"], None))
    breaks.append(Break(line=name, step=event["step"], word=str(value)))


def _facts(kind: str, event: Mapping[str, Any]) -> dict[str, Any]:
    if kind in ENDINGS:
        return {"ended": event}
    if kind == "note":
        return {"note": event["message"]}
    return {kind: event} if kind in ("started", "step", "evaluated") else {}


def thin(points: list[Point]) -> Line:
    """At most `MOST_POINTS` of the points, in order: the first, the last, and of each stretch its extremes and a break."""
    if len(points) <= MOST_POINTS:
        return tuple(points)
    first, last = points[0][0], points[-1][0]
    width = (last - first) / STRETCHES or 1.0
    stretches: dict[int, list[int]] = {}
    for place, (step, _) in enumerate(points):
        stretches.setdefault(min(int((step - first) / width), STRETCHES - 1), []).append(place)
    kept = {0, len(points) - 1}
    for places in stretches.values():
        kept |= _extremes(points, places)
    return tuple(points[place] for place in sorted(kept))


def _extremes(points: list[Point], places: list[int]) -> set[int]:
    numbers = [place for place in places if points[place][1] is not None]
    broken = [place for place in places if points[place][1] is None][:1]
    if not numbers:
        return set(broken)
    return {min(numbers, key=lambda place: points[place][1]), max(numbers, key=lambda place: points[place][1]), *broken}
