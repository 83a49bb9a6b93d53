"""What a comparison of methods looks like: its head, its table, and quality drawn against what it costs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from engine.compare import Comparison, Row
from ui import markup, words
from ui.charts import BLUE, GRID, INK, ORANGE
from ui.survey_table import Column

HEIGHT = 300
MARGIN = 0.2  # of an axis, at both ends, for the names of points
RIGHT, LOSS = "Right answers", "Evaluation loss"
NOTHING_YET = "Points appear as the methods end."
SAID = {"waiting": "– waiting", "refused": "✕ refused"} | {
    state: f"{sign} {word}" for state, (sign, word) in markup.STATES.items()
}


def _percent(number: float | None) -> str:
    return "–" if number is None else f"{number:.0%}"


def _figure(number: float | None) -> str:
    return "–" if number is None else words.figure(number)


def _count(number: float | None) -> str:
    return "–" if number is None else words.count(number)


def _size(number: float | None) -> str:
    return "–" if number is None else words.size(number)


def _duration(number: float | None) -> str:
    return "–" if number is None else words.duration(number)


COLUMNS = (
    Column(title="Method"),
    Column(title="State"),
    Column(title=RIGHT, say=_percent, sort="Most right answers", downwards=True),
    Column(title=LOSS, say=_figure, sort="Lowest loss"),
    Column(title="Trained", say=_count, sort="Fewest trained"),
    Column(title="Peak memory", say=_size, sort="Least memory"),
    Column(title="Time", say=_duration, sort="Fastest"),
    Column(title="Size", say=_size, sort="Smallest file"),
    Column(title="Note"),
)


def cells(rows: Sequence[Row]) -> list[list[Any]]:
    """The rows as the cells of the table, in the order of `COLUMNS`."""
    return [
        [
            row.label,
            SAID.get(row.state, row.state),
            row.success,
            row.eval_loss,
            row.trainable_params,
            row.memory_peak,
            row.seconds,
            row.bytes,
            row.reason,
        ]
        for row in rows
    ]


def head(comparison: Comparison, state: str, rows: Sequence[Row]) -> str:
    """Name, state and progress."""
    ended = [row for row in rows if row.state not in ("waiting", "starting", "running")]
    plan = comparison.plan
    what = f"{words.model_name(plan)} · seed {plan.seed} · started {words.moment(comparison.created)}"
    under_way = next((row.label for row in rows if row.state in ("starting", "running")), "")
    doing = f" · now {under_way}" if under_way else ""
    return (
        f'<div class="run-title"><h2>{words.escape(comparison.name)}</h2>{markup.chip(state, "comparison-state")}</div>'
        f'<p class="run-what">{words.escape(what)}</p>'
        f"{markup.progress(len(ended) / len(rows), 'Progress of the comparison')}"
        f'<p class="note">{len(ended)} of {len(rows)} methods done{words.escape(doing)}</p>'
    )


# --- quality against cost -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that a method costs."""

    key: str
    title: str
    of: Callable[[Row], float | None]
    in_powers: bool = False  # values of very different sizes lie on a logarithmic axis


AXES = (
    Axis(key="params", title="Trained parameters", of=lambda row: row.trainable_params, in_powers=True),
    Axis(key="memory", title="Peak memory (bytes)", of=lambda row: row.memory_peak),
    Axis(key="time", title="Time (s)", of=lambda row: row.seconds),
    Axis(key="size", title="Size of the result (bytes)", of=lambda row: row.bytes, in_powers=True),
)


def qualities(rows: Sequence[Row]) -> list[str]:
    """What the methods can be judged by, the most telling first."""
    found = [RIGHT] if any(row.success is not None for row in rows) else []
    own = [row.metric.capitalize() for row in rows if row.metric and row.metric != "perplexity"][:1]  # the loss says it already
    return [*found, *own, LOSS]


def _quality(row: Row, by: str) -> float | None:
    if by == LOSS:
        return row.eval_loss
    return row.success if by == RIGHT else row.value


def chart(rows: Sequence[Row], axis: Axis, by: str, name: str = "") -> go.Figure:
    """Quality against one cost, a named point for each method that has ended."""
    points = [
        (row.label, x, y)
        for row in rows
        if row.state == "finished" and (x := axis.of(row)) is not None and (y := _quality(row, by)) is not None
    ]
    lines = dict(gridcolor=GRID, zeroline=False, showline=False, ticks="", automargin=True)
    figure = go.Figure(
        go.Scatter(
            x=[x for _, x, _ in points],
            y=[y for _, _, y in points],
            text=[label for label, _, _ in points],
            mode="markers+text",
            textposition=_places(points),
            cliponaxis=False,
            marker=dict(size=11, color=ORANGE if by == LOSS else BLUE, symbol="diamond" if by == LOSS else "circle"),
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        ),
        layout=dict(
            height=HEIGHT,
            margin=dict(l=48, r=24, t=28, b=40),
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font=dict(color=INK, size=12, family="system-ui, sans-serif"),
            showlegend=False,
            uirevision=f"{name}{axis.key}{by}",
            xaxis=lines | dict(title=dict(text=axis.title, standoff=6), type="log" if axis.in_powers else "linear"),
            yaxis=lines | dict(title=dict(text=by, standoff=6), tickformat=".0%" if by == RIGHT else None),
        ),
    )
    figure.update_xaxes(exponentformat="SI", minexponent=3, range=_room([x for _, x, _ in points], axis))
    if axis.in_powers:
        figure.update_xaxes(dtick="D2")  # 1, 2 and 5 of each power of ten
    if not points:
        figure.update_xaxes(range=[0, 1], showticklabels=False, type="linear")
        figure.update_yaxes(range=[0, 1], showticklabels=False, showgrid=False)
        figure.add_annotation(text=NOTHING_YET, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure


def _room(values: Sequence[float], axis: Axis) -> list[float] | None:
    """The ends of an axis (of the logarithms, on a logarithmic one), so that the names of the outermost points are inside."""
    if not values:
        return None
    ends = [math.log10(end) if axis.in_powers else end for end in (min(values), max(values))]
    side = MARGIN * (ends[1] - ends[0]) or 0.1 * abs(ends[0]) or 1.0
    return [ends[0] - side, ends[1] + side]


def _places(points: Sequence[tuple[str, float, float]]) -> list[str]:
    """Labels stand above and below their points in turn, from left to right, so that neighbours do not cover each other."""
    order = sorted(range(len(points)), key=lambda number: points[number][1])
    return ["top center" if order.index(number) % 2 == 0 else "bottom center" for number in range(len(points))]


def table_of(listed: Sequence[tuple[Comparison, str]]) -> str:
    """Comparisons as rows of the History tab, each a link; "" where there are none."""
    if not listed:
        return ""
    columns = ("Comparison", "Methods", "Model", "State", "Started")
    heads = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = ""
    for comparison, state in listed:
        cells = (
            f'<a href="?compare={words.escape(comparison.id)}">{words.escape(comparison.name)}</a>',
            str(len(comparison.methods)),
            words.escape(words.model_name(comparison.plan)),
            markup.chip(state),
            words.escape(words.moment(comparison.created)),
        )
        rows += (
            "<tr>"
            + "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in zip(columns, cells, strict=True))
            + "</tr>"
        )
    return f'<h2>Comparisons</h2><table class="history"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
