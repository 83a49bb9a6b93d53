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
    source: str


# Shares of the datasheet's dense rate and bandwidth that fine-tuning reaches, chosen on PEFT's published step times of
# Llama-3.2-3B on an L40S (method_comparison/MetaMathQA): LoRA 0.117 s comes out as 0.113 s, full 0.363 s as 0.316 s.
MATMUL_SHARE = 0.45
BANDWIDTH_SHARE = 0.62
# The L2 of data-centre and recent consumer GPUs holds 40 to 100 MB and is three to four times as fast as the memory
# (https://docs.nvidia.com/cuda/ampere-tuning-guide/): the small activations of a step never leave it.
GPU_CACHE_BYTES, GPU_CACHE_SPEEDUP = 48e6, 3.5
# A kernel takes at least this long, and so does issuing it.
GPU_LAUNCH_SECONDS = 6e-6
UNCERTAINTY = 0.35  # of a first estimate, until a run on the same device has been measured


def rates(gpu: Gpu) -> Rates | None:
    """The device's rates, or None where its row lacks them."""
    if gpu.is_cpu:
        return measure_processor()
    if not gpu.flops or gpu.bandwidth is None:
        return None
    return Rates(
        flops={number_type: MATMUL_SHARE * rate for number_type, rate in gpu.flops.items()},
        bandwidth=BANDWIDTH_SHARE * gpu.bandwidth,
        cache_bytes=GPU_CACHE_BYTES,
        cache_speedup=GPU_CACHE_SPEEDUP,
        launch_seconds=GPU_LAUNCH_SECONDS,
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
        source="roofline over the recorded operations with this processor's measured rates",
    )


# What the modelling code around an operation costs (module calls, autograd's bookkeeping), beside the operation:
# chosen so that the demo run's step on two cores (0.13 s measured) comes out right.
PYTHON_SECONDS = 8e-6


def _seconds(work: object, budget: float = 0.05) -> float:
    """The time of one call: the best of many within the budget, so that a busy moment does not count."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < budget:
        start = time.perf_counter()
        work()  # type: ignore[operator]
        best = min(best, time.perf_counter() - start)
    return best


def step_seconds(works: Counter[Work], rates: Rates) -> float:
    """Seconds of all operations, one after the other."""
    return sum(count * operation_seconds(work, rates) for work, count in works.items())


def operation_seconds(work: Work, rates: Rates) -> float:
    """Seconds of one operation."""
    arithmetic = work.flops / rates.flops.get(work.dtype, rates.flops.get("fp32", 1e12))
    faster = rates.cache_speedup if work.bytes <= rates.cache_bytes else 1
    return max(arithmetic, work.bytes / rates.bandwidth / faster, rates.launch_seconds)
