"""Several GPUs: every way to use them is a row, and what cannot work is a sentence with a remedy."""

from __future__ import annotations

import pytest

from engine import checks
from engine.catalog import shardings
from engine.data.demos import first_plan
from engine.plan import FIELDS, Plan

PLAN = first_plan().with_(gpu="L40S", precision="bf16", num_gpus=2)


def fields_of(plan: Plan, severity: str) -> set[str]:
    return {issue.field for issue in checks.check(plan) if issue.severity == severity}


def test_the_rows_are_the_choices_of_the_form() -> None:
    assert tuple(shardings.SHARDINGS) == FIELDS["sharding"].choices
    assert {choice for row in shardings.SHARDINGS.values() for choice in row.offloads} == set(FIELDS["offload"].choices)


@pytest.mark.parametrize("key", [key for key in shardings.SHARDINGS if key != "none"])
def test_each_way_goes_with_the_plain_plan(key: str) -> None:
    assert checks.check(PLAN.with_(sharding=key)) == []
    assert shardings.world(PLAN.with_(sharding=key)) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sharding": "fsdp", "quantization": "int8"}, "sharding"),
        ({"sharding": "zero3", "quantization": "int8"}, "sharding"),
        ({"sharding": "ddp", "offload": "optimizer"}, "offload"),
        ({"sharding": "fsdp", "offload": "optimizer"}, "offload"),
        ({"sharding": "zero2", "offload": "all"}, "offload"),
        ({"sharding": "zero3", "offload": "optimizer", "optim": "sgd"}, "optim"),
        ({"sharding": "ddp", "gpu": "this machine", "precision": "fp32"}, "sharding"),
        ({"sharding": "fsdp", "gpu": "Apple M2 Max 64GB"}, "sharding"),
    ],
)
def test_what_cannot_work_is_an_error_with_a_remedy(changes: dict, field: str) -> None:
    issues = [issue for issue in checks.check(PLAN.with_(**changes)) if issue.severity == "error"]
    assert field in {issue.field for issue in issues}
    assert all(issue.fix.endswith(".") for issue in issues)


@pytest.mark.parametrize("changes", [{"sharding": "fsdp", "quantization": "nf4"}, {"sharding": "ddp", "quantization": "int8"}])
def test_quantised_weights_that_can_be_used_are(changes: dict) -> None:
    assert checks.check(PLAN.with_(**changes)) == []


def test_gpus_without_work_are_a_warning() -> None:
    assert fields_of(PLAN.with_(sharding="none"), "warning") == {"sharding"}
    assert fields_of(PLAN.with_(sharding="fsdp", num_gpus=1), "warning") == {"num_gpus"}
    assert shardings.world(PLAN.with_(sharding="none")) == 1


def test_a_run_here_uses_one_gpu() -> None:
    problems = checks.check_start(PLAN.with_(sharding="ddp"))
    assert "sharding" in {issue.field for issue in problems}
