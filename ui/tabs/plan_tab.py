"""The Plan tab: the choices at the left, the fit card at the right, and the button that starts the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine import checks, data
from engine.catalog import hardware, models
from engine.catalog.hardware import THIS_MACHINE
from engine.data import holdout, sources, token_counts
from engine.data.demos import DEMOS
from engine.issues import PlanError
from engine.jobs import runs
from engine.methods import METHODS
from engine.objectives import OBJECTIVES
from engine.plan import FIELDS, Plan
from estimators.timing import measured
from ui.plan import budget_rows, fix_rows, form, limit_rows, mixture, survey_table
from ui.plan.budget_rows import BudgetRows
from ui.plan.fix_rows import FixRows, Turn
from ui.plan.form import BASE, Form
from ui.plan.mixture import Mixture
from ui.plan.offers import Offers
from ui.plan.survey_table import Survey
from ui.views import fitcard, formats, markup
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from estimators.service.client import Estimator

UPLOAD_TYPES = list(sources.UPLOAD_SUFFIXES)
MODEL_INFO = "Search the catalogue, or enter any Hugging Face id or the text of a config.json."
MODEL_INFO_LOCAL = "Search the catalogue, or enter any Hugging Face id, a local folder or the text of a config.json."
DATA_INFO = "A demo set, or your own rows. The Data tab shows what the model learns from."
WAIT = "() => ({__type__: 'update', interactive: false})"
ELSEWHERE = "This GPU is not in this machine, so the run cannot start here. Take the plan to where that GPU is:"


@dataclass(frozen=True, kw_only=True)
class PlanTab:
    """The parts of the tab that events read or write."""

    form: Form
    demos: gr.Radio
    run_name: gr.Textbox
    upload: gr.UploadButton
    mixture: Mixture
    uploads: gr.State  # (label, path) of this page's uploads
    model_title: gr.HTML
    data_title: gr.HTML
    method_title: gr.HTML
    card: gr.HTML
    working: gr.HTML
    start: gr.Button
    elsewhere: gr.HTML
    plan_json: gr.Code
    warming: gr.Timer
    fixes: FixRows
    gpu_survey: Survey
    method_survey: Survey
    limits: Offers
    budget: BudgetRows

    @property
    def rendered(self) -> list[Component]:
        """What a changed plan changes."""
        return [
            self.card,
            self.working,
            self.start,
            self.elsewhere,
            self.plan_json,
            self.model_title,
            self.data_title,
            self.mixture.told,
            self.method_title,
            self.form.controls["learning_rate"],
        ]


# --- layout ---------------------------------------------------------------------------------------------------------


def build() -> PlanTab:
    """Lay the tab out, showing the first plan."""
    plan = form.defaults()
    controls: dict[str, Component] = {BASE: gr.State(plan.to_json())}
    titles: dict[str, gr.HTML] = {}
    with gr.Row(elem_classes=["plan"]):
        with gr.Column(elem_classes=["plan-choices"], min_width=0):
            markup.block(
                markup.heading(
                    "What would you like to fine-tune?",
                    "Choose from the top; the card is a dry run of the real training step, redone as you choose.",
                ),
            )
            demos = _demos(plan)
            _model_card(plan, controls, titles)
            upload, mixed = _data_card(plan, controls, titles)
            method_survey, within = _method_card(plan, controls, titles)
            run_name, gpu_survey = _hardware_card(plan, controls)
            with gr.Accordion("The plan as JSON", open=False, elem_classes=["fold"]):
                plan_json = gr.Code(
                    plan.to_json(),
                    language="json",
                    label="Plan (JSON)",
                    interactive=False,
                    max_lines=24,
                    elem_id="plan-json",
                    elem_classes=["code"],
                )
        with gr.Column(elem_id="fit-side", elem_classes=["fit-side"], min_width=0):
            markup.block(fitcard.fold_switch(), elem_classes=["fit-fold"])
            card = markup.block(fitcard.waiting(), elem_id="fit-card")
            fixes = fix_rows.build()
            further = limit_rows.build()
            with gr.Column(elem_classes=["fit-go"], min_width=0):
                working = markup.block("", elem_id="fit-working")
                start = gr.Button("Start training", variant="primary", elem_id="start-training")
                elsewhere = markup.block("", visible=False, elem_id="elsewhere")
    return PlanTab(
        form=Form(controls=controls),
        demos=demos,
        run_name=run_name,
        upload=upload,
        mixture=mixed,
        uploads=gr.State([]),
        model_title=titles["model"],
        data_title=titles["data"],
        method_title=titles["method"],
        card=card,
        working=working,
        start=start,
        elsewhere=elsewhere,
        plan_json=plan_json,
        warming=gr.Timer(1.0),
        fixes=fixes,
        gpu_survey=gpu_survey,
        method_survey=method_survey,
        limits=further,
        budget=within,
    )


def _title(number: int, title: str, facts: str = "") -> gr.HTML:
    return markup.block(markup.card_title(number, title, facts))


def _demos(plan: Plan) -> gr.Radio:
    """The demos by the first words of their titles: one click brings a demo's whole plan, the next one starts it."""
    return gr.Radio(
        choices=form.demo_choices(),
        value=form.demo_of(plan.datasets[0].path),
        label="Begin with a demo",
        elem_id="demos",
        elem_classes=["pills", "demos"],
    )


