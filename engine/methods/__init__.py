"""METHODS: every way to fine-tune, one row each.

A row is all that a new method needs: the form, the checks, the estimator, the worker, the docs and a parametrised
test read it. Keys are PEFT's `peft_type` in lower case where PEFT has the method; option names are those of the PEFT
config, which declares them (`engine/adapters/peft_options.py`). The `apply` functions are in `engine/adapters/attach.py`; they
import peft when they are called, so that reading the table costs nothing. Each module of this package is one family of rows.
Imports adapters, catalog and the plan.
"""

from __future__ import annotations

from typing import Any

from engine.adapters.peft_options import Option
from engine.methods import adapters, hybrids, lora, prompts, rotations, sparse, whole
from engine.methods.row import Method, is_tied, unfit
from engine.plan import Plan

__all__ = ["EITHER_OR", "LEFT_OUT", "METHODS", "NOT_OFFERED", "Method", "Option", "is_tied", "option_values", "unfit"]

# PEFT's methods (0.21.2) that have no row, and why.
LEFT_OUT = {
    "xlora": "it mixes adapters that must have been trained before",
    "cpt": "its own loss needs a mark for every part of the prompt, which no trainer here gives",
    "shadow": "the second of its two losses needs all logits, which no trainer here keeps",
    "adamss": "it needs scikit-learn, which is not installed with this program",
}

# What else the field has, and why it is not here (looked for in transformers 5.23, PEFT 0.21 and TRL 1.16).
NOT_OFFERED = {
    "LISA, BAdam": "they train a few layers at a time, and none of the libraries that this program keeps can do that; "
    "full fine-tuning with GaLore, APOLLO, LOMO or an 8-bit optimizer is the lean way that they have",
    "GaLore and APOLLO, layer by layer": "transformers refuses to accumulate gradients with them",
    "AdapterHub's adapters": "the library asks for an old transformers; Houlsby and Pfeiffer adapters are written here",
}

_ROWS = (*lora.ROWS, *whole.ROWS, *rotations.ROWS, *sparse.ROWS, *adapters.ROWS, *prompts.ROWS, *hybrids.ROWS)

METHODS: dict[str, Method] = {row.key: row for row in _ROWS}

# Of two options that say the same thing in two ways, a plan that gives one means 0 by the other.
EITHER_OR = {"r": "oft_block_size", "oft_block_size": "r"}


def option_values(plan: Plan) -> dict[str, Any]:
    """The method's options as the run will use them: the plan's own, else the row's defaults."""
    defaults = {option.name: option.default for option in METHODS[plan.method].options}
    replaced = {EITHER_OR[name]: 0 for name in plan.method_options if EITHER_OR.get(name) in defaults}
    return defaults | replaced | dict(plan.method_options)
