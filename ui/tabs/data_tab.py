"""The Data tab: where the rows come from, what they become, what the model learns from, and what is odd about them.

The set itself is chosen once, for the plan: the picker here and the one of the Plan tab always say the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from engine import data
from engine.data import FORMATS, SHAPES, sources
from engine.data import token_counts as lengths
from engine.data.cleaning import CLEANINGS
from engine.data.formats import NAMES, Recognition
from engine.issues import PlanError
from engine.plan import DataSource, Plan
from ui.plan import form, mixture
from ui.plan.form import BASE, Form
from ui.views import charts, data_views, formats, markup
from ui.web.handlers import guarded

if TYPE_CHECKING:
    from engine.modeling.xray import XRay
    from estimators.service.client import Estimator

UPLOAD_TYPES = list(sources.UPLOAD_SUFFIXES)
SHOWN_ROWS = 3
MOST_ROLES = max(len(row.columns) + len(row.optional) for row in FORMATS.values())
TITLE = "Data"
AUTOMATIC = "as recognised"
AS_THEY_ARE = "The first rows, which training gets as they are"
LOOKING = "Looking through the rows…"
WARMING = "The estimator is warming up, a few seconds after the start of the app."
TOO_LATE = "The estimator did not start. Open this tab again, or look into the log of the app."
SECONDS_TO_WARM_UP = 60
WITH_VALUE = tuple(key for key, cleaning in CLEANINGS.items() if cleaning.value is not None)


@dataclass(frozen=True, kw_only=True)
class DataTab:
    """The parts of the tab that events read or write."""

    tab: gr.Tab
    open_: gr.State  # whether this tab is the open one
    picker: gr.Dropdown
    upload: gr.UploadButton
    source: gr.HTML
    hub: dict[str, Component]
    read_as: gr.Dropdown
    roles: tuple[gr.Dropdown, ...]
    preview: gr.HTML
    working: gr.HTML
    lengths: gr.HTML
    chart: gr.Plot
    findings: gr.HTML
    balance: gr.HTML
    held_out: gr.HTML
    number: gr.Number
    before: gr.Button
    after: gr.Button
    template: gr.Dropdown
    use_template: gr.Button
    row: gr.HTML
    ticks: gr.CheckboxGroup
    values: dict[str, Component]
    clean: gr.Button
    cleaned: gr.HTML

    @property
    def of_source(self) -> list[Component]:
        """What another set, or another way to read it, changes."""
        return [self.picker, self.source, self.preview, self.read_as, *self.roles]

    @property
    def of_look(self) -> list[Component]:
        """What a look through the rows changes."""
        looked = [self.lengths, self.chart, self.findings, self.balance, self.held_out]
        return [self.working, *looked, self.template, self.use_template, self.row, self.number]


# --- layout ---------------------------------------------------------------------------------------------------------


def build(tab: gr.Tab) -> DataTab:
    """Lay the tab out, for the first plan."""
    plan = form.defaults()
    with gr.Column(elem_classes=["page"], min_width=0):
        with gr.Row(elem_classes=["page-head"]):
            markup.block(markup.heading(TITLE, "What the model will read, and what it will learn from, before any training."))
            picker = gr.Dropdown(
                choices=form.data_choices(),
                value=plan.datasets[0].path,
                label="Training data",
                allow_custom_value=True,
                elem_id="data-set",
            )
        source, preview, upload, hub, read_as, roles = _source_card(plan)
        working = markup.block("", elem_id="data-working")
        with gr.Row(elem_classes=["charts"]):
            number, before, after, template, use_template, row = _row_card()
            with gr.Column(elem_classes=["column"], min_width=0):
                lengths_, chart = _length_card()
                findings, balance, held_out = _finding_card()
        ticks, values, clean, cleaned = _clean_card()
    return DataTab(
        tab=tab, open_=gr.State(False), picker=picker, upload=upload, source=source, hub=hub, read_as=read_as,
        roles=roles, preview=preview, working=working, lengths=lengths_, chart=chart, findings=findings, balance=balance,
        held_out=held_out, number=number, before=before, after=after, template=template, use_template=use_template, row=row,
        ticks=ticks, values=values, clean=clean, cleaned=cleaned,
    )  # fmt: skip


def _source_card(plan: Plan) -> tuple[Any, ...]:
    with gr.Column(elem_classes=["card"], min_width=0):
        markup.block(markup.card_title(1, "Source"))
        source = markup.block("", elem_id="data-source")
        upload = gr.UploadButton(
            "Upload a file", file_types=UPLOAD_TYPES, size="sm", elem_id="data-upload", elem_classes=["upload"]
        )
        preview = markup.block("", elem_id="data-preview")
        with (
            gr.Accordion("Read the columns by hand", open=False, elem_classes=["fold"], elem_id="data-columns"),
            gr.Row(elem_classes=["fields"]),
        ):
            choices = [(AUTOMATIC, ""), *((row.label, key) for key, row in FORMATS.items())]
            read_as = gr.Dropdown(choices=choices, value="", label="Read the rows as", elem_id="read-as")
            roles = tuple(
                gr.Dropdown(choices=[], visible=False, label="Column", elem_id=f"role-{n}") for n in range(MOST_ROLES)
            )
        with (
            gr.Accordion("From the Hugging Face hub", open=False, elem_classes=["fold"], elem_id="data-hub"),
            gr.Row(elem_classes=["fields"]),
        ):
            hub = {
                "path": gr.Textbox(label="Data set", info="owner/name", max_lines=1, elem_id="hub-path"),
                "config": gr.Textbox(label="Config", info="Empty if it has one only.", max_lines=1, elem_id="hub-config"),
                "split": gr.Textbox("train", label="Split", max_lines=1, elem_id="hub-split"),
                "fetch": gr.Button("Fetch", size="sm", elem_id="hub-fetch", elem_classes=["survey-ask"]),
            }
    return source, preview, upload, hub, read_as, roles


def _row_card() -> tuple[Any, ...]:
    with gr.Column(elem_classes=["card", "xray"], min_width=0):
        markup.block(markup.card_title(2, "One row, as the model reads it"))
        with gr.Row(elem_classes=["stepper"]):
            before = gr.Button("←", size="sm", min_width=0, elem_id="row-before")
            number = gr.Number(1, label="Row", minimum=1, precision=0, elem_id="row-number")
            after = gr.Button("→", size="sm", min_width=0, elem_id="row-after")
        template = gr.Dropdown(
            choices=[],
            visible=False,
            label="Chat template",
            info="The model's tokenizer has none. Choose one by name, and write the rows with it to train on them.",
            elem_id="row-template",
        )
        use_template = gr.Button(
            "Write a version with this template", size="sm", visible=False, elem_id="template-go", elem_classes=["survey-ask"]
        )
        row = markup.block("", elem_id="row-tokens")
    return number, before, after, template, use_template, row


def _length_card() -> tuple[Any, ...]:
    with gr.Column(elem_classes=["card", "chart"], min_width=0):
        markup.block(markup.card_title(3, "Lengths"))
        facts = markup.block("", elem_id="length-facts")
        chart = gr.Plot(show_label=False, label="Rows by length", elem_id="length-chart")
    return facts, chart


def _finding_card() -> tuple[Any, ...]:
    with gr.Column(elem_classes=["card"], min_width=0):
        markup.block(markup.card_title(4, "What is odd"))
        findings = markup.block("", elem_id="findings")
        balance = markup.block("", elem_id="balance")
        held_out = markup.block("", elem_id="held-out")
    return findings, balance, held_out


def _clean_card() -> tuple[Any, ...]:
    values: dict[str, Component] = {}
    with gr.Column(elem_classes=["card"], min_width=0):
        markup.block(markup.card_title(5, "Clean", "writes a new version, the old one stays"))
        ticks = gr.CheckboxGroup(
            choices=[(cleaning.label, key) for key, cleaning in CLEANINGS.items()],
            value=["drop_bad", "deduplicate"],
            label="What to do",
            elem_id="clean-what",
            elem_classes=["pills"],
        )
        with gr.Row(elem_classes=["fields"]):
            for key in WITH_VALUE:
                cleaning = CLEANINGS[key]
                kind = gr.Number if isinstance(cleaning.value, int) else gr.Textbox
                values[key] = kind(value=cleaning.value, label=cleaning.label, visible=False, elem_id=f"clean-{key}")
        clean = gr.Button("Write a cleaned version", size="sm", elem_id="clean-go", elem_classes=["survey-ask"])
        cleaned = markup.block("", elem_id="cleaned")
    return ticks, values, clean, cleaned


# --- what is shown --------------------------------------------------------------------------------------------------


def source_shown(tab: DataTab, plan: Plan) -> dict[Component, Any]:
    """The first set of a plan: its facts, its first rows, and the columns that can be mapped."""
    if not plan.datasets:
        return {tab.source: markup.note("No data yet. Choose a demo set, or upload a file.")}
    source = plan.datasets[0]
    scan = data.scan(source, lengths.accepts(plan))
    return {
        tab.picker: gr.update(choices=form.data_choices(*form.own_data(plan)), value=source.path),
        tab.source: data_views.source_facts(scan) + _others(plan),
        tab.preview: preview(source, lengths.accepts(plan), scan.format),
        **_columns(tab, source, scan.columns),
    }


def _others(plan: Plan) -> str:
    told = mixture.shares(plan)
    return told + markup.note("The sets are looked through together; of the files, the first one is shown.") if told else ""


def preview(source: DataSource, accepts: tuple[str, ...], becomes: str) -> str:
    """The first rows as they are in the file, and as training gets them."""
    try:
        found = data.preview(source, accepts, SHOWN_ROWS)
    except PlanError:
        return ""
    if found.same:
        return data_views.rows_table(found.raw, AS_THEY_ARE)
    told = f"What training gets: {', '.join(SHAPES[becomes])}" if becomes else ""
    raw = data_views.rows_table(found.raw, "The file's first rows")
    return raw + (data_views.rows_table(found.read, told) if found.read else "")


def _columns(tab: DataTab, source: DataSource, columns: tuple[str, ...]) -> dict[Component, Any]:
    """The form of the mapping, as the plan has it."""
    chosen = Recognition().format_of(source.columns) if source.columns else None
    updates: dict[Component, Any] = {tab.read_as: chosen.key if chosen else ""}
    return updates | roles_shown(tab, chosen.key if chosen else "", columns, source)


def roles_shown(tab: DataTab, key: str, columns: tuple[str, ...], source: DataSource) -> dict[Component, Any]:
    """One dropdown for each column that the format needs or may have."""
    wanted = [*FORMATS[key].columns, *FORMATS[key].optional] if key else []
    updates: dict[Component, Any] = {}
    for place, dropdown in enumerate(tab.roles):
        if place >= len(wanted):
            updates[dropdown] = gr.update(visible=False, value=None)
            continue
        name = NAMES.get(wanted[place], (wanted[place],))[0]
        needed = wanted[place] in FORMATS[key].columns
        guess = source.columns.get(name) or next((one for one in NAMES.get(wanted[place], (name,)) if one in columns), None)
        label = name if needed else f"{name} (optional)"
        updates[dropdown] = gr.update(visible=True, choices=list(columns), value=guess, label=label)
    return updates


def mapping(key: str, chosen: tuple[str | None, ...]) -> dict[str, str]:
    """The mapping that the dropdowns say: our column -> the file's. Empty while a needed one is missing."""
    if not key:
        return {}
    wanted = [*FORMATS[key].columns, *FORMATS[key].optional]
    pairs = {NAMES.get(role, (role,))[0]: column for role, column in zip(wanted, chosen, strict=False) if column}
    needed = [NAMES.get(role, (role,))[0] for role in FORMATS[key].columns]
    return pairs if all(name in pairs for name in needed) else {}