def _model_card(plan: Plan, controls: dict[str, Component], titles: dict[str, gr.HTML]) -> None:
    with gr.Column(elem_classes=["card"], min_width=0):
        titles["model"] = _title(1, "Model", form.model_facts(plan))
        controls["model"] = gr.Dropdown(
            choices=form.model_choices(plan.objective),
            value=plan.model,
            label="Model",
            info=MODEL_INFO_LOCAL if models.local_paths_allowed() else MODEL_INFO,
            allow_custom_value=True,
            num_choices_shown=400,
            elem_id="model",
        )


def _data_card(plan: Plan, controls: dict[str, Component], titles: dict[str, gr.HTML]) -> tuple[gr.UploadButton, Mixture]:
    with gr.Column(elem_classes=["card"], min_width=0):
        titles["data"] = _title(2, "Data", data_facts(plan))
        with gr.Row(elem_classes=["fields", "fields-wide"]):
            controls["datasets"] = gr.Dropdown(
                choices=form.data_choices(),
                value=plan.datasets[0].path,
                label="Training data",
                info=DATA_INFO,
                allow_custom_value=True,  # a loaded plan may name an upload of another day; the engine checks the words
                elem_id="dataset",
            )
            controls["max_length"] = form.control("max_length", FIELDS["max_length"], plan.max_length)
        mixed = mixture.build(controls)
        with gr.Row(elem_classes=["fields", "fields-wide"]):
            controls["objective"] = gr.Dropdown(
                choices=form.objective_choices(),
                value=plan.objective,
                label="Objective",
                info="What the model is trained for. Type to search.",
                filterable=True,
                elem_id="objective",
            )
        with gr.Row(elem_classes=["fields", "objective-fields"]):
            _objective_options("common", plan, controls)
        upload = gr.UploadButton(
            "Upload your own data", file_types=UPLOAD_TYPES, size="sm", elem_id="upload", elem_classes=["upload"]
        )
    return upload, mixed


