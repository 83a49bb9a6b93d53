"""FAMILIES: how published runs of other projects become plans, one row per project. `accuracy.py` prints what comes out.

A point of the measurements is a dictionary with the run's settings as they were published. `plan` turns it into a Plan,
or gives None where a plan cannot say it (tensor parallelism, float8, a GPU of no name). A family with `known` settings is
one of the Hugging Face stack whose run is described in full: its errors count. The others have kernels, losses or data
of their own; they are printed as bounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.catalog.models import catalogue
from engine.methods import METHODS
from engine.plan import Plan
from estimators.estimate import Estimate

GIB, MIB = 2**30, 2**20
Point = dict[str, Any]


def reserved(found: Estimate, point: Point) -> float:
    """What torch's allocator reserves, in GiB."""
    return found.memory.peak / GIB


def allocated(found: Estimate, point: Point) -> float:
    """What the tensors hold, in GiB."""
    return found.memory.allocated / GIB


def seen_by_the_driver(found: Estimate, point: Point) -> float:
    """What nvidia-smi shows: the allocator's peak and the CUDA context, which the source measured."""
    return (found.memory.peak + point["memory_extra"]["cuda_context_and_kernels_MiB"] * MIB) / GIB


def published(point: Point) -> float | None:
    """The source's figure in GiB."""
    return point["peak_gib"]


def card_size(point: Point) -> float | None:
    """A card's nominal size: what is sold as 24 GB has 24 GiB."""
    return point["peak_gb"]


def whole_card(found: Estimate, point: Point) -> float:
    """Everything that the card must have."""
    return found.memory.total / GIB


def no_time(point: Point) -> float | None:
    """The source gives no time, or not that of a step."""
    return None


def as_it_is(plan: Plan, point: Point) -> Plan:
    """The mean step is the largest one."""
    return plan


@dataclass(frozen=True, kw_only=True)
class Family:
    """One source of measurements.

    Attributes:
        key: its name.
        source: its name in the measurements, where that is another.
        title: for a person.
        known: the stack is the Hugging Face one and the settings are known, so the errors count.
        plan: the point as a plan whose rows are as long as the longest one; None where a plan cannot say it.
        memory: the estimate in the unit of the source's figure, GiB; None where the source has none.
        measured: the source's figure in GiB.
        seconds: the measured seconds of one optimizer step.
        timed: the plan of a mean step, where it is not that of the largest one.
        real_card: the plan's GPU is the one of the run, so that the verdict can be judged.
        counts: the source's counts of parameters are those of the plan's model and method.
        note: what a reader must know.
    """

    key: str
    title: str
    known: bool
    plan: Callable[[Point], Plan | None]
    source: str = ""
    memory: Callable[[Estimate, Point], float] | None = reserved
    measured: Callable[[Point], float | None] = published
    seconds: Callable[[Point], float | None] = no_time
    timed: Callable[[Plan, Point], Plan] = as_it_is
    real_card: bool = True
    counts: bool = False
    note: str = ""

    @property
    def source_key(self) -> str:
        """Its name in the measurements."""
        return self.source or self.key


# --- what the sources have in common --------------------------------------------------------------------------------

GPUS = {
    "A100-SXM4-40GB": "A100 40GB SXM",
    "A100-40GB": "A100 40GB SXM",
    "a100_40gb": "A100 40GB SXM",
    "A100-80GB": "A100 80GB SXM",
    "A100 80GB": "A100 80GB SXM",
    "a100_80gb": "A100 80GB SXM",
    "A10G": "A10G (AWS g5)",
    "A10G 24GB": "A10G (AWS g5)",
    "H100-SXM 80GB": "H100 SXM 80GB",
    "H100-80GB": "H100 SXM 80GB",
    "h100_80gb": "H100 SXM 80GB",
    "H200 141GB": "H200 SXM 141GB",
    "V100-SXM2-16GB": "V100 16GB (SXM2)",
    "Tesla T4": "T4",
}


def gpu_of(point: Point) -> str:
    """The table's name of the point's GPU."""
    return GPUS.get(point["gpu"], point["gpu"])


