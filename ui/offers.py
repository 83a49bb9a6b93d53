"""A button that asks the estimator for something, and its answers as lines with a Use button each.

Two of them are on the Plan tab: how far the plan can go on its GPU (`limits`), and what a parameter budget allows
(`budget`). The note below says of which plan the answers speak: they stay when the plan is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine import checks
from engine.plan import FIELDS, Plan, PlanError
from estimators.budget import SIZES
from estimators.limits import LIMITED
from ui import form, markup, survey_table, words
from ui.border import guarded
from ui.form import Form

if TYPE_CHECKING:
    from estimators.client import Estimator

ASKING = "Working it out…"
WARMING = "The estimator is warming up. Try again in a few seconds."
MOST_OFFERS = 2


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One answer: what it says, and the change of the plan that takes it over (none: there is nothing to take)."""

    text: str
    note: str = ""
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The place of one answer."""

    row: gr.Row
    text: gr.HTML
    use: gr.Button


@dataclass(frozen=True, kw_only=True)
class Offers:
    """A question and the places of its answers. `entry` is what a person types for it, if anything."""

    ask: gr.Button
    entry: gr.Textbox | None
    note: gr.HTML
    lines: tuple[Line, ...]
    found: gr.State  # the changes of each shown line

    @property
    def rendered(self) -> list[Component]:
        """What an answer changes."""
        return [self.note, self.found, *(part for line in self.lines for part in (line.row, line.text, line.use))]


# --- layout ---------------------------------------------------------------------------------------------------------


def limits() -> Offers:
    """The place for the largest batch and the longest sequence."""
    return _offers("limits", "How far can it go on this GPU?")


def budget() -> Offers:
    """The place for the parameter budget, folded."""
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
        return _offers("budget", "Find the largest rank", entry)


def _offers(name: str, button: str, entry: gr.Textbox | None = None) -> Offers:
    ask = gr.Button(button, size="sm", elem_id=f"{name}-ask", elem_classes=["survey-ask"])
    note = markup.block("", elem_id=f"{name}-note")
    lines = []
    for number in range(MOST_OFFERS):
        with gr.Row(visible=False, elem_classes=["fix"]) as row:
            use = gr.Button("Use", size="sm", min_width=0, elem_id=f"{name}-use-{number}", elem_classes=["fix-apply"])
            text = markup.block("", elem_classes=["fix-words"], min_width=0)
        lines.append(Line(row=row, text=text, use=use))
    return Offers(ask=ask, entry=entry, note=note, lines=tuple(lines), found=gr.State([]))


# --- answers --------------------------------------------------------------------------------------------------------


def limits_of(plan: Plan, estimator: Estimator) -> Iterator[Offer]:
    """The largest value of each limited field, each as it is found."""
    for limited in LIMITED.values():
        limit = estimator.limit(plan, limited.field)
        now = getattr(plan, limited.field)
        if limit.value is None:
            yield Offer(text=f"{limited.sentence}: none", note="not even the least of it fits")
            continue
        end = ", as far as it goes" if limit.at_the_end else ""
        changes = {} if limit.value == now else {limited.field: limit.value}
        note = f"now {words.whole(now)}{end}"
        yield Offer(text=f"{limited.sentence}: {words.whole(limit.value)}", note=note, changes=changes)


def budget_of(plan: Plan, estimator: Estimator, entry: str) -> Iterator[Offer]:
    """The sizes of the plan's method within a budget. Raises `PlanError`."""
    for solution in estimator.budget(plan, entry)[:MOST_OFFERS]:
        options = solution.changes["method_options"]
        size = next(name for name in SIZES if name in options)
        targets = options.get("target_modules")
        where = f" on {targets if isinstance(targets, str) else ', '.join(targets)}" if targets else ""
        text = f"{words.field_label(size)}: {words.whole(options[size])}{where}"
        yield Offer(text=text, note=f"{words.whole(solution.params)} parameters", changes=dict(solution.changes))


# --- events ---------------------------------------------------------------------------------------------------------


def wire(further: Offers, within: Offers, the_form: Form, estimator: Estimator) -> None:
    """Ask on a click, and take an answer over on a click."""
    _wire_one(further, lambda plan, entry: limits_of(plan, estimator), the_form, estimator)
    _wire_one(within, lambda plan, entry: budget_of(plan, estimator, entry), the_form, estimator)


def _wire_one(offers: Offers, find: Callable[[Plan, str], Iterator[Offer]], the_form: Form, estimator: Estimator) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def ask(entry: str = "", **values: Any) -> Iterator[dict[Component, Any]]:
        plan = form.read(values)
        errors = [issue for issue in checks.check(plan) if issue.severity == "error"]
        if errors:
            raise PlanError(errors)
        if not estimator.ready:
            yield {offers.note: markup.note(WARMING)}
            return
        yield hidden(offers) | {offers.note: markup.note(ASKING)}
        shown: list[Offer] = []
        for offer in find(plan, entry):
            shown.append(offer)
            yield _shown(offers, shown) | {offers.note: markup.note(ASKING)}
        yield {offers.note: markup.note(survey_table.described(plan))}

    entered = {"entry": offers.entry} if offers.entry is not None else {}
    offers.ask.click(
        ask,
        inputs_kwargs={**entered, **the_form.controls},
        outputs=offers.rendered,
        trigger_mode="once",
        concurrency_limit=2,
        **quiet,
    ).failure(lambda: "", None, offers.note, **quiet)
    for number, line in enumerate(offers.lines):
        line.use.click(
            _used(offers, the_form, number),
            inputs_kwargs={"found": offers.found, **the_form.controls},
            outputs=[*the_form.controls.values(), *offers.rendered],
            trigger_mode="once",
            concurrency_limit=None,
            **quiet,
        )


def hidden(offers: Offers) -> dict[Component, Any]:
    """No answer."""
    return {offers.note: "", offers.found: [], **{line.row: gr.update(visible=False) for line in offers.lines}}


def _shown(offers: Offers, shown: list[Offer]) -> dict[Component, Any]:
    updates: dict[Component, Any] = {offers.found: [offer.changes for offer in shown]}
    for offer, line in zip(shown, offers.lines, strict=False):
        updates |= {line.row: gr.update(visible=True), line.text: in_words(offer)}
        updates[line.use] = gr.update(visible=bool(offer.changes))
    return updates


def in_words(offer: Offer) -> str:
    """An answer: "Largest batch that fits: 23", and what it is now."""
    return f'<div class="fix-line"><div>{words.escape(offer.text)} <small>{words.escape(offer.note)}</small></div></div>'


def _used(offers: Offers, the_form: Form, number: int) -> Any:
    @guarded
    def use(found: list[dict[str, Any]], **values: Any) -> dict[Component, Any]:
        changes = found[number] if number < len(found) else {}
        known = {name: value for name, value in changes.items() if name in FIELDS}
        return form.shown(form.read(values).with_(**known), the_form) | hidden(offers)

    return use
