"""GPUS: what a plan can run on, and what this machine is.

The table is `assets/gpus.json` (memory, bandwidth, dense TFLOP/s, prices, each with its source). "This machine" is
detected without importing torch: NVIDIA through nvidia-smi (NVML's own command line), Apple through the platform,
else the CPU with its memory.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.home import ASSETS
from engine.plan import THIS_MACHINE, Issue, PlanError, nearest

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A place to train. Memory in bytes, bandwidth in bytes/s, rates in dense FLOP/s by number type."""

    name: str
    kind: str  # "datacenter", ..., or "cpu"
    memory: int  # usable by a program
    bandwidth: float | None = None
    flops: Mapping[str, float] = field(default_factory=dict)
    bf16: bool = True
    price_per_hour: float | None = None  # USD, the lowest quote
    price_source: str = ""

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"


def recommended_precision(gpu: Gpu) -> str:
    """The number type to train in: bf16 where the device has it, fp16 on older GPUs, fp32 on a processor."""
    if gpu.is_cpu:
        return "fp32"
    return "bf16" if gpu.bf16 else "fp16"


# Share of the nominal memory that a program can use where nobody measured it: the rule in `meta.usable_rule` of the table.
USABLE_SHARE = {"consumer": 0.98, "datacenter": 0.99, "workstation": 0.93}


def _read_row(row: Mapping[str, Any]) -> list[Gpu]:
    """The row's GPU, or one for each memory size that it is sold with (Apple)."""
    sizes = row["memory_gb"] if isinstance(row["memory_gb"], list) else [row["memory_gb"]]
    quotes = sorted(row["price_usd_per_hour"] or [], key=lambda quote: quote["usd"])
    return [
        Gpu(
            name=row["name"] if len(sizes) == 1 else f"{row['name']} {size:g}GB",
            kind=row["kind"],
            memory=_usable_bytes(row, size),
            bandwidth=row["bandwidth_gb_s"] * 1e9 if row["bandwidth_gb_s"] else None,
            flops={number_type: rate * 1e12 for number_type, rate in row["tflops_dense"].items() if rate},
            bf16=bool(row["bf16_native"]),
            price_per_hour=quotes[0]["usd"] if quotes else None,
            price_source=f"{quotes[0]['provider']}, {quotes[0]['as_of']}" if quotes else "",
        )
        for size in sizes
    ]


def _usable_bytes(row: Mapping[str, Any], nominal_gb: float) -> int:
    measured = row["memory_gib_usable"]
    return int(measured * GIB) if measured is not None else int(nominal_gb * GIB * USABLE_SHARE.get(row["kind"], 0.95))


@functools.cache
def gpus() -> dict[str, Gpu]:
    """Every accelerator of the table, by name."""
    return {gpu.name: gpu for row in _table() for gpu in _read_row(row)}


@functools.cache
def _table() -> list[dict[str, Any]]:
    return json.loads((ASSETS / "gpus.json").read_text(encoding="utf-8"))["gpus"]


@functools.cache
def _aliases() -> dict[str, str]:
    return {alias: row["name"] for row in _table() for alias in row["aliases"]}


def find_gpu(name: str) -> Gpu:
    """The GPU that a plan names. Raises `PlanError` on `gpu` with the nearest right name."""
    if name == THIS_MACHINE:
        return this_machine()
    row = gpus().get(_aliases().get(name, name))
    if row is None:
        raise PlanError(
            [
                Issue(
                    field="gpu",
                    message=f"{str(name)[:60]!r} is not in the table.",
                    fix=nearest(str(name), [THIS_MACHINE, *gpus()])[:300],
                )
            ]
        )
    return row


@functools.cache
def this_machine() -> Gpu:
    """The accelerator of this machine, or its processor and memory."""
    return _nvidia_gpu() or _processor()


def _nvidia_gpu() -> Gpu | None:
    """The first NVIDIA GPU, with the table's rates for its name; None where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        return None
    name, mebibytes = (part.strip() for part in answer.stdout.splitlines()[0].rsplit(",", 1))
    known = _table_row_for(name)
    return Gpu(
        name=name,
        kind=known.kind if known else "unknown",
        memory=int(mebibytes) * 2**20,
        bandwidth=known.bandwidth if known else None,
        flops=known.flops if known else {},
        bf16=known.bf16 if known else False,
    )


def _table_row_for(driver_name: str) -> Gpu | None:
    """The table's row for a name like "NVIDIA GeForce RTX 4090": the longest row name that is contained in it."""
    matches = [name for name in gpus() if all(word in driver_name.split() for word in name.split()[:2])]
    return gpus()[max(matches, key=len)] if matches else None


def _processor() -> Gpu:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _container_limit() or psutil.virtual_memory().total
    return Gpu(name=f"CPU, {cores} cores ({platform.machine()})", kind="cpu", memory=memory, bf16=False)


def _container_limit() -> int | None:
    """The memory limit of a container (cgroup v2), where there is one: /proc/meminfo shows the host's."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
