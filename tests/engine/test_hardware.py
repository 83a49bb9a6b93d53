"""The table of GPUs, and what this machine is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.catalog import hardware
from engine.catalog.hardware import THIS_MACHINE
from engine.checks import check
from engine.data.demos import first_plan
from engine.issues import PlanError
from engine.system.home import home as home_folder


def test_this_machine_is_something() -> None:
    here = hardware.find_gpu(THIS_MACHINE)
    assert here.memory > 2**28
    assert here.name


def test_a_misspelt_gpu_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="Did you mean L40S"):
        hardware.find_gpu("L40s")


OWN = {
    "name": "My card",
    "memory_gb": 20,
    "bandwidth_gb_s": 800,
    "tflops_dense": {"bf16": 100, "fp16": 100, "fp32": 50},
    "bf16_native": True,
    "price_usd_per_hour": [{"provider": "mine", "usd": 0.2, "as_of": "2026"}],
}


def write_own(rows: object) -> None:
    (home_folder() / hardware.OWN_GPUS).write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")


def test_a_gpu_of_ones_own_is_one_of_the_table(home: Path) -> None:
    assert "My card" not in hardware.gpus()
    write_own({"gpus": [OWN, {"name": "Bare", "memory_gb": 8}]})
    card = hardware.find_gpu("My card")
    assert (card.bandwidth, card.flops["bf16"], card.price_per_hour, card.bf16) == (8e11, 1e14, 0.2, True)
    assert hardware.find_gpu("Bare").flops == {}
    assert hardware.own_gpus()[1] == ()
    plan = first_plan().with_(gpu="My card", precision="bf16")
    assert check(plan) == []
    assert list(hardware.gpus())[-2:] == ["My card", "Bare"]


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ("{", "gpus.json"),
        ({"gpus": 3}, "gpus.json"),
        ([3], "gpus.json, row 1"),
        ([OWN, {"memory_gb": 8}], "gpus.json, row 2, name"),
        ([{"name": "x"}], "gpus.json, row 1, memory_gb"),
        ([{**OWN, "memory_gb": "20"}], "gpus.json, row 1, memory_gb"),
        ([{**OWN, "bandwidth_gb_s": -1}], "gpus.json, row 1, bandwidth_gb_s"),
        ([{**OWN, "bandwith_gb_s": 800}], "gpus.json, row 1, bandwith_gb_s"),
        ([{**OWN, "tflops_dense": {"bf16": "fast"}}], "gpus.json, row 1, tflops_dense"),
        ([{**OWN, "price_usd_per_hour": 0.4}], "gpus.json, row 1, price_usd_per_hour"),
    ],
)
def test_a_wrong_row_is_named_and_the_others_stay(home: Path, rows: object, field: str) -> None:
    write_own([*rows, {"name": "Good", "memory_gb": 8}] if isinstance(rows, list) else rows)
    issues = hardware.own_gpus()[1]
    assert [issue.field for issue in issues] == [field]
    assert all(issue.message and issue.fix for issue in issues)
    assert ("Good" in hardware.gpus()) is isinstance(rows, list)
    warned = [issue for issue in check(first_plan()) if issue.field == field]
    assert [issue.severity for issue in warned] == ["warning"]


def test_the_table_says_how_gpus_reach_each_other() -> None:
    assert hardware.gpus()["H100 SXM 80GB"].link_bandwidth == 450e9
    assert hardware.gpus()["RTX 4090"].interconnect == "PCIe 4.0 x16"
    assert all(gpu.link_bandwidth for gpu in hardware.gpus().values() if gpu.vendor == "NVIDIA")


def test_the_recommended_precision_is_one_that_the_device_has() -> None:
    assert hardware.recommended_precision(hardware.gpus()["L40S"]) == "bf16"
    assert hardware.recommended_precision(hardware.gpus()["T4"]) == "fp16"
