"""Is this plan sound? `check(plan)` answers with `[Issue]`: the field, what is wrong, what to do.

Cheap on purpose (no torch, no network), so that the form can ask at every keystroke. What only a real build can
tell - a model that the hub does not have, target modules that match nothing - the estimator and the worker report
in the same words (`engine/build.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine import data, hardware, models
from engine.home import free_bytes, runs_folder
from engine.methods import METHODS, Method
from engine.objectives import OBJECTIVES
from engine.plan import FIELDS, Issue, Knob, Plan, PlanError, nearest, unknown_keys


def check(plan: Plan) -> list[Issue]:
    """Everything that is wrong with the plan's own words: first each value by itself, then what they mean together."""
    issues = [issue for name, knob in FIELDS.items() for issue in check_value(name, getattr(plan, name), knob)]
    if issues:
        return issues
    issues += _check_method(plan)
    issues += _check_objective(plan)
    issues += _found(models.find, plan.model)
    issues += _found(hardware.find_gpu, plan.gpu)
    for source in plan.datasets:
        issues += _found(data.locate, source)
    return issues or _check_device(plan)


def check_start(plan: Plan) -> list[Issue]:
    """`check`, and what a real start needs on top: readable rows, and room on the disk."""
    issues = check(plan)
    if any(issue.severity == "error" for issue in issues):
        return issues
    if not plan.datasets:
        issues.append(
            Issue(field="datasets", message="is empty.", fix='Choose the rows to learn from, for instance "demo/pirate".')
        )
    for source in plan.datasets:
        issues += data.scan(source).issues
    return issues + _check_runs_here(plan) + _check_disk(plan)


def check_value(name: str, value: Any, knob: Knob) -> Iterator[Issue]:
    """What is wrong with one value, by its knob: its type first, then its limits."""
    if value is None and knob.optional:
        return
    problem = "is empty." if value is None else _type_problem(value, knob)
    if problem is None and knob.kind in ("number", "integer"):
        problem = _range_problem(value, knob)
    if problem is None and knob.kind == "choice" and value not in knob.choices:
        problem = f"{value!r} is not one of its choices."
    if problem:
        yield Issue(field=name, message=problem, fix=_remedy(value, knob))


def _type_problem(value: Any, knob: Knob) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if knob.kind == "integer" and not (is_number and float(value).is_integer()):
        return f"{value!r} is not a whole number."
    if knob.kind == "number" and not is_number:
        return f"{value!r} is not a number."
    if knob.kind == "flag" and not isinstance(value, bool):
        return f"{value!r} is neither true nor false."
    if knob.kind in ("text", "choice") and not isinstance(value, str):
        return f"{value!r} is not a text."
    if knob.kind == "mapping" and not isinstance(value, Mapping):
        return "is not an object."
    if knob.kind == "names" and not _is_names(value):
        return f"{value!r} is neither a name nor a list of names."
    return None


def _is_names(value: Any) -> bool:
    names = value if isinstance(value, (list, tuple)) else [value]
    return bool(names) and all(isinstance(name, str) and name.strip() for name in names)


def _range_problem(value: float, knob: Knob) -> str | None:
    if not math.isfinite(value):
        return f"{value!r} is not a finite number."
    too_low = knob.minimum is not None and (value < knob.minimum or (knob.above and value == knob.minimum))
    too_high = knob.maximum is not None and value > knob.maximum
    return f"{value:g} is out of range." if too_low or too_high else None


def _remedy(value: Any, knob: Knob) -> str:
    if knob.kind == "choice":
        return nearest(str(value), knob.choices)
    if knob.kind == "flag":
        return "Use true or false."
    if knob.kind == "mapping":
        return 'Write it as {"name": value}.'
    if knob.kind == "names":
        return "Write all-linear, or names with commas between."
    if knob.kind in ("number", "integer"):
        low = f"{'above' if knob.above else 'at least'} {knob.minimum:g}" if knob.minimum is not None else ""
        high = f"at most {knob.maximum:g}" if knob.maximum is not None else ""
        empty = ", or leave it empty for the recommended value" if knob.optional else ""
        return f"Use a {'whole ' if knob.kind == 'integer' else ''}number {' and '.join(filter(None, (low, high)))}{empty}."
    return "Use a text."


