"""How long a step takes: a roofline over its recorded operations.

An operation takes the longer of its arithmetic and its memory traffic, and never less than its launch. A GPU's rates
come from its row of the table, a CPU's are measured on the spot (`measure_processor`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from engine.catalog.hardware import Gpu
from engine.system.home import ASSETS
from estimators.simulate.trace import Work


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device does per second, as training reaches it, and the least time that an operation takes."""

    flops: dict[str, float]  # of matrix products, by number type
    attention: dict[str, float]  # of the fused attention kernels, by number type
    bandwidth: float  # bytes/s
    cache_bytes: float  # an operation that touches no more than this finds its data in the cache
    cache_speedup: float  # how much faster than the memory the cache is
    launch_seconds: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which shares of a GPU's datasheet rates training reaches.

    Fitted by `benchmarks/fit_clock.py` on every other one of the published step times in `assets/calibration`, and read
    from there. The tables are by a part of the GPU's name; "kind:..." is for GPUs of which no time was seen.
    """

    matmul: Mapping[str, float]  # of the dense half-precision rate
    attention: Mapping[str, float]  # of the same, in the fused kernels
    vector: float  # of the fp32 rate: products in fp32 do not use the tensor cores
    bandwidth: float  # of the memory's bandwidth
    cache_speedup: float  # of the level-2 cache over the memory
    launch_seconds: float  # the least time that an operation takes, with the issuing of it


CALIBRATION_FILE = ASSETS / "calibration" / "clock.json"
# Bytes of the level-2 cache: A100 and H100 from NVIDIA's Hopper article
# (https://developer.nvidia.com/blog/nvidia-hopper-architecture-in-depth/), large Ada chips have 96 MB in full and the RTX
# 4090 has 72 of them; older ones 6 MB and less.
CACHES = {
    "L40": 96e6,
    "6000 Ada": 96e6,
    "RTX 4090": 72e6,
    "RTX 5090": 96e6,
    "B200": 100e6,
    "H100": 50e6,
    "H200": 50e6,
    "A100": 40e6,
}
CACHE = 6e6
UNCERTAINTY = 0.35  # of an estimate, until a run on the same device has been measured


@functools.cache
def calibration() -> Calibration:
    """The shipped one."""
    values = json.loads(CALIBRATION_FILE.read_text(encoding="utf-8"))
    return Calibration(**{field.name: values[field.name] for field in dataclasses.fields(Calibration)})


def _of(table: Mapping[str, float], gpu: Gpu, otherwise: float) -> float:
    """The entry whose name is part of the GPU's."""
    return next((value for name, value in table.items() if name in gpu.name), otherwise)


def _share(table: Mapping[str, float], gpu: Gpu) -> float:
    """The GPU's own share, else that of its kind; cards without bf16 are of before 2020 and reach less."""
    kind = gpu.kind if gpu.bf16 else "old"
    return _of(table, gpu, table.get(f"kind:{kind}", table["kind:datacenter"]))


def rates(gpu: Gpu) -> Rates | None:
    """The device's rates, or None where its row lacks them."""
    if gpu.is_cpu:
        return measure_processor()
    if not gpu.flops or gpu.bandwidth is None:
        return None
    return calibrated(gpu, calibration())


def calibrated(gpu: Gpu, shares: Calibration) -> Rates:
    """A GPU's rates with these shares of its datasheet's."""
    half = gpu.flops.get("bf16") or gpu.flops.get("fp16") or gpu.flops["fp32"]
    single = shares.vector * gpu.flops.get("fp32", half)
    both = ("bf16", "fp16", "int8")  # a plan is worked out once for both half types; int8 weights are multiplied as slowly
    return Rates(
        flops={"fp32": single, **dict.fromkeys(both, half * _share(shares.matmul, gpu))},
        attention={"fp32": single, **dict.fromkeys(both, half * _share(shares.attention, gpu))},
        bandwidth=shares.bandwidth * (gpu.bandwidth or 0.0),
        cache_bytes=_of(CACHES, gpu, CACHE),
        cache_speedup=shares.cache_speedup,
        launch_seconds=shares.launch_seconds,
        source=f"roofline over the recorded operations with {gpu.name}'s datasheet rates",
    )


@functools.cache
def measure_processor() -> Rates:
    """This machine's matrix product and copy rates, measured for a fraction of a second."""
    a, b = torch.randn(256, 512), torch.randn(512, 512)
    large = torch.randn(4_000_000)
    small = torch.randn(64)
    flops = 2 * 256 * 512 * 512 / _seconds(lambda: a @ b)
    by_type = {"fp32": flops, "bf16": flops / 4, "fp16": flops / 4}  # without AMX, half types are converted on the way
    return Rates(
        flops=by_type,
        attention=by_type,
        bandwidth=2 * large.numel() * 4 / _seconds(lambda: large.clone()),
        cache_bytes=0,
        cache_speedup=1,
        launch_seconds=_seconds(lambda: small + 1) + PYTHON_SECONDS,
        source="roofline over the recorded operations with this processor's measured rates",
    )


# What the modelling code around an operation costs (module calls, autograd's bookkeeping, the trainer's), beside the
# operation: chosen so that the demo run's step comes out right, 0.13 s on two idle cores (4,000 tokens/s in
# benchmarks/training_speed.py).
PYTHON_SECONDS = 70e-6


def _seconds(work: object, budget: float = 0.05, calls: int = 60, patience: float = 2.0) -> float:
    """The time of one call: the best of many, so that a busy moment does not count.

    While the server and a browser start, a product on several threads can take a hundred times as long as it needs; so it is
    called often, for as long as the patience lasts.
    """
    best, began, made = float("inf"), time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < budget or (made < calls and spent < patience):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        best, made = min(best, time.perf_counter() - start), made + 1
    return best


class Table(NamedTuple):
    """Operations as arrays [different operations], of float64 where not said otherwise."""

    rates: tuple[tuple[bool, str], ...]  # (whether it is attention, number type): what their arithmetic rate depends on
    rate: np.ndarray  # int, which of `rates` an operation has
    flops: np.ndarray
    bytes: np.ndarray
    counts: np.ndarray


def tabulated(works: Counter[Work]) -> Table:
    """Operations that are asked for more than once."""
    rates: dict[tuple[bool, str], int] = {}
    rate = [rates.setdefault((work.kind == "attention", work.dtype), len(rates)) for work in works]
    flops, moved = ([getattr(work, name) for work in works] for name in ("flops", "bytes"))
    columns = (np.array(column, dtype=np.float64) for column in (flops, moved, list(works.values())))
    return Table(tuple(rates), np.array(rate, dtype=np.int64), *columns)


def step_seconds(works: Counter[Work] | Table, rates: Rates) -> float:
    """Seconds of all operations, one after the other: each is limited by its arithmetic, its memory traffic or its launch."""
    table = works if isinstance(works, Table) else tabulated(works)
    tables = [rates.attention if attention else rates.flops for attention, _ in table.rates]
    speeds = np.array([speed.get(dtype, speed["fp32"]) for speed, (_, dtype) in zip(tables, table.rates, strict=True)])
    arithmetic = table.flops / speeds[table.rate]
    faster = np.where(table.bytes <= rates.cache_bytes, rates.cache_speedup, 1)
    seconds = np.maximum(np.maximum(arithmetic, table.bytes / rates.bandwidth / faster), rates.launch_seconds)
    return float((seconds * table.counts).sum())
