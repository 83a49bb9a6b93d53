"""The surveys of the Plan tab: one plan on all GPUs, all methods on one GPU, each as a table that can be sorted.

Figures are numbers, with the unit in the header, so that a column sorts by size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine.plan import Plan
from ui import form, markup, words
from ui.border import guarded
from ui.form import Form

if TYPE_CHECKING:
    from estimators.client import Estimator
    from estimators.survey import GpuRow, MethodRow

VERDICTS = {"yes": "✓ fits", "tight": "! tight", "no": "✕ does not fit"}
REFUSED = "– not with this plan"
GPU_HEADERS = ["GPU", "Verdict", "Needed (GB)", "Usable (GB)", "Time (h)", "Cost ($)", "Note"]
GPU_TYPES = ["str", "str", "number", "number", "number", "number", "str"]
METHOD_HEADERS = ["Method", "Verdict", "Trainable (%)", "Needed (GB)", "Time (h)", "Note"]
METHOD_TYPES = ["str", "str", "number", "number", "number", "str"]
WARMING = "The estimator is warming up. Try again in a few seconds."
ASKING = "Working it out…"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A folded table with the button that fills it."""

    button: gr.Button
    note: gr.HTML
    table: gr.Dataframe


def gpus() -> Survey:
    """The place of the GPU survey."""
    sentence = "Your plan on this machine and on every GPU of the table. Click a heading to sort."
    return _survey("Which GPUs? All of them at once", sentence, "Compare all GPUs", GPU_HEADERS, GPU_TYPES, "gpu-survey")


def methods() -> Survey:
    """The place of the method survey."""
    sentence = "Your plan with each method and that method's own defaults. Click a heading to sort."
    title = "Which method? All of them on this GPU"
    return _survey(title, sentence, "Compare methods on this GPU", METHOD_HEADERS, METHOD_TYPES, "method-survey")


def _survey(title: str, sentence: str, button: str, headers: list[str], types: list[str], name: str) -> Survey:
    with gr.Accordion(title, open=False, elem_classes=["fold"], elem_id=f"{name}-fold"):
        note = markup.block(markup.note(sentence))
        asked = gr.Button(button, size="sm", elem_id=f"{name}-ask", elem_classes=["survey-ask"])
        table = gr.Dataframe(
            headers=headers,
            datatype=types,
            type="array",
            interactive=False,
            visible=False,
            max_height=420,
            label=title,
            show_label=False,
            elem_id=name,
            elem_classes=["survey"],
        )
    return Survey(button=asked, note=note, table=table)


# --- rows -----------------------------------------------------------------------------------------------------------


def gpu_cells(rows: Iterable[GpuRow]) -> list[list[Any]]:
    """The GPU survey as the cells of its table."""
    return [
        [
            row.name,
            VERDICTS.get(row.fits or "", REFUSED),
            words.gigabytes(row.memory),
            words.gigabytes(row.capacity),
            words.hours(row.seconds),
            words.dollars(row.cost),
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
            words.percent(row.trainable_params, row.total_params),
            words.gigabytes(row.memory),
            words.hours(row.seconds),
            row.note,
        ]
        for row in rows
    ]


# --- events ---------------------------------------------------------------------------------------------------------


def wire(gpu: Survey, method: Survey, the_form: Form, estimator: Estimator) -> None:
    """Fill the tables when asked."""

    def all_gpus(plan: Plan) -> Iterator[list[list[Any]]]:
        yield gpu_cells(estimator.gpu_survey(plan))

    def all_methods(plan: Plan) -> Iterator[list[list[Any]]]:
        cells: list[list[Any]] = []
        for row in estimator.method_survey(plan):
            cells = [*cells, *method_cells([row])]
            yield cells

    _wire_one(gpu, all_gpus, the_form, estimator)
    _wire_one(method, all_methods, the_form, estimator)


def _wire_one(survey: Survey, cells_of: Callable[[Plan], Iterator[Any]], the_form: Form, estimator: Estimator) -> None:
    @guarded
    def fill(**values: Any) -> Iterator[dict[Component, Any]]:
        if not estimator.ready:
            yield {survey.note: markup.note(WARMING)}
            return
        plan = form.read(values)
        yield {survey.note: markup.note(ASKING)}
        for cells in cells_of(plan):
            yield {survey.table: gr.update(value=cells, visible=True)}
        yield {survey.note: markup.note(described(plan))}

    survey.button.click(
        fill,
        inputs_kwargs=the_form.controls,
        outputs=[survey.note, survey.table],
        trigger_mode="once",
        concurrency_limit=2,
        show_progress="hidden",
        api_visibility="private",
    ).failure(lambda: "", None, survey.note, show_progress="hidden", api_visibility="private")


def described(plan: Plan) -> str:
    """Of which plan the table speaks: it stays when the plan is changed."""
    settings = f"{words.model_name(plan)}, {words.method_name(plan)}, batch {words.whole(plan.per_device_train_batch_size)}"
    return f"For {settings}, at most {words.whole(plan.max_length)} tokens. Ask again after a change of the plan."