def look_shown(tab: DataTab, plan: Plan, found: XRay, row: str) -> dict[Component, Any]:
    """The X-ray."""
    return {
        tab.working: "",
        tab.lengths: data_views.length_facts(found),
        tab.chart: gr.update(value=charts.lengths(found), visible=True) if found.longest else gr.update(visible=False),
        tab.findings: data_views.findings(found),
        tab.balance: data_views.shares("Classes", found.classes)
        or data_views.shares("Languages and alphabets", found.languages),
        tab.held_out: data_views.held_out(found, plan.eval_fraction, plan.seed),
        tab.template: gr.update(
            visible=bool(found.templates),
            choices=[(label, key) for key, label in found.templates],
            value=found.template if found.templates else None,
        ),
        tab.use_template: gr.update(visible=bool(found.templates)),
        tab.row: row,
    }


def nothing_looked(tab: DataTab, sentence: str, kind: str = "plain") -> dict[Component, Any]:
    """The tab without an X-ray, and why."""
    empty = dict.fromkeys((tab.lengths, tab.findings, tab.balance, tab.held_out, tab.row), "")
    return {tab.working: markup.note(sentence, kind), tab.chart: None, **empty}


# --- events ---------------------------------------------------------------------------------------------------------


def is_open(event: gr.SelectData) -> bool:
    """Whether the tab that a person opened is this one: rows are not looked through for nobody."""
    return event.value == TITLE


