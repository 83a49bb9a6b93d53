"""Answers of the estimator as lines with a Use button each, which takes an answer over into the form.

`ui/plan/limit_rows.py` and `ui/plan/budget_rows.py` ask the questions; here is the place for what comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from engine.plan import FIELDS
from ui.plan import form
from ui.plan.form import Form
from ui.views import formats, markup
from ui.web.handlers import guarded

ASKING = "Working it out…"
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
    """The places of a question's answers, and what is to be said of all of them."""

    note: gr.HTML
    lines: tuple[Line, ...]
    found: gr.State  # the changes of each shown line

    @property
    def rendered(self) -> list[Component]:
        """What an answer changes."""
        return [self.note, self.found, *(part for line in self.lines for part in (line.row, line.text, line.use))]


def build(name: str) -> Offers:
    """The places, hidden. Their HTML ids begin with `name`."""
    note = markup.block("", elem_id=f"{name}-note")
    lines = []
    for number in range(MOST_OFFERS):
        with gr.Row(visible=False, elem_classes=["fix"]) as row:
            use = gr.Button("Use", size="sm", min_width=0, elem_id=f"{name}-use-{number}", elem_classes=["fix-apply"])
            text = markup.block("", elem_classes=["fix-words"], min_width=0)
        lines.append(Line(row=row, text=text, use=use))
    return Offers(note=note, lines=tuple(lines), found=gr.State([]))


def hidden(offers: Offers) -> dict[Component, Any]:
    """No answer."""
    return {offers.note: "", offers.found: [], **{line.row: gr.update(visible=False) for line in offers.lines}}


def shown(offers: Offers, found: Sequence[Offer], note: str) -> dict[Component, Any]:
    """The answers that have come so far."""
    updates: dict[Component, Any] = {offers.found: [offer.changes for offer in found], offers.note: note}
    for offer, line in zip(found, offers.lines, strict=False):
        updates |= {line.row: gr.update(visible=True), line.text: in_words(offer)}
        updates[line.use] = gr.update(visible=bool(offer.changes))
    return updates


def in_words(offer: Offer) -> str:
    """An answer: "Largest batch that fits: 23", and what it is now."""
    return f'<div class="fix-line"><div>{formats.escape(offer.text)} <small>{formats.escape(offer.note)}</small></div></div>'


def wire(offers: Offers, the_form: Form) -> None:
    """A click takes an answer over."""
    for number, line in enumerate(offers.lines):
        line.use.click(
            used(offers, the_form, number),
            inputs_kwargs={"found": offers.found, **the_form.controls},
            outputs=[*the_form.controls.values(), *offers.rendered],
            trigger_mode="once",
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        )


def used(offers: Offers, the_form: Form, number: int) -> Any:
    """The event of one Use button."""

    @guarded
    def use(found: list[dict[str, Any]], **values: Any) -> dict[Component, Any]:
        changes = found[number] if number < len(found) else {}
        known = {name: value for name, value in changes.items() if name in FIELDS}
        return form.shown(form.read(values).with_(**known), the_form) | hidden(offers)

    return use
