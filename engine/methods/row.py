"""What a row of METHODS is, and what the rows share: kinds of models, sources of learning rates, prices of answers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.adapters import attach
from engine.adapters.peft_options import Option
from engine.catalog.tasks import TASKS, Task
from engine.plan import Knob

if TYPE_CHECKING:
    import torch

# What PEFT calls by a task's name; its soft prompts and task switches need one of these.
TEXT_TASKS = tuple(task.key for task in TASKS.values() if task.peft_type)
# Where what comes out need not stand for each word that went in: vectors may stand before the words.
OF_WHOLE_TEXTS = ("causal-lm", "sequence-classification", "regression", "seq2seq")
WITH_A_HEAD = tuple(task.key for task in TASKS.values() if task.head or task.auto_class.endswith(("LM", "ImageTextToText")))
# Kinds of models (config.model_type), by what their layers are made of (transformers 5.23).
CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONVOLUTIONAL_TYPES = ("resnet", "regnet", "mobilenet_v1", "mobilenet_v2")
ENCODER_DECODER_TYPES = ("t5", "mt5", "umt5", "bart", "mbart")
NO_BIAS_TYPES = (
    *("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3_text", "qwen3", "qwen3_moe", "phi3"),
    *("olmo", "olmo2", "smollm3", "t5", "mt5"),
)

# Decoders whose output layer is made of the token vectors unless their config says otherwise (transformers 5.23).
TIED_TYPES = (
    *("gpt2", "gpt_neo", "gpt_bigcode", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text"),
    *("opt", "bloom", "mpt", "falcon", "starcoder2", "smollm3", "cohere", "cohere2", "lfm2", "mamba"),
)

NONE = ("none",)
ALL_QUANTIZATIONS = ("none", "int8", "nf4", "fp4")
ANY_OF_4_BITS = ("nf4", "fp4")
NOT_8_BITS = ("none", "nf4", "fp4")  # tried with bitsandbytes 0.50 and PEFT 0.21: a step fails on 8-bit layers

HAS_NO_BIASES = dict.fromkeys(NO_BIAS_TYPES, "trains biases, and this kind of model has none. Norm tuning is the like of it.")
# Tried with transformers 5.23 and PEFT 0.21: these read a text as a whole and take no past.
PASTLESS_TYPES = (
    *("modernbert", "distilbert", "albert", "deberta", "deberta-v2", "mpnet", "eurobert", "nystromformer", "roformer"),
)
KEEPS_NO_PAST = dict.fromkeys(PASTLESS_TYPES, "needs a model that can attend to a past, and this kind of model keeps none.")
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
    packed: bool = False  # it can be trained beside weights that come packed (GPTQ, AWQ)
    mixed_only: bool = False  # its bf16 numbers beside quantised weights take the autocast of bf16 or fp16 (tried, peft 0.21)
    linear_only: bool = False  # PEFT's tuner does not take the Conv1D layers of GPT-2
    convolutions: bool = False  # it takes the layers of models that are made of convolutions alone
    untied: bool = False  # its layers may not be shared with the output layer, whose weight TRL's loss reads directly
    tasks: tuple[str, ...] = ()  # the keys of TASKS that it goes with; empty: all
    model_types: tuple[str, ...] = ()  # the only kinds of model (config.model_type) that it goes with; empty: all
    not_for: Mapping[str, str] = field(default_factory=dict)  # kinds of model that it does not go with: why
    options: tuple[Option, ...] = ()
    apply: Callable[[torch.nn.Module, Mapping[str, Any]], torch.nn.Module] = field(repr=False)
    virtual: bool = False  # trained vectors stand before the words
    keeps_past: bool = False  # its vectors are the past of every layer, which layers that are computed again do not find
    one_adapter: bool = False  # there is no room for a second one, the reference of a preference loss
    objectives: tuple[str, ...] = ()  # the keys of OBJECTIVES that it goes with; empty: all
    begin: Callable[[Any, Iterable[Any]], None] | None = field(
        default=None, repr=False
    )  # (model, batches), before the training
    optimizer: str = ""  # the key of engine.methods.optimizers.OF_METHODS, where the method has an optimizer of its own


def unfit(method: Method, model_type: str, task: Task, *, tied: bool = False) -> str:
    """Why a method does not go with a kind of model, as a sentence without its subject; "" if it does.

    `tied`: the model's output layer is made of its token vectors.
    """
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
    if model_type in ENCODER_DECODER_TYPES and task.key != "seq2seq" and (method.virtual or method.untied):
        return f"changes what goes into a model, which a {model_type} model takes for writing texts alone (peft 0.21)."
    if tied and method.untied and task.key == "causal-lm":
        return "trains token vectors, and this model's output layer is made of the same ones, which the loss cannot tell apart."
    return ""


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a model's output layer is made of its token vectors, as far as its config.json tells."""
    text = config.get("text_config") or {}
    kind = str(config.get("model_type", ""))
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", kind in TIED_TYPES)))


def by_peft(peft_type: str) -> Callable[[torch.nn.Module, Mapping[str, Any]], torch.nn.Module]:
    """The `apply` of a method that PEFT has."""
    return functools.partial(attach.with_peft, peft_type)


def own(name: str, default: Any, label: str, help: str, **limits: Any) -> Option:
    """An option that PEFT does not declare."""
    return Option(name=name, default=default, knob=Knob(label=label, help=help, **limits))