def wire(tab: DataTab, the_form: Form, estimator: Estimator, page: gr.Blocks, tabs: gr.Tabs) -> None:
    """Show the plan's set, look through it, and write what is chosen here back into the plan's form."""
    controls = the_form.controls
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def show_source(**values: Any) -> dict[Component, Any]:
        return source_shown(tab, form.read(values))

    @guarded
    def look(**values: Any) -> Iterator[dict[Component, Any]]:
        yield from looked_through(tab, form.read(values), estimator)

    @guarded
    def look_with(template: str, number: float, **values: Any) -> Iterator[dict[Component, Any]]:
        yield from looked_through(tab, form.read(values), estimator, template=template or "", number=int(number or 1))

    @guarded
    def list_sets(**values: Any) -> dict[Component, Any]:
        choices = form.data_choices(*form.own_data(form.read(values)))
        return {dropdown: gr.update(choices=choices) for dropdown in (controls["datasets"], tab.picker)}

    lists = [controls["datasets"], tab.picker]
    page.load(list_sets, inputs_kwargs=controls, outputs=lists, concurrency_limit=None, **quiet)

    @guarded
    def look_if_open(open_: bool, **values: Any) -> Iterator[dict[Component, Any]]:
        if open_:
            yield from looked_through(tab, form.read(values), estimator)
        else:
            yield {tab.working: gr.skip()}

    # The plan that is kept beside the form changes when sets are mixed or columns mapped, and the picker stays as it is.
    changed = [controls["datasets"].change, controls[BASE].change]
    last: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 8, **quiet}
    gr.on([tab.tab.select, *changed], show_source, inputs_kwargs=controls, outputs=tab.of_source, **last)
    tab.tab.select(look, inputs_kwargs=controls, outputs=tab.of_look, **last)
    gr.on(changed, look_if_open, inputs_kwargs={"open_": tab.open_, **controls}, outputs=tab.of_look, **last)
    tabs.select(guarded(is_open), None, tab.open_, concurrency_limit=None, **quiet)
    tab.template.input(
        look_with,
        inputs_kwargs={"template": tab.template, "number": tab.number, **controls},
        outputs=tab.of_look,
        concurrency_limit=2,
        **quiet,
    )
    _wire_row(tab, the_form, estimator)
    _wire_source(tab, the_form)
    _wire_columns(tab, the_form)
    _wire_clean(tab, the_form, estimator)


