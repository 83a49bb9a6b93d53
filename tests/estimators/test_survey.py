"""Surveys: every row is what a single estimate of that plan says."""

from __future__ import annotations

import pytest

from engine.catalog import hardware
from engine.catalog.hardware import THIS_MACHINE
from engine.data.demos import first_plan
from engine.methods import METHODS
from engine.plan import Plan
from estimators.advice import survey
from estimators.advice.survey import GpuRow
from estimators.estimator import estimate

PLAN = first_plan().with_(gpu="RTX 4090", precision="bf16")


@pytest.fixture(scope="module")
def rows() -> dict[str, GpuRow]:
    return {row.gpu: row for row in survey.gpu_survey(PLAN)}


def test_every_gpu_has_a_row(rows: dict[str, GpuRow]) -> None:
    assert list(rows) == [THIS_MACHINE, *hardware.gpus()]


@pytest.mark.parametrize("name", ["RTX 4090", "T4", "H100 SXM 80GB", THIS_MACHINE])
def test_a_row_is_a_single_estimate(rows: dict[str, GpuRow], name: str) -> None:
    row = rows[name]
    found = estimate(PLAN.with_(gpu=name, precision=row.precision))
    assert row.capacity == found.memory.capacity
    assert row.memory == pytest.approx(found.memory.total, rel=0.02), "a processor's own memory is measured anew"
    assert row.fits == found.fits
    assert row.seconds == pytest.approx(found.total_seconds.likely)
    assert row.cost == (pytest.approx(found.cost.likely) if found.cost else None)


def test_a_card_without_bf16_gets_another_number_type_and_says_so(rows: dict[str, GpuRow]) -> None:
    assert rows["T4"].precision == "fp16"
    assert rows["T4"].note == "in fp16 instead of bf16"
    assert rows["RTX 4090"].note == ""


def test_a_chosen_number_type_stays() -> None:
    chosen = PLAN.with_(precision="fp32")
    assert survey.precision_on(chosen, hardware.find_gpu("T4")) == "fp32"
    assert survey.precision_on(PLAN, hardware.find_gpu("T4")) == "fp16"


# The first of each group that goes with the demo model (it has no biases).
ONE_OF_EACH_GROUP = list({row.group: key for key, row in reversed(METHODS.items()) if key != "lora_bitfit"}.values())


@pytest.mark.parametrize("key", ONE_OF_EACH_GROUP[:4])
def test_a_method_has_a_row_that_is_a_single_estimate(key: str) -> None:
    row = survey.method_row(PLAN, key)
    found = estimate(survey.with_method(PLAN, key))
    assert (row.memory, row.fits, row.trainable_params) == (found.memory.total, found.fits, found.trainable_params)


def test_the_groups_are_all_gpus_once_and_the_known_one_comes_first() -> None:
    groups = survey.gpu_groups(PLAN)
    assert groups[0] == PLAN.precision
    assert groups[-1] == THIS_MACHINE
    names = [name for name, gpu in hardware.gpus().items() for group in groups if survey.precision_on(PLAN, gpu) == group]
    assert sorted(names) == sorted(hardware.gpus())
    shuffled = [
        GpuRow(name=name, gpu=name, precision="bf16", capacity=1, memory=1, fits="yes", seconds=1, cost=1) for name in names
    ]
    assert [row.gpu for row in survey.in_table_order(reversed(shuffled))] == list(hardware.gpus())


def test_a_refused_combination_says_why() -> None:
    plan: Plan = PLAN.with_(method="lora", method_options={"target_modules": ["no_such_layer"]})
    row = survey.method_row(plan, "lora")
    assert (row.memory, row.fits) == (None, None)
    assert row.note.startswith("target_modules:")
