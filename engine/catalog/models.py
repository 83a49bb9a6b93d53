"""MODELS: the catalogue, and how a person's words become a model.

`find(plan.model)` says what is meant - a row of the catalogue, a hub id, a local folder, an inline config - without
the network and without importing torch. The facts are in `assets/models.json`, each row with its sources.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import json_input
from engine.catalog import config_fields, model_files, model_sizes
from engine.issues import Issue, PlanError, nearest, quoted
from engine.system import formatting, redaction
from engine.system.home import ASSETS, runs_folder
from engine.system.local_paths import local_path

DEMO_MODEL = "demo/llama"
# The hub's own rule for repository names: huggingface_hub.utils.validate_repo_id.
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$")
# A licence that nobody could check again is left out rather than shown as a fact.
UNCHECKED_LICENSE = "from general knowledge"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is known of a model before anything is loaded. `params` is the published count."""

    id: str
    title: str
    family: str = ""
    task: str = "causal-lm"
    license: str = ""  # "" where no source was seen
    gated: bool = False
    params: int | None = None
    context_length: int | None = None
    dtype: str = "bfloat16"
    config: Mapping[str, Any] | None = None  # None: read it from the folder or the hub
    folder: Path | None = None  # where the weights already are
    learning_rates: Mapping[str, float] = field(
        default_factory=dict
    )  # method -> measured best, where the method's own is wrong


# Peak learning rates at which the demo model learns the demo sets: it is narrow, and needs larger steps than the
# methods' recommended ones, which are for models of billions of parameters (`benchmarks/methods.py` trains with
# each, and docs/methods.md shows what came of it).
DEMO_LEARNING_RATES = {
    **{
        "full": 1e-3,
        "freeze": 2e-3,
        "osf": 1e-3,
        "ln_tuning": 5e-2,
        "ia3": 1e-1,
        "lora_plus": 1e-3,
        "rslora": 1e-3,
        "pissa": 2e-3,
    },
    **dict.fromkeys(("lora", "qlora", "dora", "adalora", "olora", "lora_embeddings"), 5e-3),
    **dict.fromkeys(("lora_prompt_tuning", "lora_prefix_tuning"), 5e-3),
    **{
        "houlsby": 1e-2,
        "pfeiffer": 1e-2,
        "miss": 1.5e-2,
        "shira": 2e-2,
        "lora_fa": 1e-2,
        "hra": 1e-2,
        "loha": 3e-2,
        "oft": 3e-2,
    },
    **{"prefix_tuning": 1e-1, "p_tuning_v2": 1e-1, "prompt_tuning": 1e-1},
}

# The tiny models of the other families, by the folder in `assets/demo_models`: what they are called, and their task.
DEMO_FAMILIES = {
    "encoder": ("Demo encoder (BERT)", "masked-lm"),
    "seq2seq": ("Demo text-to-text model (T5)", "seq2seq"),
    "vit": ("Demo image classifier (ViT)", "image-classification"),
    "resnet": ("Demo image classifier (ResNet)", "image-classification"),
    "yolos": ("Demo object detector (YOLOS)", "object-detection"),
    "clip": ("Demo image-text model (CLIP)", "image-text-contrastive"),
    "vlm": ("Demo vision-language model (Llava)", "image-text-to-text"),
    "student": ("Demo student (Llama)", "causal-lm"),
    "reward": ("Demo reward model (Llama)", "regression"),
}


def _demo_model(id_: str, folder: Path, title: str, task: str, family: str) -> Model:
    """An embedded model, described by its own files."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    params = stored_params(folder)
    text = config.get("text_config") or config
    return Model(
        id=id_,
        title=f"{title[:-1]}, {params / 1e6:.1f} M)",
        family=family,
        task=task,
        license="apache-2.0",
        params=params,
        context_length=text.get("max_position_embeddings"),
        dtype=config["dtype"],
        config=config,
        folder=folder,
        learning_rates=DEMO_LEARNING_RATES if id_ == DEMO_MODEL else {},
    )


def _demo_models() -> list[Model]:
    """The demo model, and those of the other families."""
    first = _demo_model(DEMO_MODEL, ASSETS / "demo_model", "Demo model (Llama)", "causal-lm", "Llama")
    folder = ASSETS / "demo_models"
    return [first] + [
        _demo_model(f"demo/{name}", folder / name, title, task, title.split("(")[1].rstrip(")"))
        for name, (title, task) in DEMO_FAMILIES.items()
    ]


def stored_params(folder: Path) -> int:
    """How many numbers a folder's safetensors files hold, from their headers (https://huggingface.co/docs/safetensors)."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