def known_options(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Configs of other PEFT versions have fields that the installed one lacks."""
    names = {option.name for option in METHODS[method].options}
    return {name: value for name, value in options.items() if name in names and value is not None}


def _per_step(point: Point, samples: float) -> float:
    """Optimizer steps of a run over so many samples."""
    return samples / (point["batch"] * (point["grad_accum"] or 1) * point["n_gpus"])


# --- PEFT's method comparison ---------------------------------------------------------------------------------------

# What the documents of a row add to its PEFT config.
NOT_OPTIONS = {"peft_type", "experiment", "adapter_dtype", "task_type"}


def _peft_plan(point: Point) -> Plan:
    settings = point["method_config"]
    method = settings.get("peft_type", point["method"]).lower() if point["method"] != "full" else "full"
    options = {name: value for name, value in settings.items() if name not in NOT_OPTIONS}
    return Plan(
        model=point["model"],
        method=method,
        method_options=known_options(method, options),
        precision="bf16",
        loss="full",
        keep_outputs=True,
        autocast=False,
        optim="adamw_torch",
        gpu="L40S",
        max_length=768,
    )


# Its script puts the model on the GPU before the adapter and never again, so buffers that PEFT makes on the host stay
# there: BOFT's permutations and FRoD's bases are copied at every step, which no step of a trainer does.
_COPIED = ("boft", "frod")


def _peft_reserved(found: Estimate, point: Point) -> float:
    """Without BOFT's permutations, one fp32 matrix for each adapted one: a row's tensors between two steps lack them."""
    if point["method"] != "boft":
        return reserved(found, point)
    config = catalogue()[point["model"]].config
    adapted = config["num_hidden_layers"] * len(point["method_config"]["target_modules"])
    return reserved(found, point) - adapted * config["hidden_size"] ** 2 * 4 / GIB


def _peft_seconds(point: Point) -> float | None:
    return None if point["method"] in _COPIED else point["time"]["s_per_step"]


# --- transformers' page on one GPU ----------------------------------------------------------------------------------

_BERT_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor", "bnb Adam8bit": "adamw_8bit"}


def _bert_plan(point: Point) -> Plan:
    half = "fp16" in point["precision"]
    return Plan(
        model=point["model"],
        method="full",
        objective="classification",
        precision="fp16" if half else "fp32",
        master_weights=half,
        optim=_BERT_OPTIMIZERS[point["optimizer"]],
        attn_implementation="eager",
        gradient_checkpointing=point["grad_checkpointing"],
        per_device_train_batch_size=point["batch"],
        # torch before 2.0 kept the gradients between the steps, as they stay during an accumulation.
        gradient_accumulation_steps=max(2, point["grad_accum"]),
        max_length=point["seq_len"],
        gpu=gpu_of(point),
    )


def _bert_seen(found: Estimate, point: Point) -> float:
    """With the input of each softmax, 16 heads of tokens x tokens in fp32: torch before 1.11 kept it beside the output."""
    layers = 1 if point["grad_checkpointing"] else 24
    scores = 16 * point["seq_len"] ** 2 * 4 * point["batch"] * layers
    return seen_by_the_driver(found, point) + scores / GIB


def _bert_timed(plan: Plan, point: Point) -> Plan:
    return plan.with_(gradient_accumulation_steps=point["grad_accum"])


# --- Answer.AI's FSDP + QLoRA ---------------------------------------------------------------------------------------

# The mask that its benchmark passes is all ones, so transformers 4.38 leaves it out; the logits are those of that version.
# Mistral 7B v0.2 is v0.1 without the sliding window, for 32k tokens (https://huggingface.co/mistralai/Mistral-7B-v0.2).
_MISTRAL_V2 = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}


def _fsdp_qlora_plan(point: Point) -> Plan:
    quantized = point["method"] == "qlora"
    return Plan(
        model=_MISTRAL_V2 if "Mistral" in point["model"] else point["model"],
        method=point["method"],
        method_options={"r": 64, "lora_alpha": 16, "target_modules": point["method_config"]["target_modules"]},
        quantization="nf4" if quantized else "none",
        double_quantization=False,
        precision="bf16",
        autocast=False,
        adapter_dtype="bf16",
        loss="shifted",
        keep_outputs=True,
        packing=True,  # rows of one length: no padding
        optim="adamw_torch",
        gradient_checkpointing=point["grad_checkpointing"],
        per_device_train_batch_size=point["batch"],
        max_length=point["seq_len"],
        gpu=gpu_of(point),
        num_gpus=point["n_gpus"],
        sharding="ddp" if "ddp" in point["parallelism"] else "fsdp",
        offload="all" if "offload" in point["parallelism"] else "none",
    )


def _gathers_over_unknown_slots(point: Point) -> bool:
    """Whether the layers travel between GeForce cards: how fast, hangs on the slots of the computer, which no plan says.

    The source calls those of the RTX 3090s "slow" and those of the RTX 4090s "full", and these are ten times as fast. Of two
    runs on the first it gives two times, 550 and 800 s in the text and 1,082 and 1,564 s in the table.
    """
    return point["gpu"] in ("RTX 3090", "RTX 4090") and "ddp" not in point["parallelism"]


def _fsdp_qlora_seconds(point: Point) -> float:
    return point["time"]["total_s"] / _per_step(point, point["time"]["samples"])


# --- IBM's fms-acceleration -----------------------------------------------------------------------------------------

# The published sizes of https://huggingface.co/ibm-research/PowerLM-3b.
_POWERLM = {
    "model_type": "granite",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 40,
    "num_attention_heads": 36,
    "num_key_value_heads": 36,
    "vocab_size": 49152,
    "max_position_embeddings": 4096,
    "embedding_multiplier": 12.0,
    "tie_word_embeddings": True,
}


def _fms_plan(point: Point) -> Plan:
    """TRL's SFTTrainer with packed rows, as its `scenarios.yaml`, `defaults.yaml` and `accelerate.yaml` say."""
    quantized = point["method"] == "qlora"
    options = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    return Plan(
        model=_POWERLM if "PowerLM" in point["model"] else point["model"],
        method=point["method"],
        method_options=options if point["method"] != "full" else {},
        quantization="nf4" if quantized else "none",
        precision="bf16",
        autocast=quantized,
        adapter_dtype="fp32",
        loss="shifted",
        packing=True,
        optim="adamw_torch",
        gradient_checkpointing=True,
        use_reentrant=True,
        per_device_train_batch_size=point["batch"],
        max_length=point["seq_len"],
        gpu=gpu_of(point),
        num_gpus=point["n_gpus"],
        sharding="fsdp" if point["n_gpus"] > 1 else "none",
    )


# --- the longest context of Llama 3.1 8B on a card ------------------------------------------------------------------


def _context_plan(point: Point) -> Plan | None:
    """QLoRA with r=32 on every linear layer, as transformers 4.4x trained it; Unsloth's own rows are another program's."""
    if "unsloth" in point["framework"].lower():
        return None
    return Plan(
        model=point["model"],
        method="qlora",
        method_options={"r": 32, "target_modules": "all-linear"},
        quantization="nf4",
        prepare_model_for_kbit_training=True,
        adapter_dtype="fp32",
        loss="shifted",
        optim="adamw_8bit",
        gradient_checkpointing=True,
        use_reentrant=True,
        per_device_train_batch_size=1,
        max_length=point["seq_len"],
        gpu="B200 SXM 180GB",  # no card of theirs is full on it, so nothing that is cached is given back
    )


# --- LOMO's paper ---------------------------------------------------------------------------------------------------

# Sizes of LLaMA (https://arxiv.org/abs/2302.13971, table 2): hidden, intermediate, layers, heads.
_LLAMA = {"13b": (5120, 13824, 40, 40), "30b": (6656, 17920, 60, 52), "65b": (8192, 22016, 80, 64)}


def llama_1(model: str) -> str | dict[str, Any]:
    """The first LLaMA models by their published sizes; the 7B one is in the table of models."""
    size = next((name for name in _LLAMA if name in model), None)
    if size is None:
        return model
    hidden, intermediate, layers, heads = _LLAMA[size]
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
    }


