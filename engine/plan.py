"""The Plan: the one vocabulary that the form edits, the estimator prices, the worker runs and history reopens.

A Plan is a frozen dataclass with one versioned JSON form. Training fields carry the names of
`transformers.TrainingArguments` and of TRL's configs; a method's options carry the names of its PEFT config.
Each field is declared once, with its label, help and limits (`knob`): the form, the checks and the docs read them.
Standard library only.

    plan = Plan.from_json(Path("plan.json").read_text())
    print(plan.to_json())
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine import json_input
from engine.catalog.hardware import THIS_MACHINE
from engine.issues import Issue, PlanError, quoted, unknown_keys

__all__ = ["DataSource", "Issue", "Knob", "Plan", "PlanError"]

PLAN_VERSION = 1
MOST_DATASETS = 64  # of one plan; a mixture on the page has at most 8
NOT_JSON = "Fix the file there and try again; a plan is JSON, not YAML."


@dataclass(frozen=True, kw_only=True)
class Knob:
    """What a person needs to know about one field of the plan, and the limits that its value must keep."""

    label: str
    help: str
    kind: str = "number"  # number | integer | flag | choice | text | names | mapping | object
    minimum: float | None = None  # inclusive, unless `above`
    maximum: float | None = None
    above: bool = False  # the minimum itself is not allowed
    choices: tuple[str, ...] = ()
    optional: bool = False  # None is a value: "the recommended one"
    longest: int = 10_000  # characters of a text
    form: Any = None  # of a mapping or an object: what is in it (`engine/adapters/option_forms.py`); None: anything
    group: str = "common"  # common | more | hidden: where the form shows it


def knob(default: Any, label: str, help: str, **limits: Any) -> Any:
    """A dataclass field with its `Knob`; a mutable default (dict, tuple of sources) is made anew for each plan."""
    metadata = {"knob": Knob(label=label, help=help, **limits)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set of a plan: a demo id, an upload, a local file or a hub id, with its split, weight and columns."""

    path: str
    split: str = knob("train", "Split", "The split of a hub set.", kind="text", longest=200)
    config: str = knob("", "Config", "The config of a hub set that has several.", kind="text", longest=200)
    weight: float = knob(
        1.0,
        "Weight",
        "How often its rows count: 2 takes each twice, 0.5 takes half of them.",
        minimum=0,
        maximum=10_000,
        above=True,
    )
    columns: Mapping[str, str] = knob({}, "Columns", "Our column -> the file's.", kind="mapping", form={"mapping": "text"})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides what a fine-tune does and needs. Equal plans are the same run."""

    version: int = knob(PLAN_VERSION, "Version", "The version of this file format.", kind="integer", group="hidden")
    model: str | dict = knob(
        "demo/llama",
        "Model",
        "A model of the catalogue, a Hugging Face id, a local folder, or the text of a config.json.",
        kind="object",
    )
    method: str = knob("lora", "Method", "How the model is changed.", kind="text")
    method_options: dict = knob({}, "Method options", "The method's own settings, by their PEFT names.", kind="mapping")
    quantization: str = knob(
        "none",
        "Quantization",
        "Store the frozen weights in fewer bits; it saves memory and costs a little time.",
        kind="choice",
        choices=("none", "int8", "nf4", "fp4"),
        group="more",
    )
    double_quantization: bool = knob(
        True,
        "Double quantization",
        "Quantise the scales of the 4-bit weights too: 0.05 bytes per parameter less.",
        kind="flag",
        group="more",
    )
    objective: str = knob("sft", "Objective", "What the model is trained for.", kind="text")
    objective_options: dict = knob({}, "Objective options", "The objective's own settings.", kind="mapping", group="more")
    datasets: tuple[DataSource, ...] = knob(
        (), "Training data", "The rows to learn from. A plan without any is priced at the longest sequence.", kind="object"
    )
    eval_fraction: float = knob(
        0.05,
        "Held-out share",
        "The share of rows kept aside, chosen with the seed, to measure the evaluation loss. 0 turns it off.",
        minimum=0,
        maximum=0.5,
        group="more",
    )
    max_length: int = knob(
        768,
        "Longest sequence",
        "Rows are cut after this many tokens.",
        kind="integer",
        minimum=8,
        maximum=1_048_576,
    )
    packing: bool = knob(
        False, "Packing", "Fill every sequence with several rows, so that no padding is computed.", kind="flag", group="more"
    )
    chat_template: str = knob(
        "own",
        "Chat template",
        "How a chat is written as text: the model's own template, or one for a base model that has none. "
        "It is saved with the result.",
        kind="choice",
        choices=("own", "chatml", "plain"),
        group="more",
    )
    per_device_train_batch_size: int = knob(
        4, "Batch size", "Rows that are computed at once on each device.", kind="integer", minimum=1, maximum=4096
    )
    gradient_accumulation_steps: int = knob(
        1,
        "Gradient accumulation",
        "Batches that are added up before each optimizer step.",
        kind="integer",
        minimum=1,
        maximum=4096,
        group="more",
    )
    num_train_epochs: float = knob(
        3, "Epochs", "How often the training data is gone through.", minimum=0, above=True, maximum=10_000
    )
    max_steps: int = knob(
        -1,
        "Most steps",
        "Stop after this many optimizer steps; -1 goes by the epochs.",
        kind="integer",
        minimum=-1,
        maximum=10_000_000,
        group="more",
    )
    learning_rate: float | None = knob(
        None,
        "Learning rate",
        "The peak step size. Empty: the recommended value for the method.",
        minimum=0,
        above=True,
        maximum=10,
        optional=True,
    )
    lr_scheduler_type: str = knob(
        "cosine",
        "Schedule",
        "How the learning rate falls over the run.",
        kind="choice",
        choices=("cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
        group="more",
    )
    warmup_ratio: float = knob(
        0.03, "Warm-up share", "The share of the steps in which the learning rate rises.", minimum=0, maximum=1, group="more"
    )
    weight_decay: float = knob(0.0, "Weight decay", "Pulls the trained weights towards 0.", minimum=0, maximum=1, group="more")
    max_grad_norm: float = knob(
        1.0, "Gradient clipping", "Longer gradients are shortened to this norm.", minimum=0, maximum=1000, group="more"
    )
    optim: str = knob(
        "adamw_torch",
        "Optimizer",
        "The rule that turns gradients into steps.",
        kind="choice",
        choices=(
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_8bit",
            "paged_adamw_32bit",
            "paged_adamw_8bit",
            "adafactor",
            "sgd",
            "lion_8bit",
            "paged_lion_8bit",
            "ademamix_8bit",
            "galore_adamw",
            "galore_adamw_8bit",
            "apollo_adamw",
            "lomo",
            "adalomo",
        ),
        group="more",
    )
    precision: str = knob(
        "bf16",
        "Precision",
        "The number type of the weights and the arithmetic.",
        kind="choice",
        choices=("bf16", "fp16", "fp32"),
        group="more",
    )
    autocast: bool = knob(
        True,
        "Mixed precision",
        "Compute in the chosen precision whatever the weights are stored in, as the Trainer does with bf16 or fp16.",
        kind="flag",
        group="hidden",
    )
    master_weights: bool = knob(
        False,
        "Master weights",
        "Keep the weights in fp32 beside a half precision: twice the memory for the weights, steadier full fine-tuning.",
        kind="flag",
        group="hidden",
    )
    adapter_dtype: str = knob(
        "auto",
        "Adapter's number type",
        "auto: fp32, as PEFT does it (autocast_adapter_dtype); bf16 on quantised weights, as TRL does it.",
        kind="choice",
        choices=("auto", "fp32", "bf16", "fp16"),
        group="hidden",
    )
    prepare_model_for_kbit_training: bool = knob(
        False,
        "Prepare for k-bit training",
        "PEFT's function of this name: embeddings, norms and head of a quantised model in fp32. TRL no longer calls it.",
        kind="flag",
        group="hidden",
    )
    loss: str = knob(
        "chunked",
        "Loss",
        "chunked: log-probabilities in tiles, as TRL does it. full: all logits at once, as a plain Trainer does it. "
        "shifted: all logits, and a second copy of them in fp32, as transformers did it before 4.46.",
        kind="choice",
        choices=("chunked", "full", "shifted"),
        group="hidden",
    )
    keep_outputs: bool = knob(
        False,
        "Keep the outputs",
        "The training loop keeps the model's outputs until the next step, as a loop written by hand does: one more copy of "
        "the logits. The Trainer frees them before the backward pass.",
        kind="flag",
        group="hidden",
    )
    keep_quantized_inputs: bool = knob(
        False,
        "Keep the inputs of 4-bit layers",
        "bitsandbytes before 0.43.2 kept the input of every 4-bit layer for the backward pass, unless activations are "
        "checkpointed.",
        kind="flag",
        group="hidden",
    )
    gradient_checkpointing: bool = knob(
        False,
        "Gradient checkpointing",
        "Compute the activations twice instead of keeping them: far less memory, about a third more time.",
        kind="flag",
        group="more",
    )
    use_reentrant: bool = knob(
        False,
        "Reentrant checkpointing",
        "torch's older way to checkpoint, the default of transformers 4 (gradient_checkpointing_kwargs). Under FSDP, frozen "
        "layers then keep their inputs, and the gradients of these, until the backward pass ends.",
        kind="flag",
        group="hidden",
    )
    expandable_segments: bool = knob(
        False,
        "Expandable segments",
        "A setting of torch's allocator on NVIDIA GPUs (expandable_segments:True): less memory is lost in gaps.",
        kind="flag",
        group="more",
    )
    attn_implementation: str = knob(
        "sdpa",
        "Attention",
        "The kernel that computes attention.",
        kind="choice",
        choices=("sdpa", "eager", "flash_attention_2"),
        group="more",
    )
    seed: int = knob(0, "Seed", "The same seed gives the same run.", kind="integer", minimum=0, maximum=2**32 - 1, group="more")
    gpu: str = knob(THIS_MACHINE, "GPU", "Where it will run: this machine, or a GPU of the table.", kind="text")
    num_gpus: int = knob(
        1,
        "How many GPUs",
        "GPUs of this kind in one machine; a run of this program uses one of them.",
        kind="integer",
        minimum=1,
        maximum=1024,
        group="more",
    )
    sharding: str = knob(
        "none",
        "Sharding",
        "How the work is split over several GPUs: whole copies (ddp), or a share of everything each (fsdp, zero3).",
        kind="choice",
        choices=("none", "ddp", "fsdp", "zero2", "zero3"),
        group="more",
    )
    sync_each_batch: bool = knob(
        False,
        "Send gradients after each batch",
        "Under FSDP with accumulation: each GPU keeps its share of the gradients and not all of them, for more traffic "
        "(accelerate's GradientAccumulationPlugin).",
        kind="flag",
        group="more",
    )
    offload: str = knob(
        "none",
        "Offload",
        "Keep the optimizer's states, or the weights too, in the computer's memory: far less of the GPU's, much slower.",
        kind="choice",
        choices=("none", "optimizer", "all"),
        group="more",
    )

    def with_(self, **changes: Any) -> Plan:
        """The same plan with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values, every field present."""
        return dataclasses.asdict(self) | {"datasets": [dataclasses.asdict(source) for source in self.datasets]}

    def to_json(self) -> str:
        """The plan as its JSON file, with a newline at the end."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Read a plan from JSON values; absent fields take their defaults.

        Raises:
            PlanError: an unknown key (the nearest right one is named), a wrong version, a malformed data source, or a value
                that no JSON of ours may hold (`engine/json_input.py`).
        """
        if not isinstance(values, Mapping):
            raise PlanError([Issue(field="plan", message="is not a JSON object.", fix='Write it as {"model": ..., ...}.')])
        issues = json_input.problems(values, "plan")
        if issues:
            raise PlanError(issues)
        issues = unknown_keys(values, FIELDS, where="plan")
        if values.get("version", PLAN_VERSION) != PLAN_VERSION:
            issues.append(
                Issue(
                    field="version",
                    message=f"is {quoted(values['version'])}, and this program reads version {PLAN_VERSION}.",
                    fix="Update Fitting Room, or save the plan again from the version that wrote it.",
                )
            )
        datasets, source_issues = _read_sources(values.get("datasets"))
        issues += source_issues
        if issues:
            raise PlanError(issues)
        read: dict[str, Any] = {**values} | ({"datasets": datasets} if "datasets" in values else {})
        if "max_length" not in read:
            read["max_length"] = default_max_length(values.get("model", cls.model))
        return cls(**read)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan from the text of its JSON file. Raises `PlanError`, with the line of a syntax error."""
        return cls.from_dict(json_input.parse(text, "plan", fix=NOT_JSON))


