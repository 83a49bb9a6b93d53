"""Write which JSON types transformers' configs declare for their fields: `python -m assets.build_config_fields`

The planner looks at a pasted config.json before transformers is imported, so the types are kept in `config_fields.json`:
{"hidden_size": ["integer"], ...}, for each name the types that any config class declares for it. `null` is always one.
`tests/engine/test_config_fields.py` compares that file with the installed transformers.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("config_fields.json")
# Properties and settings that `PreTrainedConfig` takes without declaring them as fields (transformers 5.23).
UNDECLARED = {
    "num_labels": ["integer"],
    "torch_dtype": ["text"],
    "dtype": ["text"],
    "quantization_config": ["object"],
    "auto_map": ["object"],
    "rope_scaling": ["object"],
    "use_cache": ["flag"],
    "_name_or_path": ["text"],
    "transformers_version": ["text"],
    "attn_implementation": ["text"],
}


def all_fields() -> dict[str, list[str]]:
    """Every field of every config class that transformers registers: its JSON types, in alphabetical order."""
    import torch
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known: dict[str, set[str]] = {}
    for config_class in (PreTrainedConfig, *(CONFIG_MAPPING[model_type] for model_type in CONFIG_MAPPING)):
        fields = [field.name for field in dataclasses.fields(config_class)]
        hints = typing.get_type_hints(config_class, localns={"torch": torch})
        own = {name: _json_types(hints[name]) for name in fields} | {part: {"object"} for part in config_class.sub_configs}
        aliases = {old: own[new] for old, new in config_class.attribute_map.items() if new in own}
        for name, found in (*own.items(), *aliases.items()):
            known.setdefault(name, set()).update(found)
    declared = {name: sorted(found) for name, found in known.items() if "any" not in found}
    return dict(sorted((declared | UNDECLARED).items()))


def _json_types(hint: Any) -> set[str]:
    """The JSON types of a type annotation; "any" where it says nothing that JSON could tell."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts = set[str]().union(*(_json_types(part) for part in typing.get_args(hint)))
        return parts - {"any"} or parts  # torch.dtype beside str, a TypedDict beside dict
    if origin is typing.Literal:
        return set[str]().union(*(_json_types(type(choice)) for choice in typing.get_args(hint)))
    if hint is type(None):
        return set()
    kind = origin or hint
    if dataclasses.is_dataclass(kind):
        return {"object"}
    names = {bool: "flag", int: "integer", float: "number", str: "text", dict: "object", list: "list", tuple: "list"}
    return {names.get(kind, "any")}


if __name__ == "__main__":
    lines = (f" {json.dumps(name)}: {json.dumps(types)}" for name, types in all_fields().items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"wrote {FILE.name}")
