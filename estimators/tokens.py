"""How many tokens the plan's rows have: memory follows the longest batch, time the mean one.

Exact where the model's tokenizer is on this computer; else from the characters, and said so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from engine import data
from engine.data import token_counts as counting
from engine.data import tokenization
from engine.issues import PlanError
from engine.plan import Plan

# Of English text with the large vocabularies of today: judgement, used only where the model's tokenizer is not here.
CHARACTERS_PER_TOKEN = 4.0
TEMPLATE_TOKENS = 8  # that a chat template adds to a turn (ChatML adds 5 to 8)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of each row of one epoch as the trainer reads them, cut at `max_length`.

    Without data there is one row of the full length: the worst case, and nothing is known of the run's duration.
    """

    train: tuple[int, ...]
    exact: bool
    known: bool = True
    sampled: int = 0  # rows that were counted for all, where there are too many to count each

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
    key = (data.fingerprint(plan.datasets), str(plan.model), plan.objective, plan.eval_fraction, plan.seed)
    if key not in _known:
        _known[key] = _counts(plan)
    counts, exact, sampled = _known[key]
    return Lengths(train=tuple(max(1, min(count, plan.max_length)) for count in counts), exact=exact, sampled=sampled)


_known: dict[tuple, tuple[tuple[int, ...], bool, int]] = {}


def _counts(plan: Plan) -> tuple[tuple[int, ...], bool, int]:
    """(tokens of each row, whether a tokenizer counted them, how many rows of a sample it counted)."""
    _refuse_bad_rows(plan)
    kept = counting.remembered(plan)
    if kept is not None:
        return _counted(kept)
    tokenizer = counting.local_tokenizer(plan)
    rows = counting.load(plan)
    if tokenizer is None or (tokenizer.chat_template is None and tokenization.is_chat(rows.train[0])):
        return tuple(_guess(row) for row in rows.train), False, 0
    return _counted(counting.count(plan, tokenizer, rows))


def _counted(counts: counting.Counts) -> tuple[tuple[int, ...], bool, int]:
    return counts.all_lengths(), True, 0 if counts.exact else len(counts.lengths)


def _refuse_bad_rows(plan: Plan) -> None:
    """A plan whose data the worker would refuse has no estimate."""
    errors = [issue for source in plan.datasets for issue in data.scan(source, counting.accepts(plan)).errors]
    errors = errors or counting.check_rows(plan)
    if errors:
        raise PlanError(errors)


def _guess(row: data.Row) -> int:
    turns = list(data.texts(row))
    return round(sum(len(turn) for turn in turns) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS * len(turns)


def mean_padded_length(counts: Sequence[int], batch: int, seed: int = 0) -> float:
    """The mean length of a batch when each is padded to its longest row and rows come in random order."""
    order = list(counts)
    random.Random(seed).shuffle(order)
    longest = [max(order[start : start + batch]) for start in range(0, len(order), batch)]
    return sum(longest) / len(longest)
