"""The Try tab: one question, answered by the base model and by the tuned one, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine import runs
from engine.demos import DEMOS
from engine.plan import Issue, Plan, PlanError
from ui import markup, run_picker
from ui.border import guarded

if TYPE_CHECKING:
    from engine.answers import Answers

NEW_TOKENS = 64
MOST_NEW_TOKENS = 512
NO_RUN = PlanError([Issue(field="run", message="none is chosen.", fix="Train one first, on the Plan tab.")])


@dataclass(frozen=True, kw_only=True)
class TryTab:
    """The parts of the tab that events read or write."""

    tab: gr.Tab
    picker: gr.Dropdown
    prompt: gr.Textbox
    examples: gr.Radio
    new_tokens: gr.Slider
    temperature: gr.Slider
    ask: gr.Button
    base: gr.Textbox
    tuned: gr.Textbox


def build(tab: gr.Tab) -> TryTab:
    """Lay the tab out, without a run."""
    with gr.Column(elem_classes=["page"], min_width=0):
        with gr.Row(elem_classes=["page-head"]):
            markup.block(markup.heading("Try", "Ask the model that you trained, beside the one it came from."))
            picker = run_picker.picker("try-run")
        with gr.Column(elem_classes=["card"], min_width=0):
            prompt = gr.Textbox(label="Question", lines=3, max_lines=12, placeholder="Write a question…", elem_id="prompt")
            examples = gr.Radio(
                choices=[], label="Or one that it was not trained on", visible=False, elem_id="examples", elem_classes=["pills"]
            )
            with gr.Row(elem_classes=["actions"]):
                ask = gr.Button("Ask both", variant="primary", elem_id="ask")
            with (
                gr.Accordion("Settings of the answer", open=False, elem_classes=["fold"]),
                gr.Row(elem_classes=["fields", "fields-wide"]),
            ):
                new_tokens = gr.Slider(
                    1, MOST_NEW_TOKENS, NEW_TOKENS, step=1, label="Longest answer", info="In tokens.", elem_id="new-tokens"
                )
                temperature = gr.Slider(
                    0, 2, 0, step=0.1, label="Temperature", info="0: always the likeliest word.", elem_id="temperature"
                )
        with gr.Row(elem_classes=["answers"]):
            with gr.Column(elem_classes=["card"], min_width=0):
                base = gr.Textbox(label="Base model", lines=8, interactive=False, elem_id="answer-base")
            with gr.Column(elem_classes=["card", "card-mine"], min_width=0):
                tuned = gr.Textbox(label="Your fine-tune", lines=8, interactive=False, elem_id="answer-tuned")
    return TryTab(
        tab=tab,
        picker=picker,
        prompt=prompt,
        examples=examples,
        new_tokens=new_tokens,
        temperature=temperature,
        ask=ask,
        base=base,
        tuned=tuned,
    )


def example_prompts(plan: Plan) -> tuple[str, ...]:
    """Held-out questions of the plan's demo sets."""
    paths = {source.path for source in plan.datasets}
    return tuple(prompt for demo in DEMOS.values() if demo.path in paths for prompt in demo.example_prompts)


def wire(tab: TryTab, answers: Answers) -> None:
    """Answer the question; offer the examples of the chosen run's data."""

    @guarded
    def ask(run_id: str | None, prompt: str, max_new_tokens: float, temperature: float) -> Iterator[tuple[str, str]]:
        if not run_id:
            raise NO_RUN
        yield "", ""
        for reply in answers.ask(run_id, prompt, max_new_tokens=int(max_new_tokens), temperature=temperature):
            yield reply.base, reply.tuned

    @guarded
    def show_examples(run_id: str | None) -> tuple[dict[str, Any], str, str]:
        run = runs.get(run_id) if run_id else None
        prompts = example_prompts(run.plan) if run else ()
        return gr.update(choices=list(prompts), value=None, visible=bool(prompts)), "", ""

    gr.on(
        [tab.ask.click, tab.prompt.submit],
        ask,
        [tab.picker, tab.prompt, tab.new_tokens, tab.temperature],
        [tab.base, tab.tuned],
        concurrency_limit=2,
        show_progress="minimal",
        api_name="ask",
    )
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    tab.picker.change(show_examples, tab.picker, [tab.examples, tab.base, tab.tuned], **quiet)
    tab.examples.input(guarded(str), tab.examples, tab.prompt, **quiet)
    tab.tab.select(guarded(refresh), tab.picker, tab.picker, **quiet)


def refresh(run_id: str | None) -> dict[str, Any]:
    """The list of the runs as it is now."""
    return run_picker.update(run_picker.runs_with_results(), run_id)
