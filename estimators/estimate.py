"""Estimate: the answer to "what will this plan need?", as frozen dataclasses with one JSON form.

Bytes, seconds, US dollars. Standard library only: the page shows estimates without importing torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The parts of the peak, in the order in which the tape on the fit card shows them. They add up to `peak + overhead`.
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "loss", "fragments", "overhead")


@dataclass(frozen=True, kw_only=True)
class Range:
    """A figure with its uncertainty."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the highest moment of a training step.

    `allocated` is what tensors hold then; `peak` is what the allocator has reserved (allocated + `fragments`);
    `overhead` lies outside of the allocator (the CUDA context; of a CPU run, the program itself).
    `low` and `high` are the range of `peak + overhead`, to be compared with `capacity`.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    fragments: int
    overhead: int
    allocated: int
    peak: int
    low: int
    high: int
    capacity: int

    @property
    def total(self) -> int:
        """What the device must have free: the allocator's peak and what lies outside of it."""
        return self.peak + self.overhead


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one plan needs on one device. `source` says, per figure, how it was obtained."""

    trainable_params: int
    total_params: int
    memory: Memory
    fits: str  # yes | tight | no
    steps: int | None  # optimizer steps of the whole run; None where the data are unknown
    tokens: int | None  # real tokens of the whole run
    step_seconds: Range | None
    tokens_per_second: Range | None
    total_seconds: Range | None
    cost: Range | None  # None where the device has no price (this machine)
    host_memory: int
    disk: int
    phases: Mapping[str, int]  # peak bytes of load, train, evaluate, save, merge
    device: str
    suggestions: tuple[Mapping[str, Any], ...] = ()
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The estimate as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Estimate:
        """Read an estimate back from its JSON values."""
        ranges = {
            name: Range(**values[name]) if values[name] is not None else None
            for name in ("step_seconds", "tokens_per_second", "total_seconds", "cost")
        }
        memory = Memory(**values["memory"])
        return cls(**{**values, **ranges, "memory": memory, "suggestions": tuple(values["suggestions"])})
