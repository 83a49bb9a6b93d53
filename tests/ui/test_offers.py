"""The offers below the fit card: what can be taken over is offered, what cannot is said."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest

from engine.plan import Plan
from estimators.budget import Solution
from estimators.limits import Limit
from tests.ui.test_form import values_for
from ui import form, offers, plan_tab
from ui.offers import Offer
from ui.plan_tab import PlanTab


@pytest.fixture(scope="module")
def tab() -> PlanTab:
    with gr.Blocks():
        return plan_tab.build()


class Answers:
    """What an estimator would answer, by field."""

    def __init__(self, **values: int | None):
        self.values = values

    def limit(self, plan: Plan, field: str) -> Limit:
        return Limit(field=field, value=self.values[field], at_the_end=False)

    def budget(self, plan: Plan, words: str) -> tuple[Solution, ...]:
        options = {"r": 13, "target_modules": ["q_proj", "v_proj"]}
        return (Solution(label="", changes={"method_options": options}, params=3_900_000),)


def limits_of(plan: Plan, **values: int | None) -> list[Offer]:
    found: Iterator[Offer] = offers.limits_of(plan, Answers(**values))  # type: ignore[arg-type]
    return list(found)


def test_a_limit_can_be_taken_over_unless_it_is_what_the_plan_has() -> None:
    plan = Plan(per_device_train_batch_size=4, max_length=768)
    batch, length = limits_of(plan, per_device_train_batch_size=23, max_length=768)
    assert batch.text == "Largest batch that fits: 23"
    assert batch.changes == {"per_device_train_batch_size": 23}
    assert length.text == "Longest sequence that fits: 768"
    assert length.changes == {}


def test_where_nothing_fits_it_says_so() -> None:
    batch, _ = limits_of(Plan(), per_device_train_batch_size=None, max_length=64)
    assert "none" in batch.text
    assert batch.changes == {}


def test_a_budget_names_the_rank_the_modules_and_the_count() -> None:
    (found,) = offers.budget_of(Plan(), Answers(), "4000000")  # type: ignore[arg-type]
    for piece in ("Rank (r): 13", "q_proj, v_proj"):
        assert piece in found.text
    assert found.note == "3,900,000 parameters"


def test_a_click_takes_the_answer_over(tab: PlanTab) -> None:
    values = values_for(form.defaults(), tab.form)
    use = offers._used(tab.limits, tab.form, 0)
    updates = use(found=[{"max_length": 320}], **values)
    assert updates[tab.form.controls["max_length"]] == 320
    assert updates[tab.limits.found] == []


def test_lines_appear_with_their_button(tab: PlanTab) -> None:
    shown = offers._shown(tab.limits, [Offer(text="<b>", changes={"max_length": 1}), Offer(text="none")])
    first, second = tab.limits.lines
    assert "<b>" not in shown[first.text]
    assert shown[first.use]["visible"] is True
    assert shown[second.use]["visible"] is False
    assert shown[tab.limits.found] == [{"max_length": 1}, {}]
