"""What would make the plan fit: rows with an Apply button below the fit card, filled after the estimate.

Each row is there from the start and hidden; a fix takes the next one as soon as it is found, so no row moves under
the pointer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from engine import checks
from engine.issues import PlanError
from estimators.advice.fixes import KINDS, Fix
from ui.plan import form
from ui.plan.form import Form
from ui.views import formats, markup
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.service.client import Estimator

FOUND = "What would help"
NOTHING = "No single change of ours makes it fit. Try a smaller model or another GPU."
OUTCOMES = {"yes": "✓ then it fits", "tight": "! then it is tight", "no": "not enough alone"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fix: what it is and does, and the button that applies it."""

    line: gr.Row
    text: gr.HTML
    apply: gr.Button


@dataclass
class Turn:
    """Which search of a page is the newest: an older one that is still under way shows nothing more."""

    number: int = 0

    def next(self) -> int:
        self.number += 1
        return self.number


@dataclass(frozen=True, kw_only=True)
class FixRows:
    """The list of fixes below the fit card."""

    box: gr.Column
    title: gr.HTML
    rows: tuple[Row, ...]  # one for each kind of fix
    found: gr.State  # the changes of each shown row
    turn: gr.State  # a `Turn`: one object per open page, shared by its events

    @property
    def rendered(self) -> list[Component]:
        """What a new list changes."""
        lines = [part for row in self.rows for part in (row.line, row.text, row.apply)]
        return [self.box, self.title, self.found, *lines]


def build() -> FixRows:
    """The list, hidden."""
    with gr.Column(visible=False, elem_classes=["fixes"], elem_id="fixes", min_width=0) as box:
        title = markup.block("")
        rows = tuple(_row(number) for number in range(len(KINDS)))
    return FixRows(box=box, title=title, rows=rows, found=gr.State([]), turn=gr.State(Turn()))


def _row(number: int) -> Row:
    with gr.Row(visible=False, elem_classes=["fix"]) as line:
        button = gr.Button("Apply", size="sm", min_width=0, elem_id=f"fix-{number}", elem_classes=["fix-apply"])
        text = markup.block("", elem_classes=["fix-words"], min_width=0)
    return Row(line=line, text=text, apply=button)


# --- words ----------------------------------------------------------------------------------------------------------


def title(sentence: str) -> str:
    """The heading of the list; a screen reader is told when it changes."""
    return f'<h3 class="fix-title" role="status">{formats.escape(sentence)}</h3>'


def in_words(fix: Fix) -> str:
    """A fix and what it does: "Gradient checkpointing, ✓ then it fits, −3.9 GB, +28 % time"."""
    figures = [formats.saving(fix.memory_saved), formats.change_of_time(fix.time_factor)]
    note = " · ".join(part for part in (OUTCOMES[fix.fits], fix.note) if part)
    shown = "<br>".join(formats.escape(figure) for figure in figures if figure)
    return (
        f'<div class="fix-line"><div>{formats.escape(fix.label)} <small class="fix-{formats.escape(fix.fits)}">'
        f"{formats.escape(note)}</small></div><span>{shown}</span></div>"
    )


# --- events ---------------------------------------------------------------------------------------------------------


def hidden(rows: FixRows) -> dict[Component, Any]:
    """No list."""
    lines = {row.line: gr.update(visible=False) for row in rows.rows}
    return {rows.box: gr.update(visible=False), rows.found: [], **lines}


def wire(rows: FixRows, the_form: Form, estimator: Estimator, after: list[Dependency]) -> list[Dependency]:
    """Look for fixes after each of the events `after`; a newer search ends an older one; apply one on a click.

    Returns:
        the searches, as events.
    """

    @guarded
    def look(turn: Turn, **values: Any) -> Iterator[dict[Component, Any]]:
        mine = turn.next()
        plan = form.read(values)
        if not estimator.ready or any(issue.severity == "error" for issue in checks.check(plan)):
            yield hidden(rows)
            return
        newest = (kind for kind in KINDS if turn.number == mine)  # asked before each kind: an older search soon ends
        for update in _shown(rows, estimator.fixes(plan, newest)):
            # A stream that ends before its first update would empty all its outputs, so an outdated one skips instead.
            yield update if turn.number == mine else {rows.found: gr.skip()}

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    looked = [
        event.success(
            look,
            inputs_kwargs={"turn": rows.turn, **the_form.controls},
            outputs=rows.rendered,
            trigger_mode="always_last",  # "once" would drop the newer search while the older one has not noticed it
            concurrency_limit=2,
            **quiet,
        )
        for event in after
    ]
    for number, row in enumerate(rows.rows):
        row.apply.click(
            _applied(rows, the_form, number),
            inputs_kwargs={"found": rows.found, "turn": rows.turn, **the_form.controls},
            outputs=[*the_form.controls.values(), *rows.rendered],
            trigger_mode="once",
            concurrency_limit=None,
            **quiet,
        )
    return looked


def _shown(rows: FixRows, fixes: Iterator[Fix]) -> Iterator[dict[Component, Any]]:
    """The list, one row more with every fix; nothing at all for a plan that fits."""
    found: list[Fix] = []
    try:
        for fix, _ in zip(fixes, rows.rows, strict=False):
            found.append(fix)
            yield _list(rows, found, FOUND)
    except PlanError:  # the fit card says what is wrong
        found = []
    if not found:
        yield hidden(rows)
    elif all(fix.fits != "yes" for fix in found):
        yield _list(rows, found, NOTHING)


def _list(rows: FixRows, found: list[Fix], sentence: str) -> dict[Component, Any]:
    """The whole list: where updates come quickly the browser may only see the last one."""
    shown = hidden(rows) | {rows.box: gr.update(visible=True), rows.title: title(sentence)}
    shown[rows.found] = [dict(fix.changes) for fix in found]
    for fix, row in zip(found, rows.rows, strict=False):
        shown |= {row.line: gr.update(visible=True), row.text: in_words(fix)}
    return shown


def _applied(rows: FixRows, the_form: Form, number: int) -> Any:
    @guarded
    def apply(found: list[dict[str, Any]], turn: Turn, **values: Any) -> dict[Component, Any]:
        turn.next()  # a fix of the plan as it was must not come after the list is hidden
        changes = found[number] if number < len(found) else {}
        return form.shown(form.read(values).with_(**changes), the_form) | hidden(rows)

    return apply
