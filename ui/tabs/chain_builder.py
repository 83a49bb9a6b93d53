"""Building a chain: stages are added from the Plan tab, priced one by one and together, and started.

The draft is a `Chain` that may still be wrong; every edit gives the changed one, which is drawn again. The rows of the
stages are laid out once, as many as a chain may have here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine import checks, data
from engine.data.demos import DEMO_CHAINS, DEMOS, PROBE
from engine.issues import Issue, PlanError
from engine.objectives import OBJECTIVES
from engine.pipelines import chains
from engine.pipelines.chains import Chain, Stage
from engine.plan import DataSource, Plan
from estimators.advice import chains as priced
from estimators.estimate import Estimate
from ui.plan import form
from ui.views import fitcard, formats, markup
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.service.client import Estimator

MOST_STAGES = 8
OTHER_MODELS = {"reward_model": "Reward model", "teacher": "Teacher"}  # options that may name the result of a stage
GOES_ON = "last"
AS_PLANNED = ""
EMPTY = Chain(stages=(), probe=(DataSource(path=DEMOS[PROBE].path),))
NO_STAGES = "No stage yet. Take a ready-made chain, or plan a stage on the Plan tab and add it here."
TOO_MANY = PlanError([Issue(field="stages", message=f"there are {MOST_STAGES} already.", fix="Remove one first.")])
GONE = PlanError([Issue(field="stages", message="this one is not in the chain any more.", fix="Reload the page.")])
NO_MODEL = PlanError([Issue(field="model", message="none is chosen for this stage.", fix="Choose one of the list.")])
WARMING = "The estimator is warming up. The figures come with the next change."


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """The place of one stage."""

    row: gr.Row
    text: gr.HTML
    start: gr.Dropdown
    other: gr.Dropdown
    replay: gr.Number
    remove: gr.Button

    @property
    def parts(self) -> list[Component]:
        return [self.row, self.text, self.start, self.other, self.replay]


@dataclass(frozen=True, kw_only=True)
class Builder:
    """The parts of the builder that events read or write."""

    draft: gr.State
    looks: dict[str, gr.Button]  # demo chain -> shows it as the draft
    starts: dict[str, gr.Button]  # demo chain -> starts it as it is
    rows: tuple[StageRow, ...]
    add: gr.Button
    clear: gr.Button
    probe: gr.Dropdown
    limit: gr.Number
    total: gr.HTML
    name: gr.Textbox
    start: gr.Button
    text: gr.Code
    use_text: gr.Button

    @property
    def drawn(self) -> list[Component]:
        """What an edit may change."""
        return [self.draft, *(part for row in self.rows for part in row.parts), self.probe, self.limit, self.total, self.text]


# --- layout ---------------------------------------------------------------------------------------------------------


def build() -> Builder:
    """Lay the builder out, with an empty draft."""
    looks, starts = _demo_card()
    with gr.Column(elem_classes=["card"], min_width=0):
        markup.block(markup.card_title(None, "Your chain", "each stage goes on with what the last one has learned"))
        rows = tuple(_stage_row(number) for number in range(MOST_STAGES))
        with gr.Row(elem_classes=["actions"]):
            add = gr.Button("Add the plan of the Plan tab", elem_id="chain-add")
            clear = gr.Button("Remove all", elem_id="chain-clear")
        with gr.Row(elem_classes=["fields", "fields-wide"]):
            probe = gr.Dropdown(
                choices=[(demo.title, demo.path) for demo in DEMOS.values()],
                value=[source.path for source in EMPTY.probe],
                multiselect=True,
                label="General probe",
                info="Rows that no stage trains on: the loss on them tells what is forgotten. A set, an upload or a file.",
                allow_custom_value=True,
                elem_id="chain-probe",
            )
            limit = gr.Number(
                value=EMPTY.limit,
                minimum=0,
                step=0.01,
                label="Limit",
                info="A loss may rise by this share above its best before the report warns: 0.1 is a tenth.",
                elem_id="chain-limit",
            )
        total = markup.block(markup.note(NO_STAGES), elem_id="chain-total")
        with gr.Row(elem_classes=["fields", "fields-wide"]):
            name = gr.Textbox(
                label="Name of the chain", placeholder="optional", max_lines=1, max_length=120, elem_id="chain-name"
            )
        with gr.Row(elem_classes=["actions"]):
            start = gr.Button("Start the chain", variant="primary", elem_id="chain-start")
        with gr.Accordion("The chain as JSON", open=False, elem_classes=["fold"]):
            text = gr.Code(
                _as_text(EMPTY),
                language="json",
                label="Chain (JSON)",
                max_lines=24,
                elem_id="chain-json",
                elem_classes=["code"],
            )
            use_text = gr.Button("Use this text", size="sm", elem_id="chain-use-json")
    return Builder(
        draft=gr.State(EMPTY),
        looks=looks,
        starts=starts,
        rows=rows,
        add=add,
        clear=clear,
        probe=probe,
        limit=limit,
        total=total,
        name=name,
        start=start,
        text=text,
        use_text=use_text,
    )


def _demo_card() -> tuple[dict[str, gr.Button], dict[str, gr.Button]]:
    looks: dict[str, gr.Button] = {}
    starts: dict[str, gr.Button] = {}
    with gr.Column(elem_classes=["card"], min_width=0):
        markup.block(markup.card_title(None, "Ready-made chains", "on the demo model, in a few minutes"))
        for key, demo in DEMO_CHAINS.items():
            with gr.Row(elem_classes=["stage-line"]):
                markup.block(_two_lines(demo.title, demo.sentence), elem_classes=["stage-words"], min_width=0)
                with gr.Row(elem_classes=["actions"]):
                    starts[key] = gr.Button(
                        "Start", variant="primary", size="sm", elem_id=f"chain-demo-{key.replace('_', '-')}"
                    )
                    looks[key] = gr.Button("Look first", size="sm", elem_id=f"chain-look-{key.replace('_', '-')}")
    return looks, starts


def _stage_row(number: int) -> StageRow:
    with gr.Row(visible=False, elem_classes=["stage-line"], elem_id=f"stage-{number + 1}") as row:
        text = markup.block("", elem_classes=["stage-words"], min_width=0)
        with gr.Row(elem_classes=["fields", "stage-fields"]):
            start = gr.Dropdown(choices=[], label="Starts from", elem_id=f"stage-{number + 1}-start")
            other = gr.Dropdown(choices=[], label="Other model", visible=False, elem_id=f"stage-{number + 1}-other")
            replay = gr.Number(
                value=0, minimum=0, maximum=10, step=0.05, label="Replay", info="Earlier rows, as a share of its own.",
                elem_id=f"stage-{number + 1}-replay",
            )  # fmt: skip
            remove = gr.Button("Remove", size="sm", elem_id=f"stage-{number + 1}-remove")
    return StageRow(row=row, text=text, start=start, other=other, replay=replay, remove=remove)


# --- edits: each gives the changed draft ----------------------------------------------------------------------------


def added(draft: Chain, plan: Plan) -> Chain:
    """The draft with the plan as its last stage; it goes on from an earlier stage that began with the same model."""
    if len(draft.stages) >= MOST_STAGES:
        raise TOO_MANY
    kind = OBJECTIVES[plan.objective].task
    goes_on = any(stage.plan.model == plan.model and OBJECTIVES[stage.plan.objective].task == kind for stage in draft.stages)
    return dataclasses.replace(draft, stages=(*draft.stages, Stage(plan=plan, goes_on=goes_on)))


def without(draft: Chain, number: int) -> Chain:
    """The draft without a stage. What referred to it goes on from the last result, or names no model any more."""
    kept = [stage for place, stage in enumerate(draft.stages) if place != number]
    gone = f"@{number + 1}"

    def moved(value: Any) -> Any:
        if not (isinstance(value, str) and value.startswith("@")):
            return value
        return "" if value == gone else f"@{int(value[1:]) - (int(value[1:]) > number)}"

    stages = []
    for place, stage in enumerate(kept):
        options = {name: moved(value) for name, value in stage.plan.objective_options.items()}
        model = moved(stage.plan.model) or _first_model(draft)
        plan = stage.plan.with_(objective_options=options, model=model)
        stages.append(dataclasses.replace(stage, plan=plan, goes_on=stage.goes_on and place > 0))
    return dataclasses.replace(draft, stages=tuple(stages))


def started_from(draft: Chain, number: int, value: str | None) -> Chain:
    """The draft in which a stage starts from another model: the last result, that of a stage ("@1"), or its own."""
    stage = _stage(draft, number)
    if not value:
        raise NO_MODEL
    plan = stage.plan if value == GOES_ON else stage.plan.with_(model=value)
    return _with_stage(draft, number, dataclasses.replace(stage, plan=plan, goes_on=value == GOES_ON))


def with_other(draft: Chain, number: int, value: str | None) -> Chain:
    """The draft in which a stage takes its reward model or teacher from an earlier stage."""
    stage = _stage(draft, number)
    name = other_model(stage.plan)
    if name is None or not value:
        raise NO_MODEL
    options = {**stage.plan.objective_options, name: value}
    return _with_stage(draft, number, dataclasses.replace(stage, plan=stage.plan.with_(objective_options=options)))


def replayed(draft: Chain, number: int, share: float | None) -> Chain:
    """The draft in which a stage sees earlier rows again."""
    return _with_stage(draft, number, dataclasses.replace(_stage(draft, number), replay=float(share or 0)))


def _stage(draft: Chain, number: int) -> Stage:
    """A stage of the draft. The page may show one that is gone: the server was started again, or another tab removed it."""
    if number >= len(draft.stages):
        raise GONE
    return draft.stages[number]


def _with_stage(draft: Chain, number: int, stage: Stage) -> Chain:
    return dataclasses.replace(draft, stages=(*draft.stages[:number], stage, *draft.stages[number + 1 :]))


def other_model(plan: Plan) -> str | None:
    """The option of the plan's objective that names a second model, if it has one."""
    return next((option.name for option in OBJECTIVES[plan.objective].options if option.name in OTHER_MODELS), None)


