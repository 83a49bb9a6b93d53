"""OBJECTIVES: what a model can be trained for, one row each.

The row says which TRL trainer runs it and which settings of that trainer's config it needs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One training objective, as TRL runs it."""

    key: str
    label: str
    sentence: str
    trainer: str  # the class in `trl`
    paper: str


_ROWS = (
    Objective(
        key="sft",
        label="Instruction tuning (SFT)",
        sentence="Learn to answer like the examples; only the answers count, not the questions.",
        trainer="SFTTrainer",
        paper="https://arxiv.org/abs/2203.02155",
    ),
)

OBJECTIVES: dict[str, Objective] = {row.key: row for row in _ROWS}
