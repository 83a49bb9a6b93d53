"""The fit card: verdicts in words and shape, a tape that adds up, and nothing unescaped."""

from __future__ import annotations

import dataclasses
import re

import pytest

from engine.issues import Issue
from estimators.estimate import MEMORY_PARTS, Estimate, Memory, Range
from estimators.timing.measured import Measured
from ui.views import fitcard

GB = 10**9
HOSTILE = '<img src=x onerror="alert(1)">{{7*7}}${1}'


def an_estimate(fits: str = "tight", **changes: object) -> Estimate:
    """The estimate of the mock-up: 23.1 of 23.6 GB."""
    parts = dict(zip(MEMORY_PARTS, (15.5, 0.3, 0.7, 4.8, 1.2, 0.2, 0.4), strict=True))
    sizes = {name: int(size * GB) for name, size in parts.items()}
    memory = Memory(
        **sizes, allocated=int(22.5 * GB), peak=int(22.7 * GB), low=int(22.6 * GB), high=24 * GB, capacity=int(23.6 * GB)
    )
    estimate = Estimate(
        trainable_params=43_600_000,
        total_params=8_190_000_000,
        memory=memory,
        fits=fits,
        steps=900,
        tokens=None,
        step_seconds=None,
        tokens_per_second=Range(low=2000, likely=2400, high=2500),
        total_seconds=Range(low=5700, likely=6720, high=8400),
        cost=Range(low=0.54, likely=0.64, high=0.8),
        host_memory=GB,
        disk=int(16.4 * GB),
        phases={"merge": int(1.9 * GB)},
        device="RTX 4090",
        source={"memory": "A dry run."},
    )
    return dataclasses.replace(estimate, **changes)


@pytest.mark.parametrize("fits", ["yes", "tight", "no"])
def test_the_verdict_is_words_and_a_shape_of_its_own(fits: str) -> None:
    card = fitcard.estimated(an_estimate(fits))
    verdict = fitcard.VERDICTS[fits]
    assert verdict.title in card
    assert verdict.shape in card
    assert len({each.shape for each in (*fitcard.VERDICTS.values(), fitcard.ASKING, fitcard.WAITING)}) == 5


def test_every_figure_carries_its_unit() -> None:
    card = fitcard.estimated(an_estimate())
    for figure in (
        "Likely 23.1 GB of 23.6 GB, up to 24 GB",
        "15.5 GB",
        "1 h 52 min",
        "$ 0.64",
        "43.6 M",
        "0.53 % of 8.19 B",
        "16.4 GB",
    ):
        assert figure.replace("$", "&#36;") in card


def test_the_tape_is_to_scale() -> None:
    estimate = an_estimate()
    card = fitcard.estimated(estimate)
    widths = [float(width) for width in re.findall(r'<i class="part-[\w -]+" style="width:([\d.]+)%"', card)]
    line = float(re.search(r'tape-cap tape-cap-right" style="left:([\d.]+)%', card)[1])
    assert len(widths) == len(MEMORY_PARTS)
    assert sum(widths) / line == pytest.approx(estimate.memory.total / estimate.memory.capacity, rel=1e-3)


def test_what_is_unknown_is_said_so() -> None:
    card = fitcard.estimated(an_estimate(total_seconds=None, cost=None, tokens_per_second=None, steps=None))
    assert card.count("unknown") == 2  # time and speed


def test_nothing_unescaped_reaches_the_page() -> None:
    problem = Issue(field=HOSTILE, message=HOSTILE, fix=HOSTILE)
    hostile = an_estimate("no", device=HOSTILE, source={HOSTILE: HOSTILE})
    for card in (fitcard.estimated(hostile, warnings=[problem]), fitcard.issues([problem]), fitcard.waiting(HOSTILE)):
        assert "<img" not in card
        assert "{" not in card
        assert "$" not in card


def test_no_list_of_sources_or_warnings_where_there_are_none() -> None:
    card = fitcard.estimated(an_estimate(source={}))
    assert "Where do these numbers" not in card
    assert "fit-issues" not in card


@pytest.mark.parametrize(("least", "step"), [(5.36e9, 10e9), (4.4e9, 5e9), (1e9, 1e9), (2.2e8, 2.5e8), (9.9e7, 1e8)])
def test_the_scale_has_round_steps(least: float, step: float) -> None:
    assert fitcard.round_step(least) == pytest.approx(step)


def test_a_measured_run_is_shown_beside_the_prediction() -> None:
    run = Measured(
        run="a",
        ended=1.0,
        device="L40S",
        key="k",
        versions={},
        predicted_bytes=14_200_000_000,
        measured_bytes=14_000_000_000,
        predicted_step_seconds=0.41,
        measured_step_seconds=0.43,
        tokens_per_second=None,
        steps=9,
    )
    card = fitcard.estimated(an_estimate(), measured=run)
    assert "Predicted 14.2 GB, measured 14 GB; a step of 0.41 s took 0.43 s." in card
    assert "Predicted" not in fitcard.estimated(an_estimate())


def test_of_a_plan_that_does_not_fit_the_facts_are_folded() -> None:
    too_large = an_estimate("no")
    assert "<summary>Time, cost and size</summary>" in fitcard.estimated(too_large)
    assert "<summary>Time, cost and size</summary>" not in fitcard.estimated(an_estimate("yes"))