def checked(draft: Chain) -> Chain:
    """The draft as it can be started. Raises `PlanError`."""
    return chains.from_dict(chains.to_dict(draft))


def demo_chain(key: str) -> Chain:
    """A ready-made chain."""
    return chains.from_json(DEMO_CHAINS[key].file.read_text(encoding="utf-8"))


# --- how a draft is drawn -------------------------------------------------------------------------------------------


def redrawn(builder: Builder, draft: Chain, estimator: Estimator) -> Iterator[dict[Component, Any]]:
    """The updates that show a draft: first the stages, then their prices, one by one, then the whole."""
    yield {builder.draft: draft, **_rows(builder, draft), **_rest(builder, draft), builder.total: _waiting(draft)}
    if not draft.stages:
        return
    try:
        plans = chains.plans_to_price(checked(draft))
    except PlanError as error:
        yield {builder.total: _problems(error.issues)}
        return
    if not estimator.ready:
        yield {builder.total: markup.note(WARMING)}
        return
    found: list[Estimate] = []
    for number, plan in enumerate(plans):
        try:
            found.append(_estimate(plan, estimator))
        except PlanError as error:
            named = [dataclasses.replace(one, field=f"stages[{number + 1}].{one.field}") for one in error.issues]
            yield {builder.total: _problems(named)}
            return
        yield {builder.rows[number].text: stage_words(draft, number, found[-1])}
    yield {builder.total: total_of(found)}


