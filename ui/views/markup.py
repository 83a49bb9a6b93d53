"""Small pieces of HTML that several tabs use. Every value is escaped here, so callers pass plain text."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import gradio as gr

from ui.views import formats

STATES = {
    "starting": ("◌", "Starting"),
    "running": ("▶", "Running"),
    "stalled": ("‖", "Stalled"),
    "finished": ("✓", "Finished"),
    "stopped": ("■", "Stopped"),
    "failed": ("✕", "Failed"),
    "interrupted": ("!", "Interrupted"),
}


def block(value: str, *, elem_classes: Iterable[str] = (), **more: Any) -> gr.HTML:
    """A place for HTML of our own. Without Gradio's default script, which is evaluated from text, and default style."""
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_classes=["ours", *elem_classes], **more)


def heading(title: str, lead: str) -> str:
    """The title of a tab and the sentence below it."""
    return f'<h1>{formats.escape(title)}</h1><p class="lead">{formats.escape(lead)}</p>'


def card_title(number: int | None, title: str, facts: str = "") -> str:
    """The heading of a card: its number, its name and, at the right, what is known."""
    figure = f"<b>{number}</b> " if number is not None else ""
    return f'<h2 class="card-title">{figure}{formats.escape(title)} <span>{formats.escape(facts)}</span></h2>'


def chip(state: str, element_id: str = "") -> str:
    """The state of a run as a sign, a word and a colour."""
    sign, word = STATES.get(state, ("?", state))
    name = f' id="{formats.escape(element_id)}"' if element_id else ""
    return (
        f'<span class="chip state-{formats.escape(state)}"{name}><i aria-hidden="true">{sign}</i> {formats.escape(word)}</span>'
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A row of figures with their names above them."""
    cells = "".join(f"<div><dt>{formats.escape(name)}</dt><dd>{formats.escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{cells}</dl>'


def progress(fraction: float, label: str) -> str:
    """A progress bar that a screen reader can read."""
    percent = max(0.0, min(100.0, 100 * fraction))
    return (
        f'<div class="progress" role="progressbar" aria-label="{formats.escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></div>'
    )


def note(sentence: str, kind: str = "plain") -> str:
    """One sentence in a quiet box; `kind` is plain, good or bad."""
    return f'<p class="note note-{formats.escape(kind)}">{formats.escape(sentence)}</p>' if sentence else ""


def save_link(text: str, file_name: str, label: str) -> str:
    """A link that saves `text` as a file. The text is in the link itself, so nothing is stored on the server."""
    content = base64.b64encode(text.encode()).decode()
    href = f"data:application/json;base64,{content}"
    return f'<a class="button" download="{formats.escape(file_name)}" href="{href}">{formats.escape(label)}</a>'
