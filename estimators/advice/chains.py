"""What a chain of stages needs as a whole, from the estimates of its stages.

The stages run one after the other on one device: it must have room for the largest, and their times and costs add up.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from estimators.estimate import Estimate, Range

WORST_FIRST = ("no", "tight", "yes")


@dataclass(frozen=True, kw_only=True)
class ChainEstimate:
    """The whole of a chain. A figure that one stage does not have is None for the whole."""

    memory: int  # bytes that the device must have free: those of the largest stage
    largest: int  # the number of that stage, from 1
    capacity: int
    fits: str  # yes | tight | no: that of the stage that fits worst
    total_seconds: Range | None
    cost: Range | None


def whole(stages: Sequence[Estimate]) -> ChainEstimate:
    """The estimate of a chain of at least one stage."""
    largest = max(range(len(stages)), key=lambda place: stages[place].memory.total)
    return ChainEstimate(
        memory=stages[largest].memory.total,
        largest=largest + 1,
        capacity=stages[largest].memory.capacity,
        fits=min((stage.fits for stage in stages), key=WORST_FIRST.index),
        total_seconds=summed([stage.total_seconds for stage in stages]),
        cost=summed([stage.cost for stage in stages]),
    )


def summed(ranges: Sequence[Range | None]) -> Range | None:
    """The sum of the ranges, end by end; None if one is not known. Errors of one clock have one sign, so the ends add."""
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges):
        return None
    return Range(
        low=sum(one.low for one in known), likely=sum(one.likely for one in known), high=sum(one.high for one in known)
    )
