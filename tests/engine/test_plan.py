"""The plan: one JSON form, read strictly."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.issues import PlanError
from engine.plan import FIELDS, DataSource, Plan


def test_json_round_trip_keeps_every_field() -> None:
    plan = Plan(method_options={"r": 32}, datasets=(DataSource(path="demo/facts", weight=2.0),), learning_rate=1e-3)
    assert Plan.from_json(plan.to_json()) == plan


def test_the_names_that_others_rely_on_are_there() -> None:
    names = """version model method method_options quantization objective objective_options datasets max_length packing
    per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps learning_rate lr_scheduler_type
    warmup_ratio weight_decay max_grad_norm optim precision gradient_checkpointing attn_implementation seed gpu num_gpus
    sharding"""
    assert set(names.split()) <= set(Plan().to_dict())


def test_every_field_has_a_label_and_help() -> None:
    for name, knob in FIELDS.items():
        assert knob.label, name
        assert knob.help.endswith("."), name


def test_unknown_key_names_the_nearest_right_one() -> None:
    with pytest.raises(PlanError, match=r"max_lenth: is not a field of the plan\. Did you mean max_length\?"):
        Plan.from_dict({"max_lenth": 512})


def test_unknown_key_of_a_data_source_is_refused() -> None:
    with pytest.raises(PlanError, match="Did you mean split"):
        Plan.from_dict({"datasets": [{"path": "demo/pirate", "splt": "train"}]})


def test_another_version_is_refused() -> None:
    with pytest.raises(PlanError, match="version: is 2"):
        Plan.from_dict({"version": 2})


def test_syntax_error_names_the_line() -> None:
    with pytest.raises(PlanError, match="line 2"):
        Plan.from_json('{"model": "demo/llama",\n oops}')


@pytest.mark.parametrize("values", [[], "text", 3, None])
def test_a_plan_is_an_object(values: object) -> None:
    with pytest.raises(PlanError, match="not a JSON object"):
        Plan.from_json(json.dumps(values))


@given(st.dictionaries(st.text(max_size=20), st.none() | st.booleans() | st.floats() | st.text(max_size=10), max_size=5))
def test_any_object_gives_a_plan_or_a_plan_error(values: dict) -> None:
    known = {field.name for field in dataclasses.fields(Plan)}
    try:
        Plan.from_dict(values)
    except PlanError:
        return
    assert set(values) <= known