@functools.cache
def catalogue() -> dict[str, Model]:
    """All models that the program knows offline, by id; the demo models first."""
    rows = json.loads((ASSETS / "models.json").read_text(encoding="utf-8"))
    return {model.id: model for model in _demo_models()} | {row["id"]: _read_row(row) for row in rows}


# Which kinds of models a task can begin with, beside those that were published for it: a new head is put on the body.
STARTS_FROM = {
    "sequence-classification": ("masked-lm", "causal-lm"),
    "regression": ("masked-lm", "causal-lm"),
    "token-classification": ("masked-lm",),
    "question-answering": ("masked-lm",),
    "seq2seq": ("seq2seq-lm",),
    "image-classification": ("image-feature-extraction",),
    "sentence-embedding": ("feature-extraction", "masked-lm", "causal-lm"),
    "image-text-contrastive": ("contrastive",),
}


def trainable_models(task: str = "causal-lm") -> list[Model]:
    """The rows of the catalogue that an objective of this task (a key of TASKS) can train."""
    kinds = (task, *STARTS_FROM.get(task, ()))
    return [model for model in catalogue().values() if model.task in kinds]


def _read_row(row: Mapping[str, Any]) -> Model:
    checked = UNCHECKED_LICENSE not in row["source"].get("license", "")
    of_images = row["modality"] == "vision" and row["task"] == "feature-extraction"
    return Model(
        id=row["id"],
        title=row["title"],
        family=row["family"],
        task="image-feature-extraction" if of_images else row["task"],
        license=row["license"] if checked else "",
        gated=row["gated"],
        params=row["params"],
        context_length=row["context_length"],
        dtype=row["dtype"],
        config=row["config"],
    )


# A size as people type it: "7b", "0.6B", "350m".
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)([bm])$")
SIZE_TOLERANCE = 0.2  # a "7b" has 6.2 to 7.7 billion parameters


def search(
    query: str = "", *, task: str = "", family: str = "", license: str = "", largest: float | None = None
) -> list[Model]:
    """The models of the catalogue that a query means, in the catalogue's order.

    Args:
        query: words that all must be found in the name, the family, the task or the licence ("gated" is one), or sizes.
        task: the model's own task, exactly; as are `family` and `license`, but for their case.
        largest: the most parameters.
    """
    exact = [("task", task), ("family", family), ("license", license)]
    return [
        model
        for model in catalogue().values()
        if all(not wanted or getattr(model, name).lower() == wanted.strip().lower() for name, wanted in exact)
        and (largest is None or (model.params is not None and model.params <= largest))
        and all(_is_meant(word, model) for word in query.lower().split())
    ]


def _is_meant(word: str, model: Model) -> bool:
    """Whether a word of a query is about the model."""
    about = f"{model.id} {model.title} {model.family} {model.task} {model.license} {'gated' if model.gated else 'open'}"
    size = _SIZE.match(word)
    if size and model.params:
        wanted = float(size[1]) * (1e9 if size[2] == "b" else 1e6)
        return abs(model.params - wanted) <= SIZE_TOLERANCE * wanted
    return word in about.lower()


def label(model: Model) -> str:
    """A model in a list that is searched by typing: name, id, size, family, licence, and whether it is gated."""
    name = [model.title] if model.id in model.title else [model.title, model.id]
    size = formatting.count(model.params) if model.params and not model.id.startswith("demo/") else ""
    family = model.family if model.family.lower() not in " ".join(name).lower() else ""
    return " · ".join(part for part in (*name, size, family, model.license, "gated" if model.gated else "") if part)


