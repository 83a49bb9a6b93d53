"""The options of PEFT's methods, as PEFT's own configs declare them, without importing peft.

`assets/method_options.json` is written by `assets/build_method_options.py`; a test compares it with the installed PEFT.
A row of METHODS says which options are common and which defaults differ; all others stay reachable by their names.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.adapters import option_forms
from engine.catalog import models
from engine.issues import Issue, PlanError
from engine.plan import Knob
from engine.system.home import ASSETS
from engine.system.local_paths import is_file, local_path


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting of a method: its PEFT name, its default and what a person needs to know about it."""

    name: str
    default: Any
    knob: Knob


# Labels, helps and limits for the options that the form shows. PEFT's own helps are written for programmers.
PLAIN: dict[str, Mapping[str, Any]] = {
    "r": {"label": "Rank (r)", "help": "The width of what is added: more learns more, and costs more."},
    "lora_alpha": {
        "label": "Alpha",
        "help": "The update is scaled by alpha / r; twice the rank is usual.",
        "minimum": 1,
        "maximum": 4096,
    },
    "alpha": {"label": "Alpha", "help": "The update is scaled by alpha / r.", "minimum": 1, "maximum": 4096},
    "target_modules": {
        "label": "Target modules",
        "help": "The layers that are adapted: all-linear, or names with commas between (q_proj, v_proj). "
        "Empty: those that PEFT picks for this model.",
    },
    "modules_to_save": {
        "label": "Trained in full",
        "help": "Modules that are trained whole beside the adapter and saved with it (embed_tokens, lm_head).",
    },
    "exclude_modules": {"label": "Left out", "help": "Modules that match the targets and still get no adapter."},
    "bias": {"label": "Biases", "help": "Which biases are trained as well."},
    "init_r": {"label": "First rank", "help": "The rank of every layer at the start.", "minimum": 1, "maximum": 1024},
    "target_r": {"label": "Mean rank at the end", "help": "The budget that is shared out.", "minimum": 1, "maximum": 1024},
    "num_virtual_tokens": {
        "label": "Virtual tokens",
        "help": "How many trained vectors stand before each text; each takes the place of a token.",
        "minimum": 1,
        "maximum": 4096,
    },
    "prompt_tuning_init": {"label": "Start from", "help": "RANDOM vectors, those of a TEXT, or of words drawn at random."},
    "prompt_tuning_init_text": {"label": "Text to start from", "help": "Used with TEXT: what you would write by hand."},
    "encoder_hidden_size": {
        "label": "Width of the prompt encoder",
        "help": "Empty: as wide as the model.",
        "minimum": 1,
        "maximum": 65536,
    },
    "adapter_len": {"label": "Prompt length", "help": "Trained vectors per layer.", "minimum": 1, "maximum": 4096},
    "adapter_layers": {"label": "Layers", "help": "How many layers, from the top.", "minimum": 1, "maximum": 1024},
    "n_frequency": {"label": "Coefficients", "help": "Trained numbers per layer.", "minimum": 1, "maximum": 10_000_000},
    "num_vectors": {"label": "Vectors in the bank", "help": "Shared by all layers.", "minimum": 2, "maximum": 1_000_000},
    "vector_length": {"label": "Vector length", "help": "It must divide the widths of the layers.", "minimum": 1},
    "effective_rank": {
        "label": "Frozen directions",
        "help": "How many of each weight's strongest directions stay as they are (a number, or a share below 1). Empty: half.",
    },
    "token_indices": {"label": "Tokens", "help": "The ids of the tokens whose embeddings are trained: [5, 17]."},
    "oft_block_size": {
        "label": "Block size",
        "help": "The size of the rotated blocks; 0 where the rank is given.",
        "minimum": 0,
        "maximum": 65536,
    },
    "boft_block_size": {"label": "Block size", "help": "It must divide the width of the layers.", "minimum": 0},
    "block_size": {"label": "Block size", "help": "It must divide the widths of the layers.", "minimum": 1},
    "theta_d_length": {"label": "Trained numbers", "help": "The length of the one vector.", "minimum": 1},
    "u": {"label": "Trained numbers", "help": "Per layer, or per group of layers that share them.", "minimum": 1},
    "sparsity": {"label": "Left alone", "help": "The share of each weight that stays.", "minimum": 0, "maximum": 0.999999},
    "group_size": {"label": "Group size", "help": "It must divide the width of the layers.", "minimum": 2},
    "feedforward_modules": {"label": "Feed-forward modules", "help": "Those of the targets whose input is scaled."},
    "init_lora_weights": {
        "label": "Start values",
        "help": "true: no change at the start. Or gaussian, pissa, pissa_niter_16, olora, loftq, orthogonal.",
    },
    "reduction_factor": {
        "label": "Reduction",
        "help": "How many times narrower than the layer the adapter is: more is smaller.",
        "minimum": 1,
        "maximum": 1024,
    },
    "use_rslora": {"label": "Rank-stabilised", "help": "Scale by alpha / sqrt(r), which keeps high ranks learning."},
    "use_dora": {"label": "Length and direction apart (DoRA)", "help": "Often a little better, and slower."},
}
LIMITS_BY_ENDING: Mapping[str, Mapping[str, Any]] = {
    "dropout": {"minimum": 0, "maximum": 0.9},
    "seed": {"minimum": 0, "maximum": option_forms.LARGEST_SEED},
    "prng_key": {"minimum": 0, "maximum": option_forms.LARGEST_SEED},
}
# So many modules are made, one after the other; PEFT declares no limit, and a billion of them would never end.
BUILT_ONE_BY_ONE = (
    *("encoder_num_layers", "depth", "n_skills", "n_splits", "n_tasks", "num_tasks", "num_ranks", "num_B", "num_subspaces"),
    *("num_transformer_submodules", "num_layers", "boft_n_butterfly_factor"),
)
MOST_BUILT = 1024
# Options that PEFT declares and this program never gives what they need. Their defaults may be written out.
NOT_USED = {
    "megatron_core": "names a Python module that PEFT would import",
    "megatron_config": "is for Megatron's layers, which no model here has",
    "arrow_config": "routes between adapters that were trained before, and there is one here",
    "corda_config": "belongs to a start from the data that is not offered here",
    "lora_ga_config": "belongs to a start from gradients that is not offered here",
}
# Of `AutoTokenizer.from_pretrained` (transformers 5.23): settings that open no file and run no code.
TOKENIZER_SETTINGS = (
    *("use_fast", "padding_side", "truncation_side", "add_prefix_space", "add_bos_token", "add_eos_token", "legacy"),
    *("clean_up_tokenization_spaces", "model_max_length", "split_special_tokens"),
)
# How PEFT's options (and their nested ones) are called that hold something to open: a file, a folder, a hub id, a module.
OPENS = ("_path", "_file", "_dir", "_folder", "_library", "_module")
MEANT_FOR_PEFT_ITSELF = ("peft_type", "task_type")  # they may be there, as PEFT's saved configs have them


