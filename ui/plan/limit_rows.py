"""How far the plan can go on its GPU: the largest batch and the longest sequence, below the fit card.

They are looked for when nothing has been changed for a moment: by then the estimator has recorded the few batches from which
it answers all others. An older search ends as soon as the plan is changed again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from engine import checks
from engine.issues import PlanError
from engine.plan import Plan
from estimators.advice import limits
from estimators.estimate import Estimate
from ui.plan import fix_rows, form, offers
from ui.plan.fix_rows import Turn
from ui.plan.form import Form
from ui.plan.offers import Offer, Offers
from ui.views import formats, markup
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.service.client import Estimator

TITLE = "How far it can go"
MOMENT_SECONDS = 2.0  # without a change, before the search begins
LOOK_SECONDS = 0.1


class Outdated(Exception):
    """The plan was changed while its limits were looked for."""


def build() -> Offers:
    """The place, empty."""
    with gr.Column(elem_classes=["fixes", "limits"], elem_id="limits", min_width=0):
        return offers.build("limits")


def limits_of(plan: Plan, estimator: Estimator, turn: Turn, mine: int) -> Iterator[Offer]:
    """The largest value of each limited field, each as it is found. Raises `Outdated` once `mine` is not the newest turn."""

    def ask(other: Plan) -> Estimate:
        if turn.number != mine:
            raise Outdated
        return estimator.ask(other)

    for limited in limits.LIMITED.values():
        limit = limits.largest(plan, limited.field, ask)
        now = getattr(plan, limited.field)
        if limit.value is None:
            yield Offer(text=f"{limited.sentence}: none", note="not even the least of it fits")
            continue
        end = ", as far as it goes" if limit.at_the_end else ""
        changes = {} if limit.value == now else {limited.field: limit.value}
        text = f"{limited.sentence}: {formats.whole(limit.value)}"
        yield Offer(text=text, note=f"now {formats.whole(now)}{end}", changes=changes)


def wire(rows: Offers, the_form: Form, turn_of_page: gr.State, estimator: Estimator, after: list[Dependency]) -> None:
    """Look for the limits after each of the events `after`; take one over on a click.

    Args:
        turn_of_page: the `Turn` of the page, which every change of the plan moves on.
    """

    @guarded
    def look(turn: Turn, **values: Any) -> Iterator[dict[Component, Any]]:
        mine = turn.number
        plan = form.read(values)
        if not estimator.ready or any(issue.severity == "error" for issue in checks.check(plan)):
            yield offers.hidden(rows)
            return
        yield {rows.note: fix_rows.title(TITLE) + markup.note(offers.ASKING)}
        found: list[Offer] = []
        try:
            _wait(turn, mine)
            for offer in limits_of(plan, estimator, turn, mine):
                found.append(offer)
                yield offers.shown(rows, found, fix_rows.title(TITLE))
        except (Outdated, PlanError):  # the newer search shows its own; the fit card says what is wrong
            yield offers.hidden(rows)

    for event in after:
        event.success(
            look,
            inputs_kwargs={"turn": turn_of_page, **the_form.controls},
            outputs=rows.rendered,
            trigger_mode="always_last",  # "once" would drop the newer search while the older one has not noticed it
            concurrency_limit=8,
            show_progress="hidden",
            api_visibility="private",
        )
    offers.wire(rows, the_form)


def _wait(turn: Turn, mine: int) -> None:
    until = time.monotonic() + MOMENT_SECONDS
    while time.monotonic() < until:
        if turn.number != mine:
            raise Outdated
        time.sleep(LOOK_SECONDS)