def _lomo_plan(point: Point) -> Plan | None:
    """The runs on several RTX 3090 with an optimizer that this program has; the profiled components are no run."""
    if point["optimizer"] not in ("AdamW", "SGD") or not point["parallelism"]:
        return None
    return Plan(
        model=llama_1(point["model"]),
        method="full",
        precision="fp16",
        autocast=False,
        loss="shifted",
        optim="adamw_torch" if point["optimizer"] == "AdamW" else "sgd",
        gradient_checkpointing=point["grad_checkpointing"],
        per_device_train_batch_size=point["batch"],
        max_length=point["seq_len"],
        gpu=point["gpu"],
        num_gpus=point["n_gpus"],
        sharding="zero3",
    )


def _by_tokens(point: Point) -> float | None:
    """Seconds of a step from tokens per GPU and second."""
    speed = point["time"]["tokens_per_gpu_per_s"]
    return point["batch"] * (point["grad_accum"] or 1) * point["seq_len"] / speed if point["seq_len"] else None


# --- PEFT's documents -----------------------------------------------------------------------------------------------


def _peft_docs_plan(point: Point) -> Plan | None:
    """The runs of Llama 2 70B on several GPUs, whose configs are on the same page; and what did not fit."""
    if "70b" in point["model"]:
        quantized = point["method"] == "qlora"
        return Plan(
            model=point["model"],
            method=point["method"],
            method_options={"r": 8, "target_modules": "all-linear"},
            quantization="nf4" if quantized else "none",
            precision="bf16",
            loss="shifted",
            optim="adamw_torch",
            gradient_checkpointing=True,
            use_reentrant=True,
            per_device_train_batch_size=point["batch"],
            gradient_accumulation_steps=point["grad_accum"],
            max_length=point["seq_len"],
            gpu="A100 80GB SXM",
            num_gpus=point["n_gpus"],
            sharding="zero3" if "ZeRO" in point["parallelism"] else "fsdp",
            offload="all" if "offload" in point["parallelism"] else "none",
        )
    if point["oom"] and "bloomz" in point["model"]:
        return Plan(
            model=point["model"], method="full", per_device_train_batch_size=8, max_length=64, master_weights=True,
            loss="shifted", gpu="A100 80GB SXM",
        )  # fmt: skip
    return None


