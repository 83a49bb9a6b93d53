"""What a run can be tried on: held-out rows of its data that have an image, with what should be said of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine import data
from engine.data import token_counts, tokenization
from engine.data.demos import DEMOS
from engine.data.pictures import open_image
from engine.data.values import BadRow, Row
from engine.plan import DataSource, Plan

MOST = 6


@dataclass(frozen=True, kw_only=True)
class Example:
    """One held-out image: a PIL image in RGB, what is asked about it, and the right answer."""

    image: Any
    prompt: str
    expected: str


def of(plan: Plan, most: int = MOST) -> tuple[Example, ...]:
    """The first held-out rows of a plan whose rows have images; none for other plans. Raises `PlanError`.

    A demo has a held-out set of its own.
    """
    examples: list[Example] = []
    for row in _held_out(plan):
        shown = row["images"] if "images" in row else [row["image"]] if "image" in row else []
        if not shown or len(examples) == most:
            break
        try:
            examples.append(Example(image=open_image(shown[0]), prompt=asked(row), expected=expected(row)))
        except BadRow:
            continue
    return tuple(examples)


def _held_out(plan: Plan) -> list[Row]:
    shapes = token_counts.accepts(plan)
    demo = next((demo for demo in DEMOS.values() if [source.path for source in plan.datasets] == [demo.path]), None)
    if demo is not None:
        return [row for _, row in data.iterate(DataSource(path=str(demo.held_out_file)), shapes)]
    return token_counts.load(plan).held_out


def asked(row: Row) -> str:
    """The question of a row; empty where there is none."""
    if "messages" in row:
        return next((tokenization.words_of(message) for message in row["messages"] if message["role"] == "user"), "")
    return row.get("question", "")


def expected(row: Row) -> str:
    """What is to be learned from a row: its boxes, its label, its answer or its text."""
    if "messages" in row:
        return tokenization.words_of(row["messages"][-1])
    if "objects" in row:
        return ", ".join(one["label"] for one in row["objects"])
    return str(next((row[name] for name in ("label", "answer", "text") if name in row), ""))
