"""The large libraries, loaded once by each process that trains, answers, merges or estimates."""

from __future__ import annotations

import gc
import sys


def load() -> None:
    """Import torch, transformers, peft and trl, with the garbage collector off.

    Their import makes objects by the hundred thousand, which the collector goes through again and again and finds in use:
    4.4 s of processor time with it, 3.6 s without. What is there afterwards stays to the end, so later collections, also
    those in the middle of a training, leave it out (`gc.freeze`).
    """
    if "trl" in sys.modules:
        return
    gc.disable()
    try:
        import peft  # noqa: F401
        from transformers import Trainer  # noqa: F401
        from trl import SFTTrainer  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