# --- H2O LLM Studio -------------------------------------------------------------------------------------------------

# OpenAssistant's conversations in one epoch, and their mean length in tokens (dynamic padding, at most 512): the page says
# neither. Their product is the one number that was chosen, on every other row.
H2O_ROWS, H2O_LENGTH = 13_800, 300


def _h2o_plan(point: Point) -> Plan:
    quantized = bool(point["quant"])
    size = re.search(r"llama2-(\d+b)", point["model"])
    assert size is not None
    return Plan(
        model=f"meta-llama/Llama-2-{size.group(1)}-hf",
        method="qlora" if quantized else "lora",
        method_options={"r": 4, "target_modules": "all-linear"},
        quantization="nf4" if quantized else "none",
        adapter_dtype="fp32",
        loss="shifted",
        gradient_checkpointing=True,
        per_device_train_batch_size=point["batch"],
        max_length=point["seq_len"],
        gpu=gpu_of(point),
        num_gpus=point["n_gpus"],
        sharding="ddp" if point["n_gpus"] > 1 else "none",
    )


def _h2o_seconds(point: Point) -> float | None:
    return point["time"]["train_total_s"] / _per_step(point, H2O_ROWS) if point["time"] else None


# --- litgpt ---------------------------------------------------------------------------------------------------------

_LITGPT_MODELS = {
    "meta-llama/Meta-Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "unsloth/Mistral-7B-v0.2": "mistralai/Mistral-7B-v0.1",
}
# Which layers of transformers' models its switches lora_query, lora_key, ... mean. Some models have one matrix for three.
_LLAMA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj up_proj down_proj")
_LITGPT_NAMES = {
    "phi-3": ("qkv_proj", "qkv_proj", "qkv_proj", "o_proj", "gate_up_proj down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1 fc2"),
    "stablelm-base-alpha": ("query_key_value",) * 3 + ("dense", "dense_h_to_4h dense_4h_to_h"),
    "falcon": ("query_key_value",) * 3 + ("dense", "dense_h_to_4h dense_4h_to_h"),
    "llama": _LLAMA_NAMES,
    "gemma": _LLAMA_NAMES,
    "mistral": _LLAMA_NAMES,
}


