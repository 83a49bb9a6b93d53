"""Whether the values of a config.json have the types that transformers declares for fields of their names.

Read from `assets/config_fields.json` (written by `assets/build_config_fields.py`), so that a wrong value is named before
transformers is imported: its own classes check some fields when they are made, and fail in the middle of others.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from engine.issues import Issue, quoted
from engine.system.home import ASSETS

SHOWN = 3  # fields of one config
LARGEST_NUMBER = 2**40  # of any field; the largest of transformers' own defaults is 1e10 (`gradient_clipping`)
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64", "float", "half", "double")
_WORDS = {"flag": "true or false", "integer": "a whole number", "number": "a number", "text": "a text", "list": "a list"}


def check(config: Mapping[str, Any]) -> list[Issue]:
    """One issue for each value whose type transformers does not declare: the first few of them."""
    return [issue for issue, _ in zip(_wrong(config, "model"), range(SHOWN), strict=False)]


@functools.cache
def _declared() -> Mapping[str, list[str]]:
    return json.loads((ASSETS / "config_fields.json").read_text(encoding="utf-8"))


def _wrong(config: Mapping[str, Any], where: str) -> Iterator[Issue]:
    for name, value in config.items():
        declared = _declared().get(name)
        field = f"{where}.{name}"
        if declared and value is not None and not _is_declared(value, declared):
            wanted = " or ".join(_WORDS.get(kind, "an object") for kind in declared)
            message = f"{quoted(value)} is not what transformers declares for this field of a config."
            yield Issue(field=field, message=message, fix=f"Use {wanted}, or leave it out.")
        elif name in ("dtype", "torch_dtype") and str(value).removeprefix("torch.") not in (*DTYPES, "None"):
            yield Issue(field=field, message=f"{quoted(value)} is not a dtype.", fix="Use float32, float16 or bfloat16.")
        elif isinstance(value, (int, float)) and abs(value) > LARGEST_NUMBER:
            message = f"{quoted(value)} is larger than any number of a model's config.json."
            yield Issue(field=field, message=message, fix="Check the numbers there.")
        elif isinstance(value, Mapping):
            yield from _wrong(value, field)


def _is_declared(value: Any, declared: list[str]) -> bool:
    if isinstance(value, bool):
        return "flag" in declared
    if isinstance(value, int):
        return "integer" in declared or "number" in declared
    kinds = {float: "number", str: "text", dict: "object", list: "list", tuple: "list"}
    return kinds.get(type(value), "object") in declared
