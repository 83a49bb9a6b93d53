"""An estimate as text, for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.system import formatting
from estimators.estimate import MEMORY_PARTS, Estimate, Range

VERDICTS = {"yes": "It fits", "tight": "Tight: it may run out of memory", "no": "It does not fit"}


def in_words(estimate: Estimate) -> str:
    """The estimate as aligned lines, with where each figure comes from."""
    memory = estimate.memory
    parts = [(name.capitalize(), formatting.size(getattr(memory, name))) for name in MEMORY_PARTS]
    lines = [
        f"{VERDICTS[estimate.fits]} on {estimate.device}: likely {formatting.size(memory.total)} "
        f"({formatting.size(memory.low)} to {formatting.size(memory.high)}) of {formatting.size(memory.capacity)}.",
        "",
        *(f"  {name:<14}{value:>12}" for name, value in parts),
        "",
        f"  {'Trainable':<14}{estimate.trainable_params:>16,} of {estimate.total_params:,} parameters",
        f"  {'Steps':<14}{estimate.steps if estimate.steps is not None else formatting.UNKNOWN:>16}",
        f"  {'Time':<14}{_range(estimate.total_seconds, formatting.duration):>16}",
        f"  {'Cost':<14}{_range(estimate.cost, formatting.money):>16}",
        f"  {'Disk':<14}{formatting.size(estimate.disk):>16}",
        *(_suggestion(suggestion) for suggestion in estimate.suggestions),
        "",
        *(f"  {name}: {where}" for name, where in estimate.source.items()),
    ]
    return "\n".join(lines)


def _suggestion(fix: Mapping[str, Any]) -> str:
    """One fix: "  Try: QLoRA (4-bit) (10.7 GB less, 1.09 times the time: It fits)"."""
    time = f", {fix['time_factor']:.2f} times the time" if fix["time_factor"] is not None else ""
    saved = f"{formatting.size(fix['memory_saved'])} less{time}" if fix["memory_saved"] > 0 else fix["note"]
    return f"  Try: {fix['label']} ({saved}: {VERDICTS[fix['fits']]})"


def _range(value: Range | None, say: object) -> str:
    return formatting.UNKNOWN if value is None else f"{say(value.likely)} ({say(value.low)} to {say(value.high)})"  # type: ignore[operator]
