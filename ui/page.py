"""The page: the header, the tabs, and what happens between them.

build_page(estimator, answers)    the Blocks, to be mounted by app.py
theme(), CSS_PATHS, HEAD          what `gr.mount_gradio_app` needs beside it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine.catalog import hardware
from engine.inference.several_adapters import Joint
from engine.jobs import runs
from engine.system import visitors
from engine.system.home import ASSETS
from ui.plan import form
from ui.plan.fix_rows import Turn
from ui.tabs import adapters_card, chain_tab, compare_tab, data_tab, history_tab, plan_tab, ship_tab, train_tab, try_tab
from ui.tabs.chain_tab import ChainTab
from ui.tabs.compare_tab import CompareTab
from ui.tabs.data_tab import DataTab
from ui.tabs.history_tab import HistoryTab
from ui.tabs.plan_tab import PlanTab
from ui.tabs.ship_tab import ShipTab
from ui.tabs.train_tab import TrainTab
from ui.tabs.try_tab import TryTab
from ui.views import formats, markup, run_picker
from ui.views.theme import theme
from ui.web import api, url_state
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from engine.inference.client import Answers
    from estimators.service.client import Estimator

__all__ = ["CSS_PATHS", "HEAD", "TITLE", "build_page", "theme"]

TITLE = "Fitting Room"
CSS_PATHS = [ASSETS / "style.css"]
DEMO_NOTICE = (
    "This is a public demo. What you upload and train is seen by this browser alone, and is erased "
    f"{visitors.KEPT_WORDS} after you last opened the page or uploaded something: download what you want to keep. "
    "You can plan any model; runs are for the small demo models."
)
HEAD = '<meta name="description" content="Plan, run and ship LLM fine-tunes.">'


@dataclass(frozen=True, kw_only=True)
class Page:
    """All tabs, for the events between them."""

    tabs: gr.Tabs
    plan: PlanTab
    data: DataTab
    train: TrainTab
    try_: TryTab
    ship: ShipTab
    chain: ChainTab
    compare: CompareTab
    history: HistoryTab


def build_page(estimator: Estimator, answers: Answers, *, demo: bool = False) -> gr.Blocks:
    """The whole page. `estimator` and `answers` are made once by the app and shared by all visitors.

    Args:
        demo: whether it is served to the visitors of a public demo, who read first what becomes of their data.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        if demo:
            markup.block(markup.note(DEMO_NOTICE), elem_id="demo-notice")
        markup.block(_header(), elem_id="header")
        with gr.Tabs(elem_id="tabs", selected="plan") as tabs:
            with gr.Tab("Plan", id="plan"):
                plan = plan_tab.build()
            with gr.Tab(data_tab.TITLE, id="data") as tab:
                data = data_tab.build(tab)
            with gr.Tab("Train", id="train"):
                train = train_tab.build()
            with gr.Tab("Try", id="try") as tab:
                try_ = try_tab.build(tab)
                adapters = adapters_card.build()
            with gr.Tab("Ship", id="ship") as tab:
                ship = ship_tab.build(tab)
            with gr.Tab(chain_tab.TITLE, id="chains") as tab:
                chain = chain_tab.build(tab)
            with gr.Tab(compare_tab.TITLE, id="compare") as tab:
                comparison = compare_tab.build(tab)
            with gr.Tab("History", id="history") as tab:
                history = history_tab.build(tab)
        page = Page(
            tabs=tabs, plan=plan, data=data, train=train, try_=try_, ship=ship, chain=chain, compare=comparison, history=history
        )
        plan_tab.wire(plan, estimator, blocks)
        data_tab.wire(data, plan.form, estimator, blocks, tabs)
        train_tab.wire(train)
        try_tab.wire(try_, answers)
        adapters_card.wire(adapters, try_.tab, Joint())
        ship_tab.wire(ship)
        chain_tab.wire(chain, plan.form, estimator)
        compare_tab.wire(comparison, plan.form, estimator)
        history_tab.wire(history)
        _wire_start(page)
        _wire_next_steps(page)
        _wire_address(page, blocks)
        api.add(estimator)
    return blocks


def _header() -> str:
    here = hardware.this_machine()
    return (
        f'<div class="logo"><i aria-hidden="true"></i>{TITLE}</div>'
        f'<span class="chip">This machine: {formats.escape(here.name)}, {formats.escape(formats.size(here.memory))}</span>'
    )


def _wire_start(page: Page) -> None:
    @guarded
    def start(turn: Turn, run_name: str = "", **values: Any) -> dict[Component, Any]:
        run = plan_tab.start_run(run_name, **values)
        turn.next()  # the run needs the processor more than what is still looked for
        # The run is drawn at once: until the picker's own event comes, the tab would show the run before it.
        return {
            page.tabs: gr.Tabs(selected="train"),
            page.train.picker: run_picker.update(run_picker.every_run(), run.id),
            **train_tab.opened(page.train, run),
        }

    page.plan.start.click(
        start,
        inputs_kwargs={"turn": page.plan.fixes.turn, "run_name": page.plan.run_name, **page.plan.form.controls},
        outputs=[page.tabs, page.train.picker, *page.train.rendered],
        trigger_mode="once",
        concurrency_limit=1,
        show_progress="hidden",
        api_name="start",
    ).success(None, page.train.picker, None, js=url_state.remember("run"), api_visibility="private")


def _wire_next_steps(page: Page) -> None:
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def go_try(run_id: str) -> tuple[Any, Any]:
        return gr.Tabs(selected="try"), try_tab.refresh(run_id)

    @guarded
    def go_ship(run_id: str) -> tuple[Any, Any]:
        return gr.Tabs(selected="ship"), ship_tab.refresh(run_id)

    page.train.try_it.click(go_try, page.train.picker, [page.tabs, page.try_.picker], **quiet)
    page.train.ship_it.click(go_ship, page.train.picker, [page.tabs, page.ship.picker], **quiet)


def _wire_address(page: Page, blocks: gr.Blocks) -> None:
    """On load: the run of the address, else the active one; and the plan of the run that is to be started again."""

    @guarded
    def open_page(run_id: str, again: str, chain_id: str, comparison_id: str) -> dict[Component, Any]:
        listed = run_picker.every_run()
        active = next((run.id for run in listed if run.is_active), None)
        chosen = None if again else run_id or active
        updates: dict[Component, Any] = {page.history.table: history_tab.newest()}
        if chosen or listed:
            updates[page.train.picker] = run_picker.update(listed, chosen)
        if chosen:
            updates[page.tabs] = gr.Tabs(selected="train")
        if chain_id:
            updates |= {page.tabs: gr.Tabs(selected="chains"), page.chain.picker: chain_tab.listed(chain_id)}
        if comparison_id:
            updates |= {page.tabs: gr.Tabs(selected="compare"), page.compare.picker: compare_tab.picked(comparison_id)}
        return updates | (_plan_again(page, again) if again else {})

    asked = [gr.Textbox(visible=False, label=f"{name} of the address") for name in ("Run", "Plan", "Chain", "Comparison")]
    blocks.load(
        open_page,
        asked,
        [
            *(page.tabs, page.train.picker, page.chain.picker, page.compare.picker, page.history.table),
            *page.plan.form.controls.values(),
        ],
        js=url_state.READ,
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )


def _plan_again(page: Page, run_id: str) -> dict[Component, Any]:
    run = runs.get(run_id)
    if run is None:
        gr.Warning(train_tab.NOT_FOUND)
        return {}
    return form.shown(run.plan, page.plan.form)
