"""This machine's accelerator, from what its tools say: real processes on a PATH of our own print recorded answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.catalog import hardware
from engine.system import machine

MIB = 2**20

# What the tools print, shortened to what is read: nvidia-smi 580, amd-smi of ROCm 7 (two forms) and rocm-smi of ROCm 6.
TWO_CARDS = "NVIDIA A100-SXM4-80GB, 81920, 512\nNVIDIA A100-SXM4-80GB, 81920, 4\n"
AMD_STATIC = [{"gpu": 0, "asic": {"market_name": "AMD Instinct MI300X"}, "vram": {"size": {"value": 196592, "unit": "MB"}}}]
AMD_METRIC = [
    {
        "gpu": 0,
        "mem_usage": {"total_vram": {"value": 196592, "unit": "MB"}, "used_vram": {"value": 283, "unit": "MB"}},
    }
]
ROCM = {
    "card0": {
        "VRAM Total Memory (B)": "25753026560",
        "VRAM Total Used Memory (B)": "1071644672",
        "Card Series": "AMD Radeon RX 7900 XTX",
    },
    "system": {"Driver version": "6.8"},
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A PATH with nothing on it but what a test puts there: name -> what it prints (by its first argument, if a dict)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(name: str, prints: str | dict[str, str], code: int = 0) -> None:
        answers = prints if isinstance(prints, dict) else {"": prints}
        cases = "".join(f"*{first}*) printf '%s' '{text}' ;;\n" for first, text in answers.items())
        file = folder / name
        file.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\nexit {code}\n', encoding="ascii")
        file.chmod(0o755)

    return put


@pytest.mark.parametrize(
    ("driver_says", "row"),
    [
        ("NVIDIA L40S, 46068, 0", "L40S"),
        ("NVIDIA GeForce RTX 4090, 24564, 0", "RTX 4090"),
        ("Tesla T4, 15360, 0", "T4"),
        ("NVIDIA H100 80GB HBM3, 81559, 0", "H100 SXM 80GB"),
        ("NVIDIA A100-PCIE-40GB, 40960, 0", "A100 40GB PCIe"),
        ("NVIDIA GeForce RTX 3080, 12288, 0", "RTX 3080 12GB"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER, 16376, 0", "RTX 4070 Ti SUPER"),
        ("NVIDIA RTX 6000 Ada Generation, 49140, 0", "RTX 6000 Ada"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU, 16376, 0", None),
        ("NVIDIA Something New, 99999, 0", None),
    ],
)
def test_an_nvidia_gpu_gets_the_rates_of_its_row(tools, driver_says: str, row: str | None) -> None:
    tools("nvidia-smi", driver_says)
    found = machine.detect()
    assert found is not None
    gpu = hardware._accelerator(found)
    assert gpu.memory == int(driver_says.split(",")[1]) * MIB
    assert gpu.flops == (hardware.gpus()[row].flops if row else {})
    assert gpu.vendor == "NVIDIA"


def test_what_others_use_is_taken_off_and_said(tools) -> None:
    tools("nvidia-smi", TWO_CARDS)
    found = machine.detect()
    assert (found.memory, found.in_use, found.count) == (81920 * MIB, 512 * MIB, 2)
    gpu = hardware._accelerator(found)
    assert (gpu.memory, gpu.in_use, gpu.count) == (81408 * MIB, 512 * MIB, 2)
    assert gpu.interconnect == "NVLink 3"


def test_the_visible_card_is_the_one_that_is_asked_for(tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools("nvidia-smi", {"--id=1": "Tesla T4, 15360, 0", "--query": "NVIDIA L40S, 46068, 0"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.detect().name == "Tesla T4"


def test_a_driver_without_a_card_is_no_accelerator(tools) -> None:
    tools("nvidia-smi", "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", code=9)
    assert machine.nvidia() is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_amd_smi(tools, wrapped: bool) -> None:
    answers = {"static": AMD_STATIC, "metric": AMD_METRIC}
    tools("amd-smi", {name: json.dumps({"gpu_data": cards} if wrapped else cards) for name, cards in answers.items()})
    found = machine.detect()
    assert (found.vendor, found.name, found.memory, found.in_use) == ("AMD", "AMD Instinct MI300X", 196592 * MIB, 283 * MIB)
    assert hardware._accelerator(found).flops == hardware.gpus()["MI300X"].flops


def test_rocm_smi(tools) -> None:
    tools("rocm-smi", json.dumps(ROCM))
    found = machine.detect()
    assert (found.name, found.memory, found.in_use, found.count) == ("AMD Radeon RX 7900 XTX", 25753026560, 1071644672, 1)
    assert hardware._accelerator(found).flops == hardware.gpus()["Radeon RX 7900 XTX"].flops


def test_the_kernels_files_say_the_memory_where_rocm_is(tools, tmp_path: Path) -> None:
    device = tmp_path / "drm" / "card0" / "device"
    device.mkdir(parents=True)
    for name, text in {"vendor": "0x1002", "mem_info_vram_total": "17163091968", "mem_info_vram_used": "1000"}.items():
        (device / name).write_text(text + "\n", encoding="ascii")
    kfd = tmp_path / "kfd"
    assert machine.amd(tmp_path / "drm", kfd) is None, "without ROCm it is there for pictures only"
    kfd.touch()
    assert machine.amd(tmp_path / "drm", kfd).memory == 17163091968


def test_apple_shares_its_memory_with_the_processor(tools) -> None:
    tools("sysctl", {"brand_string": "Apple M2 Max", "memsize": str(64 * 2**30)})
    found = machine.apple()
    assert (found.name, found.memory) == ("Apple M2 Max", 48 * 2**30)
    assert hardware.table_row_for(found.name, found.memory).name == "Apple M2 Max 64GB"


@pytest.mark.parametrize("answer", ["", "{", "[]", '{"card0": {"VRAM Total Memory (B)": "lots"}}'])
def test_answers_that_make_no_sense_are_no_accelerator(tools, answer: str) -> None:
    for name in ("nvidia-smi", "amd-smi", "rocm-smi", "sysctl"):
        tools(name, answer)
    assert machine.detect() is None
    assert machine.apple() is None
