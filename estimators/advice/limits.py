"""How far a plan can go on its GPU: the largest batch and the longest sequence that still fit.

    largest(plan, "per_device_train_batch_size", estimate)

Each value is asked of the estimator, never computed from a formula. Memory grows nearly in a straight line with both, so
the next value to ask is where the line through the last two answers meets the capacity: four or five estimates are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.catalog import models
from engine.data import holdout
from engine.plan import FIELDS, Plan
from estimators.estimate import Estimate

MOST_ASKED = 14  # estimates for one limit; a straight line needs five


@dataclass(frozen=True, kw_only=True)
class Limited:
    """A field that has such a limit: its unit, and its words for a person."""

    field: str
    unit: int  # values are multiples of it: kernels and allocators like round lengths
    sentence: str


LIMITED = {
    row.field: row
    for row in (
        Limited(field="per_device_train_batch_size", unit=1, sentence="Largest batch that fits"),
        Limited(field="max_length", unit=64, sentence="Longest sequence that fits"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The answer for one field. `value` is None where not even the least fits."""

    field: str
    value: int | None
    at_the_end: bool  # the field itself, the model or the data end there, not the memory


def largest(plan: Plan, field: str, estimate: Callable[[Plan], Estimate]) -> Limit:
    """The largest value of a field of `LIMITED` with which the plan fits for sure ("yes").

    A length is asked for with every row as long as it: what the data at hand happen to hold does not matter.

    Args:
        plan: a checked plan.
        field: the name of the field.
        estimate: the estimator's function, or a page's way to ask it.
    """
    limited = LIMITED[field]
    base = plan.with_(datasets=()) if field == "max_length" else plan
    return search(limited, getattr(plan, field), _highest(plan, limited), lambda value: estimate(base.with_(**{field: value})))


def _highest(plan: Plan, limited: Limited) -> int:
    """The largest value that the field, the model and the rows allow: a batch has no more rows than there are."""
    highest = int(FIELDS[limited.field].maximum or 0)
    end = models.find(plan.model).context_length if limited.field == "max_length" else sum(holdout.sizes(plan))
    return min(highest, end) if end else highest


def search(limited: Limited, start: int, highest: int, ask: Callable[[int], Estimate]) -> Limit:
    """Find the limit by asking for estimates.

    Args:
        limited: the field.
        start: a value to begin at; the one that the plan has is probably known already.
        highest: where the field ends.
        ask: the estimate with a value.
    """
    unit, end = limited.unit, max(1, highest // limited.unit)
    shares: dict[int, float] = {}  # units -> the high end of the memory over the capacity

    def fits(units: int) -> bool:
        found = ask(units * unit)
        shares[units] = found.memory.high / max(1, found.memory.capacity)
        return found.fits == "yes"

    low, high = 0, end + 1  # the largest that is known to fit, the smallest that is known not to
    guess = min(max(1, start // unit), end)
    for _ in range(MOST_ASKED):
        if fits(guess):
            low = guess
        else:
            high = guess
        if high - low <= 1:
            break
        guess = _next(shares, low, high)
    return Limit(field=limited.field, value=low * unit if low else None, at_the_end=low == end)


def _next(shares: dict[int, float], low: int, high: int) -> int:
    """Where to ask next, strictly between: where a straight line through the two nearest answers meets the capacity."""
    known = sorted(shares, key=lambda units: abs(shares[units] - 1))[:2]
    guess = (low + high) // 2
    if len(known) == 1:
        guess = 2 * known[0] if shares[known[0]] <= 1 else known[0] // 2
    elif shares[known[0]] != shares[known[1]]:
        slope = (shares[known[1]] - shares[known[0]]) / (known[1] - known[0])
        guess = int(known[0] + (FULL - shares[known[0]]) / slope) if slope > 0 else high - 1
    return min(max(guess, low + 1), high - 1)


FULL = 0.97  # of the capacity: nobody should count on the last 3 % (estimator.TIGHT_SHARE)
