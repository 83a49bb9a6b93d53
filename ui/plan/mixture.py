"""Several data sets at once: rows of a set and its weight on the Plan tab, and what each set's share of the rows is.

The rows are laid out once, as many as a mixture may have here; one without a set is hidden. They are controls of the
plan's form, so what is chosen is in the plan at once: in the estimate, in the X-ray and in the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from engine import data
from engine.data import holdout
from engine.data.demos import DEMOS
from engine.plan import SOURCE_KNOBS, Plan
from ui.plan import form
from ui.plan.form import MORE_SETS, Form
from ui.views import formats, markup
from ui.web.handlers import guarded

ADD = "Mix in another data set"


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The parts that events read or write: by number of the set, its row and its button."""

    rows: dict[int, gr.Row]
    removes: dict[int, gr.Button]
    add: gr.Button
    told: gr.HTML
    shown: gr.State  # whether the row of the first set's weight, each other set's row, and the button are there


# --- layout ---------------------------------------------------------------------------------------------------------


def build(controls: dict[str, Component]) -> Mixture:
    """The rows of all sets but the first, whose picker is there already, and the weights of all."""
    rows: dict[int, gr.Row] = {}
    removes: dict[int, gr.Button] = {}
    with gr.Row(visible=False, elem_classes=["mix-row"]) as rows[1]:
        controls[form.weight_name(1)] = _weight(1, info=SOURCE_KNOBS["weight"].help)
    for number in MORE_SETS:
        with gr.Row(visible=False, elem_classes=["mix-row"]) as rows[number]:
            controls[form.set_name(number)] = gr.Dropdown(
                choices=form.data_choices(),
                value=None,
                label=f"Data set {number}",
                allow_custom_value=True,
                scale=3,
                elem_id=f"set-{number}",
            )
            controls[form.weight_name(number)] = _weight(number)
            removes[number] = gr.Button("Remove", size="sm", scale=0, min_width=80, elem_id=f"remove-{number}")
    told = markup.block("", elem_id="mixture")
    add = gr.Button(ADD, size="sm", elem_id="mix-add", elem_classes=["survey-ask"])
    shown = gr.State((False, *(False for _ in MORE_SETS), True))
    return Mixture(rows=rows, removes=removes, add=add, told=told, shown=shown)


def _weight(number: int, info: str | None = None) -> gr.Number:
    return gr.Number(
        value=1.0, step=0.1, scale=1, min_width=120, label=f"Weight of set {number}", info=info, elem_id=f"weight-{number}"
    )


# --- what it looks like ---------------------------------------------------------------------------------------------


def shares(plan: Plan) -> str:
    """Each set of a mixture with its rows, as the run counts them, and its share of all; nothing for a single set."""
    if len(plan.datasets) < 2:
        return ""
    rows = holdout.sizes(plan)
    total = sum(rows) or 1
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Data set", "Weight", "Rows", "Share"))
    lines = "".join(
        f'<tr><th scope="row">{formats.escape(data.title(source))}</th><td>{source.weight:g}</td>'
        f"<td>{formats.whole(count)}</td><td>{count / total:.0%}</td></tr>"
        for source, count in zip(plan.datasets, rows, strict=True)
    )
    return (
        f'<table class="rows mix"><caption>The mixture</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'
    )


def another(plan: Plan) -> str:
    """The path of a demo set that goes with the plan's objective and is not in it yet; of any, where there is none."""
    used = {source.path for source in plan.datasets}
    free = [demo for demo in DEMOS.values() if demo.path not in used]
    fitting = [demo for demo in free if demo.plan().objective == plan.objective]
    return (fitting or free)[0].path


# --- events ---------------------------------------------------------------------------------------------------------


def wire(mixture: Mixture, the_form: Form) -> None:
    """Add and remove sets; a row is there while it has a set."""
    controls = the_form.controls
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    pickers = [controls[form.set_name(number)] for number in MORE_SETS]

    @guarded
    def add(**values: Any) -> dict[Component, Any]:
        plan = form.read(values)
        free = next((number for number in MORE_SETS if not values.get(form.set_name(number))), None)
        if free is None:
            return {mixture.add: gr.skip()}
        choices = form.data_choices(*form.own_data(plan))
        return {
            controls[form.set_name(free)]: gr.update(choices=choices, value=another(plan)),
            controls[form.weight_name(free)]: 1.0,
        }

    rows = [mixture.rows[1], *(mixture.rows[number] for number in MORE_SETS), mixture.add]

    @guarded
    def show_rows(before: tuple[bool, ...], *paths: str | None) -> dict[Component, Any]:
        there = [bool(path) for path in paths]
        now = (any(there), *there, not all(there))
        # A row that is shown or hidden anew builds its picker anew, which says that it has changed: only those that must be.
        changed = {
            row: gr.update(visible=is_there)
            for row, was_there, is_there in zip(rows, before, now, strict=True)
            if is_there != was_there
        }
        return {mixture.shown: now, **changed}

    weights = [controls[form.weight_name(number)] for number in MORE_SETS]
    mixture.add.click(add, inputs_kwargs=controls, outputs=[*pickers, *weights, mixture.add], trigger_mode="once", **quiet)
    for number, button in mixture.removes.items():
        button.click(guarded(lambda: None), None, controls[form.set_name(number)], **quiet)
    gr.on(
        [picker.change for picker in pickers],
        show_rows,
        [mixture.shown, *pickers],
        [mixture.shown, *rows],
        trigger_mode="always_last",
        **quiet,
    )
