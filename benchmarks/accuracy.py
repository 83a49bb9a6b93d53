"""Predicted against measured, row by row. `python benchmarks/accuracy.py MEASUREMENTS.json`

The measurements are a list of published runs ({"points": [...]}, each with its source). So far the rows of PEFT's
method comparison (MetaMathQA, Llama-3.2-3B on an L40S) whose method this version has are compared: plain LoRA and full
fine-tuning, with the settings that the rows document (bf16 weights without autocast, all logits, AdamW, batch 4, at most
768 tokens, a mean step of about 900 padded tokens).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEAN_LENGTH = 225  # padded tokens of a mean row: the rows document about 840 real tokens in a step of 4


def plan_of(point: dict[str, Any]) -> Any | None:
    """The plan of a measured run, or None if this version cannot express it."""
    from engine.plan import Plan

    settings = point["method_config"]
    common = {"model": point["model"], "precision": "bf16", "loss": "full", "autocast": False, "gpu": "L40S", "max_length": 768}
    if point["method"] == "full":
        return Plan(method="full", **common)
    plain = settings.get("peft_type") == "LORA" and settings.get("init_lora_weights") in (True, None)
    if not plain or settings.get("use_dora") or settings.get("bias", "none") != "none" or not settings.get("target_modules"):
        return None
    options = {name: settings[name] for name in ("r", "lora_alpha", "target_modules")}
    return Plan(method="lora", method_options=options, **common)


def rows(points: list[dict[str, Any]]) -> Iterator[tuple[str, float, float, float, float]]:
    """(name, predicted GiB, measured GiB, predicted seconds, measured seconds) of each row."""
    from estimators.estimator import estimate

    for point in points:
        plan = plan_of(point) if point["family"] == "peft-metamathqa" else None
        if plan is None:
            continue
        memory = estimate(plan).memory.peak / 2**30
        step = estimate(plan.with_(max_length=MEAN_LENGTH)).step_seconds
        assert step is not None
        yield point["id"], memory, point["peak_gib"], step.likely, point["time"]["s_per_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", type=Path)
    points = json.loads(parser.parse_args().measurements.read_text(encoding="utf-8"))["points"]
    warnings.filterwarnings("ignore")
    errors: dict[str, list[float]] = {"memory": [], "time": []}
    print(f"{'row':<58}{'GiB':>8}{'measured':>10}{'error':>8}{'s/step':>9}{'measured':>10}{'error':>8}")
    for name, memory, measured, seconds, measured_seconds in rows(points):
        errors["memory"].append(memory / measured - 1)
        errors["time"].append(seconds / measured_seconds - 1)
        print(
            f"{name:<58}{memory:>8.2f}{measured:>10.2f}{errors['memory'][-1]:>8.1%}"
            f"{seconds:>9.3f}{measured_seconds:>10.3f}{errors['time'][-1]:>8.1%}"
        )
    for what, values in errors.items():
        absolute = [abs(value) for value in values]
        print(f"{what}: median absolute error {statistics.median(absolute):.1%}, worst {max(absolute):.1%}, {len(values)} rows")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
