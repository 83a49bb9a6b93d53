"""The History tab: every run, newest first. Opening one, or its plan, is an ordinary link that can be bookmarked."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from engine.issues import PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.system import events
from ui.tabs import chain_tab, compare_tab
from ui.views import formats, markup
from ui.web.handlers import guarded

MOST_ROWS = 100
COLUMNS = ("Run", "Method", "Model", "State", "Loss", "Evaluation loss", "Time", "Started", "")
NO_RUNS = "No runs yet. Choose a plan and press Start training: every run is kept here."


@dataclass(frozen=True, kw_only=True)
class HistoryTab:
    """The parts of the tab that events read or write."""

    tab: gr.Tab
    table: gr.HTML


def build(tab: gr.Tab) -> HistoryTab:
    """Lay the tab out."""
    with gr.Column(elem_classes=["page"], min_width=0):
        markup.block(markup.heading("History", "Every run with its plan: open it again, or start the same plan anew."))
        with gr.Column(elem_classes=["card", "card-table"], min_width=0):
            table_ = markup.block(markup.note(NO_RUNS), elem_id="history")
    return HistoryTab(tab=tab, table=table_)


def table(listed: list[Run]) -> str:
    """The runs as a table; names and reasons are a person's text and are escaped."""
    if not listed:
        return markup.note(NO_RUNS)
    heads = "".join(f'<th scope="col">{name or "<span class=unseen>Actions</span>"}</th>' for name in COLUMNS)
    rows = "".join(_row(run) for run in listed[:MOST_ROWS])
    older = f"The newest {MOST_ROWS} runs are shown." if len(listed) > MOST_ROWS else ""
    return f'<table class="history"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{markup.note(older)}'


def _row(run: Run) -> str:
    method, model = what(run)
    seen = runs.summary(run)
    loss, eval_loss = events.number(seen.get("loss")), events.number(seen.get("eval_loss"))
    cells = (
        f'<a href="?run={formats.escape(run.id)}">{formats.escape(run.name)}</a>',
        formats.escape(method),
        formats.escape(model),
        markup.chip(run.state),
        "–" if loss is None else formats.escape(formats.figure(loss)),
        "–" if eval_loss is None else formats.escape(formats.figure(eval_loss)),
        "–" if seen.get("seconds") is None else formats.escape(formats.duration(seen["seconds"])),
        formats.escape(formats.moment(run.created)),
        f'<a href="?again={formats.escape(run.id)}">Use this plan again</a>',
    )
    return "<tr>" + "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in zip(COLUMNS, cells, strict=True)) + "</tr>"


def what(run: Run) -> tuple[str, str]:
    """(method, model) of a run; a plan that another version wrote may not be readable, and hides no other row."""
    try:
        return formats.method_name(run.plan), formats.model_name(run.plan)
    except PlanError:
        return formats.UNKNOWN, formats.UNKNOWN


def newest() -> str:
    """The tables as they are now: chains and comparisons, if there are any, and all runs."""
    return chain_tab.history() + compare_tab.history() + table(runs.all_runs(MOST_ROWS + 1))


def wire(tab: HistoryTab) -> None:
    """The table is read anew each time the tab is opened."""
    tab.tab.select(guarded(newest), None, tab.table, concurrency_limit=None, show_progress="hidden", api_visibility="private")
