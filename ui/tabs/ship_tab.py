"""The Ship tab: merge the adapter into its base, show the proof, and take the result home."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from engine.catalog.models import DEMO_MODEL
from engine.export import downloads, merge
from engine.export.downloads import Artifact
from engine.export.merge import MergeStatus
from engine.issues import Issue, PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.methods import METHODS
from ui.views import formats, markup, run_picker
from ui.web.handlers import guarded

SECONDS_BETWEEN_LOOKS = 1.0
WHAT_MERGING_DOES = (
    "Merging adds what was learned into the weights of the base model. The result is one ordinary model that any program "
    "loads without PEFT. It is only offered when it answers held-out questions as base and adapter together do."
)
NOTHING_TO_MERGE = "This method trains the model itself, so there is nothing to merge: the model below is complete."
NO_RUN = "No finished run yet. A run that has ended and saved something can be taken home here."
MERGE_NONE = MergeStatus(state="none")


@dataclass(frozen=True, kw_only=True)
class ShipTab:
    """The parts of the tab that events read or write."""

    tab: gr.Tab
    picker: gr.Dropdown
    about: gr.HTML
    merge: gr.Button
    progress: gr.HTML
    downloads: gr.HTML
    snippet: gr.Code
    timer: gr.Timer

    @property
    def rendered(self) -> list[Component]:
        """What a look at the run may change."""
        return [self.about, self.merge, self.progress, self.downloads, self.snippet, self.timer]


def build(tab: gr.Tab) -> ShipTab:
    """Lay the tab out, without a run."""
    with gr.Column(elem_classes=["page"], min_width=0):
        with gr.Row(elem_classes=["page-head"]):
            markup.block(markup.heading("Ship", "Take the result home: one folder that any program can load."))
            picker = run_picker.picker("ship-run")
        with gr.Column(elem_classes=["card"], min_width=0):
            markup.block(markup.card_title(1, "Merge"))
            about = markup.block(markup.note(NO_RUN))
            with gr.Row(elem_classes=["actions"]):
                merge_button = gr.Button("Merge", variant="primary", visible=False, elem_id="merge")
            progress = markup.block("", elem_id="merge-progress")
        with gr.Column(elem_classes=["card"], min_width=0):
            markup.block(markup.card_title(2, "Download"))
            links = markup.block(markup.note("Nothing to download yet."), elem_id="downloads")
            snippet = gr.Code(
                label="How to load it",
                language="python",
                interactive=False,
                visible=False,
                elem_id="snippet",
                elem_classes=["code"],
            )
    return ShipTab(
        tab=tab,
        picker=picker,
        about=about,
        merge=merge_button,
        progress=progress,
        downloads=links,
        snippet=snippet,
        timer=gr.Timer(SECONDS_BETWEEN_LOOKS, active=False),
    )


# --- what a run offers ----------------------------------------------------------------------------------------------


def proof(status: MergeStatus) -> str:
    """The state of the merge: its progress, its fault, or the table that proves it."""
    if status.state == "running":
        return markup.progress(status.fraction, "Progress of the merge") + markup.note(status.message)
    if status.state == "failed":
        return markup.note(status.message, "bad")
    if status.state == "finished" and status.report:
        return proof_table(dict(status.report))
    return ""


def proof_table(report: dict[str, Any]) -> str:
    """What was compared after the merged model was loaded back from the disk."""
    rows = [
        ("Same answers as base and adapter", f"{report['agree']} of {report['prompts']} prompts"),
        (
            "Largest difference of a logit",
            f"{formats.figure(report['max_logit_difference'])} (tolerance {formats.figure(report['tolerance'])})",
        ),
        ("Weights that the merge changed", f"{formats.whole(report['weights_changed'])} of {formats.whole(report['weights'])}"),
        ("Merged into", str(report["base"])),
        ("Size", formats.size(report["bytes"])),
    ]
    cells = "".join(
        f'<tr><th scope="row">{formats.escape(name)}</th><td>{formats.escape(value)}</td></tr>' for name, value in rows
    )
    table = f'<table class="proof"><caption class="unseen">Proof</caption><tbody>{cells}</tbody></table>'
    return markup.note("Merged and proven.", "good") + table


def links(offered: tuple[Artifact, ...], prefix: str = "") -> str:
    """The downloads as links, the most useful first; `prefix` tells the ids of those on another tab apart."""
    if not offered:
        return markup.note("Nothing to download yet.")
    items = "".join(
        f'<a class="button{" button-main" if place == 0 else ""}" href="{formats.escape(artifact.href)}" download '
        f'id="{prefix}download-{formats.escape(artifact.name)}">'
        f"{formats.escape(artifact.label)} <small>{formats.escape(formats.size(artifact.bytes))}, zip</small></a>"
        for place, artifact in enumerate(offered)
    )
    return f'<div class="buttons">{items}</div>'


def snippet(run: Run, offered: tuple[Artifact, ...]) -> str:
    """Python that loads the first of the downloads, or "" where there is none."""
    if not offered:
        return ""
    name = offered[0].name
    folder = downloads.zip_name(run.id, name)
    if name != "adapter":
        return _SNIPPET_MODEL.format(folder=folder)
    return _SNIPPET_ADAPTER.format(folder=folder, base=base_in_code(run))


def base_in_code(run: Run) -> str:
    """The base model as Python loads it; the demo model has no hub id, it comes with this program."""
    if run.plan.model == DEMO_MODEL:
        return '"assets/demo_model")  # in the folder of Fitting Room'
    return f"{json.dumps(run.plan.model)})"


_SNIPPET_MODEL = """from transformers import pipeline

