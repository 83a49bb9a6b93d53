"""Is this plan sound? `check(plan)` answers with `[Issue]`: the field, what is wrong, what to do.

Cheap on purpose (no torch, no network), so that the form can ask at every keystroke. What only a real build can
tell - a model that the hub does not have, target modules that match nothing - the estimator and the worker report
in the same words (`engine/modeling/build.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine import data, json_input, objectives
from engine.adapters import option_forms, patterns, peft_options
from engine.adapters.attach import MOVES_WEIGHTS
from engine.catalog import hardware, model_sizes, models, prequantized, shardings
from engine.data import token_counts
from engine.issues import Issue, PlanError, nearest, quoted, unknown_keys
from engine.methods import EITHER_OR, METHODS, Method, is_tied, optimizers, option_values, unfit
from engine.objectives import OBJECTIVES, Objective, rewards
from engine.plan import FIELDS, SOURCE_KNOBS, Knob, Plan
from engine.system import visitors
from engine.system.home import free_bytes, runs_folder

MOST_NAMES = 10_000  # of modules; the models of the catalogue have up to about 5,000


def check(plan: Plan) -> list[Issue]:
    """Everything that is wrong with the plan's own words: first each value by itself, then what they mean together."""
    issues = check_values(plan)
    if issues:
        return issues
    issues += _check_method(plan)
    issues += _check_objective(plan)
    issues += _found(models.find, plan.model)
    issues += _found(hardware.find_gpu, plan.gpu)
    for source in plan.datasets:
        issues += _found(data.locate, source)
    if issues:
        return issues
    issues = [
        *_check_fit(plan),
        *_check_packed(plan),
        *_check_sizes(plan),
        *_check_device(plan),
        *shardings.check(plan, quantization(plan)),
    ]
    return issues + _own_gpu_warnings()


def check_values(plan: Plan) -> list[Issue]:
    """What is wrong with each value by itself: with it, the plan cannot even be looked at."""
    values = {name: getattr(plan, name) for name in FIELDS if name != "datasets"}
    for place, source in enumerate(plan.datasets):
        values |= {f"datasets[{place}].{name}": value for name, value in vars(source).items()}
    issues = [
        issue
        for name, value in values.items()
        if not isinstance(value, float)  # of NaN the field's own limits say more
        for issue in json_input.problems(value, name)
    ]
    if issues:  # a plan need not come from `Plan.from_dict`, which refuses them too
        return issues
    issues = [issue for name, knob in FIELDS.items() for issue in check_value(name, getattr(plan, name), knob)]
    for place, source in enumerate(plan.datasets):
        for name, knob in SOURCE_KNOBS.items():
            issues += check_value(f"datasets[{place}].{name}", getattr(source, name), knob)
    return issues


def check_start(plan: Plan) -> list[Issue]:
    """`check`, and what a real start needs on top: readable rows, and room on the disk."""
    issues = check(plan) + visitors.check(plan)
    if any(issue.severity == "error" for issue in issues):
        return issues
    if not plan.datasets:
        issues.append(
            Issue(field="datasets", message="is empty.", fix='Choose the rows to learn from, for instance "demo/pirate".')
        )
    for source in plan.datasets:
        issues += _found(data.fetch, source) or data.scan(source, token_counts.accepts(plan)).issues
    issues += token_counts.check_shapes(plan) or token_counts.check_rows(plan) or token_counts.check(plan)
    issues += prequantized.missing(prequantized.of_config(models.find(plan.model).config))
    return issues + _check_runs_here(plan) + _check_disk(plan)


def check_value(name: str, value: Any, knob: Knob) -> Iterator[Issue]:
    """What is wrong with one value, by its knob: its type first, then its limits."""
    if value is None and knob.optional:
        return
    problem = "is empty." if value is None else _type_problem(value, knob)
    if problem is None and knob.kind in ("number", "integer"):
        problem = _range_problem(value, knob)
    if problem is None and knob.kind == "choice" and value not in knob.choices:
        problem = f"{quoted(value)} is not one of its choices."
    if problem:
        yield Issue(field=name, message=problem, fix=_remedy(value, knob))
    elif knob.form is not None:
        yield from option_forms.problems(value, knob.form, name)


