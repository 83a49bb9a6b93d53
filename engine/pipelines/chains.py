"""Chains: a plan of stages (read, answer, prefer), each of which takes the last one's result.

    {"stages": [
        {"objective": "dapt", "datasets": [{"path": "demo/velmora_text"}]},
        {"objective": "sft", "datasets": [{"path": "demo/facts"}]},
        {"objective": "sft", "datasets": [{"path": "demo/pirate"}], "replay": 0.2},
        {"objective": "dpo", "datasets": [{"path": "demo/voices"}]}],
     "probe": ["demo/general"], "limit": 0.1}

A stage is a plan. One without a `model` goes on from the last stage that gave a model of its kind; "@1" stands for the
result of stage 1 wherever a model is named (a reward model, a teacher). `replay` mixes rows of the earlier stages into
a stage: 0.2 adds a fifth as many. After each stage the forgetting report asks what it cost: the loss on the probe and
on the earlier stages' held-out rows (`engine/pipelines/forgetting.py`). The stages are ordinary runs of the history.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import checks, data, json_input
from engine.export import merge
from engine.issues import Issue, PlanError, nearest, quoted, unknown_keys
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.methods import METHODS
from engine.objectives import OBJECTIVES
from engine.pipelines import forgetting
from engine.plan import MOST_DATASETS, SOURCE_KNOBS, DataSource, Plan, default_max_length
from engine.system import events

CHAIN_FIELDS = ("version", "stages", "probe", "limit")
MOST_STAGES = 32
LIMIT = 0.1  # a loss may rise by this share before the report warns; judgement
Model = str | dict


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One plan of a chain, with references where its models are results of earlier stages."""

    plan: Plan
    goes_on: bool  # it names no model: it takes the last result of its kind
    replay: float = 0.0  # rows of earlier stages, as a share of its own


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Stages in their order, and what the forgetting report looks at."""

    stages: tuple[Stage, ...]
    probe: tuple[DataSource, ...] = ()
    limit: float = LIMIT


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one stage left behind: its run, and the folder that the next stage can start from."""

    run: Run
    model: Path


# --- reading --------------------------------------------------------------------------------------------------------


def is_chain(values: Any) -> bool:
    """Whether a JSON value is a chain, and not a plan."""
    return isinstance(values, Mapping) and "stages" in values


def from_dict(values: Mapping[str, Any]) -> Chain:
    """Read a chain from JSON values.

    Raises:
        PlanError: what is wrong with a stage, the field led by the stage's number.
    """
    wrong = json_input.problems(values, "chain")
    if wrong:
        raise PlanError(wrong)
    issues = unknown_keys(values, CHAIN_FIELDS, where="chain")
    written = values.get("stages")
    if isinstance(written, list) and len(written) > MOST_STAGES:
        message = f"has {len(written):,} stages, and a chain has at most {MOST_STAGES}."
        issues.append(Issue(field="stages", message=message, fix="Write fewer."))
    if not isinstance(written, list) or not written:
        issues.append(Issue(field="stages", message="has no stage.", fix='Write [{"objective": "sft", ...}, ...].'))
    probe, limit = values.get("probe", []), values.get("limit", LIMIT)
    if not isinstance(probe, list) or len(probe) > MOST_DATASETS or not all(isinstance(path, str) for path in probe):
        issues.append(Issue(field="probe", message="is not a list of data sets.", fix='Write ["demo/general"].'))
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit < 0:
        issues.append(Issue(field="limit", message=f"{quoted(limit)} is not a share.", fix="Use 0.1 for a tenth."))
    if issues:
        raise PlanError(issues)
    first = written[0].get("model", Plan.model) if isinstance(written[0], Mapping) else None
    stages = tuple(_read_stage(number, stage, first) for number, stage in enumerate(written, start=1))
    return Chain(stages=stages, probe=tuple(DataSource(path=path) for path in probe), limit=float(limit))


def from_json(text: str) -> Chain:
    """Read a chain from the text of its JSON file. Raises `PlanError`."""
    return from_dict(json_input.parse(text, "chain"))