FIELDS: dict[str, Knob] = {field.name: field.metadata["knob"] for field in dataclasses.fields(Plan)}
SOURCE_FIELDS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(DataSource))
SOURCE_KNOBS: dict[str, Knob] = {
    field.name: field.metadata["knob"] for field in dataclasses.fields(DataSource) if field.metadata
}


def default_max_length(model: Any) -> int:
    """The length of a plan that says none: the usual one, or the model's context length where that is shorter.

    Args:
        model: a plan's model, which may be wrong: `engine.checks` says so.
    """
    from engine.catalog import models  # it reads plans' models, so it imports this module

    usual = Plan.max_length
    try:
        return min(usual, models.find(model).context_length or usual)
    except PlanError:
        return usual


def _read_sources(values: Any) -> tuple[tuple[DataSource, ...], list[Issue]]:
    """The `datasets` list as data sources, and what is wrong with it."""
    if values is None:
        return (), []
    if not isinstance(values, (list, tuple)):
        return (), [Issue(field="datasets", message="is not a list.", fix='Write [{"path": "demo/pirate"}].')]
    if len(values) > MOST_DATASETS:
        message = f"names {len(values):,} data sets, and a plan has at most {MOST_DATASETS}."
        return (), [Issue(field="datasets", message=message, fix="Join some of them into one file.")]
    sources, issues = [], []
    for number, value in enumerate(values):
        if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
            issues.append(Issue(field=f"datasets[{number}]", message="has no path.", fix='Write {"path": "demo/pirate"}.'))
        else:
            unknown = unknown_keys(value, SOURCE_FIELDS, where="data source")
            issues += unknown
            if not unknown:
                sources.append(DataSource(**value))
    return tuple(sources), issues
