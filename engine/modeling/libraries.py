"""The large libraries, loaded once by each process that trains, answers, merges or estimates."""

from __future__ import annotations

import gc
import re
import sys

from engine.data import template_sandbox
from engine.issues import Issue, PlanError

# Below these versions a library has a hole that this program relies on being closed.
FLOORS = {
    "torch": "2.6",  # loading with `weights_only=True` could be made to run code: CVE-2025-32434
    "transformers": "5.0",  # resuming loaded `rng_state.pth` as a pickle: CVE-2026-1839
    "datasets": "4.0",  # loading scripts of data sets were run
    "pyarrow": "14.0.1",  # reading Parquet and Arrow could be made to run code: CVE-2023-47248
}


def load() -> None:
    """Import torch, transformers, peft and trl, with the garbage collector off. Raises `PlanError` for one that is too old.

    Chat templates are rendered with limits from then on (`engine/data/template_sandbox.py`).


    Their import makes objects by the hundred thousand, which the collector goes through again and again and finds in use:
    4.4 s of processor time with it, 3.6 s without. What is there afterwards stays to the end, so later collections, also
    those in the middle of a training, leave it out (`gc.freeze`).
    """
    if "trl" not in sys.modules:
        gc.disable()
        try:
            import peft  # noqa: F401
            from transformers import Trainer  # noqa: F401
            from trl import SFTTrainer  # noqa: F401
        finally:
            gc.freeze()
            gc.enable()
    refuse_old()
    template_sandbox.guard()


def refuse_old() -> None:
    """Raise `PlanError` if a library that is loaded has a known hole, whatever was asked for when it was installed."""
    for name, floor in FLOORS.items():
        installed = str(getattr(sys.modules.get(name), "__version__", floor))
        if _numbers(installed) < _numbers(floor):
            message = f"{name} {installed} is installed, and versions below {floor} have a known security hole."
            fix = f'Install a newer one: pip install "{name}>={floor}".'
            raise PlanError([Issue(field="libraries", message=message, fix=fix)])


def _numbers(version: str) -> tuple[int, ...]:
    """ "2.6.0+cu124" as (2, 6, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