def _litgpt_plan(point: Point) -> Plan | None:
    """LoRA and full fine-tuning with bf16 adapters and no autocast; its adapters (v1 and v2) are its own."""
    if point["method"] not in ("lora", "qlora", "full") or not point["batch"] or not point["gpu"]:
        return None
    quantized = "nf4" in (point["quant"] or "")
    options = _litgpt_lora(point) if point["method"] != "full" else {}
    if options is None:
        return None
    several = point["n_gpus"] > 1
    if several and point["method"] != "full":
        # It wraps a layer's frozen weights and its adapters as one unit, whose gradients are those of all of them: 13.4 GB of
        # weights need 22.2 GB on each of two GPUs. PEFT and the Trainer wrap the adapters by themselves.
        return None
    return Plan(
        model=_with_own_head(_LITGPT_MODELS.get(point["model"], point["model"])),
        method={"full": "full"}.get(point["method"], "qlora" if quantized else "lora"),
        method_options=options,
        quantization="nf4" if quantized else "none",
        double_quantization="dq" in (point["quant"] or ""),
        keep_quantized_inputs=True,  # bitsandbytes 0.41 and 0.42
        precision="bf16",
        autocast=False,
        adapter_dtype="bf16",
        loss="full",
        gradient_checkpointing=bool(point["grad_checkpointing"]),
        per_device_train_batch_size=point["batch"],
        gradient_accumulation_steps=point["grad_accum"] or 1,
        max_length=point["seq_len"],
        gpu=gpu_of(point),
        num_gpus=point["n_gpus"],
        sharding="fsdp" if several else "none",
    )


def _with_own_head(model: str) -> dict[str, Any]:
    """Its models have a head of their own, also where others share the embedding's weights (`GPT.__init__`)."""
    return {**catalogue()[model].config, "tie_word_embeddings": False}


def _litgpt_lora(point: Point) -> dict[str, Any] | None:
    """Its LoRA switches by PEFT's names; a dropout of 0.05 on queries and values is what its script does by itself."""
    names = next((names for word, names in _LITGPT_NAMES.items() if word in point["model"].lower()), None)
    if names is None:
        return None
    settings = point["method_config"]
    switches = [
        settings.get(f"lora_{part}", part in ("query", "value")) for part in ("query", "key", "value", "projection", "mlp")
    ]
    targets = {name for switch, some in zip(switches, names, strict=True) if switch for name in some.split()}
    if settings.get("lora_head"):
        targets.add("lm_head")
    rank = settings.get("lora_r", settings.get("r", 8))
    return {"r": rank, "target_modules": sorted(targets), "lora_dropout": settings.get("lora_dropout", 0.05)}


# --- MosaicML's LLM Foundry -----------------------------------------------------------------------------------------

# Its models by name (https://github.com/mosaicml/llm-foundry, scripts/train/yamls/pretrain): hidden, layers, heads.
_MPT = {
    "125m": (768, 12, 12),
    "350m": (1024, 24, 16),
    "760m": (1536, 24, 12),
    "1b": (2048, 24, 16),
    "3b": (2560, 32, 20),
    "7b": (4096, 32, 32),
    "13b": (5120, 40, 40),
    "30b": (7168, 48, 56),
}


def _foundry_plan(point: Point) -> Plan | None:
    """Pretraining as full fine-tuning of a decoder of the same matrices; one server, and no float8."""
    size = point["model"].removeprefix("mosaicml/mpt-")
    if point["n_gpus"] > 8 or "fp8" in point["precision"] or size not in _MPT:
        return None
    hidden, layers, heads = _MPT[size]
    model = {
        "model_type": "gpt_neox",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": 50368,
        "max_position_embeddings": point["seq_len"],
        "tie_word_embeddings": True,
    }
    return Plan(
        model=model,
        method="full",
        master_weights=True,
        packing=True,
        loss="full",
        optim="adamw_torch_fused",
        gradient_checkpointing=point["grad_checkpointing"],
        per_device_train_batch_size=point["batch"],
        gradient_accumulation_steps=point["grad_accum"],
        max_length=point["seq_len"],
        gpu=gpu_of(point),
        num_gpus=point["n_gpus"],
        sync_each_batch=True,  # Composer sends them after each microbatch
        sharding="fsdp",
    )