def _type_problem(value: Any, knob: Knob) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if knob.kind == "integer" and not (is_number and value == value // 1):
        return f"{quoted(value)} is not a whole number."
    if knob.kind == "number" and not is_number:
        return f"{quoted(value)} is not a number."
    if knob.kind == "flag" and not isinstance(value, bool):
        return f"{quoted(value)} is neither true nor false."
    if knob.kind in ("text", "choice") and not isinstance(value, str):
        return f"{quoted(value)} is not a text."
    if knob.kind in ("text", "choice") and len(value) > knob.longest:
        return f"is {len(value):,} characters long."
    if knob.kind == "mapping" and not isinstance(value, Mapping):
        return "is not an object."
    if knob.kind == "names" and not _is_names(value):
        return f"{quoted(value)} is neither a name nor a list of names."
    return None


def _is_names(value: Any) -> bool:
    names = value if isinstance(value, (list, tuple)) else [value]
    return 0 < len(names) <= MOST_NAMES and all(isinstance(name, str) and name.strip() for name in names)


def _range_problem(value: float, knob: Knob) -> str | None:
    if not math.isfinite(value):
        return f"{quoted(value)} is not a finite number."
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
    return f"Use a text of at most {knob.longest:,} characters."


def _check_method(plan: Plan) -> list[Issue]:
    if plan.method not in METHODS:
        return [
            Issue(field="method", message=f"{quoted(plan.method)} is not a method.", fix=nearest(str(plan.method), METHODS))
        ]
    method = METHODS[plan.method]
    issues = _check_options(plan.method_options, method) + _check_quantization(plan, method)
    issues = issues or peft_options.check_sources(plan.method_options, model=plan.model)
    return issues or _check_meaning(plan, method) + patterns.check(plan.method_options)


# LoRA's start values that need more than the weights as they are loaded, and the method that does the same.
NOT_AS_START = {"eva": "Use the method EVA.", "loftq": "Use the method LoftQ."} | dict.fromkeys(
    ("corda", "lora_ga"), "Use true, pissa or olora, or the method EVA."
)


def _check_meaning(plan: Plan, method: Method) -> list[Issue]:
    """What the method's options say together, each of them being sound by itself."""
    given, values = plan.method_options, option_values(plan)
    issues = [
        Issue(field=name, message=f"and {other} say the same in two ways.", fix=f"Give one of them and set {other} to 0.")
        for name, other in list(EITHER_OR.items())[:1]
        if given.get(name) and given.get(other)
    ]
    if str(values.get("init_lora_weights")) in NOT_AS_START:
        start = values["init_lora_weights"]
        message = f"{start} needs more than the weights as they are loaded, and is not offered as a start by itself."
        issues.append(Issue(field="init_lora_weights", message=message, fix=NOT_AS_START[start]))
    if str(values.get("init_lora_weights")).startswith(MOVES_WEIGHTS):
        for name in ("use_dora", "rank_pattern", "alpha_pattern"):
            if values.get(name):
                message = f"does not go with a start from {values['init_lora_weights']}: the result could not be saved as LoRA."
                issues.append(Issue(field=name, message=message, fix="Leave it out, or set init_lora_weights to true."))
    if "token_indices" in values and not values["token_indices"]:
        fix = "Write the ids of the tokens, for instance [5, 17]."
        issues.append(Issue(field="token_indices", message="is empty, so there is nothing to train.", fix=fix))
    if values.get("prompt_tuning_init") == "TEXT" and not values.get("prompt_tuning_init_text"):
        message = "is empty, and the prompt is to start from a text."
        issues.append(Issue(field="prompt_tuning_init_text", message=message, fix="Write one, or start from RANDOM."))
    if "num_virtual_tokens" in values and plan.packing:
        message = "would put several rows behind one prompt, and only the first of them would read it as its own."
        issues.append(Issue(field="packing", message=message, fix="Turn it off."))
    if method.keeps_past and plan.gradient_checkpointing:
        message = f"does not go with {method.label}: layers that are computed again would not find its vectors."
        issues.append(Issue(field="gradient_checkpointing", message=message, fix="Turn it off."))
    return issues + optimizers.check(plan)


def _check_fit(plan: Plan) -> list[Issue]:
    """Whether the method goes with the kind of model; a model that is not read yet is looked at when it is built."""
    config = models.find(plan.model).config
    model_type = str(config.get("model_type", "")) if config else ""
    method = METHODS[plan.method]
    why = unfit(method, model_type, objectives.task_of(plan), tied=is_tied(config or {}))
    if not why and method.objectives and plan.objective not in method.objectives:
        why = f"does not go with {OBJECTIVES[plan.objective].label}: it looks at plain texts before the training."
    fix = "Use norm tuning (ln_tuning)." if "Norm tuning" in why else "Use LoRA, or another model."
    return [Issue(field="method", message=f"{method.label} {why}", fix=fix)] if why else []


def _check_packed(plan: Plan) -> list[Issue]:
    """A checkpoint whose weights come in few bits already, as far as its config is known."""
    stored = prequantized.of_config(models.find(plan.model).config)
    return prequantized.check(plan, stored, goes_with_method=METHODS[plan.method].packed, quantization=quantization(plan))


def _check_options(options: Mapping[str, Any], method: Method | Objective) -> list[Issue]:
    known = {option.name: option.knob for option in method.options}
    return unknown_keys(options, known, where=f"{method.label} options") + [
        issue for name, value in options.items() if name in known for issue in check_value(name, value, known[name])
    ]


def _check_quantization(plan: Plan, method: Method) -> list[Issue]:
    if method.mixed_only and quantization(plan) != "none" and (plan.precision == "fp32" or not plan.autocast):
        message = f"has no mixed precision, without which {method.label} does not go with weights in {quantization(plan)}."
        return [Issue(field="precision", message=message, fix="Use bf16 or fp16 with mixed precision, or the method LoRA.")]
    if quantization(plan) in method.quantizations or plan.quantization not in FIELDS["quantization"].choices:
        return []
    return [
        Issue(
            field="quantization",
            message=f"{plan.quantization} does not go with {method.label}: {_why_not_quantized(method)}.",
            fix=f"Use {' or '.join(method.quantizations)}, or the method QLoRA.",
        )
    ]


def _why_not_quantized(method: Method) -> str:
    return "quantised weights cannot be trained" if method.whole_model else "its layers read the weights, unpacked"


def quantization(plan: Plan) -> str:
    """How the frozen weights are stored: the plan's word, or the method's own where the plan says none."""
    return plan.quantization if plan.quantization != "none" else METHODS[plan.method].quantization


def _check_objective(plan: Plan) -> list[Issue]:
    if plan.objective not in OBJECTIVES:
        fix = nearest(str(plan.objective), OBJECTIVES)
        return [Issue(field="objective", message=f"{quoted(plan.objective)} is not an objective.", fix=fix)]
    objective = OBJECTIVES[plan.objective]
    issues = _check_options(plan.objective_options, objective)
    return issues or [
        *_check_kind(plan),
        *_check_reference(plan),
        *_check_loss(plan),
        *_check_other_models(plan),
        *_check_groups(plan),
        *_check_rewards(plan),
    ]


# Vision-language models whose language part transformers loads alone (5.23, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES).
# Mllama and Llama 4 are left out: TRL's loss asks the inner model, which theirs do not name (1.16, `_fused_forward`).
TEXT_ALONE = ("gemma3", "gemma3n", "gemma4", "qwen3_5", "qwen3_5_moe")


def reads_text_alone(model: models.Model) -> bool:
    """Whether a vision-language model can be trained on text alone."""
    return model.task == "image-text-to-text" and (model.config or {}).get("model_type") in TEXT_ALONE


def _check_kind(plan: Plan) -> list[Issue]:
    """A model of the catalogue must be of a kind that the objective can train. What others are, only loading them tells."""
    model = models.catalogue().get(plan.model) if isinstance(plan.model, str) else None
    task = objectives.task_of(plan)
    if model is None or (task.key == "causal-lm" and reads_text_alone(model)) or model in models.trainable_models(task.key):
        return []
    message = f"{model.title} is no model for {OBJECTIVES[plan.objective].label}."
    other = next((one for one in OBJECTIVES.values() if model in models.trainable_models(one.task)), None)
    or_else = f", or the objective {other.label}" if other is not None else ""
    fix = f"Choose one for this: {models.trainable_models(task.key)[0].id}{or_else}."
    return [Issue(field="model", message=message, fix=fix)]


def _check_reference(plan: Plan) -> list[Issue]:
    """TRL keeps a copy of the adapter as the reference, and some methods have room for one adapter (peft 0.21)."""
    options = objectives.option_values(plan)
    asks = plan.objective in ("dpo", "kto") or (plan.objective in ("grpo", "rloo", "rlhf") and options["beta"])
    method = METHODS.get(plan.method)
    if method is None or not method.one_adapter or not asks:
        return []
    message = f"{method.label} cannot keep the reference that {OBJECTIVES[plan.objective].label} compares with."
    return [Issue(field="method", message=message, fix="Use LoRA.")]


def _check_loss(plan: Plan) -> list[Issue]:
    """What a preference loss needs on top of its own limits (TRL 1.16 refuses the same)."""
    options = objectives.option_values(plan)
    if options.get("loss_type") == "exo_pair" and not options["label_smoothing"]:
        fix = "Set it above 0; the paper uses 0.001."
        return [Issue(field="label_smoothing", message="is 0, and the loss exo_pair needs some.", fix=fix)]
    if plan.objective == "kto" and options["loss_type"] == "kto" and plan.per_device_train_batch_size < 2:
        message = "KTO compares each answer with the others of its batch, and a batch of 1 has none."
        return [Issue(field="per_device_train_batch_size", message=message, fix="Use at least 2.")]
    return []


def _check_other_models(plan: Plan) -> list[Issue]:
    """The teacher or the reward model that the objective asks for must be named, and be a model."""
    options = objectives.option_values(plan)
    issues = []
    for name in ("teacher", "reward_model"):
        if name in options and not options[name]:
            fix = "Name a model: its id, or the folder that a run left behind."
            issues.append(Issue(field=name, message="is empty, and the objective cannot do without it.", fix=fix))
        elif name in options:
            issues += [dataclasses.replace(issue, field=name) for issue in _found(models.find, options[name])]
    return issues


def _check_groups(plan: Plan) -> list[Issue]:
    """The answers to one prompt are compared with each other, so that a batch must hold whole groups of them."""
    group = objectives.option_values(plan).get("num_generations")
    batch = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
    if group is None or batch % group == 0:
        return []
    message = f"{group} answers per prompt do not divide the {batch} answers of a step (batch size times accumulation)."
    return [
        Issue(field="num_generations", message=message, fix=f"Use a batch size of {-(-batch // group) * group}, for instance.")
    ]


def _check_rewards(plan: Plan) -> list[Issue]:
    """The rewards are those of the table, or files that the server's owner lets run."""
    options = objectives.option_values(plan)
    if "reward_funcs" not in options:
        return []
    issues = [issue for name in rewards.names_of(options["reward_funcs"]) for issue in rewards.check_name(name)]
    return issues + patterns.check_text("pattern", options["pattern"])


def _found(look: Callable[[Any], Any], words: Any) -> list[Issue]:
    """The issues of a look-up that raises `PlanError` when it finds nothing."""
    try:
        look(words)
    except PlanError as error:
        return list(error.issues)
    return []


def _check_sizes(plan: Plan) -> list[Issue]:
    """What the model's own sizes rule out: a rank above its matrices, 4 or 8 bits where nothing can be quantised."""
    config, method, issues = models.find(plan.model).config, METHODS[plan.method], []
    width, rank = model_sizes.width(config), plan.method_options.get("r")
    of_lora = any(option.name == "lora_alpha" for option in method.options)
    if of_lora and width is not None and isinstance(rank, int) and rank > width:
        message = (
            f"{rank} is above the width of the model's matrices, {width}: the adapter would be larger than what it adapts."
        )
        issues.append(Issue(field="r", message=message, fix=f"Use at most {width}; 8 to 64 is usual."))
    kind = quantization(plan)
    if kind != "none" and config and config.get("model_type") in model_sizes.WITHOUT_PLAIN_LINEAR_LAYERS:
        message = f"{kind} stores plain linear layers in fewer bits, and {config['model_type']} has none but its head."
        fix = "Use the quantization none, with a method that needs none."
        issues.append(Issue(field="quantization", message=message, fix=fix))
    elif kind != "none" and model_sizes.experts(config):
        message = (
            f"{kind} does not reach this model's experts: transformers keeps them in one tensor each, which stays as it is."
        )
        fix = "The estimate counts them so. A model without experts is what 4 bits make small."
        issues.append(Issue(field="quantization", message=message, fix=fix, severity="warning"))
    return issues


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


def _own_gpu_warnings() -> list[Issue]:
    """What is wrong with the user's own table of GPUs: its good rows can be used all the same."""
    return [dataclasses.replace(issue, severity="warning") for issue in hardware.own_gpus()[1]]


def _check_runs_here(plan: Plan) -> list[Issue]:
    """A run starts on this machine and with this program's trainer; what others have can only be planned for."""
    if shardings.world(plan) > 1 or plan.offload != "none":
        return [
            Issue(
                field="sharding",
                message="runs of this program use one GPU and its own memory; several of them can only be planned for.",
                fix="Set it to none, with 1 GPU and no offload, to start the run here.",
            )
        ]
    if plan.loss != "chunked":
        return [
            Issue(
                field="loss",
                message=f"{plan.loss} is how other trainers compute it; runs of this program use the chunked loss.",
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
