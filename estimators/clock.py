"""How long a step takes: a roofline over its recorded operations.

An operation takes the longer of its arithmetic and its memory traffic, and never less than its launch. A GPU's rates
come from its row of the table, a CPU's are measured on the spot (`measure_processor`).
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from dataclasses import dataclass

import torch

from engine.hardware import Gpu
from estimators.trace import Work


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device does per second, as training reaches it, and the least time that an operation takes."""

    flops: dict[str, float]  # by number type
    bandwidth: float  # bytes/s
    cache_bytes: float  # an operation that touches no more than this finds its data in the cache
    cache_speedup: float  # how much faster than the memory the cache is
    launch_seconds: float
    solve_seconds: float  # of a system of equations, whatever its size
    source: str


# Chosen on every other row of PEFT's published step times (method_comparison/MetaMathQA: 31 methods, Llama-3.2-3B, one
# L40S); on the rows left out the median error is 4 % (`benchmarks/accuracy.py` prints them all).
BANDWIDTH_SHARE = 0.45  # of the datasheet's memory bandwidth
CACHE_SPEEDUP = 20.0  # an operation whose data stay in the cache costs hardly more than its launch
LAUNCH_SECONDS = 5.5e-6  # the least time that an operation takes, with the issuing of it
SOLVE_SECONDS = 3.4e-3  # of a system of equations: BOFT alone solves any, so this is one row's figure
# The share of the datasheet's dense rate that the matrix products of a step reach, by GPU: the L40S from the rows above;
# the others from published shares of whole steps (A100 46 to 55 %, H100 36 to 42 %: MosaicML's LLM Foundry tables; RTX
# 4090 53 to 64 %: Answer.AI's fsdp_qlora; RTX 3090 68 %), of which the products take about 85 % of the time.
MATMUL_SHARES = {"L40S": 0.39, "A100": 0.59, "H100": 0.46, "H200": 0.46, "RTX 4090": 0.68, "RTX 3090": 0.80}
MATMUL_SHARE = 0.5  # of a GPU of which no such figure was seen
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


def _of(table: dict[str, float], gpu: Gpu, otherwise: float) -> float:
    """The entry whose name is part of the GPU's."""
    return next((value for name, value in table.items() if name in gpu.name), otherwise)


def rates(gpu: Gpu) -> Rates | None:
    """The device's rates, or None where its row lacks them."""
    if gpu.is_cpu:
        return measure_processor()
    if not gpu.flops or gpu.bandwidth is None:
        return None
    share = _of(MATMUL_SHARES, gpu, MATMUL_SHARE)
    flops = {number_type: share * rate for number_type, rate in gpu.flops.items()}
    half = flops.get("bf16") or flops.get("fp16")
    return Rates(
        flops=({"bf16": half, "fp16": half} if half else {}) | flops,  # a plan is worked out once for both half types
        bandwidth=BANDWIDTH_SHARE * gpu.bandwidth,
        cache_bytes=_of(CACHES, gpu, CACHE),
        cache_speedup=CACHE_SPEEDUP,
        launch_seconds=LAUNCH_SECONDS,
        solve_seconds=SOLVE_SECONDS,
        source=f"roofline over the recorded operations with {gpu.name}'s datasheet rates",
    )


@functools.cache
def measure_processor() -> Rates:
    """This machine's matrix product and copy rates, measured for a fraction of a second."""
    a, b = torch.randn(256, 512), torch.randn(512, 512)
    large = torch.randn(4_000_000)
    small = torch.randn(64)
    flops = 2 * 256 * 512 * 512 / _seconds(lambda: a @ b)
    return Rates(
        flops={"fp32": flops, "bf16": flops / 4, "fp16": flops / 4},  # without AMX, half types are converted on the way
        bandwidth=2 * large.numel() * 4 / _seconds(lambda: large.clone()),
        cache_bytes=0,
        cache_speedup=1,
        launch_seconds=_seconds(lambda: small + 1) + PYTHON_SECONDS,
        solve_seconds=0.0,
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


def step_seconds(works: Counter[Work], rates: Rates) -> float:
    """Seconds of all operations, one after the other."""
    return sum(count * operation_seconds(work, rates) for work, count in works.items())


def operation_seconds(work: Work, rates: Rates) -> float:
    """Seconds of one operation."""
    arithmetic = work.flops / rates.flops.get(work.dtype, rates.flops.get("fp32", 1e12))
    faster = rates.cache_speedup if work.bytes <= rates.cache_bytes else 1
    roofline = max(arithmetic, work.bytes / rates.bandwidth / faster, rates.launch_seconds)
    return roofline + (rates.solve_seconds if work.kind == "solve" else 0.0)
