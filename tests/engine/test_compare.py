"""Comparisons: real runs one after the other, a failed one among them, stopped and gone on with."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engine.__main__ import comparison_table
from engine.issues import PlanError
from engine.jobs import runs, series
from engine.jobs.runs import Run
from engine.methods import METHODS
from engine.pipelines import compare, scoring
from engine.pipelines.compare import Comparison
from engine.plan import DataSource, Plan
from engine.system import events
from tests.engine import tiny


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two steps of a tiny model on rows of its own, with some held out."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in tiny.rows("messages", 16)), encoding="utf-8")
    settings = {"max_steps": 2, "eval_fraction": 0.25, "datasets": (DataSource(path=str(file)),)}
    return tiny.plan("sft", tiny.causal_model(), **settings)


def until_it_ends(comparison: Comparison) -> list[compare.Row]:
    """The rows at the end."""
    *_, rows = compare.follow(comparison)
    return rows


def until_it_trains(comparison: Comparison, seconds: float = 120) -> Run:
    """The comparison's first run, when it has made a step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run = runs.get(compare.rows(comparison)[0].run_id)
        if run is not None and any(event["kind"] == "step" for event in events.since(run.folder)[0]):
            return run
        time.sleep(0.1)
    pytest.fail((comparison.folder / series.LOG_FILE).read_text(encoding="utf-8"))


@pytest.mark.trains
def test_the_methods_take_turns_and_a_failed_one_stops_nobody(plan: Plan) -> None:
    comparison = compare.start(plan, ("psoft", "lora"))  # PSOFT's rank of 32 does not go into a matrix that is 16 wide
    with pytest.raises(PlanError, match="still under way"):
        compare.start(plan, ("lora", "full"))
    failed, lora = until_it_ends(comparison)
    assert compare.state(comparison) == "finished"
    assert (failed.state, lora.state) == ("failed", "finished"), (failed, lora)
    assert "min(in_features" in failed.reason
    assert lora.eval_loss is not None
    assert lora.trainable_params == 2 * sum(16 * (a + b) for a, b in SHAPES)
    assert None not in (lora.memory_peak, lora.seconds, lora.bytes)
    assert lora.success is None, "no rule judges these rows"
    assert runs.plan_of(runs.runs_folder() / lora.run_id) == plan, "the plan's own method keeps the plan's own settings"
    assert [one.id for one in compare.every()] == [comparison.id]
    assert "failed" in comparison_table([failed, lora]).splitlines()[1]


# The linear layers of the tiny Llama, [in, out]: q, k, v, o, gate, up, down (width 32, one key head of two).
SHAPES = ((32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32))


@pytest.mark.trains
def test_a_stopped_comparison_keeps_what_was_learned_and_goes_on(plan: Plan) -> None:
    comparison = compare.start(plan.with_(max_steps=100_000), ("lora", "full"))
    first = until_it_trains(comparison)
    compare.stop(comparison)
    lora, full = until_it_ends(comparison)
    assert compare.state(comparison) == "stopped"
    assert (lora.state, full.state) == ("stopped", "waiting")
    assert (first.folder / "adapter" / "adapter_model.safetensors").exists()
    compare.go_on(comparison)
    again = until_it_trains_anew(comparison, first)
    assert again.plan.seed == first.plan.seed
    compare.stop(comparison)
    until_it_ends(comparison)


def until_it_trains_anew(comparison: Comparison, before: Run, seconds: float = 120) -> Run:
    """The run that took the place of the stopped one."""
    deadline = time.monotonic() + seconds
    while (run_id := compare.rows(comparison)[0].run_id) == before.id:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run = runs.get(run_id)
    assert run is not None
    return run


def test_what_cannot_be_compared_is_refused_beforehand(plan: Plan) -> None:
    with pytest.raises(PlanError, match="fewer than two"):
        compare.start(plan, ("lora", "lora"))
    with pytest.raises(PlanError, match=r"Did you mean lora"):
        compare.start(plan, ("lorra", "full"))
    with pytest.raises(PlanError, match="BitFit"):
        compare.start(plan, ("lora", "bitfit"))
    assert compare.every() == []
    assert compare.get("../../etc") is None


def test_each_method_takes_its_own_settings() -> None:
    plan = Plan(method="lora", method_options={"r": 4}, learning_rate=1e-3, seed=7)
    assert compare.with_method(plan, "lora") == plan
    other = compare.with_method(plan, "qlora")
    assert (other.method_options, other.learning_rate, other.quantization, other.seed) == ({}, None, "nf4", 7)
    assert all(compare.with_method(plan, key).datasets == plan.datasets for key in METHODS)


@pytest.mark.trains
def test_the_success_of_a_run_is_that_of_its_demo_set(pirate_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MOST_ASKED", 10)
    assert scoring.demo_of(pirate_run.plan) is not None
    found = scoring.score(pirate_run.folder)
    assert found.asked == 10
    assert found.success > 0.8
    assert scoring.demo_of(Plan()) is None
