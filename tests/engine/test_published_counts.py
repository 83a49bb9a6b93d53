"""Parameters as others counted them: PEFT's method comparison, each row against `build(plan, "meta")`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import checks
from engine.modeling import build
from engine.plan import Plan

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "groundtruth" / "visible.json"
NOT_OF_THE_CONFIG = ("experiment", "adapter_dtype")  # what the comparison adds to PEFT's config


def rows() -> list[dict[str, Any]]:
    """The comparison's runs that say how many parameters they trained."""
    if not MEASURED.is_file():
        return []
    points = json.loads(MEASURED.read_text(encoding="utf-8"))["points"]
    return [point for point in points if point["family"] == "peft-metamathqa" and point["trainable_params"]]


@pytest.mark.skipif(not MEASURED.is_file(), reason="the published measurements are not here")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["id"].removeprefix("peft-metamath-"))
def test_the_parameters_are_those_that_were_published(row: dict[str, Any]) -> None:
    options = {name: value for name, value in row["method_config"].items() if name not in NOT_OF_THE_CONFIG}
    plan = Plan(model=row["model"], method=row["method"], method_options=options, gpu="L40S")
    assert checks.check(plan) == []
    parameters = list(build.build(plan, "meta").parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    assert (trained, sum(parameter.numel() for parameter in parameters)) == (row["trainable_params"], row["total_params"])