def find(words: str | Mapping[str, Any]) -> Model:
    """The model that a plan means.

    Raises:
        PlanError: on `model`, if the words are none of a catalogue id, a hub id, an allowed local folder, a config.
    """
    if isinstance(words, Mapping):
        return _from_config(words)
    if not isinstance(words, str) or not words.strip():
        raise _wrong("is empty.", f"Choose a model, for instance {DEMO_MODEL}.")
    words = words.strip()
    if words.startswith("{"):
        return _from_config(_parse_config(words))
    if words in catalogue():
        return catalogue()[words]
    if words.startswith("demo/"):
        raise _wrong(
            f"{quoted(words)} is not a demo model.", nearest(words, [id_ for id_ in catalogue() if id_.startswith("demo/")])
        )
    if _looks_like_a_path(words):
        return _from_folder(words)
    if redaction.has_secret(words):
        raise _wrong("is an access token, not a model id.", "Set HF_TOKEN before starting the app, and choose a model.")
    if HUB_ID.match(words) and ".." not in words and "--" not in words:
        if (ASSETS.parent / words).exists():  # transformers would open it before it asks the hub
            raise _wrong(f"{quoted(words)} is a folder of this program.", f"Choose {DEMO_MODEL} for its demo model.")
        return Model(id=words, title=words.split("/")[-1])
    raise _wrong(f"{quoted(words)} is not a model id.", nearest(words, list(catalogue())).rstrip(".?")[:200] + ".")


def is_known(words: str | Mapping[str, Any]) -> bool:
    """Whether a plan's model is a row of the catalogue, whose config can be relied on."""
    return isinstance(words, str) and words.strip() in catalogue()


def local_paths_allowed() -> bool:
    """Whether forms may name folders of this computer: only while the app serves nobody but its owner (see app.py)."""
    return os.environ.get("FITTINGROOM_LOCAL_PATHS", "1") != "0"


def _looks_like_a_path(words: str) -> bool:
    return words.startswith(("/", "./", "../", "~", ".\\")) or re.match(r"^[A-Za-z]:[\\/]", words) is not None


def _from_folder(words: str) -> Model:
    if not local_paths_allowed() and not _is_own_result(words):
        raise _wrong("is a path, and this server does not open paths.", "Use a Hugging Face id, for instance Qwen/Qwen3-0.6B.")
    folder = local_path(words, field="model")
    if not _is_there(folder / "config.json"):
        raise _wrong(f"{words[:200]} has no config.json.", "Name the folder that `save_pretrained` wrote.")
    config = model_files.read_config(folder)
    _refuse_absurd(config)
    issues = model_files.check_folder(folder)
    if issues:
        raise PlanError(issues)
    return Model(id=str(folder.resolve()), title=folder.name, config=config, folder=folder.resolve())


def _is_own_result(words: str) -> bool:
    """Whether the folder is what an earlier run has left: a stage of a chain trains the result of the last one."""
    try:
        return Path(words).resolve().is_relative_to(runs_folder())
    except (OSError, ValueError):  # a name that is too long, or has a null character
        return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()  # a FIFO or a device is there, too, and refused by name
    except (OSError, ValueError):  # a name that is too long, or has a null character
        return False


def _from_config(config: Mapping[str, Any]) -> Model:
    model_files.refuse_code(config)
    if not config.get("model_type") or not isinstance(config["model_type"], str):
        raise _wrong("the config has no model_type.", 'Add it, for instance "model_type": "llama".')
    _refuse_absurd(config)
    return Model(id=f"config:{config['model_type']}", title=f"{config['model_type']} (pasted config)", config=dict(config))


def _refuse_absurd(config: Mapping[str, Any]) -> None:
    """Refuse wrong types, and sizes that no model has, before anything is built from them. Raises `PlanError`."""
    issues = model_sizes.check(config) or config_fields.check(config)
    if issues:
        raise PlanError(issues)


def _parse_config(text: str) -> Mapping[str, Any]:
    config = json_input.parse(text, "model", fix="Paste the whole text of a config.json.")
    if not isinstance(config, dict):
        raise _wrong("the config is not a JSON object.", "Paste the whole text of a config.json.")
    return config


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="model", message=message, fix=fix)])