def _read_stage(number: int, values: Any, first_model: Any) -> Stage:
    """One stage. Where it names no model, its default `max_length` is that of the model that the chain begins with."""
    try:
        if not isinstance(values, Mapping):
            raise PlanError([Issue(field="stage", message="is not an object.", fix='Write {"objective": "sft", ...}.')])
        replay = values.get("replay", 0.0)
        if isinstance(replay, bool) or not isinstance(replay, (int, float)) or not 0 <= replay <= 10:
            raise PlanError([Issue(field="replay", message=f"{quoted(replay)} is not a share.", fix="Use 0.2 for a fifth.")])
        of_plan = {name: value for name, value in values.items() if name != "replay"}
        if "model" not in values and "max_length" not in values:
            of_plan["max_length"] = default_max_length(first_model)
        plan = Plan.from_dict(of_plan)
        if not isinstance(plan.objective, str) or plan.objective not in OBJECTIVES:
            message = f"{quoted(plan.objective)} is not an objective."
            raise PlanError([Issue(field="objective", message=message, fix=nearest(str(plan.objective), OBJECTIVES))])
        for named in references(plan):
            if named not in [f"@{earlier}" for earlier in range(1, number)]:
                fix = f"Use @1 to @{number - 1}." if number > 1 else "The first stage must name a model."
                raise PlanError([Issue(field="model", message=f"{named[:80]} is no earlier stage.", fix=fix)])
        return Stage(plan=plan, goes_on="model" not in values and number > 1, replay=float(replay))
    except PlanError as error:
        raise PlanError(
            [Issue(field=f"stages[{number}].{issue.field}", message=issue.message, fix=issue.fix) for issue in error.issues]
        ) from None


def to_dict(chain: Chain) -> dict[str, Any]:
    """The chain as plain JSON values; `from_dict` reads it back."""
    return {
        "stages": [stage_to_dict(stage) for stage in chain.stages],
        "probe": [source.path for source in chain.probe],
        "limit": chain.limit,
    }


def stage_to_dict(stage: Stage) -> dict[str, Any]:
    """A stage as plain JSON values; the model is left out where the stage goes on from the last result."""
    values = stage.plan.to_dict() | ({"replay": stage.replay} if stage.replay else {})
    return {name: value for name, value in values.items() if not (stage.goes_on and name == "model")}


def default_name(chain: Chain) -> str:
    """What the chain does, stage by stage: "DAPT, SFT, DPO"."""
    return ", then ".join(stage.plan.objective.upper() for stage in chain.stages)


def stage_name(chain: Chain, number: int) -> str:
    """What the run of a stage is called in lists of runs."""
    plan = chain.stages[number].plan
    what = f"{data.title(plan.datasets[0])} · {METHODS[plan.method].label}"
    return f"Stage {number + 1} of {len(chain.stages)} · {what}"


def check(chain: Chain) -> list[Issue]:
    """What stops the chain, as far as it can be told before its first stage has run. Each field names its stage."""
    problems: list[Issue] = []
    for number, plan in enumerate(plans_to_price(chain), start=1):
        found = [issue for issue in checks.check_start(plan) if issue.severity == "error"]
        found += [] if found else _leaves_no_model(plan)
        problems += [Issue(field=f"stages[{number}].{one.field}", message=one.message, fix=one.fix) for one in found]
    return problems


def _leaves_no_model(plan: Plan) -> list[Issue]:
    """Each stage must leave one whole model: the next stage starts from it, and the forgetting report asks it."""
    method = METHODS[plan.method]
    if method.mergeable or method.whole_model:
        return []
    message = f"{method.label} leaves an adapter that cannot be added to the weights, and a stage must leave one model."
    return [Issue(field="method", message=message, fix="Use LoRA or full fine-tuning for this stage.")]


def references(plan: Plan) -> list[str]:
    """The words of a plan that stand for results of earlier stages, such as "@1"."""
    named = [plan.model, *plan.objective_options.values()]
    return [value for value in named if isinstance(value, str) and value.startswith("@")]


# --- what each stage trains -----------------------------------------------------------------------------------------


