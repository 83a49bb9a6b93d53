"""The form <-> the Plan. The controls are made from `FIELDS` and from the options of `METHODS`; nothing is listed twice.

`Form.controls` maps argument names to controls and is passed to Gradio as `inputs_kwargs`, so a handler receives
`**values` by name and `read(values)` makes the Plan of them. `shown(plan)` is the way back. Fields that have no
control yet keep the values of the plan that was loaded last (`base`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from engine import build, hardware, models
from engine.demos import DEMOS, first_plan
from engine.methods import METHODS, Method, Option
from engine.plan import FIELDS, THIS_MACHINE, DataSource, Knob, Plan, PlanError
from ui import words

BASE = "base"  # the argument that carries the loaded plan
MADE_BY_HAND = ("model", "datasets", "max_length", "method", "quantization", "gpu")  # each has its own place or rules
WITHOUT_CONTROL = ("version", "method_options", "objective", "objective_options")
GENERATED = tuple(
    name for name, knob in FIELDS.items() if knob.group != "hidden" and name not in (*MADE_BY_HAND, *WITHOUT_CONTROL)
)
MOST_RADIO_CHOICES = 4  # a longer list is a dropdown


@dataclass(frozen=True, kw_only=True)
class Form:
    """The controls of the plan, by the name of the argument that carries their value."""

    controls: dict[str, Component]

    @property
    def inputs(self) -> list[Component]:
        """The controls that a person can change."""
        return [control for name, control in self.controls.items() if name != BASE]


def defaults() -> Plan:
    """The plan that the page starts with."""
    return first_plan()


# --- options: one control for all methods that share an option ------------------------------------------------------


def option_names() -> dict[str, Option]:
    """Argument name -> option. Options that are alike share one control: rank stays when LoRA becomes QLoRA."""
    named: dict[str, Option] = {}
    for method in METHODS.values():
        for option in method.options:
            if option not in named.values():
                name = f"option_{option.name}"
                named[name if name not in named else f"{name}_of_{method.key}"] = option
    return named


def options_of(method: Method, names: Mapping[str, Option]) -> Iterator[tuple[str, Option]]:
    """The (argument name, option) pairs of one method."""
    return ((name, option) for name, option in names.items() if option in method.options)


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
    if knob.kind == "integer":
        return gr.Number(precision=0, placeholder=hint or placeholder(value), **common)
    if knob.kind == "number" and not knob.optional:
        return gr.Number(step=0.01, placeholder=hint or placeholder(value), **common)
    return gr.Textbox(placeholder=hint or placeholder(value), max_lines=1, **common)


def placeholder(value: Any) -> str:
    """What an empty control stands for."""
    return "" if value is None else f"{_text(value)} (default)"


def to_control(knob: Knob, value: Any) -> Any:
    """A plan's value as its control shows it."""
    if knob.optional:
        return "" if value is None else f"{value:g}"
    return _text(value) if knob.kind in ("names", "object") else value


def from_control(knob: Knob, value: Any, default: Any) -> Any:
    """A control's value as the plan has it; empty means the default (or None, where the knob allows it)."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None if knob.optional else default
    if knob.kind == "names":
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        return names[0] if len(names) == 1 else names
    return _number(value) if knob.kind in ("number", "integer") and isinstance(value, str) else value


def _number(text: str) -> float | str:
    """The number that a text says; another text stays as it is, for the checks to name it."""
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return json.dumps(value) if isinstance(value, Mapping) else f"{value:g}" if isinstance(value, float) else str(value)


def quantization_control(plan: Plan) -> Component:
    """The quantizations that go with the plan's method."""
    allowed = METHODS[plan.method].quantizations
    knob = dataclasses.replace(FIELDS["quantization"], choices=allowed)
    chosen = plan.quantization if plan.quantization in allowed else METHODS[plan.method].quantization
    return control("quantization", knob, chosen, visible=len(allowed) > 1)


def model_choices() -> list[tuple[str, str]]:
    """The models of the catalogue, by title and id."""
    return [
        (model.title if model.id in model.title else f"{model.title} · {model.id}", model.id)
        for model in models.trainable_models()
    ]


