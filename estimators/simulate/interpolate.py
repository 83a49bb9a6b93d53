"""Steps of any batch from a few recorded ones: what a moved slider asks for.

Two steps of one model with other batch sizes or lengths do the same things in the same order; only the sizes differ, and
each of them (bytes of an allocation, FLOPs and bytes of an operation) is a polynomial of the batch size b and the length
s: a sum of 1, b, s, bs, s^2 and bs^2, with whole numbers. So a size at any (b, s) is a fixed mixture of its values at a
few probes, and the mixture is the same for all sizes. It is worked out in exact fractions.

What breaks that is found, not assumed: steps that do other things fall into different `Zone`s, every zone has more probes
than unknowns, and all of them must agree to the byte. Where they do not, or a batch lies outside of what was probed, the
answer is None and the step is recorded for real (`tests/estimators/test_batches.py` compares the two at random points).
"""

from __future__ import annotations

import bisect
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeVar

import numpy as np

from estimators.simulate import replay, walk
from estimators.simulate.recorded import Before, DryRun, Shape
from estimators.simulate.replay import Step
from estimators.simulate.trace import FUSED_4BIT_ROWS, Alloc, Free, Segment, Work

Item = TypeVar("Item")
EXTREMES = 4  # of a zone's candidates: what holds at both ends of it holds between them
CHECKS = 3  # probes beyond the unknowns, which must come out as the others say
SHORTEST, LONGEST = 16, 8192  # tokens of a row: what is probed where the model does not say how much it reads
MOST_TOKENS = 2**22  # of a batch: beyond, numbers of FLOPs come near to the largest that 64 bits hold
LENGTHS = 11  # different lengths among the candidates
ROWS = (2, 3, 4, 5, 7, 9, 13, 19, 37, 129, 4096)
# The memory-efficient attention kernel rounds the rows of its sums up to this many tokens
# (`_scaled_dot_product_efficient_attention`, torch 2.13).
ATTENTION_ROUND = 32
# bitsandbytes takes another kernel for few rows of tokens (`trace.FUSED_4BIT_ROWS`): well below and well above of it steps do
# the same things. Virtual tokens and pairs of rows may move the border in between.
FEW_TOKENS, MANY_TOKENS = FUSED_4BIT_ROWS // 2, 512