def resolve(chain: Chain, number: int, models: Mapping[int, Model]) -> Plan:
    """The plan of a stage (0 is the first) as it runs: its models named, its replay added.

    `models` has what each earlier stage gave: the folder of its result, or, to price a chain before it ran, the model
    that it began with (`plans_to_price`).
    """
    stage = chain.stages[number]

    def named(value: Any) -> Any:
        return models[int(value[1:]) - 1] if isinstance(value, str) and value.startswith("@") else value

    options = {name: named(value) for name, value in stage.plan.objective_options.items()}
    model = _last_of_its_kind(chain, number, models) if stage.goes_on else named(stage.plan.model)
    return stage.plan.with_(model=model, objective_options=options, datasets=with_replay(chain, number))


def _last_of_its_kind(chain: Chain, number: int, models: Mapping[int, Model]) -> Model:
    """The latest earlier result with the same kind of model; the chain's first model where there is none."""
    kind = OBJECTIVES[chain.stages[number].plan.objective].task
    for earlier in range(number - 1, -1, -1):
        if OBJECTIVES[chain.stages[earlier].plan.objective].task == kind:
            return models[earlier]
    return chain.stages[0].plan.model


def plans_to_price(chain: Chain) -> list[Plan]:
    """Each stage as a plan that can be estimated before anything ran: a result is as large as what it began with."""
    models: dict[int, Model] = {}
    plans = []
    for number in range(len(chain.stages)):
        plan = resolve(chain, number, models)
        models[number] = plan.model
        plans.append(plan)
    return plans


def with_replay(chain: Chain, number: int) -> tuple[DataSource, ...]:
    """The stage's sources, and those of earlier stages whose rows are of the same shape, weighed to be the wanted share."""
    stage = chain.stages[number]
    shapes = OBJECTIVES[stage.plan.objective].shapes
    own = {data.scan(source, shapes).format for source in stage.plan.datasets}
    earlier = [source for before in chain.stages[:number] for source in before.plan.datasets]
    readable = [source for source in earlier if data.scan(source, shapes).format in own]
    rows = sum(data.scan(source, shapes).rows * source.weight for source in stage.plan.datasets)
    old_rows = sum(data.scan(source, shapes).rows for source in readable)
    if not stage.replay or not old_rows:
        return stage.plan.datasets
    weight = min(stage.replay * rows / old_rows, SOURCE_KNOBS["weight"].maximum or math.inf)
    again = (DataSource(path=source.path, split=source.split, columns=source.columns, weight=weight) for source in readable)
    return (*stage.plan.datasets, *again)


# --- running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What of a chain has been done before: `run_chain` goes on after it.

    A stage's run is known from its start, its result (the folder of a whole model) when it has one.
    """

    runs: Mapping[int, str] = field(default_factory=dict)  # number of the stage, from 0 -> id of its newest run
    results: Mapping[int, str] = field(default_factory=dict)
    report: tuple[Mapping[str, Any], ...] = ()  # rows of the forgetting report


NOTHING_DONE = Progress()


def told_nobody(kind: str, **values: Any) -> None:
    """Whoever only waits for the end needs no news of the stages."""


def run_chain(
    chain: Chain,
    watch: Callable[[Run], None],
    *,
    tell: Callable[..., None] = told_nobody,
    begin: Callable[[Callable[[], Run]], Run] = lambda start: start(),
    done: Progress = NOTHING_DONE,
) -> tuple[list[Result], list[dict[str, Any]]]:
    """Run the stages one after the other. Returns (their results, the rows of the forgetting report).

    Args:
        watch: called with each run that has just started; returns when it has ended.
        tell: called with the kind and the values of each thing that happens: "note" (message), "stage" (number, run),
            "result" (number, run, model) and "looked" (row).
        begin: called with what starts or resumes a stage's run; returns the run that it started.
        done: what was done before; a finished stage is never run again.

    Raises:
        PlanError: a stage cannot start, or did not finish.
    """
    results: list[Result] = []
    report = [dict(row) for row in done.report]
    for number in range(len(chain.stages)):
        plan = resolve(chain, number, {place: str(result.model) for place, result in enumerate(results)})
        if not report:
            _look(chain, number, plan, "before", report, tell)
        known = _known_run(number, done)
        if known is None or runs.resumable(known) is not None:
            known = begin(_starter(chain, number, plan, known))
            tell("stage", number=number, run=known.id)
        results.append(_result(number, known, watch, tell, done))
        after = plan.with_(model=str(results[-1].model))
        _look(chain, number, after, f"stage {number + 1}", report, tell)
    return results, report


def _starter(chain: Chain, number: int, plan: Plan, known: Run | None) -> Callable[[], Run]:
    """What starts the run of a stage, or resumes it where it has a checkpoint."""
    if known is not None:
        return lambda: runs.resume(known.id)
    return lambda: runs.start(plan, name=stage_name(chain, number))


def _known_run(number: int, done: Progress) -> Run | None:
    """The run of a stage that need not begin anew: it has finished, is still at work, or has a checkpoint to go on from."""
    known = runs.get(done.runs[number]) if number in done.runs else None
    known = runs.settle(known) if known is not None else None
    if known is None or known.is_active or known.state == "finished" or runs.resumable(known) is not None:
        return known
    return None


def _result(number: int, run: Run, watch: Callable[[Run], None], tell: Callable[..., None], done: Progress) -> Result:
    """What a stage's run leaves behind, when it has ended."""
    if number in done.results and Path(done.results[number]).is_dir():
        return Result(run=run, model=Path(done.results[number]))
    if run.is_active:
        watch(run)
    tell("note", message="Making the result into one model.")
    result = Result(run=run, model=result_of(run))
    tell("result", number=number, run=run.id, model=str(result.model))
    return result


