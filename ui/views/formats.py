"""The page's words: the engine's figures, and how the page names fields, faults, models and moments.

`escape` is the one way in which text of a person, a file or a model gets into HTML.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import datetime

from engine.catalog.models import find
from engine.issues import Issue, PlanError
from engine.methods import METHODS
from engine.objectives import OBJECTIVES
from engine.plan import FIELDS, Knob, Plan
from engine.system.formatting import UNKNOWN, count, duration, figure, money, share, size, whole
from estimators.estimate import Range

__all__ = [
    "UNKNOWN",
    "between",
    "change_of_time",
    "count",
    "duration",
    "escape",
    "field_label",
    "figure",
    "gigabytes",
    "hours",
    "in_chart",
    "issue",
    "method_name",
    "model_name",
    "moment",
    "money",
    "percent",
    "saving",
    "share",
    "size",
    "whole",
]


def between(range_: Range | None, say: Callable[[float | None], str]) -> str:
    """The uncertainty of a figure: "1 h 35 min – 2 h 20 min"; nothing where both ends read the same."""
    if range_ is None or say(range_.low) == say(range_.high):
        return ""
    return f"{say(range_.low)} – {say(range_.high)}"


def saving(size_saved: int) -> str:
    """Memory that a change frees: "−3.9 GB"; nothing where it frees none."""
    return f"−{size(size_saved)}" if size_saved > 0 else ""


def change_of_time(factor: float | None) -> str:
    """How much longer or shorter a run takes: "+28 % time"; nothing where it is not known."""
    if factor is None:
        return ""
    percent = round(100 * (factor - 1))
    return "same time" if percent == 0 else f"{'+' if percent > 0 else '−'}{abs(percent)} % time"


def gigabytes(number: int | None) -> float | None:
    """Bytes as a sortable figure in GB."""
    return None if number is None else round(number / 1e9, 1)


def hours(seconds: float | None) -> float | None:
    """A duration as a sortable figure in hours, to three figures."""
    return None if seconds is None else float(f"{seconds / 3600:.3g}")


def percent(part: int | None, of: int | None) -> float | None:
    """A share as a sortable figure in per cent, to two figures."""
    return None if part is None or not of else float(f"{100 * part / of:.2g}")


def moment(seconds_since_1970: float) -> str:
    """A point in time, in the server's time zone: "22 Nov 2026, 05:04"."""
    return datetime.fromtimestamp(seconds_since_1970).strftime("%d %b %Y, %H:%M").lstrip("0")


def field_label(name: str) -> str:
    """A field of the plan by the label that its control carries, so that a message can be found on the page.

    A field of a chain's stage, "stages[2].max_length", is led by the stage.
    """
    stage, _, of_stage = name.partition("].")
    if of_stage and stage.startswith("stages["):
        return f"Stage {stage.removeprefix('stages[')}, {field_label(of_stage)}"
    knob = FIELDS.get(name) or _option_knob(name)
    return knob.label if knob else name.replace("_", " ").capitalize()


def _option_knob(name: str) -> Knob | None:
    rows = (*METHODS.values(), *OBJECTIVES.values())
    return next((option.knob for row in rows for option in row.options if option.name == name), None)


def issue(problem: Issue) -> str:
    """An issue as one sentence that begins with the label of its field."""
    return f"{field_label(problem.field)}: {problem.message} {problem.fix}".strip()


def model_name(plan: Plan) -> str:
    """The model of a plan by its title; an old plan may name one that is no longer known."""
    try:
        return find(plan.model).title
    except PlanError:
        return str(plan.model)[:80]


def method_name(plan: Plan) -> str:
    """The method of a plan by its label; an old plan may name one that is no longer known."""
    return METHODS[plan.method].label if plan.method in METHODS else str(plan.method)


def escape(value: object) -> str:
    """Text for an HTML page. Braces and dollars are escaped too: `gr.HTML` passes its value through templates."""
    text = html.escape(str(value), quote=True)
    return text.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def in_chart(text: str) -> str:
    """Text for a chart: plotly takes what looks like HTML in a name or a label for links and line breaks."""
    return html.escape(text, quote=False)