def looked_through(
    tab: DataTab, plan: Plan, estimator: Estimator, *, template: str = "", number: int = 1
) -> Iterator[dict[Component, Any]]:
    """The X-ray of a plan, or the sentence that says why there is none."""
    if not estimator.ready:
        yield nothing_looked(tab, WARMING)
        if not estimator.wait(SECONDS_TO_WARM_UP):
            yield nothing_looked(tab, TOO_LATE, "bad")
            return
    yield {tab.working: markup.note(LOOKING)}
    try:
        found = estimator.xray(plan, template)
        row = data_views.row(estimator.look(plan, number, found.template if found.templates else ""))
    except PlanError as error:
        yield nothing_looked(tab, " ".join(formats.issue(issue) for issue in error.issues[:2]), "bad")
        return
    yield look_shown(tab, plan, found, row) | {tab.number: number}


def _wire_row(tab: DataTab, the_form: Form, estimator: Estimator) -> None:
    def step(by: int) -> Any:
        @guarded
        def show_row(number: float, template: str | None, **values: Any) -> dict[Component, Any]:
            wanted = max(1, int(number or 1) + by)
            found = estimator.look(form.read(values), wanted, template or "")
            return {tab.row: data_views.row(found), tab.number: wanted}

        return show_row

    inputs = {"number": tab.number, "template": tab.template, **the_form.controls}
    for event, by in ((tab.before.click, -1), (tab.after.click, 1), (tab.number.submit, 0), (tab.number.blur, 0)):
        event(
            step(by),
            inputs_kwargs=inputs,
            outputs=[tab.row, tab.number],
            concurrency_limit=4,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )


