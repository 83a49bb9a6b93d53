"""The demo sets of the other objectives: written by their script, whole, and each with a plan that can start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine import checks, data
from engine.catalog import models
from engine.data.demos import DEMOS, Demo
from engine.objectives import OBJECTIVES
from engine.plan import DataSource

ASSETS = Path(__file__).resolve().parents[2] / "assets"
EVERY_DEMO = pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS.keys())
MOST_BYTES_OF_DATA, MOST_BYTES_OF_A_MODEL = 2**20, 3 * 2**20


def test_the_generator_writes_the_same_bytes_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ASSETS / "build_demo_families.py", "--out", tmp_path], check=True, capture_output=True)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ASSETS / "demo_families").iterdir()}
    assert written == kept


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in (ASSETS / "demo_families").iterdir()) < MOST_BYTES_OF_DATA
    for folder in (ASSETS / "demo_models").iterdir():
        assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES_OF_A_MODEL, folder.name
        assert (folder / "model.safetensors").exists()


@EVERY_DEMO
def test_a_demo_can_start_as_it_is(demo: Demo) -> None:
    plan = demo.plan()
    assert [issue for issue in checks.check_start(plan) if issue.severity == "error"] == []
    assert models.find(plan.model).id.startswith("demo/")


@EVERY_DEMO
def test_its_rows_are_of_a_shape_that_the_objective_takes_and_none_is_on_both_sides(demo: Demo) -> None:
    shapes = OBJECTIVES[demo.plan().objective].shapes
    train = data.load((DataSource(path=demo.path),), shapes)
    held_out = [row for _, row in data.iterate(DataSource(path=str(demo.held_out_file)), shapes)]
    assert data.scan(DataSource(path=demo.path), shapes).format in shapes
    assert not {data.row_id(row) for row in train} & {data.row_id(row) for row in held_out}
    assert len(held_out) >= 20


def test_the_families_have_a_demo_each() -> None:
    shown = {demo.plan().objective for demo in DEMOS.values()}
    assert {"classification", "image_classification", "captioning", "vqa", "dpo", "kto", "grpo", "dapt", "seq2seq"} <= shown
