"""The control that chooses a run, the same on each tab: newest first, by name and date."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.export import downloads
from engine.jobs import runs
from engine.jobs.runs import Run
from ui.views import formats

MOST_CHOICES = 200


def every_run() -> list[Run]:
    """The newest runs."""
    return runs.all_runs(MOST_CHOICES)


def runs_with_results() -> list[Run]:
    """The ended runs that left something to try and to take home."""
    return [run for run in every_run() if not run.is_active and downloads.artifacts(run)]


def picker(elem_id: str) -> gr.Dropdown:
    """The control itself. A value from a link may be of a run that is not listed, so values are not checked here."""
    return gr.Dropdown(
        choices=[], value=None, label="Run", allow_custom_value=True, num_choices_shown=MOST_CHOICES, elem_id=elem_id
    )


def update(listed: list[Run], chosen: str | None) -> dict[str, Any]:
    """The list as it is now; the chosen run stays chosen, else the newest one is."""
    choices = [(f"{run.name} · {formats.moment(run.created)}", run.id) for run in listed]
    value = chosen or (listed[0].id if listed else None)
    return gr.update(choices=choices, value=value)