def _wire_source(tab: DataTab, the_form: Form) -> None:
    controls = the_form.controls
    outputs = [controls[BASE], controls["datasets"], tab.working, tab.cleaned]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def choose(path: str, **values: Any) -> dict[Component, Any]:
        return {tab.cleaned: ""} | chosen(the_form, form.read(values), DataSource(path=str(path or "").strip()))

    @guarded
    def upload(file: str | None, **values: Any) -> dict[Component, Any]:
        return {tab.cleaned: ""} | chosen(the_form, form.read(values), form.stored(file))

    @guarded
    def fetch(path: str | None, config: str | None, split: str | None, **values: Any) -> Iterator[dict[Component, Any]]:
        yield {tab.working: markup.note("Fetching…")}
        source = DataSource(path=(path or "").strip(), config=(config or "").strip(), split=(split or "").strip() or "train")
        try:
            fetch_checked(source)
        except PlanError as error:
            yield {tab.working: markup.note(" ".join(formats.issue(issue) for issue in error.issues), "bad")}
            return
        yield {tab.working: ""} | chosen(the_form, form.read(values), source)

    tab.picker.input(choose, inputs_kwargs={"path": tab.picker, **controls}, outputs=outputs, concurrency_limit=None, **quiet)
    tab.upload.upload(upload, inputs_kwargs={"file": tab.upload, **controls}, outputs=outputs, concurrency_limit=2, **quiet)
    hub = {name: tab.hub[name] for name in ("path", "config", "split")}
    tab.hub["fetch"].click(fetch, inputs_kwargs={**hub, **controls}, outputs=outputs, concurrency_limit=2, **quiet)


def fetch_checked(source: DataSource) -> None:
    """Fetch a hub set. Raises `PlanError` if the words are no hub id."""
    if not data.is_hub(source):
        raise sources.wrong(f"{source.path[:80]!r} is not the id of a data set of the hub.", "Write it as owner/name.")
    data.fetch(source)


def chosen(the_form: Form, plan: Plan, source: DataSource) -> dict[Component, Any]:
    """The form with another first set: the plan's picker shows it, and the sets that are mixed in stay."""
    plan = plan.with_(datasets=(source, *plan.datasets[1:]))
    return {
        the_form.controls[BASE]: plan.to_json(),
        the_form.controls["datasets"]: gr.update(choices=form.data_choices(*form.own_data(plan)), value=source.path),
    }


