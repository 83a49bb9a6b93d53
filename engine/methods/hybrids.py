"""Two methods at once in one model."""

from __future__ import annotations

import functools

from engine.adapters import attach
from engine.methods import adapters, lora, prompts
from engine.methods.lora import lora_options
from engine.methods.row import ALL_QUANTIZATIONS, FREE_IF_MERGED, HAS_NO_BIASES, TRL_LORA, Method

_HYBRIDS = "Two at once"
_LAYERS = {row.key: row for row in (*lora.ROWS, *adapters.ROWS)}
_PROMPTS = {row.key: row for row in prompts.ROWS}


def _pair(layers: Method, prompt: Method, *, use_when: str, avoid_when: str, share: str, rate: float) -> Method:
    """Adapted layers and a soft prompt in one model: what goes with both, with the options of both."""
    known = {option.name for option in layers.options}
    return Method(
        key=f"{layers.key}_{prompt.key}",
        label=f"{layers.label} + {prompt.label[0].lower()}{prompt.label[1:]}",
        group=_HYBRIDS,
        sentence=f"{layers.label}, and {prompt.label[0].lower()}{prompt.label[1:]} before it, trained and saved as one.",
        use_when=use_when,
        avoid_when=avoid_when,
        share=share,
        inference=prompt.inference,
        learning_rate=rate,
        learning_rate_source=f"judgement: the lower one of {layers.label}'s and {prompt.label}'s, as both take the same steps",
        paper=layers.paper,
        mergeable=False,
        quantizations=tuple(kind for kind in layers.quantizations if kind in prompt.quantizations),
        packed=layers.packed and prompt.packed,
        mixed_only=layers.mixed_only,
        linear_only=layers.linear_only,
        untied=layers.untied or prompt.untied,
        tasks=tuple(task for task in prompt.tasks if not layers.tasks or task in layers.tasks),
        not_for={**layers.not_for, **prompt.not_for},
        virtual=True,
        keeps_past=prompt.keeps_past,
        one_adapter=True,
        options=(*layers.options, *(option for option in prompt.options if option.name not in known)),
        apply=functools.partial(attach.with_pair, layers.apply, prompt.apply),
    )


ROWS: tuple[Method, ...] = (
    Method(
        key="lora_bitfit",
        label="LoRA + BitFit",
        group=_HYBRIDS,
        sentence="LoRA, and every bias of the model is trained as well.",
        use_when="the model has biases: they cost next to nothing.",
        avoid_when="The base must answer as before when the adapter is off: the biases stay changed.",
        share="0.2 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=2e-4,
        learning_rate_source=TRL_LORA,
        paper="https://arxiv.org/abs/2106.09685",
        mergeable=True,
        not_for=HAS_NO_BIASES,
        options=lora_options(bias="all"),
        apply=attach.with_lora_and_biases,
    ),
    Method(
        key="lora_embeddings",
        label="LoRA + embeddings and head",
        group=_HYBRIDS,
        sentence="LoRA, and the token vectors and the output layer are trained in full.",
        use_when="a new language or a new domain brings words that the model hardly knows.",
        avoid_when="The vocabulary is large and memory is short.",
        share="5 to 30 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source="judgement: half of LoRA's, as whole matrices are trained too",
        paper="https://arxiv.org/abs/2309.12307",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        tasks=("causal-lm",),
        options=lora_options(),
        apply=attach.with_lora_and_embeddings,
    ),
    _pair(
        _LAYERS["lora"],
        _PROMPTS["prompt_tuning"],
        use_when="LoRA is wanted, and trained words before the text should say what the task is.",
        avoid_when="The result must be merged: the trained words cannot be.",
        share="0.1 to 2 %",
        rate=2e-4,
    ),
    _pair(
        _LAYERS["lora"],
        _PROMPTS["prefix_tuning"],
        use_when="every layer should be steered from before the text, and changed as well.",
        avoid_when="The result must be merged, or gradients are checkpointed: the trained past would not be found.",
        share="0.2 to 2 %",
        rate=2e-4,
    ),
    _pair(
        _LAYERS["ia3"],
        _PROMPTS["prompt_tuning"],
        use_when="the smallest files are wanted and (IA)3 alone learns too little.",
        avoid_when="There is much to learn.",
        share="about 0.02 %",
        rate=1e-3,
    ),
)