def _method_card(plan: Plan, controls: dict[str, Component], titles: dict[str, gr.HTML]) -> tuple[Survey, BudgetRows]:
    names = form.option_names()
    method = METHODS[plan.method]
    with gr.Column(elem_classes=["card"], min_width=0):
        titles["method"] = _title(3, "Method", "")
        controls[form.BEFORE] = gr.State(method.key)
        controls[form.CARD] = gr.Radio(
            choices=form.card_choices(),
            value=form.card_of(method.key),
            label="How the model is changed",
            elem_id="method",
            elem_classes=["cards"],
        )
        controls["method"] = gr.Dropdown(
            choices=form.method_choices(),
            value=method.key,
            label="Or any other method",
            info=f"All {len(form.method_choices())} of them. Type to search: a name, a family, or what it should do.",
            filterable=True,
            elem_id="all-methods",
        )
        with gr.Row(elem_classes=["fields"]):
            _options(names, "common", method, plan, controls)
            _generated("common", plan, controls)
        more = gr.Accordion("More settings", open=False, elem_classes=["fold"], elem_id="more-settings")
        with more, gr.Row(elem_classes=["fields"]):
            _options(names, "more", method, plan, controls)
            controls[form.OTHER] = gr.Textbox(
                form.others_text(method, plan.method_options),
                label="All other options of the method",
                info=form.others_help(method),
                max_lines=4,
                visible=bool(method.options),
                elem_id="option-others",
            )
            _objective_options("more", plan, controls)
            controls[form.OBJECTIVE_OPTIONS] = gr.Textbox(
                "", label="What else the plan says of its objective", max_lines=4, visible=False, elem_id="objective-options"
            )
            controls["quantization"] = form.quantization_control(plan)
            _generated("more", plan, controls)
        within = budget_rows.build()
        return survey_table.methods(), within


def _options(names: dict[str, Any], group: str, method: Any, plan: Plan, controls: dict[str, Component]) -> None:
    """The controls of all methods' options of a group; those of the other methods are there, but hidden."""
    own = dict(form.options_of(method))
    for name, first in names.items():
        option = own.get(name, first)
        if first.knob.group == group:
            value = plan.method_options.get(option.name, option.default)
            controls[name] = form.control(name, option.knob, value, visible=name in own)


def _objective_options(group: str, plan: Plan, controls: dict[str, Component]) -> None:
    """The controls of all objectives' options of a group; those of the other objectives are there, but hidden."""
    own = dict(form.options_of_objective(OBJECTIVES[plan.objective]))
    for name, first in form.objective_option_names().items():
        option = own.get(name, first)
        if first.knob.group == group:
            value = plan.objective_options.get(option.name, option.default)
            controls[name] = form.control(name, option.knob, value, visible=name in own)


def _generated(group: str, plan: Plan, controls: dict[str, Component]) -> None:
    for name in form.GENERATED:
        if FIELDS[name].group == group:
            hint = form.recommended_rate(plan) if name == "learning_rate" else ""
            controls[name] = form.control(name, FIELDS[name], getattr(plan, name), hint=hint)


def _hardware_card(plan: Plan, controls: dict[str, Component]) -> tuple[gr.Textbox, Survey]:
    with gr.Column(elem_classes=["card"], min_width=0):
        _title(4, "Hardware")
        with gr.Row(elem_classes=["fields", "fields-wide"]):
            controls["gpu"] = gr.Dropdown(
                choices=form.gpu_choices(),
                value=plan.gpu,
                label="GPU",
                info="Where it will run. Any GPU can be planned for; a run starts on this machine.",
                num_choices_shown=200,
                elem_id="gpu",
            )
            run_name = gr.Textbox(
                label="Name of the run",
                info="For you to find it again. Empty: named after the data, the method and the model.",
                placeholder="optional",
                max_lines=1,
                max_length=120,
                elem_id="run-name",
            )
        return run_name, survey_table.gpus()


# --- what a plan looks like -----------------------------------------------------------------------------------------


def data_facts(plan: Plan) -> str:
    """The size of the data and its format; what is wrong with them is said in the fit card."""
    scans = [data.scan(source, token_counts.accepts(plan)) for source in plan.datasets]
    if any(found.errors for found in scans) or not scans:
        return ""
    facts = [
        f"{len(scans)} sets" if len(scans) > 1 else "",
        f"{formats.whole(sum(holdout.sizes(plan)))} rows",
        f"{formats.count(sum(found.characters for found in scans))} characters",
        f"longest {formats.whole(max(found.longest for found in scans))}",
        scans[0].format,
    ]
    return " · ".join(fact for fact in facts if fact)


