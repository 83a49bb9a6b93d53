"""How fast the estimator answers: each kind of question, asked of a warm process, beside what it must be.

    python benchmarks/estimate_speed.py [--model meta-llama/Llama-3.1-405B] [--plans 100]

The process is the one that the page asks (`python -m estimators --jsonl`). Wall-clock seconds and the process's own
processor seconds are both printed: on a busy machine the first grow and the second hardly do. Exits with 1 where a wall
clock figure is above its limit.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.catalog import models
from engine.plan import Plan
from engine.system.json_process import JsonProcess
from estimators.advice.limits import LIMITED
from estimators.advice.survey import gpu_groups

METHODS = ("lora", "qlora", "full")
GPU = "H100 SXM 80GB"
SECONDS_TO_ANSWER = 600.0  # on the busiest machine
SECONDS_TO_PROBE = 300.0  # at most, for all probes of a plan
SECONDS_STILL = 4  # without any work: then it is idle, and not only waiting for its turn


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A question and the seconds that it may take (on two idle cores)."""

    title: str
    seconds: float


class Process:
    """The estimator's process, with a clock."""

    def __init__(self) -> None:
        self._process = JsonProcess("estimators", "--jsonl")
        self.late: list[str] = []

    def ask(self, ask: str, plan: Plan, only: str | None = None) -> dict[str, Any]:
        """The answer to one question."""
        found = next(iter(self._process.ask({"ask": ask, "plan": plan.to_dict(), "only": only}, timeout=SECONDS_TO_ANSWER)))
        if "error" in found:
            print(f"{plan.model} {plan.method}: {found['error']}")
        return found

    @property
    def own(self) -> psutil.Process:
        """The process itself."""
        assert self._process.pid is not None
        return psutil.Process(self._process.pid)

    def seconds(self) -> float:
        """The processor seconds that it has used."""
        used = self.own.cpu_times()
        return used.user + used.system

    def timed(self, limit: Limit, question: Callable[[], Any]) -> Any:
        """Ask, and print how long it took."""
        wall, cpu = time.perf_counter(), self.seconds()
        found = question()
        wall, cpu = time.perf_counter() - wall, self.seconds() - cpu
        verdict = "" if wall <= limit.seconds else "  LATE"
        if verdict:
            self.late.append(limit.title)
        print(
            f"{limit.title:<58} {wall:8.3f} s  {cpu:8.3f} s of the processor  (at most {limit.seconds:g}){verdict}", flush=True
        )
        return found

    def wait_until_idle(self) -> float:
        """Wait until it has worked out in advance what it wants to. Returns the processor seconds that it took."""
        began, start = self.seconds(), time.perf_counter()
        last, still = began, 0
        while still < SECONDS_STILL and time.perf_counter() - start < SECONDS_TO_PROBE:
            time.sleep(1.0)
            used = self.seconds()
            last, still = used, still + 1 if used == last else 0
        return self.seconds() - began

    def close(self) -> None:
        """End the process."""
        self._process.close()


def moved(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """The plan with a moved batch and a moved length."""
    for batch in (2, 6, 16):
        yield f"  batch {batch}", plan.with_(per_device_train_batch_size=batch)
    for length in (512, 1536, 3000):
        yield f"  length {length}", plan.with_(max_length=length)


def one_plan(process: Process, plan: Plan) -> None:
    """Every question about one plan."""
    print(f"{plan.model} {plan.method}, batch {plan.per_device_train_batch_size} x {plan.max_length}, {plan.gpu}")
    process.timed(Limit(title="  first answer", seconds=3.0), lambda: process.ask("estimate", plan))
    process.timed(Limit(title="  the same again", seconds=0.05), lambda: process.ask("estimate", plan))
    print(f"  probed in advance, in idle moments: {process.wait_until_idle():.1f} s of the processor")
    for title, other in moved(plan):
        process.timed(Limit(title=title, seconds=0.05), lambda other=other: process.ask("estimate", other))
    process.wait_until_idle()
    groups = gpu_groups(plan)
    gpus = lambda: [process.ask("survey", plan, group) for group in groups]  # noqa: E731
    process.timed(Limit(title="  table of all GPUs", seconds=2.0), gpus)
    limits = lambda: [process.ask("limits", plan, field) for field in LIMITED]  # noqa: E731
    process.timed(Limit(title="  largest batch and longest sequence", seconds=1.0), limits)


def many_plans(process: Process, count: int) -> None:
    """Plans of the whole catalogue, one after the other."""
    names = [
        model.id for model in models.catalogue().values() if model.task == "causal-lm" and not model.id.startswith("demo/")
    ]
    plans = [
        Plan(model=name, method=method, gpu=GPU, precision="bf16")
        for name, method in zip(itertools.cycle(names), itertools.islice(itertools.cycle(METHODS), count))
    ]

    def all_of_them() -> None:
        for plan in plans:
            process.ask("estimate", plan)

    process.timed(Limit(title=f"{count} plans of the catalogue", seconds=2.4 * count), all_of_them)


def main() -> int:
    """Print all figures. Returns 1 if one is too high."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="meta-llama/Llama-3.1-405B", help="of the single plans")
    parser.add_argument("--methods", nargs="*", default=METHODS, help="of the single plans")
    parser.add_argument("--plans", type=int, default=100, help="how many plans of the catalogue")
    options = parser.parse_args()
    process = Process()
    plan = Plan(model=options.model, gpu=GPU, precision="bf16", max_length=1024, per_device_train_batch_size=4)
    process.ask("estimate", plan.with_(model="Qwen/Qwen3-0.6B"))  # imports
    process.wait_until_idle()
    for method in options.methods:
        one_plan(process, plan.with_(method=method))
    if options.plans:
        many_plans(process, options.plans)
    resident = process.own.memory_info().rss / 1e9
    print(f"resident memory of the process: {resident:.2f} GB (at most 2)")
    process.close()
    return 1 if process.late or resident > 2 else 0


if __name__ == "__main__":
    sys.exit(main())
