"""Several adapters of one base, side by side: one question to all of them, and how well each does each task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.inference import several_adapters
from engine.inference.several_adapters import BASE, Joint, Said
from engine.issues import Issue, PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from ui.views import formats, markup, run_picker
from ui.web.handlers import guarded

TITLE = "Several adapters on one base"
ABOUT = (
    "Train one adapter per task, then choose them here: they are loaded into one model by name, which takes little more "
    "memory than one of them. It works with nearly every method; where a model can hold one adapter only, the page says so."
)
ASKING = "Loading the base with its adapters…"
NO_RUNS = PlanError([Issue(field="adapters", message="none is chosen.", fix="Choose finished runs of one base model.")])


@dataclass(frozen=True, kw_only=True)
class AdaptersCard:
    """The parts of the card that events read or write."""

    chosen: gr.Dropdown
    prompt: gr.Textbox
    ask: gr.Button
    compare: gr.Button
    answers: gr.HTML


def build() -> AdaptersCard:
    """Lay the card out, folded."""
    with (
        gr.Column(elem_classes=["page", "page-more"], min_width=0),
        gr.Accordion(TITLE, open=False, elem_classes=["fold", "card"], elem_id="adapters"),
    ):
        markup.block(markup.note(ABOUT))
        chosen = gr.Dropdown(
            choices=[], value=[], multiselect=True, max_choices=several_adapters.MOST_ADAPTERS, label="Adapters",
            info="Finished runs of one base model and one method.", elem_id="adapters-chosen",
        )  # fmt: skip
        prompt = gr.Textbox(label="Question to all of them", lines=2, max_lines=8, elem_id="adapters-prompt")
        with gr.Row(elem_classes=["actions"]):
            ask = gr.Button("Ask all", variant="primary", elem_id="adapters-ask")
            compare = gr.Button("How well does each do each task?", elem_id="adapters-compare")
        answers = markup.block("", elem_id="adapters-answers")
    return AdaptersCard(chosen=chosen, prompt=prompt, ask=ask, compare=compare, answers=answers)


def choices() -> list[tuple[str, str]]:
    """The runs that left an adapter of a model that writes text."""
    return [
        (f"{run.name} · {formats.moment(run.created)}", run.id)
        for run in run_picker.every_run()
        if several_adapters.can_be_joined(run)
    ]


# --- what was said --------------------------------------------------------------------------------------------------


def answers_table(chosen: list[Run], said: list[Said]) -> str:
    """Each adapter's answer, the base's first."""
    names = {BASE: "Base model"} | {run.id: run.name for run in chosen}
    rows = "".join(
        f'<tr><th scope="row">{formats.escape(names[one.name])}</th><td>{formats.escape(one.value)}</td></tr>'
        for one in said
        if one.name in names
    )
    return f'<table class="rows"><caption>Answers</caption><tbody>{rows}</tbody></table>'


def losses_table(chosen: list[Run], said: list[Said]) -> str:
    """Loss by adapter and task; the best of each task is marked by a sign as well as by weight."""
    found = {(one.name, one.task): float(one.value) for one in said if one.task}
    columns = {run.id: [value for (_, task), value in found.items() if task == run.id] for run in chosen}
    best = {task: min(values) if len(values) > len(chosen) else None for task, values in columns.items()}  # when all are in
    heads = "".join(f'<th scope="col">{formats.escape(run.name)}</th>' for run in chosen)
    lines = []
    for name, title in ((BASE, "Base model"), *((run.id, run.name) for run in chosen)):
        cells = "".join(_loss(found.get((name, run.id)), best[run.id]) for run in chosen)
        lines.append(f'<tr><th scope="row">{formats.escape(title)}</th>{cells}</tr>')
    caption = "Loss per token on held-out rows, lower is better: adapters in rows, the data that each was trained on in columns"
    return (
        f'<div class="scroll"><table class="rows"><caption>{caption}</caption><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _loss(value: float | None, best: float | None) -> str:
    if value is None:
        return "<td>…</td>"
    shown = formats.escape(formats.figure(value))
    return f"<td><strong>{shown} ✓</strong></td>" if value == best else f"<td>{shown}</td>"


# --- events ---------------------------------------------------------------------------------------------------------


def wire(card: AdaptersCard, tab: gr.Tab, together: Joint) -> None:
    """Ask, or compare, on a click; the list of adapters is read anew each time the tab is opened."""

    @guarded
    def ask(ids: list[str], prompt: str) -> Iterator[str]:
        yield from _grown(runs_of(ids), together.answers(runs_of(ids), prompt), answers_table)

    @guarded
    def compare(ids: list[str]) -> Iterator[str]:
        yield from _grown(runs_of(ids), together.losses(runs_of(ids)), losses_table)

    @guarded
    def refresh(ids: list[str]) -> dict[str, Any]:
        listed = choices()
        known = {run_id for _, run_id in listed}
        return gr.update(choices=listed, value=[run_id for run_id in ids or [] if run_id in known])

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    asked: dict[str, Any] = {"trigger_mode": "once", "concurrency_limit": 2, **quiet}
    card.ask.click(ask, [card.chosen, card.prompt], card.answers, **asked)
    card.prompt.submit(ask, [card.chosen, card.prompt], card.answers, **asked)
    card.compare.click(compare, card.chosen, card.answers, **asked)
    tab.select(refresh, card.chosen, card.chosen, concurrency_limit=None, **quiet)


def runs_of(ids: list[str] | None) -> list[Run]:
    """The chosen runs. Raises `PlanError` if there is none."""
    found = [run for run_id in ids or [] if (run := runs.get(run_id)) is not None]
    if not found:
        raise NO_RUNS
    return found


def _grown(chosen: list[Run], said: Iterator[Said], table: Any) -> Iterator[str]:
    yield markup.note(ASKING)
    told: list[Said] = []
    for one in said:
        told.append(one)
        yield table(chosen, told)
