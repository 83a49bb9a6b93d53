"""The held-out rows of a data set: drawn once for a seed and a share, written down, and kept.

Whoever splits the same set again (a resumed run, a later stage of a chain that replays it, the X-ray, an estimate) reads
what was written, so that a row that was held out is never trained on: not when the file has grown, and not when the set
is mixed with others. Standard library only.

    splits.places(plan, ids)      of all rows of the plan, in their order: the places of those that are held out
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from engine import data
from engine.objectives import OBJECTIVES
from engine.plan import DataSource, Plan
from engine.system.home import home, write_atomically

STILL_THERE = 0.5  # of what was written; with less of it the file holds other rows now, and is split anew (judgement)


def places(plan: Plan, ids: Sequence[str]) -> set[int]:
    """The places of the plan's held-out rows.

    Args:
        plan: its seed and share decide the draw where nothing was written yet; then the draw is written down.
        ids: `data.row_id` of every row that `data.load` gives for the plan's sources, in its order.
    """
    if plan.eval_fraction <= 0:
        return set()
    counted = sizes(plan)
    if sum(counted) != len(ids):  # a sample, or rows without the bad ones: a look at data, not what is trained on
        return data.held_out_places(list(ids), eval_fraction=plan.eval_fraction, seed=plan.seed)
    chosen: set[int] = set()
    start = 0
    for source, size in zip(plan.datasets, counted, strict=True):
        own = ids[start : start + size]
        held_out = _held_out(plan, source, own)
        chosen |= {start + place for place, id_ in enumerate(own) if id_ in held_out}
        start += size
    return chosen if len(chosen) < len(ids) else set()


def split(plan: Plan, rows: list[data.Row]) -> tuple[list[data.Row], list[data.Row]]:
    """(training rows, held-out rows) of all rows of the plan; at least one row trains."""
    aside = places(plan, [data.row_id(row) for row in rows])
    return (
        [row for place, row in enumerate(rows) if place not in aside],
        [row for place, row in enumerate(rows) if place in aside],
    )


def sizes(plan: Plan) -> list[int]:
    """How many rows `data.load` gives of each source of the plan."""
    shapes = OBJECTIVES[plan.objective].shapes if plan.objective in OBJECTIVES else ()
    return [_weighted(data.scan(source, shapes).rows, source.weight) for source in plan.datasets]


def file_of(plan: Plan, source: DataSource) -> Path:
    """Where the split of a source is written down: by what it is called, not by what it holds now."""
    folder = home() / "splits"
    folder.mkdir(exist_ok=True)
    key = json.dumps([source.path.strip(), source.config, source.split, dict(source.columns)])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return folder / f"{name}-seed{plan.seed}-share{plan.eval_fraction:g}.json"


def _weighted(rows: int, weight: float) -> int:
    """How many rows there are of a source with this weight (`data.load` has the same rule)."""
    whole = math.floor(weight)
    return rows * whole + round((weight - whole) * rows)


def _held_out(plan: Plan, source: DataSource, ids: Sequence[str]) -> frozenset[str]:
    """The ids that are held out: those that were written down, else a fresh draw, which then is."""
    file, present = file_of(plan, source), set(ids)
    if file.is_file():
        written = frozenset(json.loads(file.read_text(encoding="utf-8"))["held_out"])
        if source.weight < 1 or len(written & present) >= STILL_THERE * len(written):
            return written
    drawn = data.held_out_places(list(ids), eval_fraction=plan.eval_fraction, seed=plan.seed)
    held_out = list(dict.fromkeys(ids[place] for place in sorted(drawn)))
    if ids and source.weight >= 1:  # the draw from a part of a source would be too few for the whole of it
        told = {"dataset": data.title(source), "seed": plan.seed, "eval_fraction": plan.eval_fraction}
        write_atomically(file, json.dumps(told | {"rows": len(ids), "held_out": held_out}, indent=1, ensure_ascii=False))
    return frozenset(held_out)
