"""What a GPU holds outside of torch's allocator: the CUDA context, cuBLAS' workspace, NCCL's buffers. Bytes.

The figures and their sources are in `assets/calibration/overhead.json`. A measured run on the device corrects them
(`estimators/timing/measured.py`).
"""

from __future__ import annotations

import functools
import json
import math
from typing import Any

from engine.catalog.hardware import Gpu
from engine.system.home import ASSETS

FILE = ASSETS / "calibration" / "overhead.json"
HOPPER = ("H100", "H200", "GH200", "H20")


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def context_bytes(gpu: Gpu) -> int:
    """The CUDA context with lazily loaded kernels, and the workspace of one cuBLAS handle."""
    table = _table()
    workspace = table["cublas_workspace"]
    wide = any(name in gpu.name for name in HOPPER)
    return table["context"]["new" if gpu.bf16 else "old"]["bytes"] + workspace["hopper_bytes" if wide else "bytes"]


def nccl_bytes(n: int) -> int:
    """NCCL's buffers on each of n GPUs: a straight line over the doublings between the two that were measured."""
    table = _table()["nccl"]
    return round(table["two_gpus_bytes"] + table["per_doubling_bytes"] * max(0.0, math.log2(max(n, 2)) - 1)) if n > 1 else 0
