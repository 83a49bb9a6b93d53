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

from engine.home import ASSETS
from engine.plan import Issue, PlanError, nearest

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
# methods' recommended ones, which are for models of billions of parameters (`tests/engine/test_train.py` trains with
# each).
DEMO_LEARNING_RATES = {"lora": 5e-3, "qlora": 5e-3, "full": 1e-3}


def _demo_model() -> Model:
    """The embedded model, described by its own files."""
    folder = ASSETS / "demo_model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    params = stored_params(folder)
    return Model(
        id=DEMO_MODEL,
        title=f"Demo model (Llama, {params / 1e6:.1f} M)",
        family="Llama",
        license="apache-2.0",
        params=params,
        context_length=config["max_position_embeddings"],
        dtype=config["dtype"],
        config=config,
        folder=folder,
        learning_rates=DEMO_LEARNING_RATES,
    )


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
    """All models that the program knows offline, by id; the demo model first."""
    rows = json.loads((ASSETS / "models.json").read_text(encoding="utf-8"))
    return {DEMO_MODEL: _demo_model()} | {row["id"]: _read_row(row) for row in rows}


def trainable_models() -> list[Model]:
    """The rows that the objectives of this version can train: causal language models."""
    return [model for model in catalogue().values() if model.task == "causal-lm"]


def _read_row(row: Mapping[str, Any]) -> Model:
    checked = UNCHECKED_LICENSE not in row["source"].get("license", "")
    return Model(
        id=row["id"],
        title=row["title"],
        family=row["family"],
        task=row["task"],
        license=row["license"] if checked else "",
        gated=row["gated"],
        params=row["params"],
        context_length=row["context_length"],
        dtype=row["dtype"],
        config=row["config"],
    )


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
        raise _wrong(f"{words!r} is not a demo model.", f"Use {DEMO_MODEL}.")
    if _looks_like_a_path(words):
        return _from_folder(words)
    if HUB_ID.match(words) and ".." not in words and "--" not in words:
        return Model(id=words, title=words.split("/")[-1])
    raise _wrong(f"{words[:80]!r} is not a model id.", nearest(words, list(catalogue())).rstrip(".?")[:200] + ".")


def local_paths_allowed() -> bool:
    """Whether forms may name folders of this computer: only while the app serves nobody but its owner (see app.py)."""
    return os.environ.get("FITTINGROOM_LOCAL_PATHS", "1") != "0"


def _looks_like_a_path(words: str) -> bool:
    return words.startswith(("/", "./", "../", "~", ".\\")) or re.match(r"^[A-Za-z]:[\\/]", words) is not None


def _from_folder(words: str) -> Model:
    if not local_paths_allowed():
        raise _wrong("is a path, and this server does not open paths.", "Use a Hugging Face id, for instance Qwen/Qwen3-0.6B.")
    folder = Path(words).expanduser()
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise _wrong(f"{words} has no config.json.", "Name the folder that `save_pretrained` wrote.")
    config = _parse_config(config_file.read_text(encoding="utf-8"))
    if not any(folder.glob("*.safetensors")):
        raise _wrong(
            f"{words} has no *.safetensors file; other weight files can run code when they are opened.",
            "Save the weights as safetensors (`save_pretrained` does).",
        )
    return Model(id=str(folder.resolve()), title=folder.name, config=config, folder=folder.resolve())


def _from_config(config: Mapping[str, Any]) -> Model:
    if "auto_map" in config:
        raise _wrong("needs code of its own (auto_map), which is never run here.", "Use a model that transformers itself has.")
    if not config.get("model_type"):
        raise _wrong("the config has no model_type.", 'Add it, for instance "model_type": "llama".')
    return Model(id=f"config:{config['model_type']}", title=f"{config['model_type']} (pasted config)", config=dict(config))


def _parse_config(text: str) -> Mapping[str, Any]:
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise _wrong("the config is not valid JSON.", "Paste the whole text of a config.json.") from None
    if not isinstance(config, dict):
        raise _wrong("the config is not a JSON object.", "Paste the whole text of a config.json.")
    if "auto_map" in config:
        raise _wrong("needs code of its own (auto_map), which is never run here.", "Use a model that transformers itself has.")
    return config


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="model", message=message, fix=fix)])
