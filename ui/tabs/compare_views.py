"""What a comparison of methods looks like: its head, its table, and quality drawn against what it costs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from engine.pipelines.compare import Comparison, Row
from ui.plan.survey_table import Column
from ui.views import formats, markup
from ui.views.charts import BLUE, GRID, INK, ORANGE

HEIGHT = 300
MARGIN = 0.2  # of an axis, at both ends, for the names of points
NARROW = (230.0, 180.0)  # pixels, width and height of what is drawn on a phone, where names have the least room
LETTER, LINE, POINT = 6.5, 14.0, 6.0  # pixels: a letter's width, a name's height, a point's half width
# Where a name may stand (its left end and its lower end from its point, in parts of its size, and pixels between).
PLACES = {
    "top center": (-0.5, 0.0, 0.0, POINT),
    "bottom center": (-0.5, -1.0, 0.0, -POINT),
    "middle right": (0.0, -0.5, POINT, 0.0),
    "middle left": (-1.0, -0.5, -POINT, 0.0),
    "top right": (0.0, 0.0, POINT, POINT),
    "top left": (-1.0, 0.0, -POINT, POINT),
    "bottom right": (0.0, -1.0, POINT, -POINT),
    "bottom left": (-1.0, -1.0, -POINT, -POINT),
}
Box = tuple[float, float, float, float]  # left, lower, right, upper, in pixels
RIGHT, LOSS = "Right answers", "Evaluation loss"
NOTHING_YET = "Points appear as the methods end."
SAID = {"waiting": "– waiting", "refused": "✕ refused"} | {
    state: f"{sign} {word}" for state, (sign, word) in markup.STATES.items()
}


def _percent(number: float | None) -> str:
    return "–" if number is None else f"{number:.0%}"


def _figure(number: float | None) -> str:
    return "–" if number is None else formats.figure(number)


def _count(number: float | None) -> str:
    return "–" if number is None else formats.count(number)


def _size(number: float | None) -> str:
    return "–" if number is None else formats.size(number)


def _duration(number: float | None) -> str:
    return "–" if number is None else formats.duration(number)


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
    what = f"{formats.model_name(plan)} · seed {plan.seed} · started {formats.moment(comparison.created)}"
    under_way = next((row.label for row in rows if row.state in ("starting", "running")), "")
    doing = f" · now {under_way}" if under_way else ""
    return (
        f'<div class="run-title"><h2>{formats.escape(comparison.name)}</h2>{markup.chip(state, "comparison-state")}</div>'
        f'<p class="run-what">{formats.escape(what)}</p>'
        f"{markup.progress(len(ended) / len(rows), 'Progress of the comparison')}"
        f'<p class="note">{len(ended)} of {len(rows)} methods done{formats.escape(doing)}</p>'
    )


# --- quality against cost -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that a method costs."""

    key: str
    title: str
    of: Callable[[Row], float | None]
    in_powers: bool = False  # values of very different sizes lie on a logarithmic axis
    say: Callable[[float], str] | None = None  # how a value is written; None: as a number with its unit
    unit: str = ""

    def of_scale(self, value: float) -> float:
        """The value as plotly takes it for a place on this axis: its logarithm, where the axis is logarithmic."""
        return math.log10(value) if self.in_powers else value


