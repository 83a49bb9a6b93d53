"""The surveys of the Plan tab: one plan on all GPUs, all methods on one GPU, each as a table that can be sorted.

The tables are HTML of our own: on a phone each row becomes a card with its figures named, nothing is cut off, and a
screen reader reads a plain table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine.plan import Plan
from ui.plan import form
from ui.plan.form import Form
from ui.views import formats, markup
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.advice.survey import GpuRow, MethodRow
    from estimators.service.client import Estimator

VERDICTS = {"yes": "✓ fits", "tight": "! tight", "no": "✕ does not fit"}
REFUSED = "– not with this plan"
ORDER = [*VERDICTS.values(), REFUSED]  # from the best to the worst
WARMING = "The estimator is warming up. Try again in a few seconds."
ASKING = "Working it out…"
UNSORTED = "As listed"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its heading, and how a person sorts by it ("" where nobody does)."""

    title: str
    say: Callable[[float | None], str] | None = None  # a figure of this column in words; None: the column is text
    sort: str = ""
    downwards: bool = False  # the largest first


def _gigabytes(number: float | None) -> str:
    return "–" if number is None else f"{number:,.1f} GB"


def _hours(number: float | None) -> str:
    return "–" if number is None else formats.duration(3600 * number)


def _dollars(number: float | None) -> str:
    return "–" if number is None else formats.money(number)


def _percent(number: float | None) -> str:
    return "–" if number is None else f"{number:.2g} %" if number < 99.95 else "100 %"


GPU_COLUMNS = (
    Column(title="GPU"),
    Column(title="Verdict", sort="Verdict"),
    Column(title="Needed", say=_gigabytes, sort="Memory needed"),
    Column(title="Usable", say=_gigabytes),
    Column(title="Time", say=_hours, sort="Fastest"),
    Column(title="Cost", say=_dollars, sort="Cheapest"),
    Column(title="Note"),
)
METHOD_COLUMNS = (
    Column(title="Method"),
    Column(title="Verdict", sort="Verdict"),
    Column(title="Trainable", say=_percent, sort="Most trainable", downwards=True),
    Column(title="Needed", say=_gigabytes, sort="Least memory"),
    Column(title="Time", say=_hours, sort="Fastest"),
    Column(title="Note"),
)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A folded table with the button that fills it."""

    button: gr.Button
    note: gr.HTML
    sort: gr.Radio
    table: gr.HTML
    cells: gr.State  # of all rows, as listed
    columns: tuple[Column, ...]


def gpus() -> Survey:
    """The place of the GPU survey."""
    sentence = "Your plan on this machine and on every GPU of the table."
    return _survey("Which GPUs? All of them at once", sentence, "Compare all GPUs", GPU_COLUMNS, "gpu-survey")


def methods() -> Survey:
    """The place of the method survey."""
    sentence = "Your plan with each method and that method's own defaults."
    title = "Which method? All of them on this GPU"
    return _survey(title, sentence, "Compare methods on this GPU", METHOD_COLUMNS, "method-survey")


def _survey(title: str, sentence: str, button: str, columns: tuple[Column, ...], name: str) -> Survey:
    with gr.Accordion(title, open=False, elem_classes=["fold"], elem_id=f"{name}-fold"):
        note = markup.block(markup.note(sentence))
        asked = gr.Button(button, size="sm", elem_id=f"{name}-ask", elem_classes=["survey-ask"])
        sort = gr.Radio(
            choices=[UNSORTED, *(column.sort for column in columns if column.sort)],
            value=UNSORTED,
            label="Sort by",
            visible=False,
            elem_id=f"{name}-sort",
            elem_classes=["pills"],
        )
        table = markup.block("", visible=False, elem_id=name, elem_classes=["survey-box"])
    return Survey(button=asked, note=note, sort=sort, table=table, cells=gr.State([]), columns=columns)


# --- rows -----------------------------------------------------------------------------------------------------------


def gpu_cells(rows: Iterable[GpuRow]) -> list[list[Any]]:
    """The GPU survey as the cells of its table."""
    return [
        [
            row.name,
            VERDICTS.get(row.fits or "", REFUSED),
            formats.gigabytes(row.memory),
            formats.gigabytes(row.capacity),
            formats.hours(row.seconds),
            row.cost,
            row.note,
        ]
        for row in rows
    ]


def method_cells(rows: Iterable[MethodRow]) -> list[list[Any]]:
    """The method survey as the cells of its table."""
    return [
        [
            row.label,
            VERDICTS.get(row.fits or "", REFUSED),
            formats.percent(row.trainable_params, row.total_params),
            formats.gigabytes(row.memory),
            formats.hours(row.seconds),
            row.note,
        ]
        for row in rows
    ]


def in_order(cells: Sequence[list[Any]], columns: Sequence[Column], by: str) -> list[list[Any]]:
    """The rows sorted by a column's `sort`; what has no figure there comes last, and equal rows stay as listed."""
    number = next((place for place, column in enumerate(columns) if column.sort == by and by), None)
    if number is None:
        return list(cells)
    known = [row for row in cells if row[number] is not None]
    if columns[number].title == "Verdict":
        known.sort(key=lambda row: ORDER.index(row[number]))
    else:
        known.sort(key=lambda row: row[number], reverse=columns[number].downwards)
    return known + [row for row in cells if row[number] is None]


