"""The form <-> the Plan. The controls are made from `FIELDS` and from the options of `METHODS`; nothing is listed twice.

`Form.controls` maps argument names to controls and is passed to Gradio as `inputs_kwargs`, so a handler receives
`**values` by name and `read(values)` makes the Plan of them. `shown(plan)` is the way back. Fields that have no
control yet keep the values of the plan that was loaded last (`base`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from engine import data
from engine.adapters.peft_options import MEANT_FOR_PEFT_ITSELF
from engine.catalog import hardware, models
from engine.catalog.hardware import THIS_MACHINE
from engine.data.demos import DEMOS, PROBE, first_plan
from engine.issues import Issue, PlanError
from engine.methods import METHODS, Method, Option
from engine.modeling import build
from engine.objectives import OBJECTIVES, Objective
from engine.plan import FIELDS, SOURCE_KNOBS, DataSource, Knob, Plan
from ui.views import formats

BASE = "base"  # the argument that carries the loaded plan
CARD = "method_card"  # the cards of the most used methods, which follow the list of all
BEFORE = "method_before"  # the method whose options are shown
OTHER = "option_others"  # the chosen method's options without a control of their own, as JSON
OBJECTIVE_OPTIONS = "objective_options"  # what a loaded plan says of its objective that has no control, as JSON
MADE_BY_HAND = (
    "model",
    "objective",
    "datasets",
    "max_length",
    "method",
    "quantization",
    "gpu",
)  # each has its own place or rules
WITHOUT_CONTROL = ("version", "method_options", "objective_options")
GENERATED = tuple(
    name for name, knob in FIELDS.items() if knob.group != "hidden" and name not in (*MADE_BY_HAND, *WITHOUT_CONTROL)
)
MOST_SETS = 6  # of a mixture that the form can show (judgement)
MORE_SETS = tuple(range(2, MOST_SETS + 1))  # their numbers, beside the first one
MOST_RADIO_CHOICES = 4  # a longer list is a dropdown


@dataclass(frozen=True, kw_only=True)
class Form:
    """The controls of the plan, by the name of the argument that carries their value."""

    controls: dict[str, Component]

    @property
    def inputs(self) -> list[Component]:
        """The controls that a person can change."""
        return [control for name, control in self.controls.items() if name not in (BASE, CARD, BEFORE)]


def defaults() -> Plan:
    """The plan that the page starts with."""
    return first_plan()


# --- options: one control for all methods that share an option ------------------------------------------------------


@functools.cache
def option_names() -> Mapping[str, Option]:
    """Argument name -> the first option of that name. Options of one name and kind share a control, whatever their default."""
    return _named("option", METHODS.values())


@functools.cache
def objective_option_names() -> Mapping[str, Option]:
    """The same for the options of the objectives."""
    return _named("objective", OBJECTIVES.values())


def _named(prefix: str, rows: Iterable[Method | Objective]) -> dict[str, Option]:
    named: dict[str, Option] = {}
    for row in rows:
        for option in row.options:
            alike = any(_alike(option, known) for known in named.values())
            if option.knob.group != "hidden" and not alike:
                name = f"{prefix}_{option.name}"
                named[name if name not in named else f"{name}_of_{row.key}"] = option
    return named


def _alike(one: Option, two: Option) -> bool:
    """Whether one control serves both."""
    kinds = [(option.name, option.knob.kind, option.knob.optional, option.knob.choices) for option in (one, two)]
    return kinds[0] == kinds[1]


def options_of(method: Method) -> Iterator[tuple[str, Option]]:
    """The (argument name, option) pairs of one method's options that have a control."""
    for option in method.options:
        if option.knob.group != "hidden":
            yield next(name for name, first in option_names().items() if _alike(option, first)), option


def options_of_objective(objective: Objective) -> Iterator[tuple[str, Option]]:
    """The (argument name, option) pairs of one objective's options."""
    for option in objective.options:
        yield next(name for name, first in objective_option_names().items() if _alike(option, first)), option


