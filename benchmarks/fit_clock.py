"""Fit what the clock takes of a GPU's datasheet rates: `python benchmarks/fit_clock.py [--export MEASUREMENTS.json]`

`assets/calibration/step_times.json` has published step times: the plan, the measured seconds, the source. The dry run of
each plan is worked out once; then each constant of `clock.Calibration` is moved, one after the other, to where the mean
absolute logarithmic error of every other row of each group is smallest (a group is one source on one kind of GPU), until
none moves. The rows left out are reported, and the constants are written to `assets/calibration/clock.json`.

Not fitted, but taken from where they were measured: the shares of the attention kernels (FlashAttention-2 reaches 50 to 73 %
of an A100 forwards and less backwards, arXiv:2307.08691; 35 % of an H100, arXiv:2407.08608). `--export` makes the file of
step times anew from a list of measurements.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import read_points  # noqa: E402
from benchmarks.families import FAMILIES  # noqa: E402
from engine.catalog import hardware  # noqa: E402
from engine.plan import Plan  # noqa: E402
from estimators.distributed import communication, sharding  # noqa: E402
from estimators.simulate import replay  # noqa: E402
from estimators.timing import roofline  # noqa: E402
from estimators.timing.roofline import Calibration  # noqa: E402

FOLDER = ROOT / "assets" / "calibration"
TIMES = FOLDER / "step_times.json"
EVERY = {"llm-foundry": 4}  # of 216 rows that differ little
# No plan says what the first recomputes; gathering over slow links says nothing of a GPU.
WITHOUT = ("torchtitan", "lomo-paper", "fsdp_qlora, GeForce")
LONGEST = {"llm-foundry": 8192}  # tokens; beyond, its attention kernel decides, which is another than today's
STEPS = (0.7, 0.85, 0.93, 0.97, 1.03, 1.07, 1.15, 1.4)  # what a constant is multiplied with in search of a better one
LARGEST_SHARE = 0.97


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A published step: what the dry run says of it, and how long it took."""

    group: str
    gpu: hardware.Gpu
    plan: Plan
    state: sharding.States | None
    batch: roofline.Table
    optimizer: roofline.Table
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", type=Path, metavar="MEASUREMENTS.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.export:
        export(read_points(options.export))
    rows = [timed(value) for value in json.loads(TIMES.read_text(encoding="utf-8"))]
    groups: dict[str, list[Timed]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    found = fit(roofline.calibration(), [group[::2] for group in groups.values()])
    for name, group in groups.items():
        print(f"{name}: fitted on {_errors(group[::2], found)}; left out {_errors(group[1::2], found)}")
    write(found)


def export(points: Sequence[dict[str, Any]]) -> None:
    """Write the step times of every family that has any."""
    values = []
    for family in FAMILIES.values():
        if family.key in WITHOUT:
            continue
        mine = [point for point in points if point["family"] == family.source_key and point["time"]]
        mine = [point for point in mine if (point["seq_len"] or 0) <= LONGEST.get(family.key, math.inf)]
        for point in mine[:: EVERY.get(family.key, 1)]:
            plan = family.plan(point)
            seconds = family.seconds(point)
            if plan is None or seconds is None:
                continue
            changed = family.timed(plan, point).to_dict()
            plain = {name: value for name, value in changed.items() if value != Plan().to_dict()[name]}
            source = {"id": point["id"], "source_url": point["source_url"]}
            values.append({"family": family.key, **source, "seconds": round(seconds, 5), "plan": plain})
    TIMES.write_text("[\n" + ",\n".join(json.dumps(value) for value in values) + "\n]\n", encoding="utf-8")


def timed(value: dict[str, Any]) -> Timed:
    """The dry run of a published step."""
    from estimators.estimator import BATCH_PHASES, _dry_run
    from estimators.simulate.dry_run import Shape

    plan = Plan.from_dict(value["plan"])
    gpu = hardware.find_gpu(plan.gpu)
    run = _dry_run(plan, Shape(batch=plan.per_device_train_batch_size, length=plan.max_length), True)
    print(value["id"], flush=True)
    return Timed(
        group=f"{value['family']}, {gpu.name}",
        gpu=gpu,
        plan=plan,
        state=sharding.states(plan, run) if sharding.wanted(plan) else None,
        batch=roofline.tabulated(replay.works(run.step, BATCH_PHASES)),
        optimizer=roofline.tabulated(replay.works(run.step, ("optimizer",))),
        seconds=value["seconds"],
    )


# --- the search -----------------------------------------------------------------------------------------------------


def predicted(row: Timed, shares: Calibration) -> float:
    """Seconds of the step, as the estimator adds them up."""
    rates = roofline.calibrated(row.gpu, shares)
    batch = roofline.step_seconds(row.batch, rates) * row.plan.gradient_accumulation_steps
    seconds = batch + roofline.step_seconds(row.optimizer, rates)
    return seconds + (communication.waiting(row.plan, row.state, seconds).likely if row.state is not None else 0.0)


def loss(groups: Sequence[Sequence[Timed]], shares: Calibration) -> float:
    """The mean absolute logarithmic error of each group, added up with the root of its size as weight."""
    return sum(
        statistics.mean(abs(math.log(predicted(row, shares) / row.seconds)) for row in group) * math.sqrt(len(group))
        for group in groups
    )


def fit(start: Calibration, groups: Sequence[Sequence[Timed]], rounds: int = 12) -> Calibration:
    """Coordinate descent from the constants as they are."""
    best, least = start, loss(groups, start)
    for _ in range(rounds):
        before = least
        for move in _moves(best, groups):
            for factor in STEPS:
                candidate = move(best, factor)
                if candidate is not None and (error := loss(groups, candidate)) < least:
                    best, least = candidate, error
        print(f"loss {least:.3f}", flush=True)
        if before - least < 1e-3:
            break
    return best


def _moves(
    start: Calibration, groups: Sequence[Sequence[Timed]]
) -> Iterator[Callable[[Calibration, float], Calibration | None]]:
    """Ways to change one constant: the numbers, and the share of each GPU that a row was measured on."""
    for name in ("vector", "bandwidth", "cache_speedup", "launch_seconds"):
        yield lambda shares, factor, name=name: _scaled(shares, name, factor)
    names = {row.gpu.name for group in groups for row in group}
    for key in start.matmul:
        if any(key in name for name in names):
            yield lambda shares, factor, key=key: _scaled_share(shares, key, factor)


def _scaled(shares: Calibration, name: str, factor: float) -> Calibration | None:
    value = getattr(shares, name) * factor
    too_much = name in ("vector", "bandwidth") and value > LARGEST_SHARE
    return None if too_much else dataclasses.replace(shares, **{name: value})


def _scaled_share(shares: Calibration, key: str, factor: float) -> Calibration | None:
    value = shares.matmul[key] * factor
    return None if value > LARGEST_SHARE else dataclasses.replace(shares, matmul={**shares.matmul, key: value})


def _errors(rows: Sequence[Timed], shares: Calibration) -> str:
    errors = [predicted(row, shares) / row.seconds - 1 for row in rows]
    if not errors:
        return "no row"
    absolute = [abs(error) for error in errors]
    return f"{len(rows)} rows, median {statistics.median(absolute):.0%}, worst {max(errors, key=abs):+.0%}"


def write(found: Calibration) -> None:
    """The constants, rounded, into the file that the clock reads."""
    values = json.loads(roofline.CALIBRATION_FILE.read_text(encoding="utf-8"))
    for name, value in dataclasses.asdict(found).items():
        values[name] = {key: round(one, 3) for key, one in value.items()} if isinstance(value, dict) else float(f"{value:.3g}")
    roofline.CALIBRATION_FILE.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
