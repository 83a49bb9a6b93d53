"""The table of GPUs, and what this machine is."""

from __future__ import annotations

import subprocess

import pytest

from engine import hardware
from engine.plan import THIS_MACHINE, PlanError


def test_this_machine_is_something() -> None:
    here = hardware.find_gpu(THIS_MACHINE)
    assert here.memory > 2**28
    assert here.name


def test_a_misspelt_gpu_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="Did you mean L40S"):
        hardware.find_gpu("L40s")


@pytest.mark.parametrize(
    ("driver_says", "row"),
    [
        ("NVIDIA L40S, 46068", "L40S"),
        ("NVIDIA GeForce RTX 4090, 24564", "RTX 4090"),
        ("Tesla T4, 15360", "T4"),
        ("NVIDIA Something New, 99999", None),
    ],
)
def test_an_nvidia_gpu_is_recognised(monkeypatch: pytest.MonkeyPatch, driver_says: str, row: str | None) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout=driver_says + "\n", stderr="")
    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", lambda *args, **kwargs: answer)
    gpu = hardware._nvidia_gpu()
    assert gpu is not None
    assert gpu.memory == int(driver_says.rsplit(",", 1)[1]) * 2**20
    assert gpu.flops == (hardware.gpus()[row].flops if row else {})


def test_a_driver_without_a_card_is_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 9, stdout="NVIDIA-SMI has failed", stderr="")
    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", lambda *args, **kwargs: answer)
    assert hardware._nvidia_gpu() is None


def test_the_recommended_precision_is_one_that_the_device_has() -> None:
    assert hardware.recommended_precision(hardware.gpus()["L40S"]) == "bf16"
    assert hardware.recommended_precision(hardware.gpus()["T4"]) == "fp16"