def others_of(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a plan that have no control and are not at their defaults (or not the method's at all)."""
    defaults = {option.name: option.default for option in method.options}
    shown = {option.name for _, option in options_of(method)}
    return {name: value for name, value in options.items() if name not in shown and not _same(value, defaults.get(name, ...))}


def others_text(method: Method, options: Mapping[str, Any]) -> str:
    """Those as the form shows them."""
    others = others_of(method, options)
    return json.dumps(others) if others else ""


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def others_help(method: Method) -> str:
    """What may be written among the other options."""
    hidden = (option.name for option in method.options if option.knob.group == "hidden")
    names = ", ".join(name for name in hidden if name not in MEANT_FOR_PEFT_ITSELF)
    return f'As JSON, for instance {{"layers_to_transform": [0, 1]}}. There are: {names}.' if names else "This method has none."


# --- controls -------------------------------------------------------------------------------------------------------


def control(name: str, knob: Knob, value: Any, *, hint: str = "", **more: Any) -> Component:
    """The control of one knob. A control may be left empty: `hint` says what that means.

    `gr.Number` shows 0 for None, so a number that may be None is a text: it also reads and shows 2e-5 as people do.
    """
    common = {
        "label": knob.label,
        "info": knob.help,
        "value": to_control(knob, value),
        "elem_id": name.replace("_", "-"),
        **more,
    }
    if knob.kind == "flag":
        return gr.Checkbox(**common)
    if knob.kind == "choice" and len(knob.choices) <= MOST_RADIO_CHOICES:
        return gr.Radio(choices=list(knob.choices), elem_classes=["pills"], **common)
    if knob.kind == "choice":
        return gr.Dropdown(choices=list(knob.choices), **common)
    if knob.kind == "integer" and not knob.optional:
        return gr.Number(precision=0, placeholder=hint or placeholder(value), **common)
    if knob.kind == "number" and not knob.optional:
        return gr.Number(step=0.01, placeholder=hint or placeholder(value), **common)
    return gr.Textbox(placeholder=hint or placeholder(value), max_lines=1, **common)


def placeholder(value: Any) -> str:
    """What an empty control stands for."""
    return "" if value is None else f"{_text(value)} (default)"


def to_control(knob: Knob, value: Any) -> Any:
    """A plan's value as its control shows it."""
    if knob.kind in ("flag", "choice"):
        return value
    if value is None:
        return ""
    as_text = knob.optional or knob.kind in ("names", "object", "mapping")
    return _text(value) if as_text else value


def from_control(knob: Knob, value: Any, default: Any) -> Any:
    """A control's value as the plan has it; empty means the default."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return default
    if knob.kind == "names":
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        return names[0] if len(names) == 1 else names
    if knob.kind in ("object", "mapping"):
        return _from_json(value)
    if knob.kind in ("number", "integer") and isinstance(value, str):
        value = _number(value)
    whole = knob.kind == "integer" and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def _from_json(text: Any) -> Any:
    """What a text says as JSON; another text is a word."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return text.strip()


def _number(text: str) -> float | str:
    """The number that a text says; another text stays as it is, for the checks to name it."""
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(value) if all(isinstance(part, str) for part in value) else json.dumps(value)
    if isinstance(value, (Mapping, bool)):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def quantization_control(plan: Plan) -> Component:
    """The quantizations that go with the plan's method."""
    allowed = METHODS[plan.method].quantizations
    knob = dataclasses.replace(FIELDS["quantization"], choices=allowed)
    chosen = plan.quantization if plan.quantization in allowed else METHODS[plan.method].quantization
    return control("quantization", knob, chosen, visible=len(allowed) > 1)


def model_choices(objective: str) -> list[tuple[str, str]]:
    """The models that the objective can train: what a person types is looked for in name, id, size, family and licence."""
    return [(models.label(model), model.id) for model in models.trainable_models(OBJECTIVES[objective].task)]


def objective_choices() -> list[tuple[str, str]]:
    """All objectives; typing finds them by name or by what they do."""
    return [(f"{row.label}: {row.sentence}", key) for key, row in OBJECTIVES.items()]


def objective_updates(key: str, form: Form, options: Mapping[str, Any] | None = None) -> dict[Component, Any]:
    """Show what goes with the objective, and nothing else: its options, and the models that it can train."""
    own, given = dict(options_of_objective(OBJECTIVES[key])), dict(options or {})
    updates: dict[Component, Any] = {form.controls[name]: gr.update(visible=name in own) for name in objective_option_names()}
    for name, option in own.items():
        value = to_control(option.knob, given.pop(option.name, option.default))
        updates[form.controls[name]] = gr.update(
            value=value, label=option.knob.label, info=option.knob.help, visible=True, **_placeholder(option)
        )
    left = json.dumps(given) if given else ""
    return updates | {
        form.controls[OBJECTIVE_OPTIONS]: gr.update(value=left, visible=bool(left)),
        form.controls["model"]: gr.update(choices=model_choices(key)),
    }


def _placeholder(option: Option) -> dict[str, str]:
    """What an empty control of the option stands for, where a control can be empty."""
    return {} if option.knob.kind in ("flag", "choice") else {"placeholder": placeholder(option.default)}


def read_objective_options(objective: Objective, values: Mapping[str, Any]) -> dict[str, Any]:
    """The objective's options that are not at their defaults, and what a loaded plan said beside them."""
    found = {}
    for name, option in options_of_objective(objective):
        value = from_control(option.knob, values.get(name), option.default)
        if to_control(option.knob, value) != to_control(option.knob, option.default):
            found[option.name] = [value] if option.knob.kind == "names" and isinstance(value, str) else value
    return found | _others(values.get(OBJECTIVE_OPTIONS), "objective_options")


def data_choices(*own: tuple[str, str]) -> list[tuple[str, str]]:
    """The demo sets, and a person's own sets."""
    return [(demo.title, demo.path) for demo in DEMOS.values()] + list(own)


def own_data(plan: Plan) -> list[tuple[str, str]]:
    """The plan's own sets by their names, and all that was uploaded, so that a reload loses nothing."""
    used = [source for source in plan.datasets if data.UPLOAD_ID.match(source.path) or data.is_hub(source)]
    listed = data.uploads()
    named = {path: f"Yours: {name}" for name, path in listed} | {
        source.path: f"{'Hub' if data.is_hub(source) else 'Yours'}: {data.title(source)}" for source in used
    }
    return [(name, path) for path, name in named.items()]


def stored(file: str | None) -> DataSource:
    """The data set of an uploaded file, or of none: a caller may send nothing. Raises `PlanError`."""
    if not file:
        raise PlanError([Issue(field="datasets", message="no file came.", fix="Choose one.")])
    return data.store_upload(Path(file))


def card_choices() -> list[tuple[str, str]]:
    """The most used methods as cards: the label, and below it the sentence (the style sheet sets the first line apart)."""
    return [(f"{method.label}\n{method.sentence}", key) for key, method in METHODS.items() if method.featured]


def method_choices() -> list[tuple[str, str]]:
    """All methods, group by group; typing finds them by name, group or what they do."""
    return [(f"{method.label} · {method.group}: {method.sentence}", key) for key, method in METHODS.items()]


def card_of(key: str) -> str | None:
    """The card that stands for a method, if one does."""
    return key if METHODS[key].featured else None


def gpu_choices() -> list[tuple[str, str]]:
    """This machine first, then every accelerator of the table."""
    here = hardware.this_machine()
    others = [(f"{gpu.name} · {formats.size(gpu.memory)}", name) for name, gpu in hardware.gpus().items()]
    return [(f"This machine: {here.name} · {formats.size(here.memory)}", THIS_MACHINE), *others]


# --- values <-> plan ------------------------------------------------------------------------------------------------


def read(values: Mapping[str, Any]) -> Plan:
    """The plan that the form shows. It may still be wrong: `engine.checks` says so."""
    base = Plan.from_json(values[BASE]) if values.get(BASE) else defaults()
    method = METHODS[values["method"]]
    objective = values.get("objective") or base.objective
    fresh = defaults()
    generated = {name: from_control(FIELDS[name], values[name], getattr(fresh, name)) for name in GENERATED}
    options = {option.name: from_control(option.knob, values[name], option.default) for name, option in options_of(method)}
    return base.with_(
        **generated,
        model=_model(values["model"], base),
        datasets=_datasets(values, base),
        max_length=from_control(FIELDS["max_length"], values["max_length"], fresh.max_length),
        objective=objective,
        objective_options=read_objective_options(OBJECTIVES[objective], values),
        method=method.key,
        method_options=options | _others(values.get(OTHER)),
        quantization=values["quantization"] if values["quantization"] in method.quantizations else method.quantization,
        gpu=values["gpu"] or THIS_MACHINE,
    )


def _others(text: Any, field: str = "method_options") -> dict[str, Any]:
    """The options that were written as JSON.

    Raises:
        PlanError: the text is no JSON object.
    """
    found = _from_json(text) if text else {}
    if isinstance(found, Mapping):
        return dict(found)
    fix = 'Write an object, for instance {"layers_to_transform": [0, 1]}.'
    raise PlanError([Issue(field=field, message="the options are not valid JSON.", fix=fix)])


def _model(value: Any, base: Plan) -> str | dict:
    """The chosen model; an inline config stays the object it was while its text is unchanged."""
    text = str(value or "").strip()
    return base.model if isinstance(base.model, dict) and text == _text(base.model) else text


def set_name(number: int) -> str:
    """The argument that carries the path of a set of the mixture; the first one is the training data itself."""
    return "datasets" if number == 1 else f"set_{number}"


def weight_name(number: int) -> str:
    """The argument that carries the weight of a set of the mixture."""
    return f"weight_{number}"


def _datasets(values: Mapping[str, Any], base: Plan) -> tuple[DataSource, ...]:
    """The chosen sets with their weights. Each keeps what a loaded plan says of it beside, such as its columns."""
    known = {source.path: source for source in reversed(base.datasets)}
    found = []
    for number in (1, *MORE_SETS):
        path = str(values.get(set_name(number)) or "").strip()
        if path or number == 1:
            weight = from_control(SOURCE_KNOBS["weight"], values.get(weight_name(number)), 1.0)
            weight = float(weight) if type(weight) is int else weight  # a browser's 1.0 is 1
            found.append(dataclasses.replace(known.get(path, DataSource(path=path)), weight=weight))
    return (*found, *base.datasets[MOST_SETS:])


def datasets_shown(plan: Plan, form: Form) -> dict[Component, Any]:
    """The updates that make the form show a plan's sets."""
    choices = data_choices(*own_data(plan))
    updates: dict[Component, Any] = {}
    for number in (1, *MORE_SETS):
        source = plan.datasets[number - 1] if number <= len(plan.datasets) else None
        # A picker whose choices are set says that it has changed, and that asks for an estimate: not those that stay empty.
        updates[form.controls[set_name(number)]] = gr.update(choices=choices, value=source.path) if source else None
        updates[form.controls[weight_name(number)]] = source.weight if source else 1.0
    return updates


def shown(plan: Plan, form: Form) -> dict[Component, Any]:
    """The updates that make the form show a plan."""
    method = METHODS.get(plan.method, METHODS[defaults().method])
    values: dict[str, Any] = {name: to_control(FIELDS[name], getattr(plan, name)) for name in (*GENERATED, "max_length")}
    values |= {BASE: plan.to_json(), "model": _text(plan.model), "method": method.key}
    objective = plan.objective if plan.objective in OBJECTIVES else defaults().objective
    values |= {"objective": objective}
    values |= {"gpu": plan.gpu if plan.gpu in hardware.gpus() else THIS_MACHINE}
    updates = {form.controls[name]: value for name, value in values.items()}
    updates |= datasets_shown(plan, form)
    of_objective = objective_updates(objective, form, plan.objective_options)
    of_objective[form.controls["model"]] = gr.update(choices=model_choices(objective), value=_text(plan.model))
    of_method = method_updates(method, form, options=plan.method_options, quantization=plan.quantization)
    return updates | of_objective | of_method


def demo_choices() -> list[tuple[str, str]]:
    """The demos that are fine-tunes of their own, by the first words of their titles."""
    return [(demo.title.partition(":")[0], key) for key, demo in DEMOS.items() if key != PROBE]


def demo_of(path: Any) -> str | None:
    """The demo whose rows these are, if they are a demo's."""
    return next((key for _, key in demo_choices() if DEMOS[key].path == path), None)


def demo_plan(path: str, objective: str) -> Plan | None:
    """The plan of a demo set that is for another objective than the chosen one; None where the form may stay as it is."""
    demo = next((demo for demo in DEMOS.values() if demo.path == path), None)
    plan = demo.plan() if demo is not None else None
    return plan if plan is not None and plan.objective != objective else None


def method_updates(
    method: Method, form: Form, *, options: Mapping[str, Any] | None = None, quantization: str = "", before: str = ""
) -> dict[Component, Any]:
    """Show what goes with the method, and nothing else.

    Args:
        method: the chosen one.
        form: the controls.
        options: a plan's options, to be shown; without them what `before` had the same default for stays as it is.
        quantization: what the plan has, or what was chosen; kept if it goes with the method.
        before: the method whose options are shown now.
    """
    own = dict(options_of(method))
    kept = dict(options_of(METHODS[before])) if before in METHODS and options is None else {}
    updates: dict[Component, Any] = {form.controls[name]: gr.update(visible=name in own) for name in option_names()}
    for name, option in own.items():
        facts: dict[str, Any] = {"visible": True, "label": option.knob.label, "info": option.knob.help}
        if name not in kept or kept[name].default != option.default:
            facts["value"] = to_control(option.knob, (options or {}).get(option.name, option.default))
        updates[form.controls[name]] = gr.update(**facts)
    text = others_text(method, options or {})
    updates[form.controls[OTHER]] = gr.update(value=text, info=others_help(method), visible=bool(method.options))
    updates |= {form.controls[CARD]: card_of(method.key), form.controls[BEFORE]: method.key}
    chosen = quantization if quantization in method.quantizations else method.quantization
    several = len(method.quantizations) > 1  # where there is one only, there is nothing to choose
    updates[form.controls["quantization"]] = gr.update(choices=list(method.quantizations), value=chosen, visible=several)
    return updates


def recommended_rate(plan: Plan) -> str:
    """The placeholder of the learning rate: what an empty control will use; "" while the model's name is unfinished."""
    try:
        return f"{build.learning_rate(plan.with_(learning_rate=None)):g} (recommended)"
    except PlanError:
        return ""


def precision_for(gpu_name: str) -> str:
    """The number type that a freshly chosen device gets."""
    return hardware.recommended_precision(hardware.find_gpu(gpu_name))


# --- facts beside the headings --------------------------------------------------------------------------------------


def model_facts(plan: Plan) -> str:
    """What the catalogue knows of the model: "8.19 B parameters · 40,960 tokens of context · apache-2.0"."""
    try:
        model = models.find(plan.model)
    except PlanError:
        return ""
    facts = [
        f"{formats.count(model.params)} parameters" if model.params else "",
        f"{formats.whole(model.context_length)} tokens of context" if model.context_length else "",
        model.license,
        "gated: accept its terms on the hub first" if model.gated else "",
    ]
    return " · ".join(fact for fact in facts if fact) or "Not in the catalogue: read from where it is"
