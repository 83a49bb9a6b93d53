"""Charts of a run: pure functions from `Curves` to plotly figures.

Backgrounds are transparent and the ink is left to the style sheet, so that one figure serves light and dark. The two
loss lines differ in dash and marker as well as in colour. `uirevision` keeps a person's zoom while new points come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from engine.modeling.xray import XRay
from ui.views import formats
from ui.views.curves import Break, Curves, Line

BLUE, ORANGE = "#2f8fc9", "#d98200"  # Okabe-Ito blue and orange, at a lightness that reads on paper and on ink
GRID = "rgba(128, 120, 108, 0.22)"
INK = "#857d71"  # where the style sheet does not reach (exported pictures)
TALL, LOW = 300, 190
FEW_STEPS = 10  # so few are labelled one by one, not by fractions
BYTES_PER_GB = 1e9


def loss(curves: Curves, run_id: str = "") -> go.Figure:
    """Training and evaluation loss by step."""
    chart = _empty(
        run_id, height=TALL, hint="Loss appears with the first logged step.", has_data=bool(curves.loss or curves.eval_loss)
    )
    chart.add_trace(_trace(curves.loss, "Training loss", BLUE))
    _whole_steps(chart, curves.loss or curves.eval_loss)
    if curves.eval_loss:
        chart.add_trace(_trace(curves.eval_loss, "Evaluation loss", ORANGE, dash="dash", marked=True))
    chart.update_layout(showlegend=True, legend=dict(orientation="h", x=0, y=1.02, yanchor="bottom"), margin_t=36)
    return _with_breaks(chart, curves.breaks, ("loss", "eval_loss"))


def learning_rate(curves: Curves, run_id: str = "") -> go.Figure:
    """The learning rate by step."""
    return _single(curves, "learning_rate", "Learning rate", run_id)


def gradient_norm(curves: Curves, run_id: str = "") -> go.Figure:
    """The length of the gradient, before clipping, by step."""
    return _single(curves, "grad_norm", "Gradient norm", run_id)


def speed(curves: Curves, run_id: str = "") -> go.Figure:
    """Tokens per second by step."""
    return _single(curves, "tokens_per_second", "Tokens per second", run_id)


def memory(curves: Curves, run_id: str = "") -> go.Figure:
    """Peak memory in GB by step."""
    in_gb = tuple((step, None if value is None else value / BYTES_PER_GB) for step, value in curves.memory_peak)
    chart = _empty(run_id, height=LOW, hint="No figures yet.", has_data=bool(in_gb))
    chart.add_trace(_trace(in_gb, "Peak memory (GB)", BLUE))
    _whole_steps(chart, in_gb)
    chart.update_yaxes(rangemode="tozero")
    return _with_breaks(chart, curves.breaks, ("memory_peak",))


def _single(curves: Curves, line: str, name: str, run_id: str) -> go.Figure:
    points: Line = getattr(curves, line)
    chart = _empty(run_id, height=LOW, hint="No figures yet.", has_data=bool(points))
    chart.add_trace(_trace(points, name, BLUE))
    _whole_steps(chart, points)
    return _with_breaks(chart, curves.breaks, (line,))


def _whole_steps(chart: go.Figure, points: Line) -> None:
    if points and points[-1][0] <= FEW_STEPS:
        chart.update_xaxes(dtick=1)


def _trace(points: Line, name: str, colour: str, *, dash: str = "solid", marked: bool = False) -> go.Scatter:
    few = len(points) < 2  # a line needs two points: one alone is shown as a dot
    return go.Scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=name,
        mode="lines+markers" if marked or few else "lines",
        line=dict(color=colour, width=2, dash=dash),
        marker=dict(size=7, symbol="diamond" if marked else "circle"),
        connectgaps=False,
        hovertemplate="%{y:.4g}",
    )


def _empty(run_id: str, *, height: int, hint: str, has_data: bool) -> go.Figure:
    """Axes without lines; a hint stands where the lines will be."""
    axis = dict(gridcolor=GRID, zeroline=False, showline=False, ticks="", automargin=True, fixedrange=False)
    chart = go.Figure(
        layout=dict(
            height=height,
            margin=dict(l=44, r=12, t=12, b=36),
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font=dict(color=INK, size=12, family="system-ui, sans-serif"),
            hovermode="x unified",
            showlegend=False,
            uirevision=run_id or "run",
            xaxis=axis | dict(title=dict(text="Step", font=dict(size=12), standoff=6), showgrid=False),
            yaxis=axis,
        )
    )
    if not has_data:
        chart.update_xaxes(range=[0, 10], showticklabels=False)
        chart.update_yaxes(range=[0, 1], showticklabels=False, showgrid=False)
        chart.add_annotation(text=hint, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return chart


def _with_breaks(chart: go.Figure, breaks: tuple[Break, ...], lines: tuple[str, ...]) -> go.Figure:
    """Mark the first place where a value was not a number; the gap in the line alone could be overlooked."""
    first = next((break_ for break_ in breaks if break_.line in lines), None)
    if first is not None:
        chart.add_vline(x=first.step, line=dict(color=INK, width=1.5, dash="dot"))
        chart.add_annotation(
            text=f"{formats.figure(float(first.word))} at step {first.step:g}",
            x=first.step,
            y=1,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
        )
    return chart


def lengths(found: XRay) -> go.Figure:
    """Rows by their exact length in tokens, with the longest sequence as a line; what is cut is hatched.

    The last bar may hold lengths of a long tail; it is drawn as wide as the others.
    """
    chart = _empty("lengths", height=LOW + 40, hint="No rows.", has_data=bool(found.histogram))
    width = min((end - start for start, end, _ in found.histogram), default=1)
    for name, beyond in (("kept whole", False), ("cut", True)):
        bins = [
            (start, end, rows)
            for start, end, rows in found.histogram
            if (start > found.max_length and not found.packed) == beyond
        ]
        chart.add_trace(
            go.Bar(
                x=[start + (width - 1) / 2 for start, *_ in bins],
                y=[rows for *_, rows in bins],
                width=width,
                name=name,
                marker=dict(color=ORANGE if beyond else BLUE, pattern_shape="/" if beyond else "", line_width=0),
                customdata=[f"{start:,} to {end - 1:,}" if end - start > 1 else f"{start:,}" for start, end, _ in bins],
                hovertemplate="%{customdata} tokens: %{y:,} rows",
            )
        )
    drawn = max((start + width for start, *_ in found.histogram), default=1)
    shown = found.max_length <= 1.5 * drawn  # a line far to the right would press the bars together
    end = 1.04 * max(drawn, found.max_length if shown else 0)
    chart.update_layout(bargap=0.04, barmode="overlay", hovermode="closest", margin_t=30)
    chart.update_xaxes(title_text="Tokens", range=[0, end])
    chart.update_yaxes(title_text="Rows", rangemode="tozero")
    if shown:
        chart.add_vline(x=found.max_length + 0.5, line=dict(color=INK, width=2))
    right = not shown or found.max_length > end / 2
    chart.add_annotation(
        text=f"{'a sequence' if found.packed else 'longest sequence'}: {found.max_length:,}{'' if shown else ' →'}",
        x=found.max_length if shown else 1,
        xref="x" if shown else "paper",
        y=1,
        yref="paper",
        yanchor="bottom",
        xanchor="right" if right else "left",
        showarrow=False,
    )
    return chart


# Okabe-Ito colours at a lightness that reads on paper and on ink; the lines of a report differ in their signs too.
SEVERAL = (BLUE, ORANGE, "#0a9b76", "#c2669b", "#7d8a00")
SIGNS = ("circle", "diamond", "square", "triangle-up", "x")


def forgetting(report: Sequence[Mapping[str, Any]], limit: float) -> go.Figure:
    """The loss on each probe before a chain and after each stage; the dotted line is as far as the first one may rise."""
    chart = _empty(
        "forgetting", height=TALL, hint="The first look is made before the first stage that writes text.", has_data=bool(report)
    )
    chart.update_layout(hovermode="closest", showlegend=True, legend=dict(orientation="h", x=0, y=1.02, yanchor="bottom"))
    chart.update_layout(margin_t=64)
    chart.update_xaxes(title_text="")
    titles = dict.fromkeys(title for row in report for title in row if title != "when")
    for place, title in enumerate(titles):
        asked = [row for row in report if title in row]
        chart.add_trace(
            go.Scatter(
                x=[formats.in_chart(str(row["when"])) for row in asked],
                y=[row[title] for row in asked],
                name=formats.in_chart(title),
                mode="lines+markers",
                line=dict(color=SEVERAL[place % len(SEVERAL)], width=2),
                marker=dict(size=8, symbol=SIGNS[place % len(SIGNS)]),
                hovertemplate="%{y:.3f}",
            )
        )
    if report:
        first = next(iter(titles))
        best = min(row[first] for row in report if first in row)
        chart.add_hline(y=best * (1 + limit), line=dict(color=INK, width=1.5, dash="dot"))
        # On an axis of logarithms an annotation stands at the logarithm, a line at the value.
        at = math.log10(max(best * (1 + limit), 1e-6))
        chart.add_annotation(
            text="limit of the first line", x=1, xref="paper", y=at, showarrow=False, xanchor="right", yanchor="bottom"
        )
        chart.update_xaxes(type="category", categoryarray=[formats.in_chart(str(row["when"])) for row in report])
        # Losses of very different size, of which the share by which they rise counts.
        chart.update_yaxes(type="log", dtick="D2", tickformat=".3~g")
    return chart