chat = pipeline("text-generation", model="{folder}")  # the unpacked folder
print(chat([{{"role": "user", "content": "Hello!"}}], max_new_tokens=64)[0]["generated_text"][-1]["content"])
"""
_SNIPPET_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base}
model = PeftModel.from_pretrained(base, "{folder}")  # the unpacked folder
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""


def rendered(tab: ShipTab, run: Run) -> dict[Component, Any]:
    """The whole tab, for a run."""
    mergeable = METHODS[run.plan.method].mergeable
    status = merge.status(run) if mergeable else MERGE_NONE
    offered = downloads.artifacts(run)
    code = snippet(run, offered)
    return {
        tab.about: markup.note(WHAT_MERGING_DOES if mergeable else NOTHING_TO_MERGE),
        tab.merge: gr.update(
            visible=mergeable and bool(offered),
            interactive=status.state != "running",
            value={"running": "Merging…", "finished": "Merge again"}.get(status.state, "Merge"),
        ),
        tab.progress: proof(status),
        tab.downloads: links(offered),
        tab.snippet: gr.update(value=code, visible=bool(code)),
        tab.timer: gr.Timer(active=status.state == "running"),
    }


def nothing(tab: ShipTab) -> dict[Component, Any]:
    """The tab without a run."""
    return {
        tab.about: markup.note(NO_RUN),
        tab.merge: gr.update(visible=False),
        tab.progress: "",
        tab.downloads: markup.note("Nothing to download yet."),
        tab.snippet: gr.update(visible=False),
        tab.timer: gr.Timer(active=False),
    }


# --- events ---------------------------------------------------------------------------------------------------------


def wire(tab: ShipTab) -> None:
    """Show the chosen run, merge it, and follow the merge."""

    @guarded
    def show_result(run_id: str | None) -> dict[Component, Any]:
        run = runs.get(run_id) if run_id else None
        return rendered(tab, run) if run else nothing(tab)

    @guarded
    def merge_run(run_id: str | None) -> dict[Component, Any]:
        run = runs.get(run_id) if run_id else None
        if run is None:
            raise PlanError([Issue(field="run", message="none is chosen.", fix="Choose a finished run.")])
        merge.start(run.id)
        return rendered(tab, run)

    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    tab.picker.change(show_result, tab.picker, tab.rendered, api_visibility="private", **quiet)
    tab.timer.tick(show_result, tab.picker, tab.rendered, api_visibility="private", trigger_mode="once", **quiet)
    tab.merge.click(merge_run, tab.picker, tab.rendered, api_name="merge", **quiet)
    tab.tab.select(guarded(refresh), tab.picker, tab.picker, api_visibility="private", **quiet).then(
        show_result, tab.picker, tab.rendered, api_visibility="private", **quiet
    )


def refresh(run_id: str | None) -> dict[str, Any]:
    """The list of the runs as it is now."""
    return run_picker.update(run_picker.runs_with_results(), run_id)