def _check_method(plan: Plan) -> list[Issue]:
    if plan.method not in METHODS:
        return [Issue(field="method", message=f"{plan.method!r} is not a method.", fix=nearest(str(plan.method), METHODS))]
    method = METHODS[plan.method]
    return _check_options(plan.method_options, method) + _check_quantization(plan, method)


def _check_options(options: Mapping[str, Any], method: Method) -> list[Issue]:
    known = {option.name: option.knob for option in method.options}
    return unknown_keys(options, known, where=f"{method.label} options") + [
        issue for name, value in options.items() if name in known for issue in check_value(name, value, known[name])
    ]


def _check_quantization(plan: Plan, method: Method) -> list[Issue]:
    if quantization(plan) in method.quantizations or plan.quantization not in FIELDS["quantization"].choices:
        return []
    return [
        Issue(
            field="quantization",
            message=f"{plan.quantization} does not go with {method.label}: quantised weights cannot be trained.",
            fix=f"Use {' or '.join(method.quantizations)}, or the method QLoRA.",
        )
    ]


def quantization(plan: Plan) -> str:
    """How the frozen weights are stored: the plan's word, or the method's own where the plan says none."""
    return plan.quantization if plan.quantization != "none" else METHODS[plan.method].quantization


def _check_objective(plan: Plan) -> list[Issue]:
    if plan.objective not in OBJECTIVES:
        fix = nearest(str(plan.objective), OBJECTIVES)
        return [Issue(field="objective", message=f"{plan.objective!r} is not an objective.", fix=fix)]
    return unknown_keys(plan.objective_options, (), where="objective")


def _found(look: Callable[[Any], Any], words: Any) -> list[Issue]:
    """The issues of a look-up that raises `PlanError` when it finds nothing."""
    try:
        look(words)
    except PlanError as error:
        return list(error.issues)
    return []


def _check_device(plan: Plan) -> list[Issue]:
    gpu = hardware.find_gpu(plan.gpu)
    if plan.precision == "bf16" and not gpu.bf16 and not gpu.is_cpu:
        return [Issue(field="precision", message=f"{gpu.name} has no bf16.", fix="Use fp16 or fp32.")]
    if plan.precision == "fp16" and gpu.is_cpu:
        return [Issue(field="precision", message="a CPU does not train in fp16.", fix="Use fp32 or bf16.")]
    context = models.find(plan.model).context_length
    if context and plan.max_length > context:
        return [
            Issue(
                field="max_length",
                message=f"{plan.max_length} is longer than the {context} tokens that the model can read.",
                fix=f"Use at most {context}.",
            )
        ]
    return []


def _check_runs_here(plan: Plan) -> list[Issue]:
    """A run starts on this machine and with this program's trainer; what others have can only be planned for."""
    if plan.loss != "chunked":
        return [
            Issue(
                field="loss",
                message="full is how other trainers compute it; runs of this program use the chunked loss.",
                fix="Set it to chunked to start the run.",
            )
        ]
    if plan.gpu in (hardware.THIS_MACHINE, hardware.this_machine().name):
        return []
    return [
        Issue(
            field="gpu",
            message=f"{plan.gpu} is not in this machine, so the run cannot start here.",
            fix=f"Choose {hardware.THIS_MACHINE}, or save the plan and run it where that GPU is.",
        )
    ]


def _check_disk(plan: Plan) -> list[Issue]:
    """Room for the result and its merge: two copies of the model in the plan's number type, and some for the log."""
    model = models.find(plan.model)
    bytes_each = 4 if plan.precision == "fp32" else 2
    needed = 2 * (model.params or 0) * bytes_each + 50 * 2**20
    free = free_bytes(runs_folder())
    if free >= needed:
        return []
    return [
        Issue(
            field="disk",
            message=f"the run and its merge need {needed / 1e9:.1f} GB and {runs_folder()} has {free / 1e9:.1f} GB free.",
            fix="Delete old runs, or point FITTINGROOM_HOME to a larger disk.",
        )
    ]