def estimate(plan: Plan, estimator: Estimator) -> str:
    """The fit card of a plan, whatever comes of asking."""
    scans = (data.scan(source, token_counts.accepts(plan)) for source in plan.datasets)
    problems = [*checks.check(plan), *(issue for found in scans for issue in found.issues), *token_counts.check_shapes(plan)]
    errors = [issue for issue in problems if issue.severity == "error"]
    if errors:
        return fitcard.issues(dict.fromkeys(errors))
    if not estimator.ready:
        return fitcard.waiting("The estimator is warming up, a few seconds after the start of the app.")
    try:
        found = estimator.ask(plan)
        counted = token_counts.check(plan)  # of the tokens that the estimator has counted now
        if any(issue.severity == "error" for issue in counted):
            return fitcard.issues(counted)
        return fitcard.estimated(found, warnings=[*problems, *counted], measured=measured.of_plan(plan))
    except PlanError as error:
        return fitcard.issues(error.issues)


def rendered(tab: PlanTab, plan: Plan) -> dict[Component, Any]:
    """All that shows the plan, apart from the fit card."""
    here = plan.gpu in (THIS_MACHINE, hardware.this_machine().name)
    plan_json = plan.to_json()
    link = markup.save_link(plan_json, "plan.json", "Download the plan (JSON)")
    return {
        tab.start: gr.update(visible=here),
        tab.elsewhere: gr.update(value="" if here else markup.note(ELSEWHERE) + link, visible=not here),
        tab.plan_json: plan_json,
        tab.form.controls["learning_rate"]: gr.update(placeholder=form.recommended_rate(plan)),
        tab.model_title: markup.card_title(1, "Model", form.model_facts(plan)),
        tab.data_title: markup.card_title(2, "Data", data_facts(plan)),
        tab.mixture.told: mixture.shares(plan),
        tab.method_title: markup.card_title(3, "Method", f"When to use it: {METHODS[plan.method].use_when}"),
    }


# --- events ---------------------------------------------------------------------------------------------------------


