"""Sound plans, and what a stranger might make of them: the mutations of the fuzz tests. A seed gives the same ones each time.

The schema is the program's own: fields, options and forms come from the tables, so that a new option is fuzzed as well.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from engine.methods import METHODS
from engine.objectives import OBJECTIVES
from engine.plan import FIELDS

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
TINY_GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 64}
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
BASE = {"gpu": "L40S", "precision": "bf16", "max_length": 32, "per_device_train_batch_size": 2}
SOUND = (
    {"model": TINY, "method": "lora"},
    {"model": "demo/llama", "method": "lora", "datasets": [{"path": "demo/pirate"}]},
    {"model": TINY, "method": "full", "optim": "adafactor"},
    {"model": TINY_GPT2, "method": "ia3"},
    {"model": TINY, "method": "qlora", "quantization": "nf4"},
    {"model": TINY, "method": "adalora"},
    {"model": TINY, "method": "prefix_tuning"},
    {"model": TINY, "method": "prompt_tuning"},
    {"model": TINY, "method": "oft"},
    {"model": TINY, "method": "lokr"},
    {"model": TINY_BERT, "method": "lora", "objective": "classification"},
    {"model": TINY_BERT, "method": "bitfit", "objective": "masked_lm"},
    {"model": TINY_VIT, "method": "lora", "objective": "image_classification"},
    {"model": TINY, "method": "dora", "objective": "dpo"},
    {"model": TINY, "method": "lora", "objective": "grpo", "per_device_train_batch_size": 8},
    {"model": TINY, "method": "houlsby", "gradient_checkpointing": True},
    {"model": TINY, "method": "lora", "sharding": "fsdp", "num_gpus": 2},
)
# Values that are wrong almost everywhere, by kind.
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, 10**400, -(10**5000)),
    *(0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf")),
    *(
        "",
        "x",
        "none",
        "true",
        "12",
        "a" * 100_000,
        "\0",
        "\ud800",
        "../../etc/passwd",
        "/etc/passwd",
        "~nobody/x",
        "file:///etc",
    ),
    *("http://169.254.169.254/x", "q_proj", "all-linear", "(a+)+$", "([a-z0-9_]+\\.?)+!", ".*", "[", "é", "‮", "<script>"),
)
# Keys of a config.json that transformers reads, whatever the model.
CONFIG_KEYS = (
    *("text_config", "vision_config", "quantization_config", "id2label", "label2id", "num_labels", "torch_dtype", "dtype"),
    *("rope_scaling", "rope_parameters", "rope_theta", "head_dim", "hidden_act", "tie_word_embeddings", "pad_token_id"),
    *("eos_token_id", "attention_dropout", "attention_bias", "sliding_window", "layer_types", "architectures", "use_cache"),
    *("auto_map", "problem_type", "initializer_range", "is_decoder", "is_encoder_decoder", "attn_implementation"),
    *("transformers_version", "_name_or_path", "chunk_size_feed_forward", "output_hidden_states", "return_dict", "sub_configs"),
)
SOURCE = {"path": "demo/pirate", "weight": 2.0, "columns": {"prompt": "a"}, "split": "train", "config": ""}


def shapes(rng: random.Random) -> Any:
    """A value of another JSON type: nested, empty, or very long."""
    scalar = rng.choice(SCALARS)
    deep: Any = scalar
    for _ in range(rng.choice((5, 40, 500))):
        deep = [deep] if rng.random() < 0.5 else {"x": deep}
    return rng.choice(
        (
            [],
            {},
            [scalar],
            [scalar] * 3,
            {"x": scalar},
            {"q_proj": scalar},
            [[scalar]],
            [1, 2],
            [0],
            ["q_proj"],
            deep,
            "a" * 3000,
        )
    )


def value(rng: random.Random) -> Any:
    return rng.choice(SCALARS) if rng.random() < 0.6 else shapes(rng)


def of_form(form: Any, rng: random.Random) -> Any:
    """A value of this form, so that what is well formed and senseless is tried as well."""
    if isinstance(form, str):
        words = {"flag": (True, False), "integer": (0, 1, 2, -1, 8, 999), "number": (0.1, 1, 0.0, -2.5), "null": (None,)}
        return rng.choice(words.get(form, ("x", "q_proj", "")))
    if "either" in form:
        return of_form(rng.choice(form["either"]), rng)
    if "choice" in form:
        return rng.choice(form["choice"]).replace("[number of iters]", "2")
    if "config" in form:
        names = [name for name in form["config"] if rng.random() < 0.5]
        return {name: of_form(form["config"][name], rng) for name in names}
    if "mapping" in form:
        return {rng.choice(("q_proj", ".*mlp.*", "embed_tokens", "x")): of_form(form["mapping"], rng)}
    if "tuple" in form:
        return [of_form(inner, rng) for inner in form["tuple"]]
    return [of_form(form["list"], rng) for _ in range(rng.choice((0, 1, 3)))]


def plan(seed: int) -> dict[str, Any]:
    """The mutated plan of a seed: a sound one with one to three of its parts changed."""
    rng = random.Random(seed)
    made = copy.deepcopy(BASE | rng.choice(SOUND))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice((_field, _option, _option, _option, _nested, _config, _config, _source, _unknown))(made, rng)
    return made


def _field(made: dict[str, Any], rng: random.Random) -> None:
    made[rng.choice(list(FIELDS))] = value(rng)


def _option(made: dict[str, Any], rng: random.Random) -> None:
    """An option of the method or the objective: of its form, or of none."""
    if not isinstance(made.get("method"), str) or made["method"] not in METHODS:
        return
    of_objective = OBJECTIVES.get(made["objective"]) if isinstance(made.get("objective"), str) else None
    where = "objective_options" if of_objective and of_objective.options and rng.random() < 0.3 else "method_options"
    row = of_objective if where == "objective_options" else METHODS[made["method"]]
    if row is None or not row.options or not isinstance(made.setdefault(where, {}), dict):
        return
    option = rng.choice(row.options)
    formed = option.knob.form is not None and rng.random() < 0.5
    made[where][option.name] = of_form(option.knob.form, rng) if formed else value(rng)


def _nested(made: dict[str, Any], rng: random.Random) -> None:
    """One of the options that are objects or lists."""
    if not isinstance(made.get("method"), str) or made["method"] not in METHODS:
        return
    formed = [option for option in METHODS[made["method"]].options if option.knob.form is not None]
    if formed and isinstance(made.setdefault("method_options", {}), dict):
        option = rng.choice(formed)
        made["method_options"][option.name] = of_form(option.knob.form, rng) if rng.random() < 0.5 else value(rng)


def _config(made: dict[str, Any], rng: random.Random) -> None:
    if isinstance(made.get("model"), dict):
        made["model"][rng.choice((*made["model"], *CONFIG_KEYS))] = value(rng)


def _source(made: dict[str, Any], rng: random.Random) -> None:
    source = copy.deepcopy(SOURCE)
    source[rng.choice(list(SOURCE))] = value(rng)
    made["datasets"] = [source] * rng.choice((1, 1, 2, 100))


def _unknown(made: dict[str, Any], rng: random.Random) -> None:
    where = rng.choice([made, *(part for part in made.values() if isinstance(part, dict))])
    for number in range(rng.choice((1, 5, 100_000))):
        where[f"unknown_{number}"] = rng.choice((1, "x", None))
