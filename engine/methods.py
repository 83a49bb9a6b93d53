"""METHODS: every way to fine-tune, one row each.

A row is all that a new method needs: the form, the checks, the estimator, the worker, the docs and a parametrised
test read it. Keys are PEFT's `peft_type` in lower case where PEFT has the method; option names are those of the PEFT
config, which declares them (`engine/peft_options.py`). The `apply` functions are in `engine/attach.py`; they import
peft when they are called, so that reading the table costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine import attach
from engine.peft_options import Option, options
from engine.plan import Knob, Plan
from engine.tasks import TASKS, Task

if TYPE_CHECKING:
    import torch

__all__ = ["METHODS", "Method", "Option", "option_values", "unfit"]

# What PEFT calls by a task's name; its soft prompts and task switches need one of these.
TEXT_TASKS = tuple(task.key for task in TASKS.values() if task.peft_type)
WITH_A_HEAD = tuple(task.key for task in TASKS.values() if task.head or task.auto_class.endswith(("LM", "ImageTextToText")))
# Kinds of models (config.model_type), by what their layers are made of (transformers 5.23).
CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONVOLUTIONAL_TYPES = ("resnet", "regnet", "mobilenet_v1", "mobilenet_v2")
NO_BIAS_TYPES = (
    *("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3_text", "qwen3", "qwen3_moe", "phi3"),
    *("olmo", "olmo2", "smollm3", "t5", "mt5"),
)

NONE = ("none",)
ALL_QUANTIZATIONS = ("none", "int8", "nf4", "fp4")
ANY_OF_4_BITS = ("nf4", "fp4")
NOT_8_BITS = ("none", "nf4", "fp4")  # tried with bitsandbytes 0.50 and PEFT 0.21: a step fails on 8-bit layers

HAS_NO_BIASES = dict.fromkeys(NO_BIAS_TYPES, "trains biases, and this kind of model has none. Norm tuning is the like of it.")
KEEPS_A_PAST = ("prefix_tuning", "p_tuning_v2", "cartridge")  # their vectors are the past of every layer
KEEPS_NO_PAST = {"modernbert": "needs a model that can attend to a past, and ModernBERT keeps none."}
UNPADS = {"modernbert": "mixes its skills row by row, and ModernBERT runs all rows together."}

# Where a recommended learning rate comes from.
COMPARISON = "PEFT's method comparison, https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA"
LIKE_COMPARED = f"judgement: the rate of most adapters in {COMPARISON}"
TRL_LORA = "TRL's LoRA guide (ten times the full rate), https://huggingface.co/docs/trl/lora_without_regret"

# What a method costs when the model answers.
FREE_IF_MERGED = "none once merged"
SOME = "a little more work for each token"
LONGER = "as many tokens more to read as there are virtual ones"
NOTHING = "none"


# PEFT's methods (0.21.2) that have no row, and why.
LEFT_OUT = {
    "xlora": "it mixes adapters that must have been trained before",
    "cpt": "its own loss needs a mark for every part of the prompt, which no trainer here gives",
    "shadow": "the second of its two losses needs all logits, which no trainer here keeps",
    "adamss": "it needs scikit-learn, which is not installed with this program",
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to fine-tune. `apply(model, options)` returns the model with just the right weights trainable."""

    key: str
    label: str
    group: str
    sentence: str  # for a person who has never heard of it
    use_when: str
    avoid_when: str
    share: str  # of the model's parameters that are trained, typically
    inference: str  # what it costs when the model answers
    learning_rate: float  # recommended peak
    learning_rate_source: str
    paper: str
    mergeable: bool  # False: it cannot be added to the weights, or the result already is a whole model
    whole_model: bool = False  # there is no adapter: the result is the model itself
    featured: bool = False  # offered first
    quantization: str = "none"  # what the plan gets when it says nothing
    quantizations: tuple[str, ...] = NONE  # what goes with it
    linear_only: bool = False  # PEFT's tuner does not take the Conv1D layers of GPT-2
    convolutions: bool = False  # it takes the layers of models that are made of convolutions alone
    untied: bool = False  # its layers may not be shared with the output layer, whose weight TRL's loss reads directly
    tasks: tuple[str, ...] = ()  # the keys of TASKS that it goes with; empty: all
    model_types: tuple[str, ...] = ()  # the only kinds of model (config.model_type) that it goes with; empty: all
    not_for: Mapping[str, str] = field(default_factory=dict)  # kinds of model that it does not go with: why
    options: tuple[Option, ...] = ()
    apply: Callable[[torch.nn.Module, Mapping[str, Any]], torch.nn.Module] = field(repr=False)
    optimizer: str = ""  # the key of engine.optimizers.OF_METHODS, where the method has an optimizer of its own


# Of two options that say the same thing in two ways, a plan that gives one means 0 by the other.
EITHER_OR = {"r": "oft_block_size", "oft_block_size": "r"}


def option_values(plan: Plan) -> dict[str, Any]:
    """The method's options as the run will use them: the plan's own, else the row's defaults."""
    defaults = {option.name: option.default for option in METHODS[plan.method].options}
    replaced = {EITHER_OR[name]: 0 for name in plan.method_options if EITHER_OR.get(name) in defaults}
    return defaults | replaced | dict(plan.method_options)


