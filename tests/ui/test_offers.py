"""The limits below the fit card and the budget: what can be taken over is offered, what cannot is said."""

from __future__ import annotations

import dataclasses

import gradio as gr
import pytest

from engine.plan import Plan
from estimators.advice.budget import Solution
from estimators.estimate import Estimate
from tests.ui.test_fitcard import an_estimate
from tests.ui.test_form import values_for
from ui.plan import budget_rows, form, limit_rows, offers
from ui.plan.fix_rows import Turn
from ui.plan.offers import Offer
from ui.tabs import plan_tab
from ui.tabs.plan_tab import PlanTab


@pytest.fixture(scope="module")
def tab() -> PlanTab:
    with gr.Blocks():
        return plan_tab.build()


class Answers:
    """What an estimator would answer: a batch fits up to `batch`, a length up to `length`."""

    def __init__(self, *, batch: int = 1, length: int = 64):
        self.batch, self.length, self.asked = batch, length, 0

    def ask(self, plan: Plan) -> Estimate:
        self.asked += 1
        full = max(plan.per_device_train_batch_size / self.batch, plan.max_length / self.length)
        found = an_estimate("yes" if full <= 1 else "no")
        memory = dataclasses.replace(found.memory, high=int(0.97 * full * found.memory.capacity))
        return dataclasses.replace(found, memory=memory)

    def budget(self, plan: Plan, words: str) -> tuple[Solution, ...]:
        options = {"r": 13, "target_modules": ["q_proj", "v_proj"]}
        return (Solution(label="", changes={"method_options": options}, params=3_900_000),)


def limits_of(plan: Plan, answers: Answers) -> list[Offer]:
    turn = Turn()
    return list(limit_rows.limits_of(plan, answers, turn, turn.number))  # type: ignore[arg-type]


def test_a_limit_can_be_taken_over_unless_it_is_what_the_plan_has() -> None:
    plan = Plan(per_device_train_batch_size=4, max_length=448)
    batch, length = limits_of(plan, Answers(batch=23, length=448))
    assert batch.text == "Largest batch that fits: 23"
    assert batch.changes == {"per_device_train_batch_size": 23}
    assert length.text == "Longest sequence that fits: 448"
    assert length.changes == {}


def test_where_nothing_fits_it_says_so() -> None:
    batch, length = limits_of(Plan(), Answers(batch=1, length=32))
    assert "none" in batch.text
    assert "none" in length.text
    assert batch.changes == {}


def test_a_search_ends_when_the_plan_is_changed() -> None:
    answers, turn = Answers(batch=23, length=768), Turn()
    found = limit_rows.limits_of(Plan(), answers, turn, turn.number)  # type: ignore[arg-type]
    next(found)
    asked = answers.asked
    turn.next()
    with pytest.raises(limit_rows.Outdated):
        next(found)
    assert answers.asked == asked


def test_a_budget_names_the_rank_the_modules_and_the_count() -> None:
    (found,) = budget_rows.budget_of(Plan(), Answers(), "4000000")  # type: ignore[arg-type]
    for piece in ("Rank (r): 13", "q_proj, v_proj"):
        assert piece in found.text
    assert found.note == "3,900,000 parameters"


def test_a_click_takes_the_answer_over(tab: PlanTab) -> None:
    values = values_for(form.defaults(), tab.form)
    use = offers.used(tab.limits, tab.form, 0)
    updates = use(found=[{"max_length": 320}], **values)
    assert updates[tab.form.controls["max_length"]] == 320
    assert updates[tab.limits.found] == []


def test_lines_appear_with_their_button(tab: PlanTab) -> None:
    shown = offers.shown(tab.limits, [Offer(text="<b>", changes={"max_length": 1}), Offer(text="none")], "")
    first, second = tab.limits.lines
    assert "<b>" not in shown[first.text]
    assert shown[first.use]["visible"] is True
    assert shown[second.use]["visible"] is False
    assert shown[tab.limits.found] == [{"max_length": 1}, {}]
