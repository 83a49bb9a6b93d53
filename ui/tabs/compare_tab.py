"""The Compare tab: one plan with several methods, one run after the other, and quality drawn against what each costs.

The plan is the one of the Plan tab. What is shown is read from the comparison's folder, so that closing the page, or the
server, loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine.methods import METHODS
from engine.pipelines import compare
from engine.pipelines.compare import Comparison, Row
from engine.plan import Plan
from estimators.advice.compare_costs import Costs, costs
from ui.plan import form
from ui.plan.form import Form
from ui.plan.survey_table import ASKING, METHOD_COLUMNS, UNSORTED, WARMING, html, in_order, method_cells
from ui.tabs import compare_views
from ui.tabs.compare_views import AXES, COLUMNS
from ui.tabs.data_tab import SECONDS_TO_WARM_UP
from ui.views import formats, markup
from ui.web import url_state
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.service.client import Estimator

TITLE = "Compare"
FIRST_CHOICE = ("lora", "dora", "full")
SECONDS_BETWEEN_LOOKS = 2.0
NONE_YET = "No comparison yet. Choose some methods and let them run."
WARMING_UP = "The estimator is warming up. What the methods need appears in a few seconds."
CHOOSE_TWO = "Choose at least two methods."
STOP, STOPPING = "Stop the comparison", "Stopping after this step…"


@dataclass(frozen=True, kw_only=True)
class CompareTab:
    """The parts of the tab that events read or write."""

    tab: gr.Tab
    of_plan: gr.HTML
    groups: list[gr.CheckboxGroup]
    in_all: gr.HTML
    costs: gr.HTML
    start: gr.Button
    picker: gr.Dropdown
    head: gr.HTML
    stop: gr.Button
    go_on: gr.Button
    quality: gr.Radio
    plots: list[gr.Plot]
    sort: gr.Radio
    table: gr.HTML
    results: gr.Column  # of a comparison; hidden while there is none
    seen: gr.State  # (id, state, rows) as drawn
    timer: gr.Timer

    @property
    def rendered(self) -> list[Component]:
        """What a look at the comparison may change."""
        beside = [self.head, self.stop, self.go_on, self.quality, self.sort, self.table, self.results, self.seen, self.timer]
        return [*beside, *self.plots]


# --- layout ---------------------------------------------------------------------------------------------------------


def build(tab: gr.Tab) -> CompareTab:
    """Lay the tab out, without a comparison."""
    with gr.Column(elem_classes=["page"], min_width=0):
        with gr.Row(elem_classes=["page-head"]):
            lead = "Your plan with several methods, one after the other: what each reaches, and what it costs."
            markup.block(markup.heading("Compare methods", lead))
            picker = gr.Dropdown(choices=[], value=None, label="Comparison", allow_custom_value=True, elem_id="comparison")
        with gr.Column(elem_classes=["card"], min_width=0):
            markup.block(markup.card_title(None, "Which methods?"))
            of_plan = markup.block("", elem_id="compare-plan")
            groups = _groups()
            in_all = markup.block(markup.note(WARMING_UP), elem_id="compare-sum")
            found = markup.block("", visible=False, elem_id="compare-costs", elem_classes=["survey-box"])
            with gr.Row(elem_classes=["actions"]):
                start = gr.Button("Run them one after the other", variant="primary", elem_id="start-comparison")
        with gr.Column(elem_classes=["card"], min_width=0):
            head = markup.block(markup.note(NONE_YET), elem_id="comparison-head")
            with gr.Row(elem_classes=["actions"]):
                stop = gr.Button(STOP, variant="stop", visible=False, elem_id="stop-comparison")
                go_on = gr.Button("Go on with the rest", visible=False, elem_id="resume-comparison")
            quality = _pills([compare_views.LOSS], "Judge them by", "quality")
        with gr.Column(visible=False, min_width=0, elem_id="comparison-results") as results:
            with gr.Row(elem_classes=["charts"]):
                plots = [_plot(axis) for axis in AXES]
            with gr.Column(elem_classes=["card", "card-table"], min_width=0):
                sort = _pills([UNSORTED, *(column.sort for column in COLUMNS if column.sort)], "Sort by", "compare-sort")
                table = markup.block("", elem_id="compare-table")
    return CompareTab(
        tab=tab, of_plan=of_plan, groups=groups, in_all=in_all, costs=found, start=start, picker=picker, head=head, stop=stop,
        go_on=go_on, quality=quality, plots=plots, sort=sort, table=table, results=results, seen=gr.State(None),
        timer=gr.Timer(SECONDS_BETWEEN_LOOKS, active=False),
    )  # fmt: skip


def _pills(choices: list[str], label: str, name: str) -> gr.Radio:
    return gr.Radio(choices, value=choices[0], label=label, visible=False, elem_id=name, elem_classes=["pills"])


def _groups() -> list[gr.CheckboxGroup]:
    """One group of checkboxes for each family of methods; all but the first are folded."""
    families = list(dict.fromkeys(row.group for row in METHODS.values()))
    first = [_group(family) for family in families[:2]]
    with gr.Accordion("All other families", open=False, elem_classes=["fold"], elem_id="compare-more"):
        return first + [_group(family) for family in families[2:]]


def _group(family: str) -> gr.CheckboxGroup:
    choices = [(row.label, key) for key, row in METHODS.items() if row.group == family]
    chosen = [key for _, key in choices if key in FIRST_CHOICE]
    return gr.CheckboxGroup(choices, value=chosen, label=family, elem_classes=["pills"])


def _plot(axis: compare_views.Axis) -> gr.Plot:
    with gr.Column(elem_classes=["card", "chart"], min_width=0):
        empty = compare_views.chart((), axis, compare_views.LOSS)
        return gr.Plot(empty, label=axis.title, show_label=False, elem_id=f"compare-{axis.key}")


# --- what a comparison looks like -----------------------------------------------------------------------------------


def in_sum(found: Costs) -> str:
    """What the comparison needs as a whole, as a sentence."""
    time = f"about {formats.duration(found.seconds)} in all" if found.seconds is not None else "a time that is not known yet"
    memory = f", at most {formats.size(found.memory)} at once" if found.memory is not None else ""
    refused = f" {found.refused} of them does not go with this plan: leave it out." if found.refused == 1 else ""
    several = f" {found.refused} of them do not go with this plan: leave them out." if found.refused > 1 else ""
    return f"One after the other they take {time}{memory}.{refused}{several}"


def priced(plan: Plan, methods: Sequence[str], estimator: Estimator) -> Iterator[tuple[str, str]]:
    """(a sentence, the table of costs or ""), again with each method that is worked out; waits for an estimator that starts."""
    if len(methods) < compare.FEWEST:
        yield CHOOSE_TWO, ""
        return
    if not estimator.ready:
        yield WARMING_UP, ""
        if not estimator.wait(SECONDS_TO_WARM_UP):
            yield WARMING, ""
            return
    for found in costs(plan, methods, estimator.ask):
        table = html(method_cells(found.rows), METHOD_COLUMNS, "What each method needs")
        yield in_sum(found) if len(found.rows) == len(methods) else ASKING, table


def described(plan: Plan) -> str:
    """Which plan the methods are tried on."""
    rows = f"{formats.model_name(plan)}, {plan.datasets[0].path if plan.datasets else 'no data'}, seed {plan.seed}"
    return f"For the plan of the Plan tab: {rows}. Each method takes its own defaults and learning rate."


def newest() -> list[tuple[Comparison, str]]:
    """Every comparison with its state, the newest first."""
    return [(one, compare.state(one)) for one in compare.every()]


def history() -> str:
    """The comparisons as a table for the History tab."""
    return compare_views.table_of(newest())


def picked(chosen: str | None = None) -> dict[str, Any]:
    """The list of comparisons as it is now; the chosen one stays chosen, else the newest is."""
    choices = [(f"{one.name} · {formats.moment(one.created)}", one.id) for one in compare.every()]
    return gr.update(choices=choices, value=chosen or (choices[0][1] if choices else None))


def rendered(tab: CompareTab, comparison: Comparison, by: str, order: str) -> dict[Component, Any]:
    """The whole tab, for a comparison, judged by what it offers first where `by` is nothing that it offers."""
    state, rows = compare.state(comparison), compare.rows(comparison)
    offered = compare_views.qualities(rows)
    judged = by if by in offered else offered[0]
    unfinished = any(row.state != "finished" for row in rows)
    return {
        tab.head: compare_views.head(comparison, state, rows),
        tab.stop: gr.update(visible=state == "running", value=STOP, interactive=True),
        tab.go_on: gr.update(visible=state != "running" and unfinished),
        tab.quality: gr.update(choices=offered, value=judged, visible=True),
        **dict(zip(tab.plots, drawn(rows, judged, comparison.id), strict=True)),
        tab.sort: gr.update(visible=True),
        tab.results: gr.update(visible=True),
        tab.table: html(in_order(compare_views.cells(rows), COLUMNS, order), COLUMNS, "What each method reached and cost"),
        tab.seen: (comparison.id, state, rows),
        tab.timer: gr.Timer(active=state == "running"),
    }


def drawn(rows: list[Row], by: str, name: str) -> list[Any]:
    """The charts, in the order of `AXES`."""
    return [compare_views.chart(rows, axis, by, name) for axis in AXES]


# --- events ---------------------------------------------------------------------------------------------------------


def wire(tab: CompareTab, the_form: Form, estimator: Estimator) -> None:
    """Price what is chosen, start it, and follow it."""
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    groups = {f"group_{number}": group for number, group in enumerate(tab.groups)}

    def chosen(values: dict[str, Any]) -> list[str]:
        return [key for name in groups for key in values.pop(name) or []]

    @guarded
    def price(**values: Any) -> Iterator[dict[Component, Any]]:
        methods = chosen(values)
        plan = form.read(values)
        yield {tab.of_plan: markup.note(described(plan))}
        for sentence, table in priced(plan, methods, estimator):
            yield {tab.in_all: markup.note(sentence), tab.costs: gr.update(value=table, visible=bool(table))}

    @guarded
    def start(**values: Any) -> dict[Component, Any]:
        methods = chosen(values)
        comparison = compare.start(form.read(values), methods)
        return {tab.picker: picked(comparison.id), **rendered(tab, comparison, "", UNSORTED)}

    @guarded
    def show(comparison_id: str | None, by: str, order: str) -> dict[Component, Any]:
        comparison = compare.get(comparison_id or "")
        if comparison is None:
            return {tab.head: markup.note(NONE_YET)}
        return rendered(tab, comparison, by, order)

    @guarded
    def show_anew(comparison_id: str | None, order: str) -> dict[Component, Any]:
        return show(comparison_id, "", order)

    @guarded
    def look(comparison_id: str | None, by: str, order: str, seen: Any) -> dict[Component, Any]:
        comparison = compare.get(comparison_id or "")
        if comparison is None:
            return {tab.timer: gr.Timer(active=False)}
        now = (comparison.id, compare.state(comparison), compare.rows(comparison))
        return {tab.timer: gr.skip()} if seen == now else rendered(tab, comparison, by, order)

    @guarded
    def judge(comparison_id: str | None, by: str) -> list[Any]:
        comparison = compare.get(comparison_id or "")
        return drawn(compare.rows(comparison) if comparison else [], by, comparison_id or "")

    @guarded
    def stop(comparison_id: str) -> dict[str, Any]:
        comparison = compare.get(comparison_id)
        if comparison is not None:
            compare.stop(comparison)
        return gr.update(value=STOPPING, interactive=False)

    @guarded
    def go_on(comparison_id: str, by: str, order: str) -> dict[Component, Any]:
        comparison = compare.get(comparison_id)
        if comparison is None:
            return {tab.head: markup.note(NONE_YET)}
        compare.go_on(comparison)
        return rendered(tab, comparison, by, order)

    def refresh(current: str | None) -> dict[str, Any]:
        return picked(current)

    inputs = {**groups, **the_form.controls}
    shown = [tab.picker, tab.quality, tab.sort]
    gr.on(
        [tab.tab.select, *(group.change for group in tab.groups)],
        price,
        inputs_kwargs=inputs,
        outputs=[tab.of_plan, tab.in_all, tab.costs],
        trigger_mode="always_last",
        **quiet,
    )
    tab.tab.select(guarded(refresh), tab.picker, tab.picker, **quiet)
    tab.picker.change(show_anew, [tab.picker, tab.sort], tab.rendered, trigger_mode="always_last", **quiet)
    tab.picker.input(None, tab.picker, None, js=url_state.remember("compare"), api_visibility="private")
    tab.quality.input(judge, [tab.picker, tab.quality], tab.plots, **quiet)
    tab.sort.input(show, shown, tab.rendered, **quiet)
    tab.timer.tick(look, [*shown, tab.seen], tab.rendered, trigger_mode="once", **quiet)
    tab.start.click(
        start,
        inputs_kwargs=inputs,
        outputs=[tab.picker, *tab.rendered],
        trigger_mode="once",
        concurrency_limit=1,
        show_progress="hidden",
        api_visibility="private",
    ).success(None, tab.picker, None, js=url_state.remember("compare"), api_visibility="private")
    tab.stop.click(stop, tab.picker, tab.stop, **quiet)
    tab.go_on.click(go_on, shown, tab.rendered, trigger_mode="once", **quiet)