def unfit(method: Method, model_type: str, task: Task) -> str:
    """Why a method does not go with a kind of model, as a sentence without its subject; "" if it does."""
    if method.model_types and model_type not in method.model_types:
        return f"is made for {', '.join(method.model_types)} models, and this is a {model_type} model."
    if model_type in method.not_for:
        return method.not_for[model_type]
    if method.tasks and task.key not in method.tasks:
        return f"does not go with this kind of model ({task.label[0].lower()}{task.label[1:]})."
    if method.linear_only and model_type in CONV1D_TYPES:
        return f"adapts linear layers, and those of a {model_type} model are of another class (Conv1D)."
    if not method.convolutions and model_type in CONVOLUTIONAL_TYPES:
        return f"does not adapt convolutions, and a {model_type} model is made of them."
    return ""


def by_peft(peft_type: str) -> Callable[[torch.nn.Module, Mapping[str, Any]], torch.nn.Module]:
    """The `apply` of a method that PEFT has."""
    return functools.partial(attach.with_peft, peft_type)


def _own(name: str, default: Any, label: str, help: str, **limits: Any) -> Option:
    """An option that PEFT does not declare."""
    return Option(name=name, default=default, knob=Knob(label=label, help=help, **limits))


# --- the whole model, or parts of it --------------------------------------------------------------------------------

_WHOLE = "Whole model and parts"

_WHOLE_ROWS = (
    Method(
        key="full",
        label="Full",
        group=_WHOLE,
        featured=True,
        sentence="Every weight of the model is trained.",
        use_when="you have the memory, plenty of data, and want the model to change deeply.",
        avoid_when="Memory is short, or the data is small: it forgets more than an adapter does.",
        share="100 %",
        inference=NOTHING,
        learning_rate=2e-5,
        learning_rate_source="TRL's SFTConfig default, https://huggingface.co/docs/trl/sft_trainer",
        paper="https://arxiv.org/abs/1801.06146",
        mergeable=False,
        whole_model=True,
        convolutions=True,
        apply=attach.train_everything,
    ),
    Method(
        key="freeze",
        label="Last layers",
        group=_WHOLE,
        sentence="Only the last few layers of the model are trained; the rest stays as it was.",
        use_when="full fine-tuning is nearly affordable, or the lower layers should keep what they know.",
        avoid_when="An adapter would do: it needs less memory and keeps the model whole.",
        share="5 to 30 %",
        inference=NOTHING,
        learning_rate=5e-5,
        learning_rate_source="judgement: between the rates of full fine-tuning and of adapters",
        paper="https://arxiv.org/abs/1911.03090",
        mergeable=False,
        whole_model=True,
        convolutions=True,
        options=(
            _own("num_layers", 2, "Layers", "How many layers are trained, from the end.", kind="integer", minimum=0),
            _own("train_head", True, "Train the head", "The output layer is trained as well.", kind="flag"),
            _own("train_embeddings", False, "Train the embeddings", "The token vectors are trained as well.", kind="flag"),
            _own(
                "name_pattern",
                None,
                "Name pattern",
                "Instead of the last layers: the parameters whose names match, for instance mlp or layers.0.",
                kind="text",
                optional=True,
                group="more",
            ),
        ),
        apply=attach.train_last_layers,
    ),
    Method(
        key="feature_extraction",
        label="Head only",
        group=_WHOLE,
        sentence="The model is used as it is; only its last layer, which gives the answer, is trained.",
        use_when="the model already sees what matters, and a new set of labels is all that is missing.",
        avoid_when="The task is to write text: the output layer alone learns little.",
        share="under 1 % with a new head",
        inference=NOTHING,
        learning_rate=1e-3,
        learning_rate_source="judgement: a single layer on fixed features bears large steps",
        paper="https://arxiv.org/abs/1903.05987",
        mergeable=False,
        whole_model=True,
        convolutions=True,
        tasks=WITH_A_HEAD,
        apply=attach.train_head_only,
    ),
    Method(
        key="bitfit",
        label="BitFit",
        group=_WHOLE,
        sentence="Only the biases, the constants that layers add, are trained.",
        use_when="the model has biases (BERT, GPT-2, ViT, Qwen2) and the task is close to what it knows.",
        avoid_when="The model has no biases (Llama, Gemma, Qwen3): norm tuning is the like of it there.",
        share="about 0.1 %",
        inference=NOTHING,
        learning_rate=4e-4,
        learning_rate_source="judgement: biases bear larger steps than whole weights",
        paper="https://arxiv.org/abs/2106.10199",
        mergeable=False,
        whole_model=True,
        convolutions=True,
        not_for=HAS_NO_BIASES,
        apply=attach.train_biases,
    ),
    Method(
        key="ln_tuning",
        label="Norm tuning",
        group=_WHOLE,
        sentence="Only the norms, which set the scale of what passes between layers, are trained.",
        use_when="you want the smallest change that works on every model; it adds nothing to the model.",
        avoid_when="There is something new to learn: it can only turn up or down what is there.",
        share="under 0.01 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2312.11420",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        convolutions=True,
        options=options("ln_tuning", common=("target_modules",), more=("modules_to_save",)),
        apply=attach.train_norms,
    ),
    Method(
        key="trainable_tokens",
        label="Trainable tokens",
        group=_WHOLE,
        sentence="Only the vectors of a few chosen tokens are trained.",
        use_when="new tokens were added to the vocabulary, or a few words need a new meaning.",
        avoid_when="The model should learn to do something: nothing but those words changes.",
        share="a few thousand numbers",
        inference=FREE_IF_MERGED,
        learning_rate=1e-3,
        learning_rate_source="judgement: single embeddings bear the rates of soft prompts",
        paper="https://huggingface.co/docs/peft/package_reference/trainable_tokens",
        mergeable=True,
        untied=True,
        quantizations=ALL_QUANTIZATIONS,
        tasks=TEXT_TASKS,
        options=options("trainable_tokens", common=("token_indices",), more=("target_modules",)),
        apply=by_peft("trainable_tokens"),
    ),
)