@functools.cache
def declared() -> Mapping[str, tuple[Option, ...]]:
    """Every PEFT method's options, by `peft_type` in lower case, as PEFT declares them; none is shown by itself."""
    rows = json.loads((ASSETS / "method_options.json").read_text(encoding="utf-8"))
    return {peft_type: tuple(_read(entry) for entry in entries) for peft_type, entries in rows.items()}


def _read(entry: Mapping[str, Any]) -> Option:
    name = entry["name"]
    facts = {"label": name.replace("_", " ").capitalize(), "help": entry["help"] or f"PEFT's {name}.", **_limits(entry)}
    facts |= PLAIN.get(name, {})
    if entry["kind"] not in ("integer", "number"):
        facts = {key: value for key, value in facts.items() if key not in ("minimum", "maximum")}
    facts["form"] = _pattern_form(name) or entry.get("form")
    knob = Knob(kind=entry["kind"], choices=tuple(entry["choices"]), optional=entry["optional"], group="hidden", **facts)
    return Option(name=name, default=entry["default"], knob=knob)


def _limits(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    name = entry["name"]
    if name == "r":  # OFT's own default is 0: the block size says it then
        return {"minimum": 0 if entry["default"] == 0 else 1, "maximum": 65536}
    special = next((limits for ending, limits in LIMITS_BY_ENDING.items() if name.endswith(ending)), None)
    if special is not None:
        return special
    if name in BUILT_ONE_BY_ONE:
        return {"minimum": 0, "maximum": MOST_BUILT}
    return {"minimum": -option_forms.LARGEST, "maximum": option_forms.LARGEST}


def _pattern_form(name: str) -> Any:
    """Of `rank_pattern` and its like PEFT declares no more than a dict: each layer's rank, alpha, block size or frequencies."""
    if not name.endswith("_pattern") or name == "layers_pattern":
        return None
    each = "number" if name.startswith(("alpha", "lambda", "rank")) else "integer"  # OSF's rank may be a share
    return {"either": [{"mapping": each}, "null"]}


def check_sources(values: Mapping[str, Any], *, model: Any) -> list[Issue]:
    """What is wrong with options that PEFT or transformers would open or import: the files and models they name.

    Args:
        values: the options of a plan, of their declared forms.
        model: the plan's model, whose tokenizer may always be named.
    """
    issues = []
    for name, value in values.items():
        if not value:
            continue
        if name in NOT_USED and value != _default_of(name):
            issues.append(Issue(field=name, message=f"{NOT_USED[name]}.", fix="Leave it out."))
        elif name == "tokenizer_name_or_path" and value != model:
            issues += _check_tokenizer(name, value)
        elif name == "prompt_tuning_init_state_dict_path":
            issues += _check_state_dict(name, value)
        elif isinstance(value, Mapping):
            allowed = TOKENIZER_SETTINGS if name == "tokenizer_kwargs" else None
            wrong = [
                key for key in value if (key not in allowed if allowed else key.endswith(OPENS)) and value[key] is not None
            ]
            fix = f"Use {', '.join(allowed)}." if allowed else "Leave it out."
            issues += [
                Issue(field=f"{name}.{key}", message="is not passed on: it may open a file.", fix=fix) for key in wrong[:3]
            ]
    return issues


def _default_of(name: str) -> Any:
    return next((option.default for rows in declared().values() for option in rows if option.name == name), None)


def _check_tokenizer(name: str, value: Any) -> list[Issue]:
    """A tokenizer of another model is opened as models are: where this serves strangers, not at all."""
    if not models.local_paths_allowed():
        message = "names another tokenizer, and this server opens none but the model's own."
        return [Issue(field=name, message=message, fix="Leave it out.")]
    try:
        models.find(value)
    except PlanError as error:
        return [dataclasses.replace(issue, field=name) for issue in error.issues]
    return []


def _check_state_dict(name: str, value: Any) -> list[Issue]:
    """PEFT gives any file but safetensors to `torch.load`, which can run what is in it."""
    if not models.local_paths_allowed():
        return [Issue(field=name, message="is a path, and this server does not open paths.", fix="Leave it out.")]
    file = local_path(value, field=name)
    if file.suffix != ".safetensors":
        message = "is not a .safetensors file; other files can run code when they are opened."
        return [Issue(field=name, message=message, fix="Save the prompt as safetensors.")]
    return [] if is_file(file) else [Issue(field=name, message="there is no such file.", fix="Check the path.")]


def options(
    peft_type: str, *, common: tuple[str, ...], more: tuple[str, ...] = (), defaults: Mapping[str, Any] | None = None
) -> tuple[Option, ...]:
    """All options of one method, the common ones first.

    Args:
        peft_type: PEFT's name of the method, in lower case.
        common: the names that the form shows at once.
        more: those under "More settings".
        defaults: values that this program starts with where PEFT's own differ or are missing.
    """
    by_name = {option.name: option for option in declared()[peft_type]}
    order = [*common, *more, *(name for name in by_name if name not in (*common, *more))]
    groups = dict.fromkeys(common, "common") | dict.fromkeys(more, "more")
    return tuple(
        dataclasses.replace(
            by_name[name],
            default=(defaults or {}).get(name, by_name[name].default),
            knob=dataclasses.replace(by_name[name].knob, group=groups.get(name, "hidden")),
        )
        for name in order
    )
