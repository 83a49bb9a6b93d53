"""GPUS: what a plan can run on, and what this machine is.

The table is `assets/gpus.json` (memory, bandwidth, dense TFLOP/s, interconnect, prices, each with its source). A person
adds GPUs in `gpus.json` of the data folder, with the same columns. "This machine" is detected without importing torch
(`engine/system/machine.py`), else it is the CPU with its memory.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.issues import Issue, PlanError, nearest, unknown_keys
from engine.system import machine
from engine.system.home import ASSETS, home

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
    vendor: str = ""
    interconnect: str = ""  # to the other GPUs of a server: "NVLink 4", "PCIe 4.0 x16"
    link_bandwidth: float | None = None  # bytes/s in one direction, nominal
    in_use: int = 0  # of the memory, by other programs; `memory` is what they leave
    count: int = 1  # how many of them this machine has

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"


def recommended_precision(gpu: Gpu) -> str:
    """The number type to train in: bf16 where the device has it, fp16 on older GPUs, fp32 on a processor."""
    if gpu.is_cpu:
        return "fp32"
    return "bf16" if gpu.bf16 else "fp16"


# Share of the nominal memory that a program can use where nobody measured it: the rule in `meta.usable_rule` of the table.
USABLE_SHARE = {"consumer": 0.98, "datacenter": 0.99, "workstation": 0.93, "apple": machine.APPLE_GPU_SHARE}
THIS_MACHINE = "this machine"  # what a plan calls it
OWN_GPUS = "gpus.json"  # in the data folder


def _read_row(row: Mapping[str, Any]) -> list[Gpu]:
    """The row's GPU, or one for each memory size that it is sold with (Apple). Only its name and memory must be there."""
    sizes = row["memory_gb"] if isinstance(row["memory_gb"], list) else [row["memory_gb"]]
    quotes = sorted(row.get("price_usd_per_hour") or [], key=lambda quote: quote["usd"])
    return [
        Gpu(
            name=row["name"] if len(sizes) == 1 else f"{row['name']} {size:g}GB",
            kind=row.get("kind") or "datacenter",
            memory=_usable_bytes(row, size),
            bandwidth=row["bandwidth_gb_s"] * 1e9 if row.get("bandwidth_gb_s") else None,
            flops={number_type: rate * 1e12 for number_type, rate in (row.get("tflops_dense") or {}).items() if rate},
            bf16=bool(row.get("bf16_native")),
            price_per_hour=quotes[0]["usd"] if quotes else None,
            price_source=f"{quotes[0].get('provider', 'own')}, {quotes[0].get('as_of', 'no date')}" if quotes else "",
            vendor=row.get("vendor") or "NVIDIA",
            interconnect=row.get("interconnect") or "",
            link_bandwidth=row["interconnect_gb_s"] * 1e9 if row.get("interconnect_gb_s") else None,
        )
        for size in sizes
    ]


def _usable_bytes(row: Mapping[str, Any], nominal_gb: float) -> int:
    measured = row.get("memory_gib_usable")
    share = USABLE_SHARE.get(row.get("kind") or "datacenter", 0.95)
    return int(measured * GIB) if measured is not None else int(nominal_gb * GIB * share)


def gpus() -> dict[str, Gpu]:
    """Every accelerator of the table by name, a person's own ones after it (or instead, where the name is the same)."""
    return _shipped_gpus() | own_gpus()[0]


@functools.cache
def _shipped_gpus() -> dict[str, Gpu]:
    return {gpu.name: gpu for row in _table() for gpu in _read_row(row)}


@functools.cache
def _table() -> list[dict[str, Any]]:
    return json.loads((ASSETS / "gpus.json").read_text(encoding="utf-8"))["gpus"]


@functools.cache
def _aliases() -> dict[str, str]:
    return {alias: row["name"] for row in _table() for alias in row["aliases"]}


# --- a person's own GPUs --------------------------------------------------------------------------------------------


def own_gpus() -> tuple[dict[str, Gpu], tuple[Issue, ...]]:
    """(the GPUs of the user's file, what is wrong with it): a row that cannot be read is left out and named."""
    path = home() / OWN_GPUS
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:
        return {}, ()
    return _read_own(path, changed)