def wire(tab: PlanTab, estimator: Estimator, page: gr.Blocks) -> None:
    """Estimate on every change, on load and when the estimator has warmed up; follow the method and the GPU."""

    @guarded
    def estimate_plan(turn: Turn, **values: Any) -> Iterator[dict[Component, Any]]:
        turn.next()  # fixes of the plan as it was are no longer looked for
        plan = form.read(values)
        yield {tab.working: '<p class="working">Working it out…</p>', **rendered(tab, plan)}
        yield {tab.card: estimate(plan, estimator), tab.working: ""}

    # `always_last`: while one estimate is under way, only the newest of the further changes is kept.
    estimated = gr.on(
        [page.load, *(control.change for control in (*tab.form.inputs, tab.form.controls[BASE]))],
        estimate_plan,
        inputs_kwargs={"turn": tab.fixes.turn, **tab.form.controls},
        outputs=tab.rendered,
        trigger_mode="always_last",
        concurrency_limit=8,
        show_progress="hidden",
        api_name="estimate_form",  # `ui/web/api.py` has the one for programs
    )
    estimated.failure(
        guarded(lambda: (fitcard.failed(), "")), None, [tab.card, tab.working], show_progress="hidden", api_visibility="private"
    )

    @guarded
    def estimate_when_ready(**values: Any) -> dict[Component, Any]:
        if not estimator.ready:
            return {tab.warming: gr.skip()}
        return {tab.card: estimate(form.read(values), estimator), tab.warming: gr.Timer(active=False)}

    warmed_up = tab.warming.tick(
        estimate_when_ready,
        inputs_kwargs=tab.form.controls,
        outputs=[tab.card, tab.warming],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    looked = fix_rows.wire(tab.fixes, tab.form, estimator, [estimated, warmed_up])
    limit_rows.wire(tab.limits, tab.form, tab.fixes.turn, estimator, looked)
    budget_rows.wire(tab.budget, tab.form, estimator)
    survey_table.wire(tab.gpu_survey, tab.method_survey, tab.form, estimator)
    mixture.wire(tab.mixture, tab.form)
    _wire_choices(tab)
    _wire_upload(tab)


def _wire_choices(tab: PlanTab) -> None:
    controls = tab.form.controls

    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def follow_method(method: str | None, before: str, quantization: str) -> dict[Component, Any]:
        if method is None:  # the field was emptied
            return {controls["method"]: gr.skip()}
        updates = form.method_updates(METHODS[method], tab.form, before=before, quantization=quantization)
        return updates | {controls["method"]: method}

    # `input` is a person's own choice: a loaded plan keeps the quantization and the precision that it says.
    beside = ["method", form.CARD, form.BEFORE, form.OTHER, "quantization"]
    follows = [controls[name] for name in (*form.option_names(), *beside)]
    for chooser in (controls[form.CARD], controls["method"]):
        chooser.input(follow_method, [chooser, controls[form.BEFORE], controls["quantization"]], follows, **quiet)
    controls["gpu"].input(guarded(form.precision_for), controls["gpu"], controls["precision"], **quiet)

    @guarded
    def follow_objective(key: str) -> dict[Component, Any]:
        return form.objective_updates(key, tab.form)

    of_objective = [controls[name] for name in (*form.objective_option_names(), form.OBJECTIVE_OPTIONS, "model")]
    controls["objective"].input(follow_objective, controls["objective"], of_objective, **quiet)

    @guarded
    def follow_demo(path: str, objective: str) -> dict[Component, Any]:
        plan = form.demo_plan(path, objective)
        return form.shown(plan, tab.form) if plan is not None else {controls["objective"]: gr.skip()}

    everything = list(controls.values())

    @guarded
    def take_demo(key: str | None) -> dict[Component, Any]:
        if key is None:
            return {tab.start: gr.update(interactive=True)}
        return form.shown(DEMOS[key].plan(), tab.form) | {tab.start: gr.update(interactive=True)}

    # A click on Start that overtakes the demo's plan would start the plan before it: the button waits in the browser.
    tab.demos.input(None, None, tab.start, js=WAIT, api_visibility="private")
    taken = tab.demos.input(take_demo, tab.demos, [*everything, tab.start], **quiet)
    taken.failure(guarded(lambda: gr.update(interactive=True)), None, tab.start, **quiet)
    controls["datasets"].change(guarded(form.demo_of), controls["datasets"], tab.demos, **quiet)
    controls["datasets"].input(follow_demo, [controls["datasets"], controls["objective"]], everything, **quiet)


def _wire_upload(tab: PlanTab) -> None:
    @guarded
    def upload(file: str | None, uploads: list[tuple[str, str]]) -> tuple[Any, list[tuple[str, str]]]:
        source = form.stored(file)
        uploads = [*uploads, (f"Yours: {Path(str(file)).name}", source.path)]
        listed = dict.fromkeys([*uploads, *form.own_data(form.defaults())])
        return gr.update(choices=form.data_choices(*listed), value=source.path), uploads

    tab.upload.upload(
        upload,
        [tab.upload, tab.uploads],
        [tab.form.controls["datasets"], tab.uploads],
        concurrency_limit=2,
        show_progress="hidden",
        api_visibility="private",
    )


def start_run(run_name: str, **values: Any) -> runs.Run:
    """Start the plan that the form shows. Raises `PlanError`."""
    return runs.start(form.read(values), name=(run_name or "").strip())
