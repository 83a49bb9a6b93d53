"""METHODS: every way to fine-tune, one row each.

A row is all that a new method needs: the form, the checks, the estimator, the worker, the docs and a parametrised
test read it. Keys are PEFT's `peft_type` in lower case where PEFT has the method; option names are those of the PEFT
config. The `apply` functions import peft when they are called, so that reading the table costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.plan import Knob, Plan

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting of a method: its PEFT name, its default and what a person needs to know about it."""

    name: str
    default: Any
    knob: Knob


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to fine-tune. `apply(model, options)` returns the model with just the right weights trainable."""

    key: str
    label: str
    sentence: str  # for a person who has never heard of it
    use_when: str
    avoid_when: str
    learning_rate: float  # recommended peak
    learning_rate_source: str
    paper: str
    mergeable: bool  # False: there is no adapter to merge, the result already is a whole model
    quantization: str = "none"  # what the plan gets when it says nothing
    quantizations: tuple[str, ...] = ("none",)  # what goes with it
    options: tuple[Option, ...] = ()
    apply: Callable[[torch.nn.Module, Mapping[str, Any]], torch.nn.Module] = field(repr=False)


def option_values(plan: Plan) -> dict[str, Any]:
    """The method's options as the run will use them: the plan's own, else the row's defaults."""
    return {option.name: option.default for option in METHODS[plan.method].options} | dict(plan.method_options)


def _train_everything(model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
    model.requires_grad_(True)
    return model


def _add_lora(model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))


_LORA_OPTIONS = (
    Option(
        name="r",
        default=16,
        knob=Knob(
            label="Rank (r)",
            help="The width of the added matrices: more learns more, and costs more.",
            kind="integer",
            minimum=1,
            maximum=1024,
        ),
    ),
    Option(
        name="lora_alpha",
        default=32,
        knob=Knob(
            label="Alpha",
            help="The update is scaled by alpha / r; twice the rank is usual.",
            kind="integer",
            minimum=1,
            maximum=4096,
            group="more",
        ),
    ),
    Option(
        name="lora_dropout",
        default=0.0,
        knob=Knob(
            label="Dropout",
            help="The share of the adapter's inputs that is dropped while training.",
            minimum=0,
            maximum=0.9,
            group="more",
        ),
    ),
    Option(
        name="target_modules",
        default="all-linear",
        knob=Knob(
            label="Target modules",
            help="The layers that get an adapter: all-linear, or names with commas between (q_proj, v_proj).",
            kind="names",
        ),
    ),
)

_ROWS = (
    Method(
        key="full",
        label="Full",
        sentence="Every weight of the model is trained.",
        use_when="you have the memory, plenty of data, and want the model to change deeply.",
        avoid_when="Memory is short, or the data is small: it forgets more than an adapter does.",
        learning_rate=2e-5,
        learning_rate_source="TRL's SFTConfig default, https://huggingface.co/docs/trl/sft_trainer",
        paper="https://arxiv.org/abs/1801.06146",
        mergeable=False,
        apply=_train_everything,
    ),
    Method(
        key="lora",
        label="LoRA",
        sentence="The model stays frozen; two small matrices beside each chosen layer are trained.",
        use_when="almost always; it learns nearly as well as full fine-tuning for a fraction of the memory.",
        avoid_when="The task needs much new knowledge and you have the memory for full fine-tuning.",
        learning_rate=2e-4,
        learning_rate_source="TRL's LoRA guide (ten times the full rate), https://huggingface.co/docs/trl/lora_without_regret",
        paper="https://arxiv.org/abs/2106.09685",
        mergeable=True,
        quantizations=("none", "int8", "nf4", "fp4"),
        options=_LORA_OPTIONS,
        apply=_add_lora,
    ),
    Method(
        key="qlora",
        label="QLoRA",
        sentence="LoRA on a model whose frozen weights are stored in 4 bits.",
        use_when="the model does not fit in 16 bits; its weights then take about a quarter of the memory.",
        avoid_when="LoRA fits: the 4-bit weights are unpacked in every step, which takes time.",
        learning_rate=2e-4,
        learning_rate_source="the paper's rate for 7B and 13B models, table 9 of https://arxiv.org/abs/2305.14314",
        paper="https://arxiv.org/abs/2305.14314",
        mergeable=True,
        quantization="nf4",
        quantizations=("nf4", "fp4"),
        options=_LORA_OPTIONS,
        apply=_add_lora,
    ),
)

METHODS: dict[str, Method] = {row.key: row for row in _ROWS}