@functools.lru_cache(maxsize=8)
def _read_own(path: Path, changed: int) -> tuple[dict[str, Gpu], tuple[Issue, ...]]:
    """Read the file once per change of it (`changed`)."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, (Issue(field=OWN_GPUS, message="is not valid JSON.", fix='Write it as {"gpus": [{"name": ...}]}.'),)
    rows = rows.get("gpus") if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        return {}, (Issue(field=OWN_GPUS, message="has no list of GPUs.", fix='Write it as {"gpus": [{"name": ...}]}.'),)
    found: dict[str, Gpu] = {}
    issues: list[Issue] = []
    for number, row in enumerate(rows, start=1):
        wrong = _row_issues(number, row)
        issues += wrong
        if not wrong:
            found |= {gpu.name: gpu for gpu in _read_row(row)}
    return found, tuple(issues)


# Columns of a person's own row that must have a certain type, with an example; the others are free.
_NUMBER_COLUMNS = {"memory_gb": 24, "memory_gib_usable": 23.6, "bandwidth_gb_s": 1008, "interconnect_gb_s": 32}


def _row_issues(number: int, row: Any) -> list[Issue]:
    """What is wrong with one row of the user's file, column by column."""
    if not isinstance(row, dict):
        return [
            Issue(field=f"{OWN_GPUS}, row {number}", message="is not an object.", fix='Write {"name": ..., "memory_gb": ...}.')
        ]
    where = f"{OWN_GPUS}, row {number}"
    issues = [
        Issue(field=f"{where}, {issue.field}", message="is not a column of the table.", fix=issue.fix)
        for issue in unknown_keys(row, _table()[0], where="table")
    ]
    if not isinstance(row.get("name"), str) or not row["name"].strip():
        issues.append(Issue(field=f"{where}, name", message="is missing or no text.", fix='Write "name": "My card".'))
    for column, example in _NUMBER_COLUMNS.items():
        value = row.get(column)
        if (value is None and column == "memory_gb") or (value is not None and not _is_amount(value)):
            fix = f'Write "{column}": {example}.'
            issues.append(Issue(field=f"{where}, {column}", message=f"is {value!r}, not a number above 0.", fix=fix))
    rates = row.get("tflops_dense") or {}
    if not isinstance(rates, dict) or not all(rate is None or _is_amount(rate) for rate in rates.values()):
        fix = 'Write "tflops_dense": {"bf16": 165, "fp16": 165, "fp32": 83}.'
        issues.append(Issue(field=f"{where}, tflops_dense", message="does not give a rate above 0 per number type.", fix=fix))
    quotes = row.get("price_usd_per_hour") or []
    if not isinstance(quotes, list) or not all(isinstance(quote, dict) and _is_amount(quote.get("usd")) for quote in quotes):
        fix = 'Write "price_usd_per_hour": [{"provider": "mine", "usd": 0.4, "as_of": "2026-11"}].'
        issues.append(Issue(field=f"{where}, price_usd_per_hour", message="is not a list of quotes.", fix=fix))
    return issues


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


# --- looking up -----------------------------------------------------------------------------------------------------


def find_gpu(name: str) -> Gpu:
    """The GPU that a plan names. Raises `PlanError` on `gpu` with the nearest right name."""
    if name == THIS_MACHINE:
        return this_machine()
    table = gpus()
    row = table.get(name) or table.get(_aliases().get(name, name))
    if row is None:
        raise PlanError(
            [
                *own_gpus()[1],
                Issue(
                    field="gpu",
                    message=f"{str(name)[:60]!r} is not in the table.",
                    fix=nearest(str(name), [THIS_MACHINE, *table])[:300],
                ),
            ]
        )
    return row


@functools.cache
def this_machine() -> Gpu:
    """The accelerator of this machine, or its processor and memory."""
    found = machine.detect()
    return _accelerator(found) if found is not None else _processor()


def _accelerator(found: machine.Found) -> Gpu:
    """The detected accelerator, with the rates of its row of the table; what other programs use is taken off."""
    known = table_row_for(found.name, found.memory)
    return Gpu(
        name=found.name,
        kind=known.kind if known else "unknown",
        memory=max(0, found.memory - found.in_use),
        bandwidth=known.bandwidth if known else None,
        flops=known.flops if known else {},
        bf16=known.bf16 if known else False,
        vendor=found.vendor,
        interconnect=known.interconnect if known else "",
        link_bandwidth=known.link_bandwidth if known else None,
        in_use=found.in_use,
        count=found.count,
    )


# Words of a row's name that tell variants of one model apart; the others are the model's own name.
_FORMS = ("SXM", "PCIE", "NVL")
_SIZE = re.compile(r"^\d+GB$")
MEMORY_TOLERANCE = 0.2  # between a driver's figure and the nominal one; a laptop's card of the same name has a third less


def table_row_for(driver_name: str, memory: int) -> Gpu | None:
    """The table's row for a name like "NVIDIA A100-SXM4-80GB": the longest model name in it, of the nearest variant."""
    said = set(re.split(r"[\s\-/()]+", driver_name.upper()))
    best: tuple[tuple[int, int, float], Gpu] | None = None
    for name, gpu in _shipped_gpus().items():
        words = [word for word in re.split(r"[\s\-/]+", re.sub(r"\(.*?\)", "", name).upper()) if word]
        model = [word for word in words if not _SIZE.match(word) and word not in (*_FORMS, "WS", "SERVER")]
        apart = abs(gpu.memory - memory) / gpu.memory
        if "LAPTOP" in said or not said.issuperset(model) or apart > MEMORY_TOLERANCE:
            continue
        forms = [form for form in _FORMS if form in words or f"({form}" in name.upper()]
        same_form = sum(any(word.startswith(form) for word in said) or (form == "SXM" and "HBM3" in said) for form in forms)
        rank = (len(model), same_form - len(forms), -apart)
        if best is None or rank > best[0]:
            best = (rank, gpu)
    return best[1] if best else None


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
