"""What accelerator this machine has, by asking its own tools: nothing is imported that might not be there.

NVIDIA through nvidia-smi (NVML's own command line), AMD through amd-smi, rocm-smi or the kernel's files, Apple through
sysctl. `detect()` gives the first that answers; `engine/catalog/hardware.py` finds its row in the table, or takes the CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
ANSWER_SECONDS = 10  # a driver that hangs must not keep the page from opening
AMD_VENDOR = "0x1002"  # PCI id
# macOS lets the GPU wire about three quarters of the memory that it shares with the processor (judgement: Metal's
# recommendedMaxWorkingSetSize is 67 to 75 % of it).
APPLE_GPU_SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class Found:
    """An accelerator of this machine. Bytes."""

    vendor: str
    name: str  # as its driver says it
    memory: int  # that a program could use if it were alone
    in_use: int = 0  # by other programs, at the moment of asking
    count: int = 1  # how many of the same kind


def detect() -> Found | None:
    """The accelerator that training would use here; None where there is only the processor."""
    return nvidia() or amd() or (apple() if sys.platform == "darwin" else None)


def _ask(*command: str) -> str:
    """What a tool prints; "" where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


# --- NVIDIA ---------------------------------------------------------------------------------------------------------


def nvidia() -> Found | None:
    """The first visible NVIDIA GPU; None without a driver or a card."""
    query = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")
    rows = [[part.strip() for part in line.rsplit(",", 2)] for line in _ask(*query, *_visible()).splitlines()]
    cards = [row for row in rows if len(row) == 3 and row[1].isdigit()]
    if not cards:
        return None
    name, total, used = cards[0]
    return Found(
        vendor="NVIDIA",
        name=name,
        memory=int(total) * MIB,
        in_use=int(used) * MIB if used.isdigit() else 0,
        count=sum(card[0] == name for card in cards),
    )


def _visible() -> tuple[str, ...]:
    """The cards that CUDA_VISIBLE_DEVICES leaves to this program, as nvidia-smi takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    known = chosen and all(part.strip().isdigit() or part.strip().startswith("GPU-") for part in chosen.split(","))
    return (f"--id={chosen}",) if known else ()


# --- AMD ------------------------------------------------------------------------------------------------------------


def amd(drm: Path = Path("/sys/class/drm"), kfd: Path = Path("/dev/kfd")) -> Found | None:
    """The first AMD GPU that ROCm can use.

    Args:
        drm: the kernel's folder of graphics cards.
        kfd: ROCm's device file: without it a card is there for pictures only.
    """
    return _amd_smi() or _rocm_smi() or (_amd_in_kernel(drm) if kfd.exists() else None)


def _amd_smi() -> Found | None:
    """From amd-smi's JSON: a list of cards, or the same under "gpu_data" in newer versions."""
    static, metric = _cards(_ask("amd-smi", "static", "--json")), _cards(_ask("amd-smi", "metric", "--mem-usage", "--json"))
    if not static or not metric:
        return None
    usage = metric[0].get("mem_usage", {})
    total = _amount(usage.get("total_vram"))
    if not total:
        return None
    name = str(static[0].get("asic", {}).get("market_name", "AMD GPU"))
    return Found(vendor="AMD", name=name, memory=total, in_use=_amount(usage.get("used_vram")), count=len(static))


def _cards(text: str) -> list[Mapping[str, Any]]:
    try:
        values = json.loads(text) if text else []
    except json.JSONDecodeError:
        return []
    values = values.get("gpu_data", []) if isinstance(values, dict) else values
    return [card for card in values if isinstance(card, dict)]


def _amount(value: Any) -> int:
    """Bytes of {"value": 65520, "unit": "MB"}; amd-smi's MB are 2^20 bytes."""
    if not isinstance(value, dict) or not str(value.get("value", "")).isdigit():
        return 0
    return int(value["value"]) * {"B": 1, "KB": 2**10, "MB": MIB, "GB": 2**30}.get(str(value.get("unit")), MIB)


def _rocm_smi() -> Found | None:
    """From rocm-smi's JSON: {"card0": {"VRAM Total Memory (B)": "...", ...}}."""
    text = _ask("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    try:
        values = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return None
    if not isinstance(values, dict):
        return None
    cards = [card for name, card in sorted(values.items()) if name.startswith("card") and isinstance(card, dict)]
    cards = [card for card in cards if str(card.get("VRAM Total Memory (B)", "")).isdigit()]
    if not cards:
        return None
    first = cards[0]
    used = str(first.get("VRAM Total Used Memory (B)", "0"))
    return Found(
        vendor="AMD",
        name=str(first.get("Card Series") or first.get("Card series") or "AMD GPU"),
        memory=int(first["VRAM Total Memory (B)"]),
        in_use=int(used) if used.isdigit() else 0,
        count=len(cards),
    )


def _amd_in_kernel(drm: Path) -> Found | None:
    """From the kernel's own files, where neither tool is installed; it does not know the product's name."""
    sizes = []
    for file in sorted(drm.glob("card*/device/mem_info_vram_total")):
        folder = file.parent
        if _text(folder / "vendor") == AMD_VENDOR:
            sizes.append((int(_text(file) or 0), int(_text(folder / "mem_info_vram_used") or 0)))
    if not sizes:
        return None
    memory, in_use = sizes[0]
    return Found(vendor="AMD", name="AMD GPU", memory=memory, in_use=in_use, count=len(sizes))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""


# --- Apple ----------------------------------------------------------------------------------------------------------


def apple() -> Found | None:
    """The GPU of an Apple chip, which shares the machine's memory."""
    name = _ask("sysctl", "-n", "machdep.cpu.brand_string")
    memory = _ask("sysctl", "-n", "hw.memsize")
    if not name.startswith("Apple M") or not memory.isdigit():
        return None
    return Found(vendor="Apple", name=name, memory=int(int(memory) * APPLE_GPU_SHARE))
