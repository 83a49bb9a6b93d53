"""The page's words: figures with units, labels of fields, and the escape that all HTML goes through."""

from __future__ import annotations

import pytest

from engine.issues import Issue
from engine.plan import Plan
from estimators.estimate import Range
from ui.views import formats


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (None, "unknown"),
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999_600_000, "1 GB"),
        (15.5e9, "15.5 GB"),
        (812e6, "812 MB"),
        (2e12, "2 TB"),
    ],
)
def test_size(number: float | None, said: str) -> None:
    assert formats.size(number) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "unknown"),
        (0.2, "under 1 s"),
        (42, "42 s"),
        (59.7, "1 min"),
        (320, "5 min 20 s"),
        (6720, "1 h 52 min"),
        (183_600, "2 d 3 h"),
    ],
)
def test_duration(seconds: float | None, said: str) -> None:
    assert formats.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "not a number"), (float("inf"), "infinite"), (2e-4, "0.0002"), (2341.7, "2,342"), (None, "unknown")],
)
def test_figure_never_shows_a_broken_value_as_a_number(value: float | None, said: str) -> None:
    assert formats.figure(value) == said


def test_counts_shares_and_money() -> None:
    assert (formats.count(43.6e6), formats.count(8.19e9), formats.count(950)) == ("43.6 M", "8.19 B", "950")
    assert (formats.share(43.6, 8190), formats.share(1, 1), formats.share(1, 0)) == ("0.53 %", "100 %", "unknown")
    assert (formats.money(0.64), formats.money(1234.5), formats.money(None)) == ("$ 0.64", "$ 1,234", "unknown")


def test_a_range_is_said_only_where_its_ends_differ() -> None:
    assert formats.between(Range(low=60, likely=70, high=90), formats.duration) == "1 min – 1 min 30 s"
    assert formats.between(Range(low=60, likely=60, high=60.1), formats.duration) == ""
    assert formats.between(None, formats.duration) == ""


def test_an_issue_begins_with_the_label_of_its_control() -> None:
    assert formats.issue(Issue(field="learning_rate", message="is odd.", fix="Mend it.")) == "Learning rate: is odd. Mend it."
    assert formats.issue(Issue(field="lora_alpha", message="is odd.", fix="")) == "Alpha: is odd."


def test_names_of_an_old_plan_that_is_no_longer_known() -> None:
    plan = Plan(model="demo/gone", method="gone")
    assert (formats.model_name(plan), formats.method_name(plan)) == ("demo/gone", "gone")


def test_escape_leaves_nothing_for_html_or_for_a_template() -> None:
    escaped = formats.escape("<img src=x onerror=\"alert('1')\"> {{7*7}} ${1} `x`")
    assert not set("<>\"'{}$`") & set(escaped)
