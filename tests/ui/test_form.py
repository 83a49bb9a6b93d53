"""The form and the plan are one thing: what the controls show is what the plan says, and back."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from engine.checks import check
from engine.issues import PlanError
from engine.methods import METHODS, option_values
from engine.plan import FIELDS, Plan
from ui.plan import form
from ui.plan.form import BASE, Form
from ui.tabs import plan_tab


@pytest.fixture(scope="module")
def the_form() -> Form:
    with gr.Blocks():
        return plan_tab.build().form


def values_for(plan: Plan, the_form: Form) -> dict[str, Any]:
    """What the handlers receive while the form shows the plan."""
    shown = {name: control.value for name, control in the_form.controls.items()}
    updates = form.shown(plan, the_form)
    for name, control in the_form.controls.items():
        if control in updates:
            update = updates[control]
            shown[name] = update.get("value", shown[name]) if isinstance(update, dict) else update
    return shown


def test_the_page_starts_with_a_sound_plan(the_form: Form) -> None:
    values = {name: control.value for name, control in the_form.controls.items()}
    plan = form.read(values)
    assert check(plan) == []
    assert plan.with_(method_options={}) == form.defaults().with_(method_options={})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_the_round_trip(the_form: Form, method: str) -> None:
    options = {option.name: option.default for option in METHODS[method].options}
    plan = form.defaults().with_(
        method=method,
        method_options=options,
        quantization=METHODS[method].quantization,
        learning_rate=2e-5,
        num_train_epochs=2,
        max_steps=7,
        gradient_checkpointing=True,
    )
    again = form.read(values_for(plan, the_form))
    assert option_values(again) == option_values(plan)
    assert again.with_(method_options={}) == plan.with_(method_options={})


def test_options_without_a_control_are_kept_as_json(the_form: Form) -> None:
    options = {"r": 4, "layers_to_transform": [0, 1], "rank_pattern": {"q_proj": 2}}
    plan = form.defaults().with_(method="lora", method_options=options)
    again = form.read(values_for(plan, the_form))
    assert option_values(again) == option_values(plan)
    with pytest.raises(PlanError, match="not valid JSON"):
        form.read(values_for(plan, the_form) | {form.OTHER: "{layers"})


def test_another_method_keeps_what_was_typed_where_the_defaults_agree(the_form: Form) -> None:
    rank = the_form.controls["option_r"]
    same = form.method_updates(METHODS["qlora"], the_form, before="lora")
    other = form.method_updates(METHODS["vera"], the_form, before="lora")
    assert "value" not in same[rank]
    assert other[rank]["value"] == 256
    assert (same[the_form.controls[form.CARD]], other[the_form.controls[form.CARD]]) == ("qlora", None)


def test_fields_without_a_control_survive(the_form: Form) -> None:
    plan = form.defaults().with_(model={"model_type": "llama", "hidden_size": 64}, num_gpus=2, sharding="ddp")
    again = form.read(values_for(plan, the_form))
    assert (again.model, again.num_gpus, again.sharding) == (plan.model, 2, "ddp")


def test_empty_means_the_default_or_the_recommended(the_form: Form) -> None:
    values = values_for(form.defaults(), the_form) | {"max_length": None, "option_target_modules": " ", "learning_rate": ""}
    plan = form.read(values)
    assert plan.max_length == form.defaults().max_length
    assert plan.method_options["target_modules"] == "all-linear"
    assert plan.learning_rate is None


def test_words_that_are_no_number_are_left_for_the_checks_to_name(the_form: Form) -> None:
    plan = form.read(
        values_for(form.defaults(), the_form) | {"learning_rate": "fast", "option_target_modules": "q_proj, v_proj"}
    )
    assert [issue.field for issue in check(plan)] == ["learning_rate"]
    assert plan.method_options["target_modules"] == ["q_proj", "v_proj"]


def test_every_shown_field_has_a_labelled_control(the_form: Form) -> None:
    visible = {name for name, knob in FIELDS.items() if knob.group != "hidden"} - set(form.WITHOUT_CONTROL)
    assert visible <= set(the_form.controls)
    assert all(control.label for name, control in the_form.controls.items() if name not in (BASE, form.BEFORE))