# --- LoRA and its kin -----------------------------------------------------------------------------------------------

_LORA = "LoRA family"
_LORA_COMMON = ("r", "target_modules")
_LORA_MORE = ("lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "modules_to_save", "bias")


def _lora_options(**defaults: Any) -> tuple[Option, ...]:
    """LoRA's options with this program's defaults."""
    ours = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"} | defaults
    return options("lora", common=_LORA_COMMON, more=_LORA_MORE, defaults=ours)


_LORA_ROWS = (
    Method(
        key="lora",
        label="LoRA",
        group=_LORA,
        featured=True,
        sentence="The model stays frozen; two small matrices beside each chosen layer are trained.",
        use_when="almost always; it learns nearly as well as full fine-tuning for a fraction of the memory.",
        avoid_when="The task needs much new knowledge and you have the memory for full fine-tuning.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=2e-4,
        learning_rate_source=TRL_LORA,
        paper="https://arxiv.org/abs/2106.09685",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        convolutions=True,
        options=_lora_options(),
        apply=by_peft("lora"),
    ),
    Method(
        key="qlora",
        label="QLoRA",
        group=_LORA,
        featured=True,
        sentence="LoRA on a model whose frozen weights are stored in 4 bits.",
        use_when="the model does not fit in 16 bits; its weights then take about a quarter of the memory.",
        avoid_when="LoRA fits: the 4-bit weights are unpacked in every step, which takes time.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=2e-4,
        learning_rate_source="the paper's rate for 7B and 13B models, table 9 of https://arxiv.org/abs/2305.14314",
        paper="https://arxiv.org/abs/2305.14314",
        mergeable=True,
        quantization="nf4",
        quantizations=ANY_OF_4_BITS,
        options=_lora_options(),
        apply=by_peft("lora"),
    ),
    Method(
        key="dora",
        label="DoRA",
        group=_LORA,
        featured=True,
        sentence="LoRA that trains the length and the direction of each weight apart.",
        use_when="LoRA at a low rank falls short; it often learns a little more from the same parameters.",
        avoid_when="Speed counts: each layer's weights are normalised in every step.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2402.09353",
        mergeable=True,
        quantizations=NOT_8_BITS,
        convolutions=True,
        options=_lora_options(use_dora=True),
        apply=by_peft("lora"),
    ),
    Method(
        key="rslora",
        label="rsLoRA",
        group=_LORA,
        sentence="LoRA with a scale that lets high ranks learn as well as low ones.",
        use_when="you raise the rank to 64 or more and see no gain from it.",
        avoid_when="The rank is small: it is LoRA with a larger step then.",
        share="1 to 5 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2312.03732",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        convolutions=True,
        options=_lora_options(r=64, lora_alpha=64, use_rslora=True),
        apply=by_peft("lora"),
    ),
    Method(
        key="lora_plus",
        label="LoRA+",
        group=_LORA,
        sentence="LoRA whose second matrix takes larger steps than the first.",
        use_when="LoRA learns slowly: the same adapter often gets there in fewer steps.",
        avoid_when="Training is unsteady already.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=5e-5,
        learning_rate_source="judgement: a quarter of LoRA's, as the second matrix takes 16 times larger steps",
        paper="https://arxiv.org/abs/2402.12354",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        convolutions=True,
        options=(
            *_lora_options(),
            _own(
                "loraplus_lr_ratio",
                16.0,
                "Ratio of the rates",
                "How many times larger the steps of the second matrix are.",
                minimum=1,
                maximum=256,
                group="more",
            ),
        ),
        apply=by_peft("lora"),
        optimizer="lora_plus",
    ),
    Method(
        key="lora_fa",
        label="LoRA-FA",
        group=_LORA,
        sentence="LoRA whose first matrix stays as it was drawn; only the second one is trained.",
        use_when="activations fill the memory: the layers' wide inputs need not be kept.",
        avoid_when="The rank is small; half of the adapter does not learn.",
        share="0.05 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://arxiv.org/abs/2308.03303",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        convolutions=True,
        options=_lora_options(r=128, lora_alpha=32),
        apply=attach.with_lora_fa,
        optimizer="lora_fa",
    ),
    Method(
        key="pissa",
        label="PiSSA",
        group=_LORA,
        sentence="LoRA that starts from each weight's strongest directions instead of from nothing.",
        use_when="you want LoRA to learn faster from its first steps.",
        avoid_when="The model is large and you start many runs: each start decomposes every weight.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=2e-5,
        learning_rate_source="judgement: it starts from the strongest directions, where small steps go far",
        paper="https://arxiv.org/abs/2404.02948",
        mergeable=True,
        options=_lora_options(init_lora_weights="pissa_niter_16", lora_alpha=16),
        apply=by_peft("lora"),
    ),
    Method(
        key="olora",
        label="OLoRA",
        group=_LORA,
        sentence="LoRA that starts from orthogonal directions of each weight.",
        use_when="you want a quicker start than LoRA's; it is faster to prepare than PiSSA.",
        avoid_when="You start many runs of a large model: each start decomposes every weight.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://arxiv.org/abs/2406.01775",
        mergeable=True,
        linear_only=True,
        options=_lora_options(init_lora_weights="olora", lora_alpha=16),
        apply=by_peft("lora"),
    ),
    Method(
        key="adalora",
        label="AdaLoRA",
        group=_LORA,
        sentence="LoRA that gives more rank to the layers that need it, while it trains.",
        use_when="you do not know which layers matter and have steps enough to find out.",
        avoid_when="The run is short: ranks are moved over some hundreds of steps.",
        share="0.1 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2303.10512",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options(
            "adalora",
            common=("init_r", "target_r", "target_modules"),
            more=("lora_alpha", "lora_dropout", "tinit", "tfinal", "deltaT", "orth_reg_weight"),
            defaults={"lora_alpha": 32},
        ),
        apply=by_peft("adalora"),
        optimizer="adalora",
    ),
    Method(
        key="vera",
        label="VeRA",
        group=_LORA,
        sentence="All layers share two frozen random matrices; only small scales for each layer are trained.",
        use_when="many adapters must be stored: each is ten times smaller than LoRA's.",
        avoid_when="Quality comes first.",
        share="under 0.01 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-3,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2310.11454",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options("vera", common=_LORA_COMMON, more=("vera_dropout", "d_initial"), defaults={"r": 256}),
        apply=by_peft("vera"),
    ),
    Method(
        key="pvera",
        label="PVeRA",
        group=_LORA,
        sentence="VeRA whose scales are drawn from trained distributions.",
        use_when="you want VeRA's small files and can bear a little noise in training.",
        avoid_when="Quality comes first.",
        share="under 0.01 %",
        inference=FREE_IF_MERGED,
        learning_rate=3e-3,
        learning_rate_source=COMPARISON,
        paper="https://www.arxiv.org/abs/2512.07703",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options("pvera", common=_LORA_COMMON, more=("pvera_dropout", "d_initial")),
        apply=by_peft("pvera"),
    ),
    Method(
        key="loha",
        label="LoHa",
        group=_LORA,
        sentence="Two small matrix products are multiplied number by number, which reaches a higher rank.",
        use_when="LoRA's rank is what limits it, in image models above all.",
        avoid_when="Speed counts: the full update is formed in every step.",
        share="0.2 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://huggingface.co/papers/2108.06098",
        mergeable=True,
        linear_only=True,
        convolutions=True,
        options=options("loha", common=_LORA_COMMON, more=("alpha", "rank_dropout", "module_dropout")),
        apply=by_peft("loha"),
    ),
    Method(
        key="lokr",
        label="LoKr",
        group=_LORA,
        sentence="The update is a Kronecker product: a small pattern, repeated with trained weights.",
        use_when="you want very small files that still reach a high rank.",
        avoid_when="Speed counts: the full update is formed in every step.",
        share="under 0.1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://huggingface.co/papers/2309.14859",
        mergeable=True,
        linear_only=True,
        convolutions=True,
        options=options("lokr", common=_LORA_COMMON, more=("alpha", "decompose_factor", "rank_dropout")),
        apply=by_peft("lokr"),
    ),
    Method(
        key="hira",
        label="HiRA",
        group=_LORA,
        sentence="A LoRA update is multiplied with the frozen weight, number by number, which reaches a high rank.",
        use_when="LoRA's rank is what limits it.",
        avoid_when="Many weights are near 0: they hardly change.",
        share="0.2 to 3 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://openreview.net/pdf?id=TwJrTz9cRS",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        convolutions=True,
        options=options("hira", common=_LORA_COMMON, more=("hira_dropout",)),
        apply=by_peft("hira"),
    ),
    Method(
        key="randlora",
        label="RandLoRA",
        group=_LORA,
        sentence="Frozen random matrices are added up with trained weights to an update of full rank.",
        use_when="LoRA's rank is what limits it and parameters are scarce.",
        avoid_when="Memory is short: the random matrices take part in every step.",
        share="0.2 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2502.00987",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options("randlora", common=_LORA_COMMON, more=("randlora_alpha", "randlora_dropout")),
        apply=by_peft("randlora"),
    ),
    Method(
        key="vblora",
        label="VB-LoRA",
        group=_LORA,
        sentence="The matrices of all layers are put together from one shared bank of vectors.",
        use_when="very many adapters must be stored.",
        avoid_when="Widths are odd: the vector length must divide every layer's width.",
        share="0.01 to 0.1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-3,
        learning_rate_source="judgement: a shared bank bears larger steps than LoRA's matrices",
        paper="https://huggingface.co/papers/2405.15179",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options(
            "vblora", common=("r", "num_vectors", "vector_length", "target_modules"), more=("topk", "vblora_dropout")
        ),
        apply=by_peft("vblora"),
    ),
    Method(
        key="unilora",
        label="Uni-LoRA",
        group=_LORA,
        sentence="One short vector is spread over the LoRA matrices of all layers.",
        use_when="the smallest possible file is wanted: a few hundred numbers for a whole model.",
        avoid_when="There is much to learn.",
        share="some hundred numbers",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2506.00799",
        mergeable=True,
        options=options("unilora", common=("r", "theta_d_length", "target_modules"), more=("unilora_dropout",)),
        apply=by_peft("unilora"),
    ),
    Method(
        key="tinylora",
        label="TinyLoRA",
        group=_LORA,
        sentence="A handful of numbers steers the strongest directions of each layer.",
        use_when="a reward, not a text, is learned from, and very few numbers should do it.",
        avoid_when="New text is to be learned: there is hardly room for it.",
        share="some thousand numbers",
        inference=FREE_IF_MERGED,
        learning_rate=1e-3,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2602.04118",
        mergeable=True,
        options=options("tinylora", common=("r", "u", "target_modules"), more=("tinylora_dropout", "weight_tying")),
        apply=by_peft("tinylora"),
    ),
    Method(
        key="delora",
        label="DeLoRA",
        group=_LORA,
        sentence="LoRA whose update has a bounded length, so that it cannot drift far.",
        use_when="LoRA diverges or forgets: large learning rates do less harm here.",
        avoid_when="The model must change much.",
        share="0.1 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-3,
        learning_rate_source="judgement: the bound allows larger steps than LoRA's",
        paper="https://huggingface.co/papers/2503.18225",
        mergeable=True,
        linear_only=True,
        options=options("delora", common=("r", "target_modules"), more=("delora_lambda", "module_dropout", "bias")),
        apply=by_peft("delora"),
    ),
    Method(
        key="gralora",
        label="GraLoRA",
        group=_LORA,
        sentence="Each weight is cut into blocks, and each block gets a small LoRA of its own.",
        use_when="LoRA stops gaining at high ranks.",
        avoid_when="The rank is small: every block gets a part of it only.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=2e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/docs/peft/package_reference/gralora",
        mergeable=True,
        quantizations=NOT_8_BITS,
        options=options("gralora", common=("r", "gralora_k", "target_modules"), more=("alpha", "hybrid_r", "gralora_dropout")),
        apply=by_peft("gralora"),
    ),
    Method(
        key="glora",
        label="GLoRA",
        group=_LORA,
        sentence="LoRA that scales and shifts weights and biases as well.",
        use_when="one form of adapter should fit many kinds of tasks.",
        avoid_when="Memory is short: the whole weight is formed in every step.",
        share="0.1 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/docs/peft/main/package_reference/glora",
        mergeable=True,
        linear_only=True,
        options=options("glora", common=_LORA_COMMON, more=("config_A_B", "config_C", "config_D_E")),
        apply=by_peft("glora"),
    ),
    Method(
        key="miss",
        label="MiSS",
        group=_LORA,
        sentence="One small matrix is shared by all slices of a layer's weight.",
        use_when="you want something as simple as LoRA that trains a little faster.",
        avoid_when="You need what is built around LoRA (fused kernels, servers of many adapters).",
        share="0.1 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2409.15371",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        linear_only=True,
        options=options("miss", common=_LORA_COMMON, more=("mini_r", "miss_dropout", "init_weights")),
        apply=by_peft("miss"),
    ),
    Method(
        key="lily",
        label="Lily",
        group=_LORA,
        sentence="Neighbouring layers share one LoRA matrix and choose between others that all layers share.",
        use_when="a high rank is wanted and parameters are scarce.",
        avoid_when="The result must be merged: which matrices are used depends on the text.",
        share="0.1 to 1 %",
        inference=SOME,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2407.09946",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        linear_only=True,
        options=options("lily", common=("r", "stride_A", "num_B", "target_modules"), more=("scaling",)),
        apply=by_peft("lily"),
    ),
    Method(
        key="peanut",
        label="PEANuT",
        group=_LORA,
        sentence="A small network reads the frozen weight and writes its update.",
        use_when="LoRA's updates, which are products of two matrices, are too simple.",
        avoid_when="Speed counts: the network reads every weight in every step.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://arxiv.org/abs/2410.01870",
        mergeable=True,
        linear_only=True,
        options=options("peanut", common=("r", "depth", "target_modules"), more=("act_fn", "scaling")),
        apply=by_peft("peanut"),
    ),
    Method(
        key="deft",
        label="DEFT",
        group=_LORA,
        sentence="A few directions are taken out of each weight and others are put in.",
        use_when="something new should replace something old and the rest should stay.",
        avoid_when="You only add knowledge: LoRA is simpler.",
        share="0.1 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/docs/peft/main/package_reference/deft",
        mergeable=True,
        options=options("deft", common=_LORA_COMMON, more=("decomposition_method", "para", "alpha", "deft_dropout")),
        apply=by_peft("deft"),
    ),
    Method(
        key="poly",
        label="Poly",
        group=_LORA,
        sentence="Several small LoRAs, the skills, are mixed by a trained switch.",
        use_when="skills should be kept apart to be reused for other tasks later.",
        avoid_when="There is one task only: it is a wider LoRA then.",
        share="0.2 to 2 %",
        inference=SOME,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://huggingface.co/papers/2202.13914",
        mergeable=False,
        quantizations=NOT_8_BITS,
        linear_only=True,
        tasks=TEXT_TASKS,
        not_for=UNPADS,
        options=options("poly", common=("r", "n_skills", "target_modules"), more=("n_tasks", "n_splits")),
        apply=by_peft("poly"),
    ),
)

# --- rotations ------------------------------------------------------------------------------------------------------

_ROTATIONS = "Rotations"

_ROTATION_ROWS = (
    Method(
        key="oft",
        label="OFT",
        group=_ROTATIONS,
        sentence="Each layer's weights are rotated, in blocks; their lengths and angles to each other stay.",
        use_when="the model must keep what it can do: style and subject of image models, for instance.",
        avoid_when="Much must change.",
        share="0.1 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2306.07280",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        linear_only=True,
        options=options("oft", common=("oft_block_size", "r", "target_modules"), more=("module_dropout", "coft", "bias")),
        apply=by_peft("oft"),
    ),
    Method(
        key="boft",
        label="BOFT",
        group=_ROTATIONS,
        sentence="OFT with rotations that are put together like a butterfly, from fewer numbers.",
        use_when="OFT is right but too large.",
        avoid_when="Speed counts: the rotations are multiplied out in every step.",
        share="0.02 to 0.5 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2311.06243",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        linear_only=True,
        options=options(
            "boft",
            common=("boft_block_size", "target_modules"),
            more=("boft_block_num", "boft_n_butterfly_factor", "boft_dropout", "bias"),
        ),
        apply=by_peft("boft"),
    ),
    Method(
        key="hra",
        label="HRA",
        group=_ROTATIONS,
        sentence="Each layer's weights are mirrored a few times, which is a rotation in the end.",
        use_when="you want OFT's care for the model at LoRA's size.",
        avoid_when="Speed counts: the mirrors are applied one after the other.",
        share="0.05 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://huggingface.co/papers/2405.17484",
        mergeable=True,
        linear_only=True,
        convolutions=True,
        options=options("hra", common=_LORA_COMMON, more=("apply_GS", "bias")),
        apply=by_peft("hra"),
    ),
    Method(
        key="psoft",
        label="PSOFT",
        group=_ROTATIONS,
        sentence="Only the strongest directions of each weight are rotated.",
        use_when="you want OFT's care for the model with far fewer numbers.",
        avoid_when="You start many runs of a large model: each start decomposes every weight.",
        share="0.01 to 0.1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://openreview.net/forum?id=FSHrinMArK",
        mergeable=True,
        linear_only=True,
        options=options("psoft", common=_LORA_COMMON, more=("psoft_alpha", "psoft_svd", "psoft_dropout")),
        apply=by_peft("psoft"),
    ),
    Method(
        key="road",
        label="RoAd",
        group=_ROTATIONS,
        sentence="What each layer gives out is turned in pairs of numbers.",
        use_when="many adapters are used at once in one batch: turning is cheap.",
        avoid_when="Much must change.",
        share="under 0.01 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-3,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2409.00119",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        linear_only=True,
        options=options("road", common=("group_size", "target_modules"), more=("variant",)),
        apply=by_peft("road"),
    ),
)

# --- sparse and spectral --------------------------------------------------------------------------------------------

_SPARSE = "Sparse and spectral"

_SPARSE_ROWS = (
    Method(
        key="fourierft",
        label="FourierFT",
        group=_SPARSE,
        sentence="A few waves of each weight's update are trained; the update is their sum.",
        use_when="very small files are wanted.",
        avoid_when="Memory is short: the full update is formed in every step.",
        share="under 0.01 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2405.03003",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options("fourierft", common=("n_frequency", "target_modules"), more=("scaling", "random_loc_seed", "bias")),
        apply=by_peft("fourierft"),
    ),
    Method(
        key="waveft",
        label="WaveFT",
        group=_SPARSE,
        sentence="FourierFT with wavelets, which change a part of the weight and not all of it.",
        use_when="very small files are wanted, for image models above all.",
        avoid_when="Memory is short: the full update is formed in every step.",
        share="under 0.01 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://huggingface.co/papers/2505.12532",
        mergeable=True,
        quantizations=ALL_QUANTIZATIONS,
        options=options("waveft", common=("n_frequency", "target_modules"), more=("scaling", "wavelet_family", "use_idwt")),
        apply=by_peft("waveft"),
    ),
    Method(
        key="c3a",
        label="C3A",
        group=_SPARSE,
        sentence="The update repeats one row, shifted, in blocks: a circular convolution.",
        use_when="a high rank is wanted from few numbers.",
        avoid_when="Widths are odd: the block size must divide every layer's width.",
        share="0.05 to 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://huggingface.co/papers/2407.19342",
        mergeable=True,
        quantizations=NOT_8_BITS,
        linear_only=True,
        options=options("c3a", common=("block_size", "target_modules"), more=("block_size_pattern", "bias")),
        apply=by_peft("c3a"),
    ),
    Method(
        key="shira",
        label="SHiRA",
        group=_SPARSE,
        sentence="A small part of each weight's numbers, drawn at random, is trained.",
        use_when="adapters should be swapped fast or added up: they seldom touch the same numbers.",
        avoid_when="Memory is short: the full update is formed in every step.",
        share="0.1 to 2 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://huggingface.co/docs/peft/package_reference/shira",
        mergeable=True,
        quantizations=NOT_8_BITS,
        linear_only=True,
        options=options("shira", common=_LORA_COMMON, more=("random_seed",)),
        apply=by_peft("shira"),
    ),
    Method(
        key="supertuning",
        label="Super-Tuning",
        group=_SPARSE,
        sentence="The largest numbers of each weight are trained, the others stay.",
        use_when="you want full fine-tuning's reach with a hundredth of its parameters.",
        avoid_when="Memory is short: the full update is formed in every step.",
        share="about 1 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=LIKE_COMPARED,
        paper="https://arxiv.org/abs/2607.09287",
        mergeable=True,
        linear_only=True,
        options=options("supertuning", common=("sparsity", "target_modules"), more=("select_top", "r")),
        apply=by_peft("supertuning"),
    ),
    Method(
        key="frod",
        label="FRoD",
        group=_SPARSE,
        sentence="All layers share their main directions; scales and a few cross terms are trained.",
        use_when="a full-rank update is wanted from few numbers.",
        avoid_when="The model is large: its weights are decomposed together before the first step.",
        share="0.1 to 0.5 %",
        inference=FREE_IF_MERGED,
        learning_rate=1e-4,
        learning_rate_source=COMPARISON,
        paper="https://doi.org/10.1609/aaai.v40i31.39813",
        mergeable=True,
        options=options(
            "frod", common=("sparse_rate", "target_modules"), more=("frod_dropout",), defaults={"progressbar": False}
        ),
        apply=by_peft("frod"),
    ),
    Method(
        key="osf",
        label="OSF",
        group=_SPARSE,
        sentence="Each weight's strongest directions are kept; the weaker ones are trained in full.",
        use_when="tasks are learned one after the other and the earlier ones must not be forgotten.",
        avoid_when="Memory is short: it trains about as much as full fine-tuning does.",
        share="about 50 %",
        inference=FREE_IF_MERGED,
        learning_rate=5e-5,
        learning_rate_source="judgement: it trains half of the model, so between full fine-tuning and adapters",
        paper="https://huggingface.co/docs/peft/package_reference/osf",
        mergeable=True,
        linear_only=True,
        options=options("osf", common=("effective_rank", "target_modules")),
        apply=by_peft("osf"),
    ),
)

# --- scales and adapters --------------------------------------------------------------------------------------------

_SCALES = "Scales and shifts"
_ADAPTERS = "Adapter layers"


def _bottleneck_options(placement: str, **defaults: Any) -> tuple[Option, ...]:
    """The options of this program's own tuner (`engine/tuners/bottleneck.py`)."""
    return options(
        "bottleneck",
        common=("reduction_factor",),
        more=("non_linearity", "bottleneck_dropout", "target_modules", "modules_to_save"),
        defaults={"placement": placement, **defaults},
    )


_ADAPTER_ROWS = (
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
        learning_rate=3e-4,
        learning_rate_source="judgement: near LoRA's, as the adapters are as wide",
        paper="https://arxiv.org/abs/1902.00751",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
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
        learning_rate_source="judgement: as for Houlsby adapters, a little lower",
        paper="https://arxiv.org/abs/2005.00247",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
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
        model_types=("llama", "mistral", "gpt2"),
        options=options(
            "adaption_prompt", common=("adapter_len", "adapter_layers"), defaults={"adapter_len": 10, "adapter_layers": 2}
        ),
        apply=by_peft("adaption_prompt"),
    ),
)