# --- torchtitan -----------------------------------------------------------------------------------------------------


def _titan_plan(point: Point) -> Plan | None:
    """Pretraining under FSDP 2 alone, without float8 and without compilation. It keeps some activations of each layer."""
    if point["compile"] or "float8" in point["precision"] or not re.match(r"FSDP2 x\d+$", point["parallelism"] or ""):
        return None
    return Plan(
        model=point["model"],
        method="full",
        master_weights=True,
        packing=True,
        loss="full",
        optim="adamw_torch_fused",
        gradient_checkpointing=True,
        per_device_train_batch_size=point["batch"],
        max_length=point["seq_len"],
        gpu="H100 NVL 94GB",
        num_gpus=point["n_gpus"],
        sharding="fsdp",
    )


# --- counts of parameters -------------------------------------------------------------------------------------------

# The same shapes by a name that the table of models has.
_SAME_SHAPES = {
    "bigscience/bloomz-560m": "bigscience/bloom-560m",
    "bert-base-cased": "google-bert/bert-base-cased",
    "gpt2-large": "openai-community/gpt2-large",
}
_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_BY_WORD = {"q,k,v,o,gate,up,down": _ALL, "down,o,k,q,gate,up,v": _ALL}
_OBJECTIVE_OF = {"bert": "classification", "t5": "seq2seq", "VL": "vqa"}


def _counted_plan(point: Point) -> Plan | None:
    """What PEFT's documents and others print, where model, method and options are said; a new head's labels are two."""
    settings = {name: value for name, value in point["method_config"].items() if name not in ("init", "task", "task_type")}
    model = _SAME_SHAPES.get(point["model"], point["model"])
    unsaid = any("see nb" in str(value) for value in settings.values()) or "modules_to_save" in settings
    if unsaid or "num_transformer_submodules" in settings or model not in catalogue() or point["method"] not in METHODS:
        return None
    targets = settings.pop("target", None)
    if targets is not None:
        settings["target_modules"] = _BY_WORD.get(targets, targets) if isinstance(targets, str) else targets
    objective = next((objective for word, objective in _OBJECTIVE_OF.items() if word in model), "sft")
    return Plan(
        model=model,
        objective=objective,
        method=point["method"],
        method_options=known_options(point["method"], settings),
        max_length=64,
        gpu="H100 SXM 80GB",
    )


# --- the table ------------------------------------------------------------------------------------------------------

LONGEST = 720  # tokens of the longest row that PEFT's comparison is likely to have met, see `accuracy.py`
PEFT_MEAN = 225  # padded tokens of a mean row: about 840 real tokens in 4 rows