def _wire_columns(tab: DataTab, the_form: Form) -> None:
    controls = the_form.controls
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def show_roles(key: str, **values: Any) -> dict[Component, Any]:
        plan = form.read(values)
        source = dataclasses.replace(plan.datasets[0], columns={})
        columns = data.scan(source, lengths.accepts(plan)).columns
        return roles_shown(tab, key or "", columns, source)

    @guarded
    def map_columns(key: str, **values: Any) -> dict[Component, Any]:
        picked = tuple(values.pop(f"role_{place}") for place in range(MOST_ROLES))
        plan = form.read(values)
        source = dataclasses.replace(plan.datasets[0], columns=mapping(key or "", picked))
        scan = data.scan(source, lengths.accepts(plan))
        return {
            controls[BASE]: plan.with_(datasets=(source, *plan.datasets[1:])).to_json(),
            tab.source: data_views.source_facts(scan) + _others(plan),
            tab.preview: preview(source, lengths.accepts(plan), scan.format),
        }

    roles = {f"role_{place}": dropdown for place, dropdown in enumerate(tab.roles)}
    inputs = {"key": tab.read_as, **roles, **controls}
    mapped = [controls[BASE], tab.source, tab.preview]
    tab.read_as.input(
        show_roles, inputs_kwargs={"key": tab.read_as, **controls}, outputs=list(tab.roles), concurrency_limit=None, **quiet
    ).then(map_columns, inputs_kwargs=inputs, outputs=mapped, concurrency_limit=None, **quiet)
    gr.on(
        [dropdown.input for dropdown in tab.roles],
        map_columns,
        inputs_kwargs=inputs,
        outputs=mapped,
        trigger_mode="always_last",
        concurrency_limit=None,
        **quiet,
    )


def _wire_clean(tab: DataTab, the_form: Form, estimator: Estimator) -> None:
    controls = the_form.controls
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    @guarded
    def show_values(ticks: list[str]) -> list[Any]:
        return [gr.update(visible=key in ticks) for key in WITH_VALUE]

    @guarded
    def clean(ticks: list[str], **values: Any) -> Iterator[dict[Component, Any]]:
        wishes = {key: values.pop(f"value_{key}") for key in WITH_VALUE}
        plan = form.read(values)
        yield {tab.cleaned: markup.note("Cleaning…")}
        try:
            result = estimator.clean(plan, {key: wishes.get(key, True) for key in ticks})
        except PlanError as error:
            yield {tab.cleaned: markup.note(" ".join(formats.issue(issue) for issue in error.issues[:2]), "bad")}
            return
        yield {tab.cleaned: data_views.cleaned(result)} | chosen(the_form, plan, result.source)

    @guarded
    def write_with(template: str, **values: Any) -> dict[Component, Any]:
        plan = form.read(values)
        result = estimator.clean(plan, {}, template)
        told = data_views.cleaned(result)
        return {tab.cleaned: told, tab.working: told} | chosen(the_form, plan, result.source)

    outputs = [tab.cleaned, tab.working, controls[BASE], controls["datasets"]]
    inputs = {"template": tab.template, **controls}
    tab.use_template.click(write_with, inputs_kwargs=inputs, outputs=outputs, trigger_mode="once", concurrency_limit=2, **quiet)
    tab.ticks.change(show_values, tab.ticks, list(tab.values.values()), concurrency_limit=None, **quiet)
    with_values = {f"value_{key}": control for key, control in tab.values.items()}
    tab.clean.click(
        clean,
        inputs_kwargs={"ticks": tab.ticks, **with_values, **controls},
        outputs=[tab.cleaned, controls[BASE], controls["datasets"]],
        trigger_mode="once",
        concurrency_limit=2,
        **quiet,
    )