# --- soft prompts ---------------------------------------------------------------------------------------------------

_PROMPTS = "Soft prompts"

_PROMPT_ROWS = (
    Method(
        key="prompt_tuning",
        label="Prompt tuning",
        group=_PROMPTS,
        sentence="Trained vectors stand before each text, like a prompt that no one could have written.",
        use_when="the model is large and one copy of it should serve many tasks.",
        avoid_when="The model is small: it learns far less than LoRA there.",
        share="under 0.01 %",
        inference=LONGER,
        learning_rate=1e-3,
        learning_rate_source=COMPARISON,
        paper="https://arxiv.org/abs/2104.08691",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        tasks=TEXT_TASKS,
        options=options(
            "prompt_tuning",
            common=("num_virtual_tokens", "prompt_tuning_init"),
            more=("prompt_tuning_init_text",),
            defaults={"num_virtual_tokens": 20},
        ),
        apply=by_peft("prompt_tuning"),
    ),
    Method(
        key="p_tuning",
        label="P-tuning",
        group=_PROMPTS,
        sentence="Prompt tuning whose vectors come from a small network, which steadies the training.",
        use_when="prompt tuning is wanted and does not settle.",
        avoid_when="The model is small, or the result must be merged.",
        share="0.01 to 1 %",
        inference=LONGER,
        learning_rate=1e-3,
        learning_rate_source="judgement: prompt tuning's rate",
        paper="https://arxiv.org/abs/2103.10385",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        tasks=TEXT_TASKS,
        options=options(
            "p_tuning",
            common=("num_virtual_tokens", "encoder_hidden_size"),
            more=("encoder_reparameterization_type", "encoder_num_layers", "encoder_dropout"),
            defaults={"num_virtual_tokens": 20},
        ),
        apply=by_peft("p_tuning"),
    ),
    Method(
        key="prefix_tuning",
        label="Prefix tuning",
        group=_PROMPTS,
        sentence="Every layer attends to trained vectors before the text, not the first layer alone.",
        use_when="one copy of a model should serve many tasks and prompt tuning is too weak.",
        avoid_when="The result must be merged.",
        share="0.05 to 0.2 %",
        inference=LONGER,
        learning_rate=1e-3,
        learning_rate_source="judgement: prompt tuning's rate",
        paper="https://arxiv.org/abs/2101.00190",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        tasks=TEXT_TASKS,
        not_for=KEEPS_NO_PAST,
        options=options(
            "prefix_tuning",
            common=("num_virtual_tokens", "prefix_projection"),
            more=("encoder_hidden_size",),
            defaults={"num_virtual_tokens": 20},
        ),
        apply=by_peft("prefix_tuning"),
    ),
    Method(
        key="p_tuning_v2",
        label="P-tuning v2",
        group=_PROMPTS,
        sentence="Long trained prefixes in every layer, made for understanding texts and for smaller models.",
        use_when="texts are classified or tagged, and one copy of a model should serve many tasks.",
        avoid_when="The result must be merged.",
        share="0.1 to 3 %",
        inference=LONGER,
        learning_rate=5e-3,
        learning_rate_source="judgement: a deep prompt bears larger steps than prompt tuning's",
        paper="https://arxiv.org/abs/2110.07602",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        tasks=TEXT_TASKS,
        not_for=KEEPS_NO_PAST,
        options=options(
            "prefix_tuning",
            common=("num_virtual_tokens",),
            more=("prefix_projection", "encoder_hidden_size"),
            defaults={"num_virtual_tokens": 100},
        ),
        apply=by_peft("prefix_tuning"),
    ),
    Method(
        key="multitask_prompt_tuning",
        label="Multitask prompt tuning",
        group=_PROMPTS,
        sentence="A prompt that tasks share is multiplied with a small part for each task.",
        use_when="a shared prompt will be carried over to further tasks.",
        avoid_when="There is one task only: prompt tuning is the same then.",
        share="under 0.01 %",
        inference=LONGER,
        learning_rate=1e-3,
        learning_rate_source="judgement: prompt tuning's rate",
        paper="https://huggingface.co/papers/2303.02861",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        tasks=TEXT_TASKS,
        options=options(
            "multitask_prompt_tuning",
            common=("num_virtual_tokens", "num_ranks"),
            more=("prompt_tuning_init", "num_tasks"),
            defaults={"num_virtual_tokens": 20},
        ),
        apply=by_peft("multitask_prompt_tuning"),
    ),
    Method(
        key="cartridge",
        label="Cartridge",
        group=_PROMPTS,
        sentence="The model's memory of a text it never has to read again is trained directly.",
        use_when="a long document should be at hand in every conversation.",
        avoid_when="A way of writing is to be learned: prefix tuning or LoRA do that.",
        share="0.05 to 1 %",
        inference=LONGER,
        learning_rate=1e-3,
        learning_rate_source="judgement: prompt tuning's rate",
        paper="https://huggingface.co/docs/peft/main/package_reference/cartridges",
        mergeable=False,
        quantizations=ALL_QUANTIZATIONS,
        tasks=("causal-lm",),
        options=options(
            "cartridge", common=("num_virtual_tokens",), more=("num_frozen_tokens",), defaults={"num_virtual_tokens": 64}
        ),
        apply=by_peft("cartridge"),
    ),
)

# --- two at once ----------------------------------------------------------------------------------------------------

_HYBRIDS = "Two at once"

_HYBRID_ROWS = (
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
        options=_lora_options(bias="all"),
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
        options=_lora_options(),
        apply=attach.with_lora_and_embeddings,
    ),
)

_ROWS = (*_LORA_ROWS, *_WHOLE_ROWS, *_ROTATION_ROWS, *_SPARSE_ROWS, *_ADAPTER_ROWS, *_PROMPT_ROWS, *_HYBRID_ROWS)

METHODS: dict[str, Method] = {row.key: row for row in _ROWS}
