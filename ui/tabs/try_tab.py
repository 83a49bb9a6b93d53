"""The Try tab: one question, answered by the base model and by the tuned one, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from engine import objectives
from engine.data import examples, limits
from engine.data.demos import DEMOS
from engine.data.pictures import Box, uploaded
from engine.issues import Issue, PlanError
from engine.jobs import runs
from engine.plan import Plan
from ui.views import data_views, markup, run_picker
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from engine.inference.client import Answers

NEW_TOKENS = 64
MOST_NEW_TOKENS = 512
QUESTION = "Question"
# What is asked about an image, by the kind of model; models that are not here need no words.
ABOUT_IMAGE = {
    "image-text-to-text": "Question about the image (empty: describe it)",
    "image-text-contrastive": "Texts to compare with the image, each in a line of its own",
}
NO_EXAMPLE = PlanError([Issue(field="run", message="it has no such image.", fix="Choose one of those that are shown.")])
NO_RUN = PlanError([Issue(field="run", message="none is chosen.", fix="Train one first, on the Plan tab.")])


@dataclass(frozen=True, kw_only=True)
class TryTab:
    """The parts of the tab that events read or write."""

    tab: gr.Tab
    picker: gr.Dropdown
    prompt: gr.Textbox
    examples: gr.Radio
    image: gr.Image
    images: gr.Gallery
    new_tokens: gr.Slider
    temperature: gr.Slider
    ask: gr.Button
    base: gr.Textbox
    tuned: gr.Textbox
    base_boxes: gr.HTML
    tuned_boxes: gr.HTML

    @property
    def of_run(self) -> list[Component]:
        """What another run changes."""
        return [self.prompt, self.examples, self.image, self.images, *self.answers]

    @property
    def answers(self) -> list[Component]:
        """What the two models say."""
        return [self.base, self.tuned, self.base_boxes, self.tuned_boxes]


def build(tab: gr.Tab) -> TryTab:
    """Lay the tab out, without a run."""
    # Gradio opens what is uploaded here before any code of ours; Pillow refuses an image of twice as many pixels.
    Image.MAX_IMAGE_PIXELS = limits.MOST_PIXELS // 2
    with gr.Column(elem_classes=["page"], min_width=0):
        with gr.Row(elem_classes=["page-head"]):
            markup.block(markup.heading("Try", "Ask the model that you trained, beside the one it came from."))
            picker = run_picker.picker("try-run")
        with gr.Column(elem_classes=["card"], min_width=0):
            with gr.Row(elem_classes=["try-image"]):
                image = gr.Image(
                    type="filepath",
                    sources=["upload"],
                    format="png",
                    label="Image",
                    height=260,
                    visible=False,
                    elem_id="try-image",
                )
                images = gr.Gallery(
                    label="Or one that it was not trained on", columns=3, height=260, allow_preview=False, visible=False,
                    interactive=False, format="png", object_fit="contain", elem_id="try-images",
                )  # fmt: skip
            prompt = gr.Textbox(label=QUESTION, lines=3, max_lines=12, placeholder="Write a question…", elem_id="prompt")
            examples_ = gr.Radio(
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
                base_boxes = markup.block("", elem_id="boxes-base")
            with gr.Column(elem_classes=["card", "card-mine"], min_width=0):
                tuned = gr.Textbox(label="Your fine-tune", lines=8, interactive=False, elem_id="answer-tuned")
                tuned_boxes = markup.block("", elem_id="boxes-tuned")
    return TryTab(
        tab=tab,
        picker=picker,
        prompt=prompt,
        examples=examples_,
        image=image,
        images=images,
        new_tokens=new_tokens,
        temperature=temperature,
        ask=ask,
        base=base,
        tuned=tuned,
        base_boxes=base_boxes,
        tuned_boxes=tuned_boxes,
    )


def example_prompts(plan: Plan) -> tuple[str, ...]:
    """Held-out questions of the plan's demo sets."""
    paths = {source.path for source in plan.datasets}
    return tuple(prompt for demo in DEMOS.values() if demo.path in paths for prompt in demo.example_prompts)


def wire(tab: TryTab, answers: Answers) -> None:
    """Answer the question; offer the examples of the chosen run's data."""

    @guarded
    def ask(
        run_id: str | None, prompt: str, max_new_tokens: float, temperature: float, image: str | None = None
    ) -> Iterator[tuple[str, str, str, str]]:
        if not run_id:
            raise NO_RUN
        yield "", "", "", ""
        settings = {"max_new_tokens": int(max_new_tokens), "temperature": temperature, "image": image}
        for reply in answers.ask(run_id, prompt or "", **settings):
            if reply.waiting:
                yield waiting(reply.waiting), "", "", ""
                continue
            yield reply.base, reply.tuned, drawn(image, reply.base_boxes), drawn(image, reply.tuned_boxes)

    gr.on(
        [tab.ask.click, tab.prompt.submit],
        ask,
        [tab.picker, tab.prompt, tab.new_tokens, tab.temperature, tab.image],
        tab.answers,
        concurrency_limit=2,
        show_progress="minimal",
        api_name="ask",
    )
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def show_run(run_id: str | None) -> dict[Component, Any]:
        run = runs.get(run_id) if run_id else None
        return run_shown(tab, run.plan if run else None)

    @guarded
    def take_image(run_id: str | None, event: gr.SelectData) -> tuple[Any, str]:
        run = runs.get(run_id) if run_id else None
        if run is None:
            raise NO_RUN
        listed = examples.of(run.plan)
        if event.index not in range(len(listed)):
            raise NO_EXAMPLE
        chosen = listed[event.index]
        return chosen.image, chosen.prompt

    tab.picker.change(show_run, tab.picker, tab.of_run, **quiet)
    tab.images.select(take_image, tab.picker, [tab.image, tab.prompt], **quiet)
    tab.examples.input(guarded(str), tab.examples, tab.prompt, **quiet)
    tab.tab.select(guarded(refresh), tab.picker, tab.picker, **quiet)


def waiting(before: int) -> str:
    """What stands in for an answer while others are answered."""
    return "Waiting: one question is answered before yours." if before == 1 else f"Waiting: {before} questions come first."


def run_shown(tab: TryTab, plan: Plan | None) -> dict[Component, Any]:
    """What a run can be asked: in words, or about an image; and held-out examples of its data."""
    prompts = example_prompts(plan) if plan else ()
    task = objectives.task_of(plan) if plan else None
    looks = task is not None and task.reads_images
    asked = ABOUT_IMAGE.get(task.key) if task is not None and looks else QUESTION
    held_out = examples.of(plan) if plan is not None and looks else ()
    return {
        tab.prompt: gr.update(label=asked or QUESTION, visible=asked is not None),  # what somebody has typed stays
        tab.examples: gr.update(choices=list(prompts), value=None, visible=bool(prompts)),
        tab.image: gr.update(visible=looks, value=None),
        tab.images: gr.update(visible=bool(held_out), value=[(one.image, one.expected) for one in held_out]),
        **dict.fromkeys(tab.answers, ""),
    }


def drawn(image: str | None, boxes: Sequence[Box]) -> str:
    """The image with the boxes that a detector draws; nothing without boxes."""
    return data_views.figure(dataclasses.replace(uploaded(image), boxes=tuple(boxes))) if image and boxes else ""


def refresh(run_id: str | None) -> dict[str, Any]:
    """The list of the runs as it is now."""
    return run_picker.update(run_picker.runs_with_results(), run_id)
