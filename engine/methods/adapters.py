"""Scales, shifts and adapter layers."""

from __future__ import annotations

from typing import Any

from engine.adapters import attach
from engine.adapters.peft_options import Option, options
from engine.methods.row import ALL_QUANTIZATIONS, COMPARISON, FREE_IF_MERGED, SOME, Method, by_peft

_SCALES = "Scales and shifts"
_ADAPTERS = "Adapter layers"
NO_ATTENTION = dict.fromkeys(
    ("convnext", "convnextv2"), "stands behind attention and feed-forward blocks, and this kind of model is built otherwise."
)


def _bottleneck_options(placement: str, **defaults: Any) -> tuple[Option, ...]:
    """The options of this program's own tuner (`engine/adapters/tuners/bottleneck.py`)."""
    return options(
        "bottleneck",
        common=("reduction_factor",),
        more=("non_linearity", "bottleneck_dropout", "target_modules", "modules_to_save"),
        defaults={"placement": placement, **defaults},
    )


ROWS: tuple[Method, ...] = (
    Method(
        key="ia3",
        label="(IA)3",
        group=_SCALES,
        sentence="What some layers give out is scaled by trained factors.",
        use_when="there are few examples and tiny files are wanted.",
        avoid_when="There is much to learn.",
        share="about 0.01 %",
        inference=FREE_IF_MERGED,
        learning_rate=5e-3,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2205.05638",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options("ia3", common=("target_modules", "feedforward_modules"), more=("modules_to_save",)),
        apply=by_peft("ia3"),
    ),
    Method(
        key="beft",
        label="BEFT",
        group=_SCALES,
        sentence="A trained constant is added to what some layers give out: new biases.",
        use_when="BitFit is wanted on a model without biases.",
        avoid_when="There is much to learn.",
        share="under 0.01 %",
        inference=SOME,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2509.15974",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        linear_only=True,
        options=options("beft", common=("target_modules",), more=("modules_to_save",)),
        apply=by_peft("beft"),
    ),
    Method(
        key="houlsby",
        label="Houlsby adapters",
        group=_ADAPTERS,
        sentence="Small new layers stand behind the attention and behind the feed-forward block of each layer.",
        use_when="many tasks share one model and each should have a part of its own, encoders above all.",
        avoid_when="The result must be merged, or answers must come as fast as the base model's.",
        share="1 to 4 %",
        inference=SOME,
        learning_rate=1e-4,
        learning_rate_source="AdapterHub's own, https://huggingface.co/AdapterHub/bert-base-uncased_sts_mrpc_houlsby",
        paper="https://arxiv.org/abs/1902.00751",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        not_for=NO_ATTENTION,
        options=_bottleneck_options("houlsby"),
        apply=attach.with_bottlenecks,
    ),
    Method(
        key="pfeiffer",
        label="Pfeiffer adapters",
        group=_ADAPTERS,
        sentence="One small new layer stands behind the feed-forward block of each layer.",
        use_when="Houlsby adapters are wanted at half their size and cost.",
        avoid_when="The result must be merged, or answers must come as fast as the base model's.",
        share="0.5 to 2 %",
        inference=SOME,
        learning_rate=1e-4,
        learning_rate_source="judgement: as for Houlsby adapters",
        paper="https://arxiv.org/abs/2005.00247",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        not_for=NO_ATTENTION,
        options=_bottleneck_options("pfeiffer", non_linearity="relu"),
        apply=attach.with_bottlenecks,
    ),
    Method(
        key="adaption_prompt",
        label="LLaMA-Adapter",
        group=_ADAPTERS,
        sentence="The upper layers attend to trained vectors, through a gate that starts closed.",
        use_when="a Llama, Mistral or GPT-2 model should follow instructions after little training.",
        avoid_when="The model is of another kind, or the result must be merged.",
        share="0.05 to 0.3 %",
        inference=SOME,
        learning_rate=5e-3,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2303.16199",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        mixed_only=True,
        model_types=("llama", "mistral", "gpt2"),
        options=options(
            "adaption_prompt", common=("adapter_len", "adapter_layers"), defaults={"adapter_len": 10, "adapter_layers": 2}
        ),
        apply=by_peft("adaption_prompt"),
    ),
)
