"""The Chains tab: several trainings in a row. A chain at work is watched above, a new one is built below.

A chain runs in a process of its own (`engine/pipelines/chain_runs.py`); its stages are ordinary runs. A timer reads what is new
of the chain and of the stage under way; closing the page loses nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine.export import downloads
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.objectives import OBJECTIVES
from engine.pipelines import chain_runs, chains, forgetting
from engine.pipelines.chain_runs import ChainRun
from ui.plan import form
from ui.tabs import chain_builder, ship_tab, train_tab
from ui.tabs.chain_builder import Builder
from ui.views import charts, formats, markup
from ui.web import url_state
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.service.client import Estimator

TITLE = "Chains"
LEAD = "Several trainings in a row: each stage goes on with what the last one has learned."
SECONDS_BETWEEN_LOOKS = 2.0  # as on the Train tab
STOP, STOPPING = "Stop and keep what it has learned", "Stopping after this step…"
REASON_KINDS = {"failed": "bad", "interrupted": "bad"}
NO_REPORT = "Nothing was asked yet."
NO_QUESTION = (
    "Nothing can be asked here. A result is asked about an earlier stage only if both are models of one kind, on the same "
    "classes where there are classes."
)
NOT_FOUND = "There is no chain with this id."


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What this page has drawn of a chain: the chain as it was, and the stage under way."""

    chain: ChainRun | None = None
    stage: train_tab.Watch = dataclasses.field(default_factory=train_tab.Watch)


@dataclass(frozen=True, kw_only=True)
class ChainTab:
    """The parts of the tab that events read or write."""

    tab: gr.Tab
    picker: gr.Dropdown
    shown: gr.Column
    head: gr.HTML
    stop: gr.Button
    resume: gr.Button
    take: gr.Button
    downloads: gr.HTML
    report: gr.Plot
    verdict: gr.HTML
    stage: gr.HTML
    plots: dict[str, gr.Plot]
    watch: gr.State
    timer: gr.Timer
    builder: Builder

    @property
    def rendered(self) -> list[Component]:
        """What a look at a chain may change."""
        return [
            *(self.shown, self.head, self.stop, self.resume, self.take, self.downloads, self.report, self.verdict),
            *(self.stage, *self.plots.values(), self.watch, self.timer),
        ]


# --- layout ---------------------------------------------------------------------------------------------------------


def build(tab: gr.Tab) -> ChainTab:
    """Lay the tab out, without a chain."""
    with gr.Column(elem_classes=["page"], min_width=0):
        with gr.Row(elem_classes=["page-head"]):
            markup.block(markup.heading(TITLE, LEAD))
            picker = gr.Dropdown(choices=[], value=None, label="Chain", allow_custom_value=True, visible=False, elem_id="chain")
        with gr.Column(visible=False, elem_classes=["column"], min_width=0) as shown:
            with gr.Column(elem_classes=["card"], min_width=0):
                head = markup.block("", elem_id="chain-head")
                with gr.Row(elem_classes=["actions"]):
                    stop = gr.Button(STOP, variant="stop", visible=False, elem_id="stop-chain")
                    resume = gr.Button("Resume", variant="primary", visible=False, elem_id="resume-chain")
                    take = gr.Button("Change it and start it anew", visible=False, elem_id="chain-take")
                links = markup.block("", elem_id="chain-downloads")
            with gr.Column(elem_classes=["card", "chart"], min_width=0):
                markup.block(markup.card_title(None, "What was forgotten", "loss on held-out rows, lower is better"))
                report = gr.Plot(charts.forgetting((), 0), label="Forgetting", show_label=False, elem_id="forgetting-chart")
                verdict = markup.block(markup.note(NO_REPORT), elem_id="forgetting")
            with gr.Column(elem_classes=["card"], min_width=0):
                stage = markup.block("", elem_id="chain-stage")
            plots = train_tab.build_plots("chain-")
        builder = chain_builder.build()
    return ChainTab(
        tab=tab,
        picker=picker,
        shown=shown,
        head=head,
        stop=stop,
        resume=resume,
        take=take,
        downloads=links,
        report=report,
        verdict=verdict,
        stage=stage,
        plots=plots,
        watch=gr.State(Watch()),
        timer=gr.Timer(SECONDS_BETWEEN_LOOKS, active=False),
        builder=builder,
    )


def listed(chosen: str | None = None) -> dict[str, Any]:
    """The list of the chains as it is now; the chosen one stays chosen, else the newest one is."""
    found = chain_runs.all_chains()
    choices = [(f"{chain.name} · {formats.moment(chain.created)}", chain.id) for chain in found]
    return gr.update(choices=choices, value=chosen or (found[0].id if found else None), visible=bool(found))