class Zone(NamedTuple):
    """Batches whose steps do the same things: single rows or several, of lengths between two borders, few or many tokens."""

    several: bool
    lengths: int
    many: bool


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Where a plan's steps begin to do other things.

    Args:
        longest: tokens that the model can read at once, or that anybody would ask for.
        windows: lengths beyond which some layers see only a part of the row.
        by_tokens: where few tokens take other kernels than many (4-bit weights): the most that are few, the least
            that are many.
    """

    longest: int = LONGEST
    windows: tuple[int, ...] = ()
    by_tokens: tuple[int, int] | None = None

    def zone(self, shape: Shape) -> Zone | None:
        """Where a batch belongs; None where that is not sure."""
        tokens = shape.batch * shape.length
        at_a_window = any(abs(shape.length - window) <= 1 for window in self.windows)
        if at_a_window or (self.by_tokens and self.by_tokens[0] < tokens < self.by_tokens[1]):
            return None
        many = self.by_tokens is None or tokens >= self.by_tokens[1]
        return Zone(several=shape.batch > 1, lengths=bisect.bisect_left(self.windows, shape.length), many=many)

    def kinds(self, near: Shape) -> list[Shape]:
        """A batch of each zone that people are likely to ask for, beginning with `near` itself."""
        found = [near, Shape(batch=2 if near.batch == 1 else 1, length=near.length)]
        few = self.by_tokens[0] if self.by_tokens else 0
        return found + ([Shape(batch=1, length=few // 2), Shape(batch=2, length=few // 4)] if few else [])

    def candidates(self, zone: Zone) -> list[Shape]:
        """Batches of a zone to choose probes from, the extreme ones first; the lengths have no pattern."""
        least = self.windows[zone.lengths - 1] + 2 if zone.lengths else SHORTEST
        most = self.windows[zone.lengths] - 2 if zone.lengths < len(self.windows) else self.longest
        if self.by_tokens and zone.many and not zone.several:
            least = max(least, self.by_tokens[1])
        if most < least:
            return []
        count = LENGTHS if zone.several else 2 * LENGTHS
        lengths = sorted({round(least * (most / least) ** (step / (count - 1))) for step in range(count)})
        shapes = [Shape(batch=rows, length=length) for rows in (ROWS if zone.several else (1,)) for length in lengths]
        shapes = [one for one in shapes if self.zone(one) == zone and one.batch * one.length <= MOST_TOKENS]
        extremes = [choose(shapes, key=key) for choose in (min, max) for key in (_rows_first, _length_first)] if shapes else []
        others = sorted((one for one in shapes if one not in extremes), key=lambda one: shapes.index(one) * 5 % len(shapes))
        return list(dict.fromkeys([*extremes, *others]))


def _rows_first(shape: Shape) -> tuple[int, int]:
    return shape.batch, shape.length


def _length_first(shape: Shape) -> tuple[int, int]:
    return shape.length, shape.batch


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """A product that is done in tiles of so many rows (TRL's LM head), and how many rows it has in all."""

    rows: int
    per_token: Fraction
    per_row: Fraction

    def of(self, shape: Shape) -> int:
        """How many tiles a batch takes."""
        return math.ceil(self.all_rows(shape) / self.rows)

    def all_rows(self, shape: Shape) -> Fraction:
        return shape.batch * (self.per_token * shape.length + self.per_row)


def functions(shape: Shape, tiles: Tiles | None, level: int) -> list[int]:
    """The values of the functions that sizes are sums of.

    Tiles add how many there are, how many rows the first one has, and whether there is a second and a third.

    Args:
        level: 0 for polynomials; 1 adds lengths that a kernel rounds up; 2 adds rows compared with rows.
    """
    b, s = shape.batch, shape.length
    found = [1, b, s, b * s, s * s, b * s * s]
    if tiles is not None:
        count = tiles.of(shape)
        found += [count, round(min(tiles.all_rows(shape), tiles.rows)), int(count >= 2), int(count >= 3)]
    if level >= 1:
        rounded = -(-s // ATTENTION_ROUND) * ATTENTION_ROUND
        found += [rounded, b * rounded]
    if level >= 2:
        found += [b * b, b * b * s]
    return found


LEVELS = (0, 1, 2)


# --- exact fractions --------------------------------------------------------------------------------------------------


class Span:
    """The vectors that are mixtures of some others, in exact fractions."""

    def __init__(self) -> None:
        self.size = 0
        self._rows: list[tuple[int, list[Fraction], list[Fraction]]] = []  # pivot, vector, what it is a mixture of

    def _reduced(self, vector: Sequence[int]) -> tuple[list[Fraction], list[Fraction]]:
        rest, mixture = [Fraction(value) for value in vector], [Fraction(0)] * self.size
        for pivot, row, parts in self._rows:
            factor = rest[pivot]
            if factor:
                rest = [one - factor * other for one, other in zip(rest, row, strict=True)]
                mixture = [one + factor * other for one, other in zip(mixture, parts, strict=True)]
        return rest, mixture

    def mixture(self, vector: Sequence[int]) -> list[Fraction] | None:
        """How much of each vector that was added makes this one; None if it lies outside."""
        rest, mixture = self._reduced(vector)
        return None if any(rest) else mixture

    def add(self, vector: Sequence[int]) -> bool:
        """Take in one more. False if it was inside already (then it is left out)."""
        rest, mixture = self._reduced(vector)
        pivot = next((place for place, value in enumerate(rest) if value), None)
        if pivot is None:
            return False
        scale = rest[pivot]
        row = [value / scale for value in rest]
        parts = [*(-value / scale for value in mixture), 1 / scale]
        self._rows = [(place, old, [*old_parts, Fraction(0)]) for place, old, old_parts in self._rows]
        for place, (old_pivot, old, old_parts) in enumerate(self._rows):
            factor = old[pivot]
            if factor:
                old = [one - factor * other for one, other in zip(old, row, strict=True)]
                old_parts = [one - factor * other for one, other in zip(old_parts, parts, strict=True)]
                self._rows[place] = (old_pivot, old, old_parts)
        self._rows.append((pivot, row, parts))
        self.size += 1
        return True


def mixed(values: np.ndarray, mixture: Sequence[Fraction]) -> np.ndarray | None:
    """The mixture of columns; None if it has values that are no whole numbers.

    Args:
        values: Python integers [sizes, probes].
    """
    common = math.lcm(*(part.denominator for part in mixture))
    found = values @ np.array([int(part * common) for part in mixture], dtype=object)
    return None if (found % common).any() else found // common


# --- the numbers of a dry run -----------------------------------------------------------------------------------------


def numbers(run: DryRun) -> list[np.ndarray]:
    """int64, of each of its steps in turn: all sizes, and all numbers of all operations."""
    parts = []
    for step in run.steps:
        works = [
            value
            for segment in step.segments
            for work, times in segment.log
            for value in (*work, times)
            if not isinstance(value, str)
        ]
        parts += [step.sizes, np.array(works, dtype=np.int64)]
    return parts


def pattern(run: DryRun) -> tuple:
    """All of it that is no number: equal for dry runs that did the same things."""
    steps = tuple(
        (step.depth, walk.outline(step.segments), tuple(_pattern_of_works(segment) for segment in step.segments))
        for step in run.steps
    )
    return steps, tuple((phase.name, phase.times) for phase in run.before), len(run.tiled_rows)


def _pattern_of_works(segment: Segment) -> tuple:
    return tuple(tuple(value for value in work if isinstance(value, str)) for work, _ in segment.log)


def resized(run: DryRun, parts: Sequence[np.ndarray]) -> DryRun:
    """The dry run with other `numbers`."""
    step, evaluation, *before = map(_resized_step, run.steps, parts[::2], parts[1::2])
    phases = (Before(name=phase.name, times=phase.times, step=other) for phase, other in zip(run.before, before, strict=True))
    return DryRun(
        step=step,
        evaluate=lambda: evaluation,
        before=tuple(phases),
        total_params=run.total_params,
        trainable_params=run.trainable_params,
        adapter_params=run.adapter_params,
        weight_bytes=run.weight_bytes,
        units=run.units,
    )


class Later(Sequence[Item]):
    """A sequence that is made when somebody looks at it: of most steps, nobody looks at what is in their segments."""

    def __init__(self, make: Callable[[], list[Item]]) -> None:
        self._make = make

    @functools.cached_property
    def _items(self) -> list[Item]:
        return self._make()

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        return self._items[index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


def _resized_step(step: Step, sizes: np.ndarray, works: np.ndarray) -> Step:
    ends = np.cumsum([segment.allocations for segment in step.segments]).tolist()

    def segments() -> list[Segment]:
        values = iter(works.tolist())
        of_each = zip(step.segments, ends, strict=True)
        return [_resized_segment(segment, sizes[end - segment.allocations : end], values) for segment, end in of_each]

    return replay.like(step, Later(segments), sizes)


def _resized_segment(segment: Segment, sizes: np.ndarray, values: Iterator[int]) -> Segment:
    """The segment with other sizes and works. One without a log (the weights, the optimizer) has its works for all batches."""

    def events() -> list[Alloc | Free]:
        rest = iter(sizes.tolist())
        return [Alloc(next(rest)) if isinstance(event, Alloc) else event for event in segment.events]

    works = segment.works
    if segment.log:
        works = Counter()
        for work, _ in segment.log:
            other = Work(*(value if isinstance(value, str) else next(values) for value in work))
            works[other] += next(values)
    return Segment(segment.place, Later(events), segment.parts, works, segment.allocations)


# --- probes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What explains all probes of a zone."""

    tiles: Tiles | None
    level: int
    span: Span
    used: tuple[int, ...]  # the probes that are mixed
    checks: tuple[int, ...]  # the others, which came out right
    values: np.ndarray  # Python integers [different sizes, used]
    places: np.ndarray  # [sizes], which of them each one is

    def mixture(self, shape: Shape) -> list[Fraction] | None:
        return self.span.mixture(functions(shape, self.tiles, self.level))

    def at(self, shape: Shape) -> np.ndarray | None:
        """int64, all numbers of a batch; None where the probes do not say."""
        mixture = self.mixture(shape)
        found = mixed(self.values, mixture) if mixture is not None else None
        return None if found is None else found.astype(np.int64)[self.places]


class Probes:
    """The recorded batches of one zone."""

    def __init__(self, candidates: Sequence[Shape], tile_rows: int) -> None:
        self.broken = not candidates
        self._candidates, self._tile_rows = candidates, tile_rows
        self._shapes: list[Shape] = []
        self._values: list[np.ndarray] = []
        self._tiled: list[tuple[int, ...]] = []
        self._first: tuple[DryRun, tuple] | None = None  # with its pattern
        self._ends: list[int] = []  # of each of the parts of its numbers but the last
        self._fit: Fit | None = None

    def at(self, shape: Shape) -> DryRun | None:
        """The step of a batch; None where the probes do not say it, or not surely."""
        if self.broken or self._fit is None or self._first is None or not self._within(shape):
            return None
        if len(self._fit.checks) < CHECKS or not self._checked(shape):
            return None
        found = self._fit.at(shape)
        return resized(self._first[0], np.split(found, self._ends)) if found is not None else None

    def _within(self, shape: Shape) -> bool:
        """Whether a batch lies between those that were probed: of what lies beyond, nothing is known."""
        rows, lengths = ({getattr(one, name) for one in self._shapes} for name in ("batch", "length"))
        in_box = min(rows) <= shape.batch <= max(rows) and min(lengths) <= shape.length <= max(lengths)
        return in_box and shape.batch * shape.length <= MOST_TOKENS

    def _class(self, shape: Shape) -> int:
        """One, two or several tiles: batches of each class have a check of their own."""
        tiles = self._fit.tiles if self._fit is not None else None
        return 1 if tiles is None else min(tiles.of(shape), 3)

    def _checked(self, shape: Shape) -> bool:
        assert self._fit is not None
        return any(self._class(self._shapes[check]) == self._class(shape) for check in self._fit.checks)

    def next(self, near: Shape) -> Shape | None:
        """The batch to record next: first those that say most about batches like `near`; None if nothing is open."""
        if self.broken:
            return None
        left = [one for one in self._candidates if one not in self._shapes]
        if self._fit is None or len(self._shapes) < 2:  # how many rows are tiled is known from two lengths on
            return next((one for one in left if all(one.length != other.length for other in self._shapes)), None)
        extreme = next((one for one in self._candidates[:EXTREMES] if one in left), None)
        if extreme is not None:
            return extreme
        for number in sorted({1, 2, 3}, key=lambda number: (number != self._class(near), number)):
            group = [one for one in left if self._class(one) == number]
            teaching = next((one for one in group if self._fit.mixture(one) is None), None)
            if teaching is not None:
                return teaching
            if group and not self._checked(group[0]):
                return group[0]
        return left[0] if left and len(self._fit.checks) < CHECKS else None

    def add(self, shape: Shape, run: DryRun) -> None:
        """Take in one more. The zone is broken where the probes cannot be explained together."""
        found = pattern(run)
        if self._first is None:
            self._first = run, found
            for step in run.steps:
                _ = step.walk  # laid out now, in an idle moment: all steps that are worked out share it
        if found != self._first[1]:
            self.broken = True
            return
        parts = numbers(run)
        self._ends = np.cumsum([len(part) for part in parts])[:-1].tolist()
        self._shapes.append(shape)
        self._values.append(np.concatenate(parts))
        self._tiled.append(run.tiled_rows)
        tiles, known = self._tiles()
        fits = (self._fitted(tiles, level) for level in LEVELS) if known else iter(())
        self._fit = next((fit for fit in fits if fit is not None), None)
        self.broken = self._fit is None

    def _tiles(self) -> tuple[Tiles | None, bool]:
        """(how the tiled rows follow from the batch, whether that is so): rows of the batch times a line in their length."""
        if any(len(set(rows)) > 1 for rows in self._tiled):
            return None, False
        if not self._tiled[0]:
            return None, True
        each = [Fraction(rows[0], shape.batch) for rows, shape in zip(self._tiled, self._shapes, strict=True)]
        first, second = self._shapes[0], self._shapes[min(1, len(self._shapes) - 1)]
        apart = second.length - first.length
        slope = (each[1] - each[0]) / apart if apart else Fraction(0)
        tiles = Tiles(rows=self._tile_rows, per_token=slope, per_row=each[0] - slope * first.length)
        return tiles, all(tiles.all_rows(shape) == rows[0] for rows, shape in zip(self._tiled, self._shapes, strict=True))

    def _fitted(self, tiles: Tiles | None, level: int) -> Fit | None:
        """All probes explained with the functions of a level; None if they cannot be."""
        span, used, checks = Span(), [], []
        for number, shape in enumerate(self._shapes):
            (used if span.add(functions(shape, tiles, level)) else checks).append(number)
        different, places = np.unique(np.stack(self._values, axis=1), axis=0, return_inverse=True)
        exact = different.astype(object)
        fit = Fit(
            tiles=tiles,
            level=level,
            span=span,
            used=tuple(used),
            checks=tuple(checks),
            values=exact[:, used],
            places=places.reshape(-1),
        )
        for check in checks:
            mixture = fit.mixture(self._shapes[check])
            found = mixed(fit.values, mixture) if mixture is not None else None
            if found is None or (found != exact[:, check]).any():
                return None
        return fit


class Batches:
    """All zones of one plan's steps. `record` makes a dry run for real; None if it cannot."""

    def __init__(self, borders: Borders, tile_rows: int, record: Callable[[Shape], DryRun | None]) -> None:
        self._borders, self._tile_rows, self._record = borders, tile_rows, record
        self._zones: dict[Zone, Probes] = {}

    def at(self, shape: Shape) -> DryRun | None:
        """The step of a batch as the probes say it; None if it must be recorded."""
        zone = self._borders.zone(shape)
        return self._zones[zone].at(shape) if zone in self._zones else None

    def probe(self, near: Shape) -> bool:
        """Record one more batch, to know those like `near` and then all others. False if nothing is left to learn."""
        for shape in self._borders.kinds(near):
            zone = self._borders.zone(shape)
            if zone is None:
                continue
            if zone not in self._zones:
                self._zones[zone] = Probes(self._borders.candidates(zone), self._tile_rows)
            probes = self._zones[zone]
            wanted = probes.next(shape)
            if wanted is not None:
                run = self._record(wanted)
                if run is None:
                    probes.broken = True
                else:
                    probes.add(wanted, run)
                return True
        return False
