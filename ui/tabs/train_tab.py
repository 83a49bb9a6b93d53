"""The Train tab: one run as it goes. A timer reads what is new in the run's event file; nothing here runs anything.

A session holds a `Watch`: which run it has drawn and up to where. Closing the tab loses nothing, and any number of
tabs may watch the same run.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from engine.export import downloads
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.methods import METHODS
from engine.modeling import checkpoints
from engine.system import events
from estimators.timing import measured
from ui.views import charts, fitcard, formats, markup, run_picker
from ui.views.curves import Curves
from ui.web import url_state
from ui.web.handlers import guarded

LOG_TAIL_BYTES = 4096
# Drawing five charts takes a browser processor time, which on a small machine the training misses.
SECONDS_BETWEEN_LOOKS = 2.0
NO_RUN = "No run yet. Choose a plan and press Start training: it appears here."
STOP, STOPPING = "Stop and keep what it has learned", "Stopping after this step…"
STARTING = "The worker is starting."
NOT_FOUND = "There is no run with this id."
SUSPENDED = "Its process is suspended and trains nothing. Continue it with: kill -CONT {pid}"
REASON_KINDS = {"stalled": "bad", "finished": "good", "failed": "bad", "interrupted": "bad"}


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What this page has drawn: of which run, up to which byte of its events, in which state."""

    run_id: str = ""
    state: str = ""
    cursor: int = 0
    curves: Curves = dataclasses.field(default_factory=Curves)
    log: str = ""
    suspended: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainTab:
    """The parts of the tab that events read or write."""

    picker: gr.Dropdown
    head: gr.HTML
    stop: gr.Button
    resume: gr.Button
    try_it: gr.Button
    ship_it: gr.Button
    plots: dict[str, gr.Plot]
    log: gr.Textbox
    watch: gr.State
    timer: gr.Timer

    @property
    def rendered(self) -> list[Component]:
        """What a look at the run may change."""
        return [
            self.head,
            self.stop,
            self.resume,
            self.try_it,
            self.ship_it,
            *self.plots.values(),
            self.log,
            self.watch,
            self.timer,
        ]


CHARTS = {
    "loss": (charts.loss, "Loss"),
    "learning_rate": (charts.learning_rate, "Learning rate"),
    "gradient_norm": (charts.gradient_norm, "Gradient norm"),
    "speed": (charts.speed, "Tokens per second"),
    "memory": (charts.memory, "Peak memory (GB)"),
}


# --- layout ---------------------------------------------------------------------------------------------------------


def build() -> TrainTab:
    """Lay the tab out, without a run."""
    with gr.Column(elem_classes=["page"], min_width=0):
        with gr.Row(elem_classes=["page-head"]):
            markup.block(markup.heading("Train", "A run goes on when you close this page."))
            picker = run_picker.picker("run")
        with gr.Column(elem_classes=["card"], min_width=0):
            head = markup.block(markup.note(NO_RUN), elem_id="run-head")
            with gr.Row(elem_classes=["actions"]):
                stop = gr.Button(STOP, variant="stop", visible=False, elem_id="stop-run")
                resume = gr.Button("Resume", visible=False, elem_id="resume-run")
                try_it = gr.Button("Try it", variant="primary", visible=False, elem_id="go-try")
                ship_it = gr.Button("Merge and download", visible=False, elem_id="go-ship")
        plots = build_plots()
        with gr.Accordion("Log of the worker", open=False, elem_classes=["fold", "card"]):
            log = gr.Textbox(label="The last lines of the log", lines=14, max_lines=14, interactive=False, elem_id="run-log")
    return TrainTab(
        picker=picker,
        head=head,
        stop=stop,
        resume=resume,
        try_it=try_it,
        ship_it=ship_it,
        plots=plots,
        log=log,
        watch=gr.State(Watch()),
        timer=gr.Timer(SECONDS_BETWEEN_LOOKS),
    )


