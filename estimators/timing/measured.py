"""What runs really took: the measured peak and speed, kept beside what was predicted, for the next estimate.

After each run on a device its figures are appended to `measured.jsonl` of the data folder (`collect`), from the run's
own events. `of_plan` and `of_run` give them to the page ("predicted 14.2 GB, measured 14.0 GB"); `correction(device)` is
what the estimator learns from them. Standard library only: the page reads this without torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import statistics
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.catalog import hardware
from engine.catalog.hardware import THIS_MACHINE
from engine.issues import PlanError
from engine.jobs import runs
from engine.plan import Plan
from engine.system import events
from engine.system.home import home
from estimators.estimate import Estimate

FILE = "measured.jsonl"  # in the data folder; one run per line
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
# Fields that change neither what a step holds nor how long it takes.
NEUTRAL = (
    "version",
    "datasets",
    "eval_fraction",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "weight_decay",
    "seed",
    "gpu",
)
FEWEST_STEPS = 3  # after the first one, which warms up caches and kernels
NEWEST = 20  # runs that count for a correction
MOST_FASTER, MOST_SLOWER = 0.25, 4.0  # a ratio beyond these says that the machine was busy, not what it can do
MOST_ADDED = 2 * 2**30  # bytes; more than that is no overhead


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run: what was predicted before any correction, and what was measured. Bytes, seconds."""

    run: str
    ended: float  # seconds since 1970
    device: str
    key: str  # of the plan, by what decides its step
    versions: dict[str, str]
    predicted_bytes: int
    measured_bytes: int
    predicted_step_seconds: float | None
    measured_step_seconds: float | None
    tokens_per_second: float | None
    steps: int


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What the runs on a device teach its next estimate.

    Args:
        runs: how many counted; 0 changes nothing.
        time: the factor of a step's time.
        added_bytes: what the device held beyond the prediction; for the overhead part.
        spread: how far apart the ratios of time were (highest over lowest); None with fewer than two.
        source: in words, for `Estimate.source`.
    """

    runs: int = 0
    time: float = 1.0
    added_bytes: int = 0
    spread: float | None = None
    source: str = ""


NO_CORRECTION = Correction()
_uncorrected: ContextVar[bool] = ContextVar("uncorrected", default=False)


@contextlib.contextmanager
def without_correction() -> Iterator[None]:
    """Inside, `correction` is none: what is compared with a measurement must not have learnt from it."""
    token = _uncorrected.set(True)
    try:
        yield
    finally:
        _uncorrected.reset(token)


# --- reading --------------------------------------------------------------------------------------------------------


def every() -> tuple[Measured, ...]:
    """All measured runs, the oldest first. A damaged line is passed over."""
    path = home() / FILE
    try:
        state = path.stat()
    except FileNotFoundError:
        return ()
    return _read(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> tuple[Measured, ...]:
    """Read the file once per change of it."""
    names = {field.name for field in dataclasses.fields(Measured)}
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and set(values) == names:
            found.append(Measured(**values))
    return tuple(found)


def of_run(run_id: str) -> Measured | None:
    """What a run measured, once it is known."""
    return next((one for one in reversed(every()) if one.run == run_id), None)


def of_plan(plan: Plan) -> Measured | None:
    """The newest run of this plan's step on this plan's device."""
    if not every():
        return None
    device, key = hardware.find_gpu(plan.gpu).name, step_key(plan)
    return next((one for one in reversed(every()) if one.key == key and one.device == device), None)


def step_key(plan: Plan) -> str:
    """What decides a plan's step, as one short word: equal keys hold as much and take as long, but for the data."""
    values = {name: value for name, value in plan.to_dict().items() if name not in NEUTRAL}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def correction(device: str) -> Correction:
    """What the newest runs on a device, with the libraries that are installed now, teach its next estimate."""
    if _uncorrected.get():
        return NO_CORRECTION
    now = installed()
    alike = [one for one in every() if one.device == device and one.versions == now][-NEWEST:]
    ratios = [
        one.measured_step_seconds / one.predicted_step_seconds
        for one in alike
        if one.measured_step_seconds and one.predicted_step_seconds
    ]
    ratios = [ratio for ratio in ratios if MOST_FASTER <= ratio <= MOST_SLOWER]
    if not alike:
        return NO_CORRECTION
    factor = statistics.median(ratios) if ratios else 1.0
    missed = statistics.median(one.measured_bytes - one.predicted_bytes for one in alike)
    added = round(min(max(0.0, missed), MOST_ADDED))
    number = f"{len(alike)} run{'s' if len(alike) > 1 else ''} measured on {device}"
    return Correction(
        runs=len(alike),
        time=factor,
        added_bytes=added,
        spread=max(ratios) / min(ratios) if len(ratios) > 1 else None,
        source=f"{number}: time x {factor:.2f}, {added / 1e9:.2f} GB more than predicted",
    )


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    return tuple((name, _version(name)) for name in PACKAGES)


def installed() -> dict[str, str]:
    """The versions that decide what a step holds: {"torch": "2.13.0", ...}."""
    return dict(_installed())


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


# --- writing --------------------------------------------------------------------------------------------------------


def collect(predict: Callable[[Plan], Estimate]) -> list[Measured]:
    """Append every run that has ended and is not in the file yet; returns what was added.

    Args:
        predict: the estimate of a plan as it was before any correction (`without_correction`).
    """
    known = {one.run for one in every()}
    added = []
    for run in reversed(runs.all_runs()):
        if run.is_active or run.id in known or run.id in _without_figures:
            continue
        found = _of_ended(run, predict)
        if found is None:
            _without_figures.add(run.id)  # its events change no more
            continue
        _append(found)
        added.append(found)
    return added


_without_figures: set[str] = set()


def _of_ended(run: runs.Run, predict: Callable[[Plan], Estimate]) -> Measured | None:
    """The figures of one run; None if it measured too little, or cannot be predicted here any more."""
    seen = [event for event in events.since(run.folder)[0] if event["kind"] == "step"]
    if len(seen) <= FEWEST_STEPS:
        return None
    try:
        plan = run.plan
        predicted = predict(plan)
        device = hardware.find_gpu(plan.gpu)
    except PlanError:
        return None
    here = plan.gpu == THIS_MACHINE or device.name == hardware.this_machine().name
    seconds = [event["step_seconds"] for event in seen[1:] if isinstance(event.get("step_seconds"), (int, float))]
    peak = max(int(event.get("memory_peak") or 0) for event in seen)
    if not here or not peak or not seconds:
        return None
    tokens = (events.number(seen[-1].get("tokens")) or 0) - (events.number(seen[0].get("tokens")) or 0)
    # A processor's peak is the whole process; a GPU's is what the allocator reserved, without the context.
    total = predicted.memory.total if device.is_cpu else predicted.memory.peak
    return Measured(
        run=run.id,
        ended=float(seen[-1]["time"]),
        device=device.name,
        key=step_key(plan),
        versions=installed(),
        predicted_bytes=total,
        measured_bytes=peak,
        predicted_step_seconds=predicted.step_seconds.likely if predicted.step_seconds else None,
        measured_step_seconds=_mean(seconds),
        tokens_per_second=tokens / sum(seconds) if tokens > 0 else None,
        steps=len(seen),
    )


def _mean(seconds: list[float]) -> float:
    """The mean step, without those in which the machine did something else."""
    usual = 3 * statistics.median(seconds)
    return statistics.fmean(value for value in seconds if value <= usual)


def _append(found: Measured) -> None:
    line: dict[str, Any] = dataclasses.asdict(found)
    with open(home() / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
