"""Fixes: each one is a real estimate of a changed plan, lowers the peak, and one of them makes it fit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engine.checks import check
from engine.data.demos import first_plan
from engine.plan import DataSource, Plan
from estimators.advice import fixes
from estimators.advice.fixes import KINDS, Fix
from estimators.estimator import estimate
from estimators.service.client import Estimator

# Three billion parameters in four layers: the dry run of a wide and shallow model is a quick one.
WIDE = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "num_hidden_layers": 4,
    "num_attention_heads": 64,
    "vocab_size": 2048,
}
TOO_LARGE = Plan(
    model=WIDE,
    method="full",
    gpu="RTX 4090",
    datasets=(DataSource(path="demo/pirate"),),
    learning_rate=2e-5,
)


@pytest.fixture(scope="module")
def found() -> tuple[Fix, ...]:
    return fixes.fixes(TOO_LARGE, estimate(TOO_LARGE))


def test_every_fix_is_a_fresh_estimate_of_the_changed_plan(found: tuple[Fix, ...]) -> None:
    before = estimate(TOO_LARGE)
    assert before.fits == "no"
    for fix in found:
        changed = TOO_LARGE.with_(**fix.changes)
        assert check(changed) == []
        after = estimate(changed)
        assert fix.memory_saved == before.memory.total - after.memory.total
        assert fix.memory_saved > 0 or "gpu" in fix.changes
        assert fix.time_factor == pytest.approx(after.total_seconds.likely / before.total_seconds.likely)
        assert fix.fits == after.fits


def test_a_model_too_large_for_full_fits_with_lora(found: tuple[Fix, ...]) -> None:
    adapter = next(fix for fix in found if fix.changes.get("method") == "lora")
    assert adapter.fits == "yes"
    assert adapter.changes["learning_rate"] is None, "a rate for all weights is too small for an adapter"


def test_another_gpu_is_one_that_fits(found: tuple[Fix, ...]) -> None:
    other = next(fix for fix in found if "gpu" in fix.changes)
    assert other.fits == "yes"
    assert "$" in other.note


def test_an_adapter_on_all_layers_can_go_to_fewer() -> None:
    fewer = list(KINDS["targets"](TOO_LARGE.with_(method="lora")))
    assert [one.changes["method_options"]["target_modules"] for one in fewer] == [["q_proj", "v_proj"]]
    assert list(KINDS["targets"](TOO_LARGE)) == []
    assert list(KINDS["targets"](TOO_LARGE.with_(method="lora", method_options={"target_modules": "q_proj"}))) == []


def test_more_gpus_of_the_same_kind_and_then_offloading() -> None:
    more = [one.changes for one in KINDS["more gpus"](TOO_LARGE)]
    assert more == [{"num_gpus": number, "sharding": "fsdp"} for number in (2, 4, 8)]
    sharded = [one.changes for one in KINDS["more gpus"](TOO_LARGE.with_(num_gpus=4, sharding="fsdp"))]
    assert sharded == [{"offload": "all"}, {"num_gpus": 8, "sharding": "fsdp"}]
    here = TOO_LARGE.with_(gpu="this machine", precision="fp32")
    assert list(KINDS["more gpus"](here)) == [], "a processor has no company"


def test_half_the_batch_keeps_the_rows_of_a_step() -> None:
    plan = TOO_LARGE.with_(per_device_train_batch_size=12, gradient_accumulation_steps=2)
    batches = [tuple(one.changes.values()) for one in KINDS["batch"](plan)]
    assert batches == [(6, 4), (3, 8), (1, 24)]


def test_what_fits_needs_no_fix_and_a_run_here_no_other_gpu() -> None:
    assert fixes.fixes(first_plan(), estimate(first_plan())) == ()
    assert list(KINDS["gpu"](first_plan())) == []


def test_several_changes_at_once_only_where_no_single_one_is_enough() -> None:
    def one(kind: str, fits: str) -> tuple[Fix, ...]:
        return (Fix(label=kind, memory_saved=1, time_factor=1.0, fits=fits),)

    assert "together" not in [fix.label for fix in fixes.search(lambda kind: one(kind, "yes"))]
    assert "together" in [fix.label for fix in fixes.search(lambda kind: one(kind, "no"))]


def test_a_shorter_length_says_how_many_rows_it_cuts() -> None:
    lengths = list(KINDS["length"](TOO_LARGE.with_(datasets=(), max_length=600)))
    assert lengths == [], "no rows are known, so all of them would be cut"


def test_the_process_answers_plain_plans_and_questions() -> None:
    plan = first_plan().to_dict()
    lines = [plan, {"ask": "fixes", "plan": plan}, {"ask": "estimate", "plan": plan}, {"ask": "fixs", "plan": plan}, {"ask": 1}]
    lines.append({"ask": "methods", "plan": plan, "only": "full"})
    done = subprocess.run(
        [sys.executable, "-m", "estimators", "--jsonl"],
        input="\n".join(map(json.dumps, lines)) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    plain, no_fixes, asked, misspelt, wrong, methods = map(json.loads, done.stdout.splitlines())
    assert plain["fits"] == "yes"
    assert plain["suggestions"] == []
    assert no_fixes == {"fixes": []}
    assert asked["memory"]["allocated"] == plain["memory"]["allocated"]
    assert "Did you mean fixes?" in misspelt["error"]
    assert "error" in wrong
    assert methods["methods"][0]["key"] == "full"


def test_the_client_streams_the_fixes_and_remembers_them(found: tuple[Fix, ...]) -> None:
    estimator = Estimator()
    first = next(iter(estimator.fixes(TOO_LARGE)))
    assert (first.label, first.fits) == (found[0].label, found[0].fits)
    known = len(estimator._known)
    assert next(iter(estimator.fixes(TOO_LARGE))) is first
    assert len(estimator._known) == known
    estimator.close()
