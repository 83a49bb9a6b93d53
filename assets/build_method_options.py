"""Write what PEFT's configs say of their own fields: `python -m assets.build_method_options`

The page may not import peft, so names, defaults and helps of all options are kept in `method_options.json`.
`tests/engine/test_methods.py` compares that file with the installed PEFT.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("method_options.json")
# Written by PEFT itself when it saves an adapter; nobody sets them.
BOOKKEEPING = ("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode")


def options_of(config_class: type) -> list[dict[str, Any]]:
    """One entry per field of a PEFT config: its name, kind, form, default, choices and help."""
    hints = typing.get_type_hints(config_class)
    return [_entry(field, hints[field.name]) for field in dataclasses.fields(config_class) if field.name not in BOOKKEEPING]


def _entry(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    kind, choices = _kind(hint)
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default
    return {
        "name": field.name,
        "kind": kind,
        **({"form": form_of(hint)} if kind in ("object", "mapping") else {}),
        "default": _plain(default),
        "optional": _plain(default) is None or type(None) in typing.get_args(hint),
        "choices": choices,
        "help": _first_sentences(field.metadata.get("help", "")),
    }


def _kind(hint: Any) -> tuple[str, list[str]]:
    """(the kind of a `Knob`, its choices). What is neither one of those is an "object": any JSON value."""
    parts = [part for part in _union(hint) if part is not type(None)]
    literals = [choice for part in parts if typing.get_origin(part) is typing.Literal for choice in typing.get_args(part)]
    enums = [part for part in parts if inspect.isclass(part) and issubclass(part, enum.Enum)]
    if enums:
        return "choice", [member.value for member in enums[0]]
    if literals:
        plain = all(typing.get_origin(part) is typing.Literal for part in parts) and all(isinstance(c, str) for c in literals)
        return ("choice", literals) if plain else ("object", [])
    if len(parts) == 1:
        simple = {bool: "flag", int: "integer", float: "number", str: "text", dict: "mapping", list[str]: "names"}
        known = simple.get(parts[0]) or ("mapping" if typing.get_origin(parts[0]) is dict else None)
        return known or "object", []
    if set(parts) == {list[str], str}:
        return "names", []
    return "object", []


def form_of(hint: Any) -> Any:
    """A type annotation as a form of `engine/adapters/option_forms.py`: a nested config with all of its fields, too."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if len(_union(hint)) > 1:
        forms = [form_of(part) for part in _union(hint)]
        if any("config" in form for form in forms):  # PEFT makes the config out of any object
            forms = [form for form in forms if form != {"mapping": "any"}]
        return {"either": forms} if len(forms) > 1 else forms[0]
    if origin is typing.Literal:
        words = [choice for choice in inner if isinstance(choice, str)]
        return {"choice": words} if len(words) == len(inner) else "any"
    if origin is list:
        return {"list": form_of(inner[0])}
    if origin is tuple:
        return {"tuple": [form_of(part) for part in inner]}
    if origin is dict or hint is dict:
        return {"mapping": form_of(inner[1]) if inner else "any"}
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return {"choice": [member.value for member in hint]}
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return {"config": {field.name: form_of(hints[field.name]) for field in dataclasses.fields(hint) if field.init}}
    return {bool: "flag", int: "integer", float: "number", str: "text", type(None): "null"}.get(hint, "any")


def _union(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _plain(value: Any) -> Any:
    """A default as JSON has it; an object of PEFT's own stands for "leave it to PEFT"."""
    if isinstance(value, enum.Enum):
        return value.value
    return None if dataclasses.is_dataclass(value) else value


def _first_sentences(text: str | tuple[str, ...]) -> str:
    """The help's beginning, up to the end of the sentence that passes 160 characters. (Some of PEFT's helps are tuples.)"""
    words = " ".join((text if isinstance(text, str) else " ".join(text)).split())
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s|$)", words)]
    return words[: next((end for end in ends if end >= 160), len(words))].strip()


def all_options() -> dict[str, list[dict[str, Any]]]:
    """Every config that PEFT has, and this program's own, by its `peft_type` in lower case."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    import engine.adapters.tuners  # noqa: F401

    return {kind.value.lower(): options_of(config) for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(all_options(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {FILE.name}")
