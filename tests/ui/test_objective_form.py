"""The form shows every objective with its options and models, and a demo set brings its whole plan."""

from __future__ import annotations

import gradio as gr
import pytest

from engine.demos import DEMOS
from engine.objectives import OBJECTIVES
from engine.plan import Plan, PlanError
from tests.ui.test_form import values_for
from ui import form, plan_tab
from ui.form import Form


@pytest.fixture(scope="module")
def the_form() -> Form:
    with gr.Blocks():
        return plan_tab.build().form


@pytest.mark.parametrize("key", OBJECTIVES)
def test_every_objective_makes_the_round_trip(the_form: Form, key: str) -> None:
    options = {option.name: option.default for option in OBJECTIVES[key].options[:2]}
    plan = form.defaults().with_(objective=key, objective_options=options)
    again = form.read(values_for(plan, the_form))
    assert again.objective == key
    assert again.objective_options == {name: list(v) if isinstance(v, tuple) else v for name, v in options.items()}
    assert form.model_choices(key)
    for option in OBJECTIVES[key].options:
        assert option.name in form.objective_help(key)


@pytest.mark.parametrize("key", DEMOS)
def test_choosing_a_demo_brings_its_plan(the_form: Form, key: str) -> None:
    demo = DEMOS[key]
    plan = form.demo_plan(demo.path, "no such objective")
    assert plan == demo.plan()
    again = form.read(values_for(plan or Plan(), the_form))
    for name in ("model", "method", "objective", "objective_options", "datasets", "learning_rate", "max_length", "max_steps"):
        assert getattr(again, name) == getattr(plan, name), name
    assert form.demo_plan(demo.path, demo.plan().objective) is None, "an own choice of the method is kept"


def test_options_that_are_no_json_are_named(the_form: Form) -> None:
    with pytest.raises(PlanError, match="objective_options"):
        form.read(values_for(form.defaults(), the_form) | {form.OBJECTIVE_OPTIONS: "{beta"})
