"""The rows of a plan: loaded, mixed by weight, split into training and held-out rows, as TRL takes them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from engine.data import hub, limits, scanning, sources
from engine.data.formats import Recognition
from engine.data.values import Row
from engine.issues import Issue, PlanError
from engine.plan import DataSource
from engine.system import cache_files

if TYPE_CHECKING:
    import datasets


def store_upload(file: object) -> DataSource:
    """Keep an uploaded file and return it as a source. Raises `PlanError` if it has no row that can be used.

    A file with some bad rows is kept: its issues stop a start, and the Data tab offers to leave the rows out. So is one
    whose columns are not known, to map them by hand. The web server's own copy of the bytes is removed in any case.
    """
    given = Path(str(file))
    try:
        source, target = sources.copy_upload(given)
        try:
            found = scanning.scan(source)
        except BaseException:
            sources.remove_upload(target)
            raise
        if not found.rows and not found.unmapped:
            sources.remove_upload(target)
            raise PlanError(found.issues)
    finally:
        cache_files.forget(given)
    return source


def iterate(source: DataSource, accepts: tuple[str, ...] = ()) -> Iterator[tuple[int, Row]]:
    """(line, row) of each row that can be used, in the order of the file, one at a time."""
    recognition = Recognition(mapping=source.columns, accepts=accepts)
    for number, _, row in scanning.usable_rows(sources.locate(source), recognition):
        yield number, row


def load(sources_: tuple[DataSource, ...], accepts: tuple[str, ...] = (), *, skip_bad: bool = False) -> list[Row]:
    """All rows of the plan's sources, in the order of the sources. Raises `PlanError` with the lines of bad rows.

    A source's weight says how often its rows count: 2 takes each twice, 0.5 takes half of them (the same half each time).
    `skip_bad` leaves bad rows out, for looking at data that cannot be trained on yet.
    """
    rows: list[Row] = []
    shapes: set[str] = set()
    for source in sources_:
        hub.fetch(source)
        found = scanning.scan(source, accepts)
        if found.errors and not (skip_bad and found.rows):
            raise PlanError(found.errors)
        shapes.add(found.format)
        if len(rows) + found.rows * source.weight > limits.MOST_ROWS:
            message = f"are more than {limits.MOST_ROWS:,} rows, as their weights count them."
            raise PlanError([Issue(field="datasets", message=message, fix="Use smaller weights, or fewer sets.")])
        rows += weighted([row for _, row in iterate(source, accepts)], source.weight)
    if len(shapes) > 1:
        raise sources.wrong("the chosen sets have different formats.", "Choose sets of one format.")
    return rows


def row_id(row: Row) -> str:
    """What names a row by its content, wherever it stands: the split and the search for copies go by it."""
    return hashlib.blake2b(orjson.dumps(row, option=orjson.OPT_SORT_KEYS, default=repr), digest_size=12).hexdigest()


def weighted(rows: list[Row], weight: float) -> list[Row]:
    """The rows, each `weight` times; of a part of a time, those whose ids come first."""
    if weight == 1:
        return rows
    whole = math.floor(weight)
    part = round((weight - whole) * len(rows))
    chosen = set(sorted(range(len(rows)), key=lambda place: row_id(rows[place]))[:part])
    return rows * whole + [row for place, row in enumerate(rows) if place in chosen]


def held_out_places(ids: list[str], *, eval_fraction: float, seed: int) -> set[int]:
    """The places of the held-out rows.

    The order of the draw comes from each row's content and the seed. So a row that is held out stays so when others are
    added or removed, and copies of a row are on the same side: none leaks into training.
    """
    left = min(round(len(ids) * eval_fraction), len(ids) - 1)
    copies: dict[str, list[int]] = {}
    for place, id_ in enumerate(ids):
        copies.setdefault(id_, []).append(place)
    chosen: set[int] = set()
    if left > 0:
        for id_ in sorted(copies, key=lambda id_: hashlib.blake2b(f"{seed}:{id_}".encode(), digest_size=8).digest()):
            if len(copies[id_]) <= left:
                chosen.update(copies[id_])
                left -= len(copies[id_])
            if not left:
                break
    return chosen


def split(rows: list[Row], *, eval_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows). The same rows, share and seed give the same split; at least one row trains."""
    if eval_fraction <= 0:
        return list(rows), []
    kept_aside = held_out_places([row_id(row) for row in rows], eval_fraction=eval_fraction, seed=seed)
    return (
        [row for place, row in enumerate(rows) if place not in kept_aside],
        [row for place, row in enumerate(rows) if place in kept_aside],
    )


def as_trl(row: Row, *, assistant_mask: bool) -> Row:
    """The row as TRL trains on answers alone.

    Where the chat template marks the assistant's words (`{% generation %}`), chats stay whole and every answer counts;
    else a chat becomes prompt and completion, and its last answer counts.
    """
    if "messages" in row and not assistant_mask:
        tools = {"tools": row["tools"]} if "tools" in row else {}
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:], **tools}
    return row


def as_dataset(rows: list[Row]) -> datasets.Dataset:
    """The rows as a `datasets` table. The arguments of tool calls stay what they are: in a table of fixed types, each
    call would get the arguments of all others, empty."""
    import datasets

    if not any(_has_calls(row) for row in rows):
        return datasets.Dataset.from_list(rows)
    message = {"role": datasets.Value("string"), "content": datasets.Value("string"), "tool_calls": datasets.Json()}
    plain = datasets.Dataset.from_list([{name: value for name, value in row.items() if not _is_turns(value)} for row in rows])
    turns = [name for name, value in rows[0].items() if _is_turns(value)]
    columns = dict(plain.features or {}) | {name: datasets.List(message) for name in turns}
    whole = [
        {
            name: [{key: turn.get(key) for key in message} for turn in value] if name in turns else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return datasets.Dataset.from_list(whole, features=datasets.Features({name: columns[name] for name in rows[0]}))


def _is_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def _has_calls(row: Row) -> bool:
    return any(_is_turns(value) and any("tool_calls" in turn for turn in value) for value in row.values())
