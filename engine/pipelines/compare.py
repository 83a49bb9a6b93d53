"""Comparisons: one plan with several methods, one run after the other. `python -m engine.pipelines.compare COMPARISON_FOLDER`

    comparison = compare.start(plan, ("lora", "dora", "full"))
    compare.rows(comparison)        # what is known of each method by now

The runs are ordinary ones, on the same rows, with the same seed and held-out rows; each method takes its own defaults
and learning rate. They are started by the process of a series (`engine/jobs/series.py`), which notes in `events.jsonl` which
run belongs to which method. A run that fails does not keep the others from their turn.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from engine import checks
from engine.issues import Issue, PlanError, nearest
from engine.jobs import runs, series
from engine.jobs.runs import Run
from engine.methods import METHODS
from engine.pipelines import scoring
from engine.plan import Plan
from engine.system import events, visitors, workers
from engine.system.home import home, write_atomically

COMPARISON_FILE = "comparison.json"
FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared: a plan, and the methods (keys of METHODS) that take their turn with it."""

    id: str
    name: str
    created: float  # seconds since 1970
    plan: Plan
    methods: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return folder() / self.id


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method of a comparison, as far as it is known. `state` is waiting, refused, or that of its run."""

    method: str
    label: str
    state: str
    run_id: str = ""
    reason: str = ""
    eval_loss: float | None = None
    metric: str = ""  # the objective's own figure, and its last value
    value: float | None = None
    success: float | None = None  # the share of held-out questions answered rightly, where a rule judges them
    trainable_params: int | None = None
    memory_peak: int | None = None  # bytes
    seconds: float | None = None
    bytes: int | None = None  # of what the run left behind


# --- reading --------------------------------------------------------------------------------------------------------


def folder() -> Path:
    """Where all comparisons are, made if it is absent."""
    path = home() / "comparisons"
    path.mkdir(exist_ok=True)
    return path


def get(comparison_id: str) -> Comparison | None:
    """The comparison with this id; None if there is none, or its plan is of another version of this program."""
    if not series.is_id(comparison_id):
        return None
    try:
        values = json.loads((folder() / comparison_id / COMPARISON_FILE).read_text(encoding="utf-8"))
        return Comparison(**{**values, "plan": Plan.from_dict(values["plan"]), "methods": tuple(values["methods"])})
    except (FileNotFoundError, PlanError):
        return None


def every() -> list[Comparison]:
    """All comparisons, the newest first."""
    found = (get(path.name) for path in folder().iterdir())
    return sorted((one for one in found if one is not None), key=lambda one: one.created, reverse=True)


def state(comparison: Comparison) -> str:
    """running, finished, stopped, failed or interrupted, from its last event and its process."""
    now, _ = series.state(comparison.folder, events.since(comparison.folder)[0])
    return "running" if now in runs.ACTIVE else now


def rows(comparison: Comparison) -> list[Row]:
    """What is known of each method, in the order in which they take their turn."""
    turns = _turns(comparison)
    return [_row(key, turns.get(key)) for key in comparison.methods]


def _turns(comparison: Comparison) -> dict[str, events.Event]:
    """By method, the event of its last turn: the start of its run, or why it could not start."""
    happened = events.since(comparison.folder)[0]
    return {event["method"]: event for event in happened if event["kind"] in ("run", "refused")}


def _row(key: str, turn: events.Event | None) -> Row:
    label = METHODS[key].label if key in METHODS else key
    run = runs.get(turn["run"]) if turn is not None and turn["kind"] == "run" else None
    if turn is None:
        return Row(method=key, label=label, state="waiting")
    if run is None:
        reason = turn.get("message", "Its run is no longer there.")
        return Row(method=key, label=label, state="refused", reason=reason)
    return Row(method=key, label=label, state=run.state, run_id=run.id, reason=run.reason, **measured(run))


def measured(run: Run) -> dict[str, Any]:
    """The figures of a run that a comparison shows, by the names of `Row`."""
    found: dict[str, Any] = {}
    for event in events.since(run.folder)[0]:
        if event["kind"] == "evaluated":
            found |= {"eval_loss": events.number(event.get("eval_loss"))}
            found |= {"metric": event["metric"], "value": events.number(event["value"])} if "metric" in event else {}
        elif event["kind"] == "started":
            found["trainable_params"] = event["trainable_params"]
        elif event["kind"] == "step":
            found["memory_peak"] = event["memory_peak"]
        elif event["kind"] == "saved":
            found["bytes"] = event["bytes"]
        elif event["kind"] in events.ENDINGS:
            found["seconds"] = event.get("seconds")
    scored = scoring.read(run.folder)
    return found | ({"success": scored.success} if scored else {})


# --- starting and stopping ------------------------------------------------------------------------------------------


def with_method(plan: Plan, key: str) -> Plan:
    """The plan with another method and that method's own defaults; with the plan's own method, the plan as it is."""
    if key == plan.method:
        return plan
    return plan.with_(method=key, method_options={}, quantization=METHODS[key].quantization, learning_rate=None)


def start(plan: Plan, methods: Iterable[str], *, name: str = "") -> Comparison:
    """Check every method's plan, and let the comparison's process begin.

    Raises:
        PlanError: fewer than two methods, one that does not go with the plan, or another comparison is under way.
    """
    chosen = tuple(dict.fromkeys(methods))
    issues = _check(plan, chosen)
    if issues:
        raise PlanError(issues)
    comparison = Comparison(
        id=secrets.token_hex(16),
        name=name or f"{', '.join(METHODS[key].label for key in chosen)} · {runs.default_name(plan).split(' · ')[0]}",
        created=time.time(),
        plan=plan,
        methods=chosen,
    )
    comparison.folder.mkdir()
    values = {**vars(comparison), "plan": plan.to_dict()}
    write_atomically(comparison.folder / COMPARISON_FILE, json.dumps(values, ensure_ascii=False))
    _launch(comparison)
    return comparison


def _check(plan: Plan, chosen: tuple[str, ...]) -> list[Issue]:
    """What keeps the comparison from starting; an issue of one method's plan names that method."""
    unknown = [key for key in chosen if key not in METHODS]
    if unknown:
        return [Issue(field="methods", message=f"{key!r} is not a method.", fix=nearest(key, METHODS)) for key in unknown]
    if len(chosen) < FEWEST:
        return [Issue(field="methods", message="has fewer than two methods.", fix="Choose at least two to compare.")]
    issues = visitors.check_count("methods", len(chosen), visitors.MOST_METHODS) + _nothing_else_runs()
    for key in chosen:
        errors = [issue for issue in checks.check_start(with_method(plan, key)) if issue.severity == "error"]
        issues += [dataclasses.replace(issue, message=f"{METHODS[key].label}: {issue.message}") for issue in errors]
    return issues