# --- what a chain looks like ----------------------------------------------------------------------------------------


def head(chain: ChainRun) -> str:
    """Name, state, what it is doing, and its stages."""
    bar = markup.progress(len(chain.progress.results) / len(chain.chain.stages), "Finished stages of the chain")
    said = chain.message if chain.is_active or chain.state in ("stopped", *REASON_KINDS) else ""
    return (
        f'<div class="run-title"><h2>{formats.escape(chain.name)}</h2>{markup.chip(chain.state, "chain-state")}</div>'
        f'<p class="run-what">{formats.escape(f"started {formats.moment(chain.created)}")}</p>{bar}{_stages(chain)}'
        f"{markup.note(said, REASON_KINDS.get(chain.state, 'plain'))}"
    )


def _stages(chain: ChainRun) -> str:
    rows = "".join(_stage_row(chain, number) for number in range(len(chain.chain.stages)))
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Stage", "Data", "State", "Held-out figure"))
    return f'<table class="history stages"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _stage_row(chain: ChainRun, number: int) -> str:
    plan = chain.chain.stages[number].plan
    run = runs.get(chain.progress.runs[number]) if number in chain.progress.runs else None
    name = formats.escape(f"{number + 1}. {OBJECTIVES[plan.objective].label}")
    cells = (
        ("Stage", f'<a href="?run={formats.escape(run.id)}">{name}</a>' if run else name),
        ("Data", formats.escape(chain_builder.data_of(plan))),
        ("State", markup.chip(run.state) if run else "to come"),
        ("Held-out figure", formats.escape(_figure(run)) if run else "–"),
    )
    return "<tr>" + "".join(f'<td data-label="{label}">{cell}</td>' for label, cell in cells) + "</tr>"


def _figure(run: Run) -> str:
    """The stage's own figure at its beginning and now: "accuracy 0.51 → 0.94"."""
    found = _figure_of_ended(run.id) if not run.is_active else chains.last_figure(run)
    return f"{found[0]} {formats.figure(found[1])} → {formats.figure(found[2])}" if found else "–"


@functools.lru_cache(maxsize=256)
def _figure_of_ended(run_id: str) -> tuple[str, float, float] | None:
    """An ended run measures no more, so its events are read once."""
    run = runs.get(run_id)
    return chains.last_figure(run) if run is not None else None


def verdict(chain: ChainRun) -> str:
    """The report in words: a warning for each loss that rose by more than the limit, or that none did."""
    report = chain.progress.report
    if not report:
        ended_or_cannot = chain.state == "finished" or not forgetting.can_tell(chain.chain)
        return markup.note(NO_QUESTION if ended_or_cannot else NO_REPORT)
    said = forgetting.warnings(report, chain.chain.limit)
    if said:
        return "".join(markup.note(sentence, "warn") for sentence in said)
    if len(report) < 2:
        return markup.note("This is what the model knew before.")
    return markup.note(f"No loss rose by more than {chain.chain.limit:.0%} above its best.", "good")


def history() -> str:
    """The chains as a table for the History tab; nothing where there are none."""
    found = chain_runs.all_chains()
    if not found:
        return ""
    names = ("Chain", "Stages", "State", "Started")
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(_history_row(chain, names) for chain in found)
    return f'<table class="history chains"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _history_row(chain: ChainRun, names: tuple[str, ...]) -> str:
    done = f"{len(chain.progress.results)} of {len(chain.chain.stages)} finished: {chains.default_name(chain.chain)}"
    cells = (
        f'<a href="?chain={formats.escape(chain.id)}">{formats.escape(chain.name)}</a>',
        formats.escape(done),
        markup.chip(chain.state),
        formats.escape(formats.moment(chain.created)),
    )
    return "<tr>" + "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in zip(names, cells, strict=True)) + "</tr>"


def rendered(tab: ChainTab, chain: ChainRun, watch: Watch) -> dict[Component, Any]:
    """All that shows a chain."""
    run = runs.get(chain.run_id) if chain.run_id else None
    return {
        tab.shown: gr.update(visible=True),
        tab.head: head(chain),
        tab.stop: gr.update(visible=chain.is_active or (run is not None and run.is_active)),
        tab.resume: gr.update(visible=chain.state in ("stopped", "failed", "interrupted")),
        tab.take: gr.update(visible=not chain.is_active),
        tab.downloads: results(chain),
        tab.report: charts.forgetting(chain.progress.report, chain.chain.limit),
        tab.verdict: verdict(chain),
        tab.stage: train_tab.head(run, watch.stage.curves) if run else markup.note("The first stage has not begun yet."),
        **train_tab.drawn(tab.plots, watch.stage.curves, watch.stage.run_id),
        tab.watch: watch,
        tab.timer: gr.Timer(active=chain.is_active or (run is not None and run.is_active)),
    }