def build_plots(prefix: str = "") -> dict[str, gr.Plot]:
    """The charts of a run, empty; `prefix` tells those of another tab apart."""
    plots: dict[str, gr.Plot] = {}
    with gr.Column(elem_classes=["card", "chart"], min_width=0):
        plots["loss"] = _plot("loss", prefix)
    with gr.Row(elem_classes=["charts"]):
        for name in list(CHARTS)[1:]:
            with gr.Column(elem_classes=["card", "chart"], min_width=0):
                plots[name] = _plot(name, prefix)
    return plots


def _plot(name: str, prefix: str) -> gr.Plot:
    draw, title = CHARTS[name]
    markup.block(f'<h3 class="chart-title">{formats.escape(title)}</h3>')
    return gr.Plot(draw(Curves()), label=title, show_label=False, elem_id=f"{prefix}{name.replace('_', '-')}-chart")


def drawn(plots: dict[str, gr.Plot], curves: Curves, run_id: str = "") -> dict[Component, Any]:
    """The charts with a run's lines."""
    return {plots[name]: draw(curves, run_id) for name, (draw, _) in CHARTS.items()}


# --- what a run looks like ------------------------------------------------------------------------------------------


def look(run: Run, watch: Watch) -> Watch:
    """The watch after reading what is new of the run; another run than before is read from its start."""
    if watch.run_id != run.id:
        watch = Watch(run_id=run.id)
    fresh, cursor = events.since(run.folder, watch.cursor)
    curves = watch.curves.extend(fresh) if fresh else watch.curves
    return Watch(
        run_id=run.id,
        state=run.state,
        cursor=cursor,
        curves=curves,
        log=log_tail(run.folder / runs.LOG_FILE),
        suspended=runs.is_suspended(run),
    )


