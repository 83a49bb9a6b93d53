"""The form shows every objective with its options and models, and a demo set brings its whole plan."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from engine.data.demos import DEMOS, PROBE
from engine.issues import PlanError
from engine.methods import Option
from engine.objectives import OBJECTIVES, option_values
from engine.plan import Plan
from tests.ui.test_form import values_for
from ui.plan import form
from ui.plan.form import Form
from ui.tabs import plan_tab


@pytest.fixture(scope="module")
def the_form() -> Form:
    with gr.Blocks():
        return plan_tab.build().form


@pytest.mark.parametrize("key", OBJECTIVES)
def test_every_objective_makes_the_round_trip(the_form: Form, key: str) -> None:
    options = {option.name: another(option) for option in OBJECTIVES[key].options}
    plan = form.defaults().with_(objective=key, objective_options=options)
    again = form.read(values_for(plan, the_form))
    assert again.objective == key
    assert again.objective_options == options
    assert form.model_choices(key)
    shown = form.objective_updates(key, the_form)
    visible = {name for name in form.objective_option_names() if shown[the_form.controls[name]]["visible"]}
    assert len(visible) == len(options), "each option has one control, and no other one is shown"
    plain = form.read(values_for(form.defaults().with_(objective=key), the_form))
    assert plain.objective_options == {}, "what is at its default is not written into the plan"


def another(option: Option) -> Any:
    """A value of the option that is not its default."""
    if option.knob.kind == "flag":
        return not option.default
    if option.knob.kind == "choice":
        return next(choice for choice in option.knob.choices if choice != option.default)
    by_kind = {"names": ["length", "format"], "text": "word", "integer": 3, "number": 0.125}
    return by_kind[option.knob.kind]


@pytest.mark.parametrize("key", DEMOS)
def test_choosing_a_demo_brings_its_plan(the_form: Form, key: str) -> None:
    demo = DEMOS[key]
    plan = form.demo_plan(demo.path, "no such objective")
    assert plan == demo.plan()
    again = form.read(values_for(plan or Plan(), the_form))
    for name in ("model", "method", "objective", "objective_options", "datasets", "learning_rate", "max_length", "max_steps"):
        assert getattr(again, name) == getattr(plan, name) or name == "objective_options", name
    assert option_values(again) == option_values(plan)
    assert form.demo_plan(demo.path, demo.plan().objective) is None, "an own choice of the method is kept"


def test_options_that_are_no_json_are_named(the_form: Form) -> None:
    with pytest.raises(PlanError, match="objective_options"):
        form.read(values_for(form.defaults(), the_form) | {form.OBJECTIVE_OPTIONS: "{beta"})


def test_a_demo_is_one_click_and_its_start_the_second(the_form: Form) -> None:
    offered = form.demo_choices()
    assert {key for _, key in offered} == set(DEMOS) - {PROBE}
    assert len({title for title, _ in offered}) == len(offered), "the first words tell them apart"
    assert form.demo_of(DEMOS["shapes"].path) == "shapes"
    assert form.demo_of("upload/0123456789abcdef") is None