def _estimate(plan: Plan, estimator: Estimator) -> Estimate:
    errors = [issue for issue in checks.check(plan) if issue.severity == "error"]
    if errors:
        raise PlanError(errors)
    return estimator.ask(plan)


def _rows(builder: Builder, draft: Chain) -> dict[Component, Any]:
    updates: dict[Component, Any] = {}
    for number, row in enumerate(builder.rows):
        if number >= len(draft.stages):
            updates[row.row] = gr.update(visible=False)
            continue
        stage = draft.stages[number]
        updates |= {row.row: gr.update(visible=True), row.text: stage_words(draft, number), row.replay: gr.update(
            value=stage.replay, visible=number > 0)}  # fmt: skip
        updates[row.start] = gr.update(choices=_starts(draft, number), value=_start_of(stage), visible=number > 0)
        updates[row.other] = _others(draft, number)
    return updates


def _rest(builder: Builder, draft: Chain) -> dict[Component, Any]:
    return {
        builder.probe: gr.update(value=[source.path for source in draft.probe]),
        builder.limit: draft.limit,
        builder.text: _as_text(draft),
    }


def _as_text(draft: Chain) -> str:
    return json.dumps(chains.to_dict(draft), indent=2, ensure_ascii=False)


def _starts(draft: Chain, number: int) -> list[tuple[str, str]]:
    """Where a stage may start from."""
    own = draft.stages[number].plan.model
    own = _first_model(draft) if isinstance(own, str) and own.startswith("@") else own
    named = [(f"Its own model: {formats.model_name(Plan(model=own))}", own)] if isinstance(own, str) else []
    return [("The last result of its kind", GOES_ON), *((f"Stage {k}'s result", f"@{k}") for k in range(1, number + 1)), *named]


def _first_model(draft: Chain) -> Any:
    return draft.stages[0].plan.model


def _start_of(stage: Stage) -> Any:
    return GOES_ON if stage.goes_on else stage.plan.model


def _others(draft: Chain, number: int) -> dict[str, Any]:
    """The choice of a stage's reward model or teacher: the one that its plan names, or an earlier result."""
    plan = draft.stages[number].plan
    name = other_model(plan)
    if name is None or number == 0:
        return gr.update(visible=False)
    now = str(plan.objective_options.get(name, ""))
    planned = [(now or "none is named", now)] if not now.startswith("@") else []
    earlier = [(f"Stage {k}'s result", f"@{k}") for k in range(1, number + 1)]
    return gr.update(choices=[*earlier, *planned], value=now, label=OTHER_MODELS[name], visible=True)


