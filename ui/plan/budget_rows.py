"""A parameter budget: "at most 4000000 parameters, or 16 MB" gives the largest rank within it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine import checks
from engine.issues import PlanError
from engine.plan import Plan
from estimators.advice.budget import SIZES
from ui.plan import form, offers, survey_table
from ui.plan.form import Form
from ui.plan.offers import Offer, Offers
from ui.views import formats, markup
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.service.client import Estimator

WARMING = "The estimator is warming up. Try again in a few seconds."


@dataclass(frozen=True, kw_only=True)
class BudgetRows:
    """What a person types, the button that asks, and the places of the answers."""

    entry: gr.Textbox
    ask: gr.Button
    offers: Offers


def build() -> BudgetRows:
    """The question, folded."""
    with gr.Accordion(
        "A parameter budget: the largest rank within it", open=False, elem_classes=["fold"], elem_id="budget-fold"
    ):
        entry = gr.Textbox(
            label="At most",
            info="A number of trainable parameters, or the size of the adapter's file in MB.",
            placeholder="4000000, or 16 MB",
            max_lines=1,
            max_length=40,
            elem_id="budget",
        )
        ask = gr.Button("Find the largest rank", size="sm", elem_id="budget-ask", elem_classes=["survey-ask"])
        return BudgetRows(entry=entry, ask=ask, offers=offers.build("budget"))


def budget_of(plan: Plan, estimator: Estimator, entry: str) -> Iterator[Offer]:
    """The sizes of the plan's method within a budget. Raises `PlanError`."""
    for solution in estimator.budget(plan, entry)[: offers.MOST_OFFERS]:
        options = solution.changes["method_options"]
        size = next(name for name in SIZES if name in options)
        targets = options.get("target_modules")
        where = f" on {targets if isinstance(targets, str) else ', '.join(targets)}" if targets else ""
        text = f"{formats.field_label(size)}: {formats.whole(options[size])}{where}"
        yield Offer(text=text, note=f"{formats.whole(solution.params)} parameters", changes=dict(solution.changes))


def wire(rows: BudgetRows, the_form: Form, estimator: Estimator) -> None:
    """Ask on a click, and take an answer over on a click."""
    place = rows.offers

    @guarded
    def ask(entry: str = "", **values: Any) -> Iterator[dict[Component, Any]]:
        plan = form.read(values)
        errors = [issue for issue in checks.check(plan) if issue.severity == "error"]
        if errors:
            raise PlanError(errors)
        if not estimator.ready:
            yield {place.note: markup.note(WARMING)}
            return
        yield offers.hidden(place) | {place.note: markup.note(offers.ASKING)}
        found: list[Offer] = []
        for offer in budget_of(plan, estimator, entry):
            found.append(offer)
            yield offers.shown(place, found, markup.note(offers.ASKING))
        yield {place.note: markup.note(survey_table.described(plan))}

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    rows.ask.click(
        ask,
        inputs_kwargs={"entry": rows.entry, **the_form.controls},
        outputs=place.rendered,
        trigger_mode="once",
        concurrency_limit=2,
        **quiet,
    ).failure(guarded(lambda: ""), None, place.note, **quiet)
    offers.wire(place, the_form)
