"""Limits: the value that is found fits, the next one does not, and few estimates are asked for."""

from __future__ import annotations

import dataclasses

import pytest

from engine.data import holdout
from engine.data.demos import first_plan
from engine.plan import Plan
from estimators.advice import limits
from estimators.advice.limits import LIMITED
from estimators.estimate import Estimate
from estimators.estimator import estimate, verdict

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
PLAN = Plan(model=SMALL, max_length=64, per_device_train_batch_size=1, gpu="L40S")
BATCH = LIMITED["per_device_train_batch_size"]


@pytest.fixture(scope="module")
def example() -> Estimate:
    return estimate(PLAN)


def on_a_line(example: Estimate, fixed: float, each: float, asked: list[int]):
    """An estimator whose memory is fixed + each * value, of a card of 100 bytes."""

    def ask(value: int) -> Estimate:
        asked.append(value)
        high = round(fixed + each * value)
        memory = dataclasses.replace(example.memory, low=high, high=high, capacity=1000)
        return dataclasses.replace(example, memory=memory, fits=verdict(memory))

    return ask


@pytest.mark.parametrize(("fixed", "each", "limit"), [(300, 10, 67), (0, 970, 1), (900, 1, 70), (10, 0.25, 3840)])
@pytest.mark.parametrize("start", [1, 4, 500])
def test_the_limit_of_a_straight_line(example: Estimate, fixed: float, each: float, limit: int, start: int) -> None:
    asked: list[int] = []
    found = limits.search(BATCH, start, 4096, on_a_line(example, fixed, each, asked))
    assert found.value == pytest.approx(limit, abs=2 if each < 1 else 0)
    assert len(asked) <= 9


def test_nothing_fits(example: Estimate) -> None:
    assert limits.search(BATCH, 4, 4096, on_a_line(example, 2000, 1, [])).value is None


def test_the_field_ends_before_the_memory_does(example: Estimate) -> None:
    found = limits.search(BATCH, 4, 4096, on_a_line(example, 1, 0.001, []))
    assert (found.value, found.at_the_end) == (4096, True)


def test_a_batch_has_no_more_rows_than_there_are(example: Estimate) -> None:
    ask = on_a_line(example, 1, 0.001, [])
    plan = first_plan()
    found = limits.largest(plan, BATCH.field, lambda other: ask(other.per_device_train_batch_size))
    assert (found.value, found.at_the_end) == (sum(holdout.sizes(plan)), True)


def test_lengths_are_round(example: Estimate) -> None:
    found = limits.search(LIMITED["max_length"], 100, 4096, on_a_line(example, 300, 0.5, []))
    assert found.value == 1280, "the largest multiple of 64 below 1340"


def test_a_real_limit_fits_and_the_next_value_does_not() -> None:
    plan = PLAN.with_(gpu="RTX 2060", precision="fp16", max_length=1024, per_device_train_batch_size=256, packing=True)
    found = limits.largest(plan, "per_device_train_batch_size", estimate)
    assert found.value
    assert estimate(plan.with_(per_device_train_batch_size=found.value)).fits == "yes"
    assert estimate(plan.with_(per_device_train_batch_size=found.value + 1)).fits != "yes"