def results(chain: ChainRun) -> str:
    """What the last finished stage offers for download."""
    if not chain.progress.results or chain.is_active:
        return ""
    run = runs.get(chain.progress.runs[max(chain.progress.results)])
    return ship_tab.links(downloads.artifacts(run), "chain-") if run is not None else ""


def look(chain: ChainRun, watch: Watch) -> Watch:
    """The watch after reading what is new of the chain's stage."""
    run = runs.get(chain.run_id) if chain.run_id else None
    stage = train_tab.look(runs.settle(run), watch.stage) if run is not None else train_tab.Watch()
    return Watch(chain=chain, stage=stage)


def opened(tab: ChainTab, chain: ChainRun) -> dict[Component, Any]:
    """The tab for a chain that is shown anew, with a fresh Stop button."""
    fresh = rendered(tab, chain, look(chain, Watch()))
    return fresh | {tab.stop: gr.update(visible=chain.is_active, value=STOP, interactive=True)}


# --- events ---------------------------------------------------------------------------------------------------------


def wire(tab: ChainTab, the_form: form.Form, estimator: Estimator) -> None:
    """Show the chosen chain, follow it, start, stop and resume it; the builder's own events."""
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    chain_builder.wire(tab.builder, the_form, estimator)

    @guarded
    def show_chain(chain_id: str | None) -> dict[Component, Any]:
        chain = chain_runs.get(chain_id) if chain_id else None
        if chain is None:
            return {tab.shown: gr.update(visible=False), tab.timer: gr.Timer(active=False)}
        return opened(tab, chain)

    @guarded
    def follow_chain(chain_id: str | None, watch: Watch) -> dict[Component, Any]:
        chain = chain_runs.get(chain_id) if chain_id else None
        if chain is None:
            return {tab.timer: gr.Timer(active=False)}
        seen = look(chain, watch)
        return {tab.watch: watch} if seen == watch else rendered(tab, chain, seen)

    @guarded
    def start_draft(draft: chains.Chain, name: str) -> dict[Component, Any]:
        return _begun(tab, chain_runs.start(chain_builder.checked(draft), name=name or ""))

    @guarded
    def resume(chain_id: str) -> dict[Component, Any]:
        return _begun(tab, chain_runs.resume(chain_id))

    @guarded
    def stop(chain_id: str) -> dict[str, Any]:
        chain_runs.stop(chain_id)
        return gr.update(value=STOPPING, interactive=False)

    begun: dict[str, Any] = {"outputs": [tab.picker, *tab.rendered], "trigger_mode": "once", **quiet | {"concurrency_limit": 1}}
    tab.picker.change(show_chain, tab.picker, tab.rendered, trigger_mode="always_last", **quiet)
    tab.picker.input(None, tab.picker, None, js=url_state.remember("chain"), api_visibility="private")
    tab.timer.tick(follow_chain, [tab.picker, tab.watch], tab.rendered, trigger_mode="once", **quiet)
    tab.tab.select(guarded(listed), tab.picker, tab.picker, **quiet)
    tab.builder.start.click(start_draft, [tab.builder.draft, tab.builder.name], **begun)
    tab.resume.click(resume, tab.picker, **begun)
    tab.stop.click(stop, tab.picker, tab.stop, **quiet)
    for key, button in tab.builder.starts.items():
        button.click(_start_demo(tab, key), None, **begun)

    @guarded
    def take(chain_id: str) -> Any:
        chain = chain_runs.get(chain_id)
        yield from chain_builder.redrawn(tab.builder, chain.chain if chain else chain_builder.EMPTY, estimator)

    tab.take.click(take, tab.picker, tab.builder.drawn, **quiet)


def _start_demo(tab: ChainTab, key: str) -> Any:
    @guarded
    def start() -> dict[Component, Any]:
        title = chain_builder.DEMO_CHAINS[key].title
        return _begun(tab, chain_runs.start(chain_builder.demo_chain(key), name=title))

    return start


def _begun(tab: ChainTab, chain: ChainRun) -> dict[Component, Any]:
    """The tab when a chain has just begun: it is drawn at once, before the picker's own event comes."""
    return {tab.picker: listed(chain.id), **opened(tab, chain)}