def log_tail(file: Path) -> str:
    """The last lines of a log, as text."""
    try:
        with open(file, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOG_TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def head(run: Run, curves: Curves, *, suspended: bool = False) -> str:
    """Name, state, progress and the newest figures."""
    state = "stalled" if suspended else run.state
    why = SUSPENDED.format(pid=run.pid) if suspended else reason(run, curves)
    plan = run.plan
    what = f"{formats.method_name(plan)} · {formats.model_name(plan)} · started {formats.moment(run.created)}"
    done, of = curves.step.get("step", 0), curves.step.get("max_steps")
    bar = markup.progress(done / of if of else 0.0, "Progress of the run")
    return (
        f'<div class="run-title"><h2>{formats.escape(run.name)}</h2>{markup.chip(state, "run-state")}</div>'
        f'<p class="run-what">{formats.escape(what)}</p>{bar}{markup.facts(facts(run, curves))}'
        f"{markup.note(why, REASON_KINDS.get(state, 'plain'))}{_compared(run)}"
    )


def _compared(run: Run) -> str:
    """What was predicted beside what the run measured; it is noted a few seconds after the run's end."""
    found = None if run.is_active else measured.of_run(run.id)
    return markup.note(fitcard.in_comparison(found)) if found else ""


def facts(run: Run, curves: Curves) -> list[tuple[str, str]]:
    """The figures above the charts; what has not been measured yet is a dash."""
    step, evaluated = curves.step, curves.evaluated
    of = formats.whole(step["max_steps"]) if step else "–"
    time = ("Time left", _known(step, "seconds_left", formats.duration))
    if not run.is_active:
        time = ("Time", _known(curves.ended, "seconds", formats.duration))
    return [
        ("Step", f"{formats.whole(step['step'])} of {of}" if step else "–"),
        ("Epoch", _known(step, "epoch", formats.figure)),
        time,
        ("Loss", _known(step, "loss", formats.figure)),
        ("Evaluation loss", _known(evaluated, "eval_loss", formats.figure)),
        ("Tokens per second", _known(step, "tokens_per_second", formats.figure)),
        ("Peak memory", _known(step, "memory_peak", formats.size)),
        ("Trainable", _known(curves.started, "trainable_params", formats.count)),
    ]


def _known(event: Any, name: str, say: Any) -> str:
    value = events.number(event.get(name))
    return "–" if value is None else say(value)


def reason(run: Run, curves: Curves) -> str:
    """Why the run ended, or what it is doing before its first step."""
    if run.is_active:
        return "" if curves.step else curves.note or STARTING
    return run.reason or str(curves.ended.get("message", ""))


def rendered(tab: TrainTab, run: Run, watch: Watch) -> dict[Component, Any]:
    """The whole tab, for a run."""
    has_result = not run.is_active and bool(downloads.artifacts(run))
    checkpoint = runs.resumable(run)
    return {
        tab.head: head(run, watch.curves, suspended=watch.suspended),
        tab.stop: gr.update(visible=run.is_active),
        tab.resume: gr.update(visible=checkpoint is not None, value=resume_label(checkpoint)),
        tab.try_it: gr.update(visible=has_result),
        tab.ship_it: gr.update(
            visible=has_result, value="Merge and download" if METHODS[run.plan.method].mergeable else "Download"
        ),
        **drawn(tab.plots, watch.curves, run.id),
        tab.log: watch.log,
        tab.watch: watch,
        tab.timer: gr.Timer(active=run.is_active),
    }


def opened(tab: TrainTab, run: Run) -> dict[Component, Any]:
    """The whole tab, for a run that is shown anew: read from its start, with a fresh Stop button."""
    return rendered(tab, run, look(run, Watch())) | {tab.stop: gr.update(visible=run.is_active, value=STOP, interactive=True)}


def nothing(tab: TrainTab, sentence: str) -> dict[Component, Any]:
    """The tab without a run."""
    return {
        tab.head: markup.note(sentence),
        **{button: gr.update(visible=False) for button in (tab.stop, tab.resume, tab.try_it, tab.ship_it)},
        **drawn(tab.plots, Curves()),
        tab.log: "",
        tab.watch: Watch(),
        tab.timer: gr.Timer(active=False),
    }


# --- events ---------------------------------------------------------------------------------------------------------


def wire(tab: TrainTab) -> None:
    """Show the chosen run whole, then every two seconds what is new of it."""

    @guarded
    def show_run(run_id: str | None) -> dict[Component, Any]:
        run = runs.get(run_id) if run_id else None
        if run is None:
            return nothing(tab, NOT_FOUND if run_id else NO_RUN)
        return opened(tab, run)

    @guarded
    def follow_run(run_id: str | None, watch: Watch) -> dict[Component, Any]:
        run = runs.get(run_id) if run_id else None
        if run is None:
            return {tab.timer: gr.Timer(active=False)}
        seen = look(run, watch)
        return {tab.watch: watch} if seen == watch else rendered(tab, run, seen)

    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    tab.picker.change(show_run, tab.picker, tab.rendered, trigger_mode="always_last", **quiet)
    tab.timer.tick(follow_run, [tab.picker, tab.watch], tab.rendered, trigger_mode="once", **quiet)
    tab.picker.input(None, tab.picker, None, js=url_state.remember("run"), api_visibility="private")

    @guarded
    def resume_run(run_id: str) -> dict[Component, Any]:
        return opened(tab, runs.resume(run_id))

    tab.resume.click(resume_run, tab.picker, tab.rendered, concurrency_limit=None, show_progress="hidden", api_name="resume")
    tab.stop.click(guarded(stop_run), tab.picker, tab.stop, concurrency_limit=None, show_progress="hidden", api_name="stop")


def resume_label(checkpoint: Path | None) -> str:
    """What the button says: from where the run would go on."""
    return f"Resume after step {checkpoints.step_of(checkpoint)}" if checkpoint is not None else "Resume"


def stop_run(run_id: str) -> dict[str, Any]:
    """Ask the run to stop after its step and to save what it has."""
    runs.stop(run_id)
    return gr.update(value=STOPPING, interactive=False)
