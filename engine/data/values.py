"""Values of a row, or what is wrong with them in words that go on from "line 5 of x.jsonl"."""

from __future__ import annotations

import math
from typing import Any

import orjson

from engine.data import limits

Row = dict[str, Any]


class BadRow(ValueError):
    """A row that cannot be used; the text goes on from "line 5 of x.jsonl"."""


class EmptyRow(BadRow):
    """A row that is well-formed and has nothing to learn from: it is left out and counted, and stops nothing."""


class UnknownColumns(BadRow):
    """A row whose columns say nothing: they can be mapped by hand."""


def text_in(row: Row, role: str) -> str:
    value = row[role]
    if not isinstance(value, str):
        raise BadRow(f"has {kind_of(value)} in {role!r}, not a text")
    if not value.strip():
        raise EmptyRow(f"has no text in {role!r}")
    return value


def kind_of(value: Any) -> str:
    if value is None:
        return "nothing"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def list_in(row: Row, role: str) -> list[Any]:
    """A list; in a CSV file it is the text of a JSON list."""
    value = row[role]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json_in(value, role)
    if not isinstance(value, list):
        raise BadRow(f"has {kind_of(value)} in {role!r}, not a list")
    if not value:
        raise EmptyRow(f"has an empty list in {role!r}")
    return value


def json_in(text: str, role: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRow(f"has no valid JSON in {role!r}") from None
    keys_in(value)
    return value


def keys_in(value: Any, depth: int = 0) -> int:
    """How many keys the objects inside of a value have. Raises `BadRow` for what a table or JSON could not hold."""
    if type(value) is dict:
        count, parts = len(value), value.values()
    elif type(value) is list:
        count, parts = 0, value
    else:
        return 0
    if depth >= limits.MOST_DEPTH:
        raise BadRow(f"is nested too deeply: more than {limits.MOST_DEPTH} lists and objects inside of each other")
    for part in parts:
        kind = type(part)
        if kind is dict or kind is list:
            count += keys_in(part, depth + 1)
        elif kind is int or kind is float:
            check_number(part)
    return count


def printable(text: str) -> str:
    """The text on one line, without signs that move or turn round what stands beside it."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def check_number(value: float) -> None:
    """Raise `BadRow` for a number that a table of 64-bit numbers would change."""
    if not -limits.LARGEST_NUMBER <= value < limits.LARGEST_NUMBER:  # also false for what is not a number
        what = "a number that is longer than 64 bits" if math.isfinite(value) else "a number that is not finite"
        raise BadRow(f"has {what}")


def label_in(row: Row) -> Any:
    value = row["label"]
    if isinstance(value, str) and not value.strip():
        raise BadRow("has no label")
    if not isinstance(value, (str, int, float)):
        raise BadRow(f"has {kind_of(value)} as its label")
    if not isinstance(value, str):
        check_number(value)
    elif len(value) > limits.MOST_NAME:
        raise BadRow(f"has a label of more than {limits.MOST_NAME} characters")
    return value


def verdict_in(row: Row) -> bool:
    """Good or bad: true or false, 1 or 0, or these words in a CSV file."""
    value = row["verdict"]
    words = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise BadRow("has a label that is neither true nor false")


def tools_in(row: Row) -> Row:
    """The tools that a conversation may call, as one JSON text: rows with different tools still fit into one table."""
    value = row.get("tools")
    if isinstance(value, str) and value.strip():
        value = json_in(value, "tools")
    try:
        return {"tools": orjson.dumps(value).decode()} if value else {}
    except TypeError:  # of a table: bytes, or numbers beyond 64 bits
        raise BadRow("has tools that JSON cannot hold") from None


def classes_in(row: Row) -> list[str]:
    """The classes that a row in its shape names: its label, its tags, or those of its boxes. A number is no class."""
    if "objects" in row:
        return [one["label"] for one in row["objects"]]
    if "tags" in row:
        return [str(tag) for tag in row["tags"]]
    return [str(row["label"])] if "label" in row and not isinstance(row["label"], float) else []
