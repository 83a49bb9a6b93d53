"""What a run leaves to be taken home says nothing of this computer: the base model by its public name, and no path.

PEFT and transformers write where the base model was loaded from into an adapter's config and README. Whoever downloads
these can do nothing with a path of the server. `publish` is called on each folder before it takes its final name; the
app itself takes the base model from the run's plan.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.catalog import models
from engine.jobs import runs
from engine.methods import METHODS
from engine.plan import Plan
from engine.system.home import ASSETS, home, runs_folder

# Keys under which PEFT and transformers write where something was loaded from.
ORIGINS = ("base_model_name_or_path", "tokenizer_name_or_path", "name_or_path", "_name_or_path")
LARGE = ("tokenizer.json", "vocab.json", "model.safetensors.index.json")  # no configs: nothing is written into them
CARD = "README.md"
MOST_STAGES = 32  # of a chain, each of which takes the last one's result


def public_name(words: str | Mapping[str, Any], stages: int = MOST_STAGES) -> str:
    """The name of a plan's model for other people: its hub id, or words that are no id where it is not on the hub."""
    model = models.find(words)
    if model.id.startswith("demo/"):
        return f"demo model of Fitting Room ({model.id})"
    if model.folder is None:
        return model.id
    run = model.folder.parent
    if run.parent == runs_folder() and stages > 0 and (run / "plan.json").is_file():
        return f"{public_name(runs.plan_of(run).model, stages - 1)}, fine-tuned with Fitting Room"
    return f"local model {model.folder.name}"


def publish(folder: Path, plan: Plan) -> None:
    """Take what is said of this computer out of a folder's configs, and write the README of an adapter anew."""
    name = public_name(plan.model)
    private = private_folders(plan)
    for file in folder.rglob("*.json"):
        if file.name in LARGE:
            continue
        values = json.loads(file.read_text(encoding="utf-8"))
        cleaned = _cleaned(values, name, private)
        if cleaned != values:
            file.write_text(json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in folder.rglob("adapter_config.json"):
        file.with_name(CARD).write_text(_adapter_card(plan, name), encoding="utf-8")


def private_folders(plan: Plan) -> tuple[str, ...]:
    """Folders of this computer that nobody else should read of: the longest first, one may be in another."""
    model = models.find(plan.model).folder
    folders = (model, home(), ASSETS.parent, Path.home(), Path(tempfile.gettempdir()), Path(os.environ.get("HF_HOME", "/")))
    found = {str(folder) for folder in folders if folder is not None and len(folder.parts) > 1}
    return tuple(sorted(found, key=len, reverse=True))


def _cleaned(values: Any, name: str, private: Iterable[str], key: str = "") -> Any:
    """JSON values in which the base model has its public name, and paths of this computer are gone."""
    if isinstance(values, dict):
        return {inner: _cleaned(value, name, private, inner) for inner, value in values.items()}
    if isinstance(values, list):
        return [_cleaned(value, name, private, key) for value in values]
    if not isinstance(values, str):
        return values
    if (key in ORIGINS and values) or any(folder in values for folder in private):
        return name
    return values


def _adapter_card(plan: Plan, name: str) -> str:
    """The README.md of an adapter: what it goes with, and how it is loaded."""
    model = models.find(plan.model)
    on_hub = model.folder is None
    front = f"base_model: {name}\n" if on_hub else ""
    return (
        f"---\nlibrary_name: peft\n{front}---\n\n# {METHODS[plan.method].label} adapter\n\n"
        f"Base: {name}. Trained with Fitting Room.\n\n"
        f"```python\nfrom peft import PeftModel\n\n"
        f'model = PeftModel.from_pretrained(base, "path/to/this/folder")  # base: the model above\n```\n'
    )
