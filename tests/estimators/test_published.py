"""The estimate meets what TRL's SFTTrainer was measured to need: IBM's runs on one and two A100, allocated and reserved.

The figures and their sources are in `benchmarks/fms_acceleration.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.families import FAMILIES, Point
from estimators.estimator import estimate

GIB = 2**30
FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "fms_acceleration.json"
POINTS = {point["id"].removeprefix("fms-"): point for point in json.loads(FILE.read_text(encoding="utf-8"))}
# One of each kind; of two GPUs with adapters, the inputs of frozen layers stay until the backward pass ends.
SHOWN = (
    "mistral-7b-v0.1-lora-A100x1-bs4",
    "mistral-7b-v0.1-qlora-A100x1-bs8",
    "mistral-7b-v0.1-full-A100x2-bs2",
    "powerlm-3b-full-A100x1-bs4",
    "powerlm-3b-qlora-A100x2-bs2",
    "llama-2-70b-hf-qlora-A100x1-bs4",
    "llama-2-70b-hf-qlora-A100x2-bs2",
)


@pytest.fixture(params=SHOWN)
def point(request: pytest.FixtureRequest) -> Point:
    return POINTS[request.param]


def test_memory_is_what_was_measured(point: Point) -> None:
    found = estimate(FAMILIES["fms-acceleration"].plan(point))
    assert found.memory.allocated / GIB == pytest.approx(point["peak_gib"], rel=0.03)
    assert found.memory.total / GIB == pytest.approx(point["driver_gib"], rel=0.06)
    assert found.fits != "no", "it ran"


@pytest.mark.parametrize("name", [name for name, point in POINTS.items() if point["oom"]])
def test_what_ran_out_of_memory_is_not_said_to_fit(name: str) -> None:
    assert estimate(FAMILIES["fms-acceleration"].plan(POINTS[name])).fits != "yes"


def test_step_time_is_what_was_measured(point: Point) -> None:
    family = FAMILIES["fms-acceleration"]
    assert estimate(family.plan(point)).step_seconds.likely == pytest.approx(family.seconds(point), rel=0.40)