AXES = (
    Axis(key="params", title="Trained parameters", of=lambda row: row.trainable_params, in_powers=True, say=formats.count),
    Axis(key="memory", title="Peak memory", of=lambda row: row.memory_peak, unit="B"),
    Axis(key="time", title="Time", of=lambda row: row.seconds, unit=" s"),
    Axis(key="size", title="Size of the result", of=lambda row: row.bytes, in_powers=True, say=formats.size),
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
    across = _room([axis.of_scale(x) for _, x, _ in points])
    up = _room([y for _, _, y in points])
    lines = dict(gridcolor=GRID, zeroline=False, showline=False, ticks="", automargin=True)
    figure = go.Figure(
        go.Scatter(
            x=[x for _, x, _ in points],
            y=[y for _, _, y in points],
            text=[formats.in_chart(label) for label, _, _ in points],
            mode="markers+text",
            textposition=_places([(label, axis.of_scale(x), y) for label, x, y in points], across, up),
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
            yaxis=lines | dict(title=dict(text=formats.in_chart(by), standoff=6), range=up),
        ),
    )
    figure.update_xaxes(exponentformat="SI", minexponent=3, nticks=6, ticksuffix=axis.unit, range=across)
    if axis.say is not None and across is not None:
        marks = _round_numbers(*across)
        figure.update_xaxes(tickvals=marks, ticktext=[axis.say(mark) for mark in marks])
    if by == RIGHT and up is not None:
        steps = 20 if up[1] - up[0] < 0.4 else 5
        figure.update_yaxes(tickvals=[step / steps for step in range(steps + 1)], tickformat=".0%")
    if not points:
        figure.update_xaxes(range=[0, 1], showticklabels=False, type="linear")
        figure.update_yaxes(range=[0, 1], showticklabels=False, showgrid=False)
        figure.add_annotation(text=NOTHING_YET, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure


def _room(values: Sequence[float]) -> list[float] | None:
    """The ends of an axis, so that the names of the outermost points are inside; None where nothing is drawn."""
    if not values:
        return None
    side = MARGIN * (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
    return [min(values) - side, max(values) + side]


def _round_numbers(low: float, high: float) -> list[float]:
    """The round numbers on a logarithmic axis from 10**low to 10**high: 1, 2 and 5 of each power, or the powers alone."""
    firsts = (1, 2, 5) if high - low < 1.5 else (1,)
    marks = [first * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for first in firsts]
    return [mark for mark in marks if low <= math.log10(mark) <= high]


def _places(points: Sequence[tuple[str, float, float]], across: list[float] | None, up: list[float] | None) -> list[str]:
    """For each (name, x, y) the side of the point on which its name covers other names and points the least."""
    if across is None or up is None:
        return []
    spots = [(_part(x, across) * NARROW[0], _part(y, up) * NARROW[1]) for _, x, y in points]
    taken: list[Box] = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in spots]
    chosen = []
    for (name, _, _), spot in zip(points, spots, strict=True):
        boxes = {place: _box(name, spot, place) for place in PLACES}
        best = min(boxes, key=lambda place: _outside(boxes[place]) + sum(_shared(boxes[place], other) for other in taken))
        taken.append(boxes[best])
        chosen.append(best)
    return chosen


def _part(value: float, ends: list[float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _box(name: str, spot: tuple[float, float], place: str) -> Box:
    """What a name covers in pixels, beside its point."""
    width = LETTER * len(name)
    across, up, right, above = PLACES[place]
    left, lower = spot[0] + across * width + right, spot[1] + up * LINE + above
    return left, lower, left + width, lower + LINE


def _shared(one: Box, other: Box) -> float:
    """The square pixels that two boxes have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: Box) -> float:
    """The square pixels of a box that lie outside of what is drawn."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, (0.0, 0.0, *NARROW))


def table_of(listed: Sequence[tuple[Comparison, str]]) -> str:
    """Comparisons as rows of the History tab, each a link; "" where there are none."""
    if not listed:
        return ""
    columns = ("Comparison", "Methods", "Model", "State", "Started")
    heads = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = ""
    for comparison, state in listed:
        cells = (
            f'<a href="?compare={formats.escape(comparison.id)}">{formats.escape(comparison.name)}</a>',
            str(len(comparison.methods)),
            formats.escape(formats.model_name(comparison.plan)),
            markup.chip(state),
            formats.escape(formats.moment(comparison.created)),
        )
        rows += (
            "<tr>"
            + "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in zip(columns, cells, strict=True))
            + "</tr>"
        )
    return f'<h2>Comparisons</h2><table class="history"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
