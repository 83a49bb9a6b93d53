"""The first rows of a file for the page: as they are, and as training gets them, cut to what a person looks at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engine.data import images, limits
from engine.data.formats import Recognition
from engine.data.pictures import Picture
from engine.data.reading import UnreadableFile, rows_of
from engine.data.values import BadRow, Row

SHOWN_CHARACTERS = 2_000  # of a text; the page cuts it further
SHOWN_ITEMS = 50  # of a list
SHOWN_COLUMNS = 50
SHOWN_DEPTH = 8
MOST_LOOKED_AT = 1_000  # rows in which the first good ones are looked for
EXACT_IN_BROWSERS = 2**53  # larger whole numbers are shown as texts: JavaScript rounds them


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A few rows. Their values are text, numbers, lists and objects, and small pictures in the place of images."""

    raw: tuple[Row, ...] = ()  # as they are in the file
    read: tuple[Row, ...] = ()  # as training gets them
    same: bool = True  # training gets them as they are

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: pictures stand apart from the values, which are a stranger's."""
        return {"raw": [_apart(row) for row in self.raw], "read": [_apart(row) for row in self.read], "same": self.same}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preview:
        """The preview from its JSON form."""
        raw, read = (tuple(_together(row) for row in values[part]) for part in ("raw", "read"))
        return cls(raw=raw, read=read, same=values["same"])


def preview(file: Path, recognition: Recognition, most: int) -> Preview:
    """The first `most` rows of a file that are objects; none of a file that cannot be read."""
    try:
        rows = (row for _, row, problem in islice(rows_of(file), MOST_LOOKED_AT) if problem is None)
        raw = list(islice((row for row in rows if isinstance(row, dict)), most))
    except UnreadableFile:
        return Preview()
    read: list[Row] = []
    for row in raw:
        try:
            read.append(recognition.read(row)[1])
        except BadRow:
            continue
    shown = [tuple(_shown_row(images.as_thumbnails(row, file.parent)) for row in rows) for rows in (raw, read)]
    return Preview(raw=shown[0], read=shown[1], same=read == raw)


def _shown_row(row: Row) -> Row:
    return {_text(str(name), limits.MOST_NAME): _shown(value, 0) for name, value in islice(row.items(), SHOWN_COLUMNS)}


def _shown(value: Any, depth: int) -> Any:
    """A value as JSON can say it, cut to what is looked at."""
    if isinstance(value, Picture) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, SHOWN_CHARACTERS)
    if isinstance(value, int):
        return value if abs(value) < EXACT_IN_BROWSERS else _text(str(value), limits.MOST_NAME)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return "<bytes>"
    if not isinstance(value, (list, dict)):
        return _text(str(value), SHOWN_CHARACTERS)
    if depth >= SHOWN_DEPTH:
        return "…"
    if isinstance(value, list):
        return [_shown(part, depth + 1) for part in value[:SHOWN_ITEMS]]
    pairs = islice(value.items(), SHOWN_ITEMS)
    return {_text(str(name), limits.MOST_NAME): _shown(part, depth + 1) for name, part in pairs}


def _text(text: str, most: int) -> str:
    """The text, cut; half of a Unicode character becomes a question mark, as it cannot be sent."""
    return text[:most].encode("utf-8", "replace").decode()


def _apart(row: Row) -> dict[str, Any]:
    """The row's values, and beside them its pictures: {"image": [one]} or {"images": [several]}."""
    found = {name: value if isinstance(value, list) else [value] for name, value in row.items()}
    drawn = {
        name: [dataclasses.asdict(part) if isinstance(part, Picture) else None for part in parts]
        for name, parts in found.items()
        if any(isinstance(part, Picture) for part in parts)
    }
    values = {
        name: [None if isinstance(part, Picture) else part for part in found[name]] if name in drawn else value
        for name, value in row.items()
    }
    return {"values": values, "pictures": drawn, "single": [name for name in drawn if isinstance(row[name], Picture)]}


def _together(parts: Mapping[str, Any]) -> Row:
    row = dict(parts["values"])
    for name, drawn in parts["pictures"].items():
        pictures = [Picture.from_dict(one) if one else value for one, value in zip(drawn, row[name], strict=True)]
        row[name] = pictures[0] if name in parts["single"] else pictures
    return row