def html(cells: Sequence[list[Any]], columns: Sequence[Column], caption: str) -> str:
    """The table. Each cell carries its heading, which a narrow window shows beside it."""
    heads = "".join(
        f'<th scope="col"{" class=num" if column.say else ""}>{formats.escape(column.title)}</th>' for column in columns
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row, columns))}</tr>" for row in cells)
    return (
        f'<table class="survey"><caption class="unseen">{formats.escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cell(value: Any, column: Column) -> str:
    """One cell; a figure that is not known is a dash, and a verdict has its colour as well as its sign."""
    if column.say is not None:
        look, shown = "num", column.say(value)
    else:
        verdict = next((key for key, said in VERDICTS.items() if said == value), "")
        look, shown = f"fix-{verdict}" if verdict else "" if value else "empty", str(value)
    kind = f' class="{look}"' if look else ""
    return f'<td{kind} data-label="{formats.escape(column.title)}">{formats.escape(shown)}</td>'


# --- events ---------------------------------------------------------------------------------------------------------


def wire(gpu: Survey, method: Survey, the_form: Form, estimator: Estimator) -> None:
    """Fill the tables when asked."""

    def all_gpus(plan: Plan) -> Iterator[list[list[Any]]]:
        for rows in estimator.gpu_survey(plan):
            yield gpu_cells(rows)

    def all_methods(plan: Plan) -> Iterator[list[list[Any]]]:
        cells: list[list[Any]] = []
        for row in estimator.method_survey(plan):
            cells = [*cells, *method_cells([row])]
            yield cells

    _wire_one(gpu, all_gpus, the_form, estimator)
    _wire_one(method, all_methods, the_form, estimator)


def _wire_one(survey: Survey, cells_of: Callable[[Plan], Iterator[Any]], the_form: Form, estimator: Estimator) -> None:
    @guarded
    def fill(by: str = UNSORTED, **values: Any) -> Iterator[dict[Component, Any]]:
        if not estimator.ready:
            yield {survey.note: markup.note(WARMING)}
            return
        plan = form.read(values)
        yield {survey.note: markup.note(ASKING)}
        for cells in cells_of(plan):
            table = html(in_order(cells, survey.columns, by), survey.columns, described(plan))
            yield {
                survey.table: gr.update(value=table, visible=True),
                survey.sort: gr.update(visible=True),
                survey.cells: cells,
            }
        yield {survey.note: markup.note(described(plan))}

    @guarded
    def resort(by: str, cells: list[list[Any]]) -> str:
        return html(in_order(cells, survey.columns, by), survey.columns, f"Sorted by {by}")

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    survey.button.click(
        fill,
        inputs_kwargs={"by": survey.sort, **the_form.controls},
        outputs=[survey.note, survey.table, survey.sort, survey.cells],
        trigger_mode="once",
        concurrency_limit=2,
        **quiet,
    ).failure(guarded(lambda: ""), None, survey.note, **quiet)
    survey.sort.input(resort, [survey.sort, survey.cells], survey.table, concurrency_limit=None, **quiet)


def described(plan: Plan) -> str:
    """Of which plan the table speaks: it stays when the plan is changed."""
    settings = (
        f"{formats.model_name(plan)}, {formats.method_name(plan)}, batch {formats.whole(plan.per_device_train_batch_size)}"
    )
    return f"For {settings}, at most {formats.whole(plan.max_length)} tokens. Ask again after a change of the plan."