def _nothing_else_runs() -> list[Issue]:
    busy = next((one for one in every() if state(one) == "running"), None)
    if busy is None:
        return []
    message = f"“{busy.name}” is still under way on this machine."
    return [Issue(field="methods", message=message, fix="Wait until it ends, or stop it first.")]


def go_on(comparison: Comparison) -> None:
    """Let a comparison that was stopped or interrupted go on with the methods that have not finished.

    Raises:
        PlanError: it is under way, or another one is.
    """
    issues = _nothing_else_runs()
    if issues:
        raise PlanError(issues)
    _launch(comparison)


def _launch(comparison: Comparison) -> None:
    series.launch("engine.pipelines.compare", comparison.folder)


def stop(comparison: Comparison) -> None:
    """Ask the comparison to stop: the run under way saves what it has, the others do not start."""
    process = series.process_of(comparison.folder)
    if process is not None:
        process.send_signal(signal.SIGTERM)


def follow(comparison: Comparison) -> Iterator[list[Row]]:
    """The rows, each time that something about them has changed, until the comparison has ended."""
    before: list[Row] = []
    while True:
        ended = state(comparison) != "running"
        now = rows(comparison)
        if now != before:
            yield now
        if ended:
            return
        before = now
        time.sleep(series.LOOK_SECONDS)


# --- the comparison's process ---------------------------------------------------------------------------------------


class Stop:
    """Whether somebody asked the comparison to stop (SIGTERM)."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def work(comparison: Comparison, log: events.EventLog, stop: Stop) -> None:
    """Each method that has not finished yet takes its turn; a run that an earlier process left under way is waited for."""
    known = {row.method: row for row in rows(comparison)}
    for key in comparison.methods:
        plan = with_method(comparison.plan, key)
        run = runs.get(known[key].run_id)
        if run is None or not (run.is_active or run.state == "finished"):
            try:
                run = _start(plan, f"{METHODS[key].label} · {comparison.name}", stop)
            except PlanError as error:
                log.write("refused", method=key, message=error.issues[0].sentence())
                continue
            if run is None:
                break
            log.write("run", method=key, run=run.id)
        ended = _wait_for(run, stop)
        asks = scoring.demo_of(plan) is not None and scoring.read(ended.folder) is None
        if ended.state == "finished" and asks and not stop.asked:
            _score(ended, stop)
    log.write("stopped" if stop.asked else "finished")


def _start(plan: Plan, name: str, stop: Stop) -> Run | None:
    """The run, as soon as no other one is under way; None if the comparison was stopped meanwhile."""
    return series.start_when_free(lambda: runs.start(plan, name=name), waits=lambda busy: None, stopped=lambda: stop.asked)


def _wait_for(run: Run, stop: Stop) -> Run:
    """The run when it has ended. A comparison that is stopped stops its run, once."""
    told = False
    while (now := runs.settle(runs.get(run.id) or run)).is_active:
        if stop.asked and not told:
            runs.stop(run.id)
            told = True
        time.sleep(series.LOOK_SECONDS)
    return now


def _score(run: Run, stop: Stop) -> None:
    """Ask the run's model in a process of its own, which gives its memory back before the next run."""
    asking = workers.launch("engine.pipelines.scoring", run.folder, "scoring.log")
    while asking.poll() is None:
        if stop.asked:
            asking.kill()
        time.sleep(series.LOOK_SECONDS)


def main(comparison_folder: Path) -> int:
    """Run the comparison. Returns the exit code."""
    comparison = get(comparison_folder.name)
    if comparison is None:
        print("There is no comparison in this folder.", file=sys.stderr)
        return 2
    stop = Stop()
    return series.run(comparison_folder, lambda log: work(comparison, log, stop))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