def stage_words(draft: Chain, number: int, estimate: Estimate | None = None) -> str:
    """A stage in two lines: what it learns from what, and how; with its price once that is known."""
    plan = draft.stages[number].plan
    price = f" · {_price(estimate)}" if estimate is not None else ""
    return _two_lines(
        f"{number + 1}. {OBJECTIVES[plan.objective].label}", f"{data_of(plan)} · {formats.method_name(plan)}{price}"
    )


def data_of(plan: Plan) -> str:
    """The plan's data by their titles."""
    return ", ".join(data.title(source) for source in plan.datasets) or "no data"


def _two_lines(title: str, sentence: str) -> str:
    return f'<div class="stage-title">{formats.escape(title)}</div><div class="stage-what">{formats.escape(sentence)}</div>'


def _price(estimate: Estimate) -> str:
    parts = [formats.size(estimate.memory.total), _time(estimate.total_seconds), _money(estimate.cost)]
    return " · ".join(part for part in parts if part)


def _time(found: Any) -> str:
    return formats.duration(found.likely) if found is not None else ""


def _money(found: Any) -> str:
    return formats.money(found.likely) if found is not None else ""


def total_of(stages: list[Estimate]) -> str:
    """The whole chain: the memory of its largest stage, and the sums of time and cost."""
    found = priced.whole(stages)
    at = f" (stage {found.largest})" if len(stages) > 1 else ""
    figures = [
        ("Verdict", fitcard.VERDICTS[found.fits].title),
        ("Memory, the largest stage", f"{formats.size(found.memory)} of {formats.size(found.capacity)}{at}"),
        ("Time, all stages", _time(found.total_seconds) or formats.UNKNOWN),
    ]
    if found.cost is not None:
        figures.append(("Cost, all stages", _money(found.cost)))
    return markup.facts(figures)


def _waiting(draft: Chain) -> str:
    return markup.note("Working it out…" if draft.stages else NO_STAGES)


def _problems(issues: Any) -> str:
    return "".join(markup.note(formats.issue(issue), "bad") for issue in dict.fromkeys(issues))


# --- events ---------------------------------------------------------------------------------------------------------


def wire(builder: Builder, the_form: form.Form, estimator: Estimator) -> None:
    """Every edit changes the draft and draws it anew; starting belongs to the tab around it."""
    quiet: dict[str, Any] = {"concurrency_limit": 4, "show_progress": "hidden", "api_visibility": "private"}

    def edit(change: Callable[..., Chain]) -> Callable[..., Iterator[dict[Component, Any]]]:
        @guarded
        def handler(draft: Chain, *values: Any) -> Iterator[dict[Component, Any]]:
            yield from redrawn(builder, change(draft, *values), estimator)

        return handler

    @guarded
    def add(draft: Chain, **values: Any) -> Iterator[dict[Component, Any]]:
        yield from redrawn(builder, added(draft, form.read(values)), estimator)

    builder.add.click(
        add, inputs_kwargs={"draft": builder.draft, **the_form.controls}, outputs=builder.drawn, trigger_mode="once", **quiet
    )
    builder.clear.click(edit(lambda draft: EMPTY), builder.draft, builder.drawn, **quiet)
    builder.use_text.click(
        edit(lambda draft, text: chains.from_json(text or "")), [builder.draft, builder.text], builder.drawn, **quiet
    )
    for key, look in builder.looks.items():
        look.click(edit(lambda draft, key=key: demo_chain(key)), builder.draft, builder.drawn, **quiet)
    for number, row in enumerate(builder.rows):
        row.remove.click(edit(lambda draft, n=number: without(draft, n)), builder.draft, builder.drawn, **quiet)
        for control, change in ((row.start, started_from), (row.other, with_other), (row.replay, replayed)):
            control.input(
                edit(lambda draft, value, n=number, change=change: change(draft, n, value)),
                [builder.draft, control],
                builder.drawn,
                trigger_mode="always_last",
                **quiet,
            )
    for control, change in ((builder.probe, _with_probe), (builder.limit, _with_limit)):
        control.input(
            edit(lambda draft, value, change=change: change(draft, value)), [builder.draft, control], builder.drawn, **quiet
        )


def _with_probe(draft: Chain, paths: list[str]) -> Chain:
    return dataclasses.replace(draft, probe=tuple(DataSource(path=path) for path in paths or []))


def _with_limit(draft: Chain, limit: float | None) -> Chain:
    return dataclasses.replace(draft, limit=chains.LIMIT if limit is None else limit)