_ROWS = (
    Family(
        key="peft-metamathqa",
        title="PEFT's method comparison",
        known=True,
        plan=_peft_plan,
        memory=_peft_reserved,
        seconds=_peft_seconds,
        timed=lambda plan, point: plan.with_(max_length=PEFT_MEAN),
        counts=True,
        note="rows of at most 768 tokens, which is more than the longest batch had; its loop copies the buffers of BOFT and "
        "FRoD from the host at every step, so their times are not compared",
    ),
    Family(
        key="peft-metamathqa, as met",
        source="peft-metamathqa",
        title="PEFT's method comparison, the longest batch as met",
        known=True,
        memory=_peft_reserved,
        plan=lambda point: _peft_plan(point).with_(max_length=LONGEST),
        note=f"rows of {LONGEST} tokens, the one number that was chosen, on every other row",
    ),
    Family(
        key="hf-perf-docs",
        title="transformers: BERT-large on a V100",
        known=True,
        plan=_bert_plan,
        memory=_bert_seen,
        timed=_bert_timed,
        seconds=lambda point: point["batch"] * point["grad_accum"] / point["time"]["samples_per_s"],
        note="transformers of 2022, torch 1.10; the CUDA context of 1,343 MiB as the page measured it",
    ),
    Family(
        key="fsdp_qlora",
        title="Answer.AI: FSDP with QLoRA and LoRA",
        known=True,
        plan=_fsdp_qlora_plan,
        seconds=lambda point: None if _gathers_over_unknown_slots(point) else _fsdp_qlora_seconds(point),
        note="transformers 4.38; 2 to 8 GPUs; times of FSDP on GeForce cards stand in the next table",
    ),
    Family(
        key="fsdp_qlora, GeForce",
        source="fsdp_qlora",
        title="Answer.AI: FSDP between GeForce cards",
        known=False,
        memory=None,
        plan=lambda point: _fsdp_qlora_plan(point) if _gathers_over_unknown_slots(point) else None,
        seconds=_fsdp_qlora_seconds,
        note="times alone: how fast the slots of the two computers are is in no plan, and they differ by ten times",
    ),
    Family(
        key="fms-acceleration",
        title="IBM's fms-acceleration: TRL's SFTTrainer, A100 80GB",
        known=True,
        plan=_fms_plan,
        memory=allocated,
        seconds=_by_tokens,
        note="transformers 4.45, torch 2.4, 1 and 2 GPUs (FSDP); what the tensors hold",
    ),
    Family(
        key="fms-acceleration, whole card",
        source="fms-acceleration",
        title="IBM's fms-acceleration: what nvidia-smi shows",
        known=True,
        plan=_fms_plan,
        memory=whole_card,
        measured=lambda point: point["driver_gib"],
        note="the same runs: the allocator's peak and all that lies outside of it",
    ),
    Family(
        key="unsloth-maxctx",
        real_card=False,
        title="Hugging Face + FA2: the longest context on a card",
        known=True,
        plan=_context_plan,
        memory=whole_card,
        measured=card_size,
        note="the card's nominal size in GiB, at the longest context that its authors say fits",
    ),
    Family(
        key="published-trainable-params",
        title="Published counts of parameters",
        known=True,
        plan=_counted_plan,
        memory=None,
        real_card=False,
        counts=True,
        note="what PEFT's documents and others print; no memory and no time",
    ),
    Family(
        key="lomo-paper",
        title="LOMO's paper: ZeRO-3 on RTX 3090",
        known=False,
        plan=_lomo_plan,
        memory=allocated,
        seconds=_by_tokens,
        note="its own trainer, transformers of 2023",
    ),
    Family(
        key="peft-docs",
        real_card=False,
        title="PEFT's documents: Llama 2 70B on several GPUs",
        known=False,
        plan=_peft_docs_plan,
        note="rounded figures of the whole card",
        memory=whole_card,
    ),
    Family(
        key="h2o-llmstudio",
        title="H2O LLM Studio: Llama 2 on A10G and A100",
        known=False,
        plan=_h2o_plan,
        seconds=_h2o_seconds,
        timed=lambda plan, point: plan.with_(max_length=H2O_LENGTH),
        note="its own trainer; the number of tokens was chosen on every other row",
    ),
    Family(
        key="litgpt-resource-tables",
        title="litgpt: LoRA and full, A100",
        known=False,
        plan=_litgpt_plan,
        memory=allocated,
        note="its own model code, attention and loss",
    ),
    Family(
        key="litgpt-config-hub",
        title="litgpt: its recipes, A10G",
        known=False,
        plan=_litgpt_plan,
        memory=allocated,
        note="its own model code; most rows are shorter than the limit",
    ),
    Family(
        key="llm-foundry",
        memory=None,
        real_card=False,
        title="LLM Foundry: pretraining, 8 GPUs",
        known=False,
        plan=_foundry_plan,
        seconds=_by_tokens,
        note="its own attention kernel and loss: its times count here, not its memory",
    ),
    Family(
        key="torchtitan",
        title="torchtitan: Llama 3.1 8B",
        known=False,
        plan=_titan_plan,
        seconds=_by_tokens,
        note="keeps some activations where a plan can only say none",
    ),
)

FAMILIES: dict[str, Family] = {row.key: row for row in _ROWS}
