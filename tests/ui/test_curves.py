"""Curves: what accumulates from events, what thinning keeps, and that a broken value is never a number."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ui.views.curves import LINES, MOST_POINTS, Curves, thin


def a_step(step: int, loss: object = 1.0, **more: object) -> dict:
    return {"kind": "step", "step": step, "max_steps": 100, "loss": loss, "learning_rate": 1e-3, **more}


def test_events_become_lines_and_newest_facts() -> None:
    curves = Curves().extend(
        [
            {"kind": "note", "message": "Loading the model."},
            {"kind": "started", "device": "cpu", "rows": 9},
            a_step(1, 2.0),
            a_step(2, 1.5),
            {"kind": "evaluated", "step": 2, "eval_loss": 1.7},
            {"kind": "finished", "message": "", "seconds": 3.0},
        ]
    )
    assert curves.loss == ((1, 2.0), (2, 1.5))
    assert curves.eval_loss == ((2, 1.7),)
    assert curves.memory_peak == ()  # not measured: no point, not 0
    assert (curves.note, curves.step["step"], curves.started["rows"], curves.ended["seconds"]) == (
        "Loading the model.",
        2,
        9,
        3.0,
    )


def test_a_broken_value_is_a_break_and_a_note_never_a_zero() -> None:
    curves = Curves().extend([a_step(1), a_step(2, "nan"), a_step(3, "inf")])
    assert curves.loss == ((1, 1.0), (2, None), (3, None))
    assert [(each.line, each.step, each.word) for each in curves.breaks] == [("loss", 2, "nan"), ("loss", 3, "inf")]


def test_reading_in_pieces_gives_what_reading_at_once_gives() -> None:
    events = [a_step(step, step * 0.5) for step in range(1, 200)]
    pieces = Curves()
    for start in range(0, len(events), 7):
        pieces = pieces.extend(events[start : start + 7])
    assert pieces == Curves().extend(events)


def test_a_long_run_stays_small_and_keeps_its_spikes() -> None:
    curves = Curves()
    for start in range(0, 50_000, 500):
        curves = curves.extend([a_step(step, 99.0 if step == 12_345 else 1.0 + step % 3) for step in range(start, start + 500)])
    assert all(len(getattr(curves, line)) <= MOST_POINTS for line in LINES)
    assert (12_345, 99.0) in curves.loss
    assert (curves.loss[0][0], curves.loss[-1][0]) == (0, 49_999)


@given(st.integers(), st.integers(MOST_POINTS + 1, 3 * MOST_POINTS), st.sampled_from([0.0, 0.01, 0.9, 1.0]))
def test_thinning_keeps_order_ends_extremes_and_breaks(seed: int, length: int, broken: float) -> None:
    chance = random.Random(seed)
    values = [None if chance.random() < broken else chance.uniform(-1e6, 1e6) for _ in range(length)]
    points = list(enumerate(values))
    thinned = thin(points)
    assert len(thinned) <= MOST_POINTS
    assert list(thinned) == sorted(set(thinned) & set(points))
    assert {points[0], points[-1]} <= set(thinned)
    numbers = [value for value in values if value is not None]
    if numbers:
        kept = [value for _, value in thinned if value is not None]
        assert (min(kept), max(kept)) == (min(numbers), max(numbers))
    assert (None in values) == (None in [value for _, value in thinned])
