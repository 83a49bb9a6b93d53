"""Measured runs: a real run is noted once, shown beside its plan, and the next estimate on that device learns from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from engine.catalog.hardware import this_machine
from engine.data.demos import first_plan
from engine.plan import Plan
from engine.system.home import home as home_folder
from estimators.service.client import Estimator
from estimators.timing import measured
from estimators.timing.measured import NO_CORRECTION, Measured
from tests.conftest import run_to_its_end

PLAN = first_plan()


def noted(**changes: object) -> Measured:
    """A measured run of the first plan on this machine."""
    values = {
        "run": "a",
        "ended": 1.0,
        "device": this_machine().name,
        "key": measured.step_key(PLAN),
        "versions": measured.installed(),
        "predicted_bytes": 1000,
        "measured_bytes": 1100,
        "predicted_step_seconds": 1.0,
        "measured_step_seconds": 1.5,
        "tokens_per_second": 100.0,
        "steps": 10,
    }
    return Measured(**{**values, **changes})


def write(*rows: Measured) -> None:
    lines = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
    (home_folder() / measured.FILE).write_text(lines, encoding="utf-8")


def test_nothing_measured_corrects_nothing(home: Path) -> None:
    assert measured.every() == ()
    assert measured.correction(this_machine().name) == NO_CORRECTION
    assert measured.of_plan(PLAN) is None


def test_the_middle_of_the_runs_on_this_device_corrects(home: Path) -> None:
    rows = [noted(run=str(number), measured_step_seconds=seconds) for number, seconds in enumerate((1.2, 1.6, 1.4))]
    write(*rows, noted(run="other", device="another card", measured_step_seconds=9.0))
    found = measured.correction(this_machine().name)
    assert (found.runs, found.time, found.added_bytes) == (3, 1.4, 100)
    assert found.spread == pytest.approx(1.6 / 1.2)
    assert "3 runs measured" in found.source


def test_runs_of_other_versions_and_of_a_busy_machine_do_not_count(home: Path) -> None:
    write(noted(versions={"torch": "1.0"}), noted(run="busy", measured_step_seconds=50.0, measured_bytes=900))
    found = measured.correction(this_machine().name)
    assert (found.runs, found.time) == (1, 1.0)
    assert found.added_bytes == 0, "a prediction that was too high is not lowered: what fits must fit"


def test_a_comparison_does_not_learn_from_itself(home: Path) -> None:
    write(noted())
    with measured.without_correction():
        assert measured.correction(this_machine().name) == NO_CORRECTION
    assert measured.correction(this_machine().name).runs == 1


def test_a_damaged_line_is_passed_over(home: Path) -> None:
    write(noted())
    with open(home_folder() / measured.FILE, "a", encoding="utf-8") as file:
        file.write('{"run": "half\n{"unknown": 1}\n')
    assert [one.run for one in measured.every()] == ["a"]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 7, "num_train_epochs": 9, "learning_rate": 1e-3, "datasets": ()}, True),
        ({"per_device_train_batch_size": 9}, False),
        ({"max_length": 64}, False),
        ({"method": "full"}, False),
        ({"num_gpus": 2}, False),
    ],
)
def test_what_decides_a_step(changes: dict, same: bool) -> None:
    assert (measured.step_key(PLAN.with_(**changes)) == measured.step_key(PLAN)) is same


@pytest.mark.trains
def test_a_real_run_is_noted_once(home: Path, short_plan: Plan) -> None:
    plan = short_plan.with_(max_steps=6)
    run = run_to_its_end(plan)
    estimator = Estimator()
    (found,) = estimator.collect()
    again = estimator.collect()
    corrected = estimator.ask(plan)
    estimator.close()
    assert again == []
    assert found == measured.of_run(run.id) == measured.of_plan(plan)
    assert found.steps == 6
    assert found.device == this_machine().name
    assert 0.2 < found.measured_bytes / found.predicted_bytes < 5
    assert found.measured_step_seconds > 0
    assert found.tokens_per_second
    assert measured.correction(found.device).runs == 1
    assert corrected.memory.total > 0