def _look(
    chain: Chain,
    number: int,
    plan: Plan,
    name: str,
    report: list[dict[str, Any]],
    tell: Callable[..., None],
) -> None:
    """Add a row to the forgetting report, unless it has it already."""
    asked = forgetting.probes(chain, number)
    if not asked or any(row["when"] == name for row in report):
        return
    tell("note", message="Asking what was forgotten." if report else "Asking what the model knows before.")
    report.append(forgetting.look(plan, asked, name=name))
    tell("looked", row=report[-1])


def result_of(run: Run) -> Path:
    """The folder of a finished run's whole model; an adapter is added to its base first. Raises `PlanError`."""
    ended = runs.settle(run)
    if ended.state != "finished":
        raise PlanError([Issue(field="run", message=f"{ended.name} {ended.state}: {ended.reason}", fix="See its log.")])
    whole = next((ended.folder / name for name in ("model", "merged") if (ended.folder / name).is_dir()), None)
    if whole is not None:
        return whole
    if OBJECTIVES[ended.plan.objective].task == "causal-lm":
        if merge.status(ended).state != "running":
            merge.start(ended.id)
        while (status := merge.status(ended)).state == "running":
            time.sleep(0.2)
        if status.state != "finished":
            raise PlanError([Issue(field="merge", message=status.message, fix="Use method full for this stage.")])
        return ended.folder / "merged"
    return add_adapter(ended)


def add_adapter(run: Run) -> Path:
    """Add the adapter of a model that does not answer in words to its base; there is nothing to ask it for a proof."""
    from engine.adapters import attach
    from engine.jobs import artifacts
    from engine.modeling import build

    plan = run.plan
    if not METHODS[plan.method].mergeable:
        raise PlanError([Issue(field="method", message=f"{plan.method} cannot be merged.", fix="Use lora or full.")])
    merged = attach.load(build.load_base(plan, "cpu"), run.folder / "adapter").merge_and_unload(safe_merge=True)
    merged.save_pretrained(run.folder / "merged")
    build.load_processor(plan).save_pretrained(run.folder / "merged")
    artifacts.publish(run.folder / "merged", plan)
    return run.folder / "merged"


def last_figure(run: Run) -> tuple[str, float, float] | None:
    """(name, first, last) of the figure that the run's evaluations measured."""
    seen = [event for event in events.since(run.folder)[0] if event["kind"] == "evaluated" and "metric" in event]
    return (seen[0]["metric"], seen[0]["value"], seen[-1]["value"]) if seen else None
