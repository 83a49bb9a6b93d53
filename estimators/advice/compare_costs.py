"""What a comparison of methods will cost, before it starts: the same estimate as everywhere, once per method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from engine.issues import PlanError
from engine.pipelines.compare import with_method
from engine.plan import Plan
from estimators.advice.survey import MethodRow, as_row
from estimators.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The methods that have been worked out, and what they come to: they run one after the other."""

    rows: tuple[MethodRow, ...]
    seconds: float | None  # of all together; None while one of them is not known
    memory: int | None  # bytes, of the hungriest
    refused: int  # how many do not go with the plan


def costs(plan: Plan, methods: Iterable[str], ask: Callable[[Plan], Estimate]) -> Iterator[Costs]:
    """The costs, again with each method that is worked out. `ask` gives the estimate of a plan, or raises `PlanError`."""
    rows: tuple[MethodRow, ...] = ()
    for key in methods:
        rows = (*rows, _row(plan, key, ask))
        known = [row for row in rows if row.memory is not None]
        timed = [row.seconds for row in known if row.seconds is not None]
        yield Costs(
            rows=rows,
            seconds=sum(timed) if known and len(timed) == len(known) else None,
            memory=max((row.memory for row in known if row.memory is not None), default=None),
            refused=len(rows) - len(known),
        )


def _row(plan: Plan, key: str, ask: Callable[[Plan], Estimate]) -> MethodRow:
    try:
        return as_row(key, ask(with_method(plan, key)), "")
    except PlanError as error:
        return as_row(key, None, error.issues[0].sentence())