def data_choices(*own: tuple[str, str]) -> list[tuple[str, str]]:
    """The demo sets, and the uploads of this page."""
    return [(demo.title, demo.path) for demo in DEMOS.values()] + list(own)


def method_choices() -> list[tuple[str, str]]:
    """Each method as a card: its label, and below it the sentence (the style sheet sets the first line apart)."""
    return [(f"{method.label}\n{method.sentence}", key) for key, method in METHODS.items()]


def gpu_choices() -> list[tuple[str, str]]:
    """This machine first, then every accelerator of the table."""
    here = hardware.this_machine()
    others = [(f"{gpu.name} · {words.size(gpu.memory)}", name) for name, gpu in hardware.gpus().items()]
    return [(f"This machine: {here.name} · {words.size(here.memory)}", THIS_MACHINE), *others]


# --- values <-> plan ------------------------------------------------------------------------------------------------


def read(values: Mapping[str, Any]) -> Plan:
    """The plan that the form shows. It may still be wrong: `engine.checks` says so."""
    base = Plan.from_json(values[BASE]) if values.get(BASE) else defaults()
    method = METHODS[values["method"]]
    fresh = defaults()
    generated = {name: from_control(FIELDS[name], values[name], getattr(fresh, name)) for name in GENERATED}
    options = {
        option.name: from_control(option.knob, values[name], option.default)
        for name, option in options_of(method, option_names())
    }
    return base.with_(
        **generated,
        model=_model(values["model"], base),
        datasets=_datasets(values["datasets"], base),
        max_length=from_control(FIELDS["max_length"], values["max_length"], fresh.max_length),
        method=method.key,
        method_options=options,
        quantization=values["quantization"] if values["quantization"] in method.quantizations else method.quantization,
        gpu=values["gpu"] or THIS_MACHINE,
    )


def _model(value: Any, base: Plan) -> str | dict:
    """The chosen model; an inline config stays the object it was while its text is unchanged."""
    text = str(value or "").strip()
    return base.model if isinstance(base.model, dict) and text == _text(base.model) else text


def _datasets(value: Any, base: Plan) -> tuple[DataSource, ...]:
    """The chosen set; the sets of a loaded plan stay together while its first one stays chosen."""
    path = str(value or "").strip()
    return base.datasets if base.datasets and base.datasets[0].path == path else (DataSource(path=path),)


def shown(plan: Plan, form: Form) -> dict[Component, Any]:
    """The updates that make the form show a plan."""
    method = METHODS.get(plan.method, METHODS[defaults().method])
    values: dict[str, Any] = {name: to_control(FIELDS[name], getattr(plan, name)) for name in (*GENERATED, "max_length")}
    values |= {BASE: plan.to_json(), "model": _text(plan.model), "datasets": plan.datasets[0].path, "method": method.key}
    values |= {"gpu": plan.gpu if plan.gpu in hardware.gpus() else THIS_MACHINE}
    updates = {form.controls[name]: value for name, value in values.items()}
    return updates | method_updates(method, form, options=plan.method_options, quantization=plan.quantization)


def method_updates(
    method: Method, form: Form, *, options: Mapping[str, Any] | None = None, quantization: str = ""
) -> dict[Component, Any]:
    """Show what goes with the method, and nothing else: its options (set to `options`, if given), its quantizations."""
    own = dict(options_of(method, option_names()))
    updates: dict[Component, Any] = {form.controls[name]: gr.update(visible=name in own) for name in option_names()}
    if options is not None:
        for name, option in own.items():
            value = to_control(option.knob, options.get(option.name, option.default))
            updates[form.controls[name]] = gr.update(value=value, visible=True)
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
        f"{words.count(model.params)} parameters" if model.params else "",
        f"{words.whole(model.context_length)} tokens of context" if model.context_length else "",
        model.license,
        "gated: accept its terms on the hub first" if model.gated else "",
    ]
    return " · ".join(fact for fact in facts if fact) or "Not in the catalogue: read from where it is"
