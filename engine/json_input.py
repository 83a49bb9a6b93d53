"""JSON from people and programs, read within limits: `parse(text, field)`, and `problems(value, field)` for what is read.

A plan, a chain or a form's free text comes from anyone. What `json` itself lets through breaks what comes later: integers
that no event stream carries, lone surrogates, NaN, nesting that exhausts the stack, objects of 100,000 keys. All of
these are refused here, each by the name of its field. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.issues import Issue, PlanError, quoted

MOST_BYTES = 2 * 2**20  # of a text; as much as the server takes as the body of a call. ImageNet-21k's labels take 1.5 MB
MOST_DEPTH = 32  # objects and lists within each other; the deepest config of transformers' own has 5
MOST_VALUES = 100_000  # in all; ImageNet-21k's labels are 2 x 21,843
MOST_KEY = 256  # characters; a module name of a published model has at most about 100
LARGEST_INTEGER = 2**63 - 1  # what JSON readers elsewhere (orjson, the browser's event stream) can hold
SHOWN = 5  # problems of one value


def parse(text: str, field: str, *, fix: str = "Fix the text there and try again.") -> Any:
    """The JSON value of a text.

    Raises:
        PlanError: on `field`, or on the field within the value that is out of its limits.
    """
    if len(text) > MOST_BYTES or len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise PlanError(
            [Issue(field=field, message=f"is larger than {MOST_BYTES // 2**20} MB.", fix="Leave out what it does not need.")]
        )
    try:
        value = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        message = f"is not valid JSON (line {error.lineno}, column {error.colno})."
        raise PlanError([Issue(field=field, message=message, fix=fix)]) from None
    except RecursionError:
        raise PlanError([_too_deep(field)]) from None
    wrong = problems(value, field)
    if wrong:
        raise PlanError(wrong)
    return value


def _integer(digits: str) -> int:
    """The integer, cut short where it is far too large: `problems` then refuses it by the name of its field."""
    return int(digits[:40])


def problems(value: Any, field: str) -> list[Issue]:
    """What a value holds that no JSON of ours may hold: at most `SHOWN` issues, each on the field where it is.

    Args:
        value: what `json.loads` made; other Python values are refused.
        field: how the value itself is called. Fields of a "plan" are called by their own names.
    """
    found: list[Issue] = []
    for issue in _walk(value, field):
        found.append(issue)
        if len(found) == SHOWN:
            break
    return found


def _walk(value: Any, field: str) -> Iterator[Issue]:
    waiting, seen = [(value, field, 0)], 0
    while waiting:
        current, name, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            yield Issue(field=field, message=f"holds more than {MOST_VALUES:,} values.", fix="Leave out what it does not need.")
            return
        if depth > MOST_DEPTH:
            yield _too_deep(name)
        elif isinstance(current, Mapping):
            wrong_key = next((key for key in current if not _is_key(key)), None)
            if wrong_key is not None:
                message = f"has a key that is no name of at most {MOST_KEY} characters: {quoted(wrong_key)}."
                yield Issue(field=name, message=message, fix="Rename it or leave it out.")
                continue
            inside = [(each, _joined(name, key, depth), depth + 1) for key, each in _first(current.items())]
            waiting += reversed(inside)
        elif isinstance(current, (list, tuple)):
            waiting += reversed([(each, f"{name}[{place}]", depth + 1) for place, each in _first(enumerate(current))])
        else:
            message = _problem(current)
            if message:
                yield Issue(field=name, message=message, fix="Write another value.")


def _first(items: Any) -> list[Any]:
    """So many items that the walk's limit is passed, and no more."""
    return [item for _, item in zip(range(MOST_VALUES + 1), items, strict=False)]


def _joined(name: str, key: str, depth: int) -> str:
    return key if name == "plan" and depth == 0 else f"{name}.{key}"


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= MOST_KEY and not _unwritable(key)


def _unwritable(text: str) -> bool:
    """Whether a text has characters that no file name, no tokenizer and no event stream takes."""
    return "\0" in text or re.search("[\ud800-\udfff]", text) is not None


def _problem(value: Any) -> str:
    """What is wrong with a value that holds no others; "" if nothing is."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if abs(value) <= LARGEST_INTEGER else "is a whole number of more than 64 bits."
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value!r} is not a finite number."
    if isinstance(value, str):
        return "holds a character that is no text (NUL, or half of a surrogate pair)." if _unwritable(value) else ""
    return f"is a Python {type(value).__name__}, which JSON does not have."


def _too_deep(field: str) -> Issue:
    return Issue(field=field, message=f"is nested more than {MOST_DEPTH} levels deep.", fix="Write it flatter.")
