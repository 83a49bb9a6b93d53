"""Charts: pure figures that serve light and dark, keep a zoom, and show a break where a value is not a number."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
import pytest

from ui.views import charts
from ui.views.curves import Curves

ALL = (charts.loss, charts.learning_rate, charts.gradient_norm, charts.speed, charts.memory)


def some_curves(loss: object = 1.0) -> Curves:
    measured = {"learning_rate": 1e-3, "grad_norm": 2.0, "tokens_per_second": 100.0, "memory_peak": 2_500_000_000}
    steps = [
        {"kind": "step", "step": step, "max_steps": 9, "loss": loss if step == 5 else 1.0, **measured} for step in range(1, 10)
    ]
    return Curves().extend([*steps, {"kind": "evaluated", "step": 9, "eval_loss": 1.2}])


@pytest.mark.parametrize("chart", ALL)
def test_a_chart_is_transparent_and_keeps_the_zoom_of_its_run(chart: Callable[[Curves, str], go.Figure]) -> None:
    layout = chart(some_curves(), "run-1").layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert layout.uirevision == "run-1"


@pytest.mark.parametrize("chart", ALL)
def test_without_data_a_chart_says_so(chart: Callable[[Curves], go.Figure]) -> None:
    assert len(chart(Curves()).layout.annotations) == 1
    assert len(chart(some_curves()).layout.annotations) == 0


def test_the_two_losses_differ_in_more_than_colour() -> None:
    training, evaluation = charts.loss(some_curves()).data
    assert training.line.dash != evaluation.line.dash
    assert {training.name, evaluation.name} == {"Training loss", "Evaluation loss"}


def test_a_break_is_a_gap_and_a_note() -> None:
    chart = charts.loss(some_curves(loss="nan"))
    assert chart.data[0].y[4] is None
    assert not chart.data[0].connectgaps
    assert "not a number at step 5" in [note.text for note in chart.layout.annotations]
    assert not charts.learning_rate(some_curves(loss="nan")).layout.annotations


def test_memory_is_in_gigabytes() -> None:
    assert charts.memory(some_curves()).data[0].y[0] == 2.5
