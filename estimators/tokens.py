"""How many tokens the plan's rows have: memory follows the longest batch, time the mean one.

Exact where the model's tokenizer is on this computer; else from the characters, and said so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine import data, models
from engine.plan import Plan

CHARACTERS_PER_TOKEN = 4.0  # English text; OpenAI's tokenizer guide: https://platform.openai.com/tokenizer
TEMPLATE_TOKENS = 8  # that a chat template adds to a turn (ChatML adds 5 to 8)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of each row of one epoch as the trainer reads them, cut at `max_length`.

    Without data there is one row of the full length: the worst case, and nothing is known of the run's duration.
    """

    train: tuple[int, ...]
    exact: bool
    known: bool = True

    @property
    def tokens(self) -> int:
        return sum(self.train)

    @property
    def longest(self) -> int:
        return max(self.train)


def lengths(plan: Plan) -> Lengths:
    """The token counts of the plan's training rows. Raises `PlanError` if the rows cannot be read."""
    if not plan.datasets:
        return Lengths(train=(plan.max_length,), exact=False, known=False)
    key = (data.fingerprint(plan.datasets), str(plan.model), plan.eval_fraction, plan.seed)
    if key not in _known:
        _known[key] = _counts(plan)
    counts, exact = _known[key]
    return Lengths(train=tuple(min(count, plan.max_length) for count in counts), exact=exact)


_known: dict[tuple, tuple[tuple[int, ...], bool]] = {}


def _counts(plan: Plan) -> tuple[tuple[int, ...], bool]:
    rows, _ = data.split(data.load(plan.datasets), eval_fraction=plan.eval_fraction, seed=plan.seed)
    tokenizer = _tokenizer(models.find(plan.model))
    if tokenizer is None:
        return tuple(_guess(row) for row in rows), False
    return tuple(_count(row, tokenizer) for row in rows), True


def _tokenizer(model: models.Model) -> Any | None:
    """The model's tokenizer, if it is on this computer; nothing is fetched for an estimate."""
    from transformers import AutoTokenizer

    if model.id.startswith("config:"):
        return None
    try:
        return AutoTokenizer.from_pretrained(model.folder or model.id, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return None


def _count(row: data.Row, tokenizer: Any) -> int:
    if "messages" in row and tokenizer.chat_template:
        return len(tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"])
    return len(tokenizer("".join(data.texts(row)))["input_ids"])


def _guess(row: data.Row) -> int:
    turns = list(data.texts(row))
    return round(sum(len(turn) for turn in turns) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS * len(turns)


def mean_padded_length(counts: Sequence[int], batch: int, seed: int = 0) -> float:
    """The mean length of a batch when each is padded to its longest row and rows come in random order."""
    order = list(counts)
    random.Random(seed).shuffle(order)
    longest = [max(order[start : start + batch]) for start in range(0, len(order), batch)]
    return sum(longest) / len(longest)
