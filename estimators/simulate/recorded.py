"""What a dry run gives: the recorded step of one batch, and the steps beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from estimators.simulate.fsdp_init import NO_UNITS, Units
from estimators.simulate.replay import Step


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The batch of the step: `batch` rows of `length` tokens."""

    batch: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Before:
    """What a step does before its loss (GRPO writes its completions): `times` steps like this one."""

    name: str
    times: float
    step: Step


@dataclass(frozen=True, kw_only=True, eq=False)
class DryRun:
    """What one step does and holds."""

    step: Step
    evaluate: Callable[[], Step]  # records `evaluation`, which not everybody asks for
    before: tuple[Before, ...]
    total_params: int  # of the base model, as published counts are
    trainable_params: int
    adapter_params: int  # that the method added
    weight_bytes: int
    units: Units = NO_UNITS  # how they would be split over several GPUs
    tiled_rows: tuple[int, ...] = ()  # of each product that was done tile by tile: how many rows it had

    @functools.cached_property
    def evaluation(self) -> Step:
        """One batch of an evaluation between two training steps."""
        return self.evaluate()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of its steps: the training step, the evaluation and what comes before."""
        return (self.step, self.evaluation, *(phase.step for phase in self.before))
