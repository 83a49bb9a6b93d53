"""What an event may be sent: one value for each of its inputs, of a kind that the input's component can send.

Gradio asks for less: it drops values that are too many, turns any value into a text, and answers what it cannot read with
Python's words. So the border asks first. An endpoint for programs (`gr.api`) checks its arguments itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradio.blocks import BlockFunction
    from gradio.components import Component

LARGEST_NUMBER = 2**63  # above it, Gradio's answers are no longer JSON
MOST_CHOSEN = 1000


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input of an event. is_kept: the server keeps its value, so that a call by name leaves it out."""

    label: str
    kind: str
    is_kept: bool


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What an event takes. selection: it is told what was selected, and where."""

    inputs: tuple[Input, ...]
    selection: bool


def of(event: BlockFunction) -> Takes:
    """What an event of the page takes. A component of a new type needs a row in KINDS."""
    inputs = [Input(label=_label(one), kind=_kind(one), is_kept=one.skip_api) for one in event.inputs]
    return Takes(inputs=tuple(inputs), selection=bool(event.collects_event_data))


def _label(component: Component) -> str:
    return str(component.label or component.elem_id or component.get_block_name())


def _kind(component: Component) -> str:
    name = component.get_block_name()
    if name == "dropdown" and component.multiselect:
        name = "choices"
    if name == "radio" and component.value is not None:  # nobody can take a choice back
        name = "chosen"
    assert name in KINDS, f"the kind of what a {name} sends is not known"
    return name


def problem(body: Mapping[str, Any], takes: Takes, *, by_name: bool) -> str | None:
    """What is wrong with a call, in one sentence.

    Args:
        by_name: the event is called by its name, and not as the page does it.
    """
    values = body.get("data")
    if not isinstance(values, list):
        return "The call has no list of values in “data”."
    wanted = takes.inputs
    if by_name and len(values) != len(wanted):
        wanted = tuple(one for one in wanted if not one.is_kept)
    if len(values) != len(wanted):
        return f"This takes {len(wanted)} values, and {len(values)} came."
    for value, one in zip(values, wanted, strict=True):
        fits, words = KINDS[one.kind]
        if not fits(value):
            return f"“{one.label}” takes {words}."
    return _wrong_field(body, takes)


def _wrong_field(body: Mapping[str, Any], takes: Takes) -> str | None:
    for name, fits in FIELDS.items():
        if not fits(body.get(name)):
            return f"The field “{name}” of the call is of the wrong type."
    selected = body.get("event_data")
    if takes.selection and not (isinstance(selected, dict) and {"index", "value"} <= selected.keys()):
        return "The call does not say what was selected."
    return None


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_choice(value: Any) -> bool:
    return _is_text(value) or _is_number(value)


def _are_choices(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_CHOSEN and all(isinstance(one, str) for one in value)


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_file(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("path"), str))


def _is_anything(value: Any) -> bool:
    return True


# By the component's name in Gradio: whether it can send a value, and what it sends in words.
KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "number": (_is_number, "a number"),
    "slider": (_is_number, "a number"),
    "textbox": (_is_text, "a text"),
    "code": (_is_text, "a text"),
    "chosen": (lambda value: value is not None and _is_choice(value), "one of its choices"),
    "radio": (_is_choice, "one of its choices"),
    "dropdown": (_is_choice, "one of its choices"),
    "choices": (lambda value: value is None or _are_choices(value), "a list of its choices"),
    "checkboxgroup": (_are_choices, "a list of its choices"),
    "checkbox": (_is_flag, "true or false"),
    "uploadbutton": (_is_file, "an uploaded file"),
    "image": (_is_file, "an uploaded file"),
    "state": (_is_anything, "nothing"),  # Gradio takes the value that it has kept
    "api": (_is_anything, "a value"),
}
# The other fields of a call that Gradio reads.
FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "trigger_id": lambda value: value is None or (type(value) is int and abs(value) < LARGEST_NUMBER),
    "oauth_token": _is_text,
    "simple_format": _is_flag,
    "batched": lambda value: not value,  # no event of the page takes several calls at once
}
