"""How many tokens the rows of a plan have, and where the first trained one stands: counted once, kept on the disk.

The estimator prices by it, the X-ray draws it, and the checks refuse a start by it. Up to MOST_COUNTED rows are counted,
all of them or a sample that is the same each time.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import data
from engine.catalog import chat_templates, models
from engine.data import Row, holdout, template_sandbox, tokenization
from engine.issues import Issue, PlanError
from engine.objectives import OBJECTIVES
from engine.plan import Plan
from engine.system.home import home, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_COUNTED = 20_000  # rows; about 10 s on one core. The mean of so many is known to 1 % (judgement)
MOST_LOADED = 200_000  # rows that are held in memory at once; of a larger set a sample of MOST_COUNTED is
# Rows of a run, each counted as often as its weight says. Twice as many as are fetched of a hub set; the trainer holds them
# as a table (a worker with 20 million short rows was seen above 3.2 GB).
MOST_ROWS = 2_000_000
VERSION = 3  # of what is kept


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The plan's rows, split as the worker splits them; of a very large set, a sample that is the same each time."""

    train: list[Row]
    held_out: list[Row]
    numbers: tuple[int, ...]  # of each training row: its place among the plan's rows, from 1
    total: int  # rows of the plan, training and held-out

    @property
    def exact(self) -> bool:
        return len(self.train) + len(self.held_out) == self.total

    @property
    def total_held_out(self) -> int:
        """Held-out rows of the whole set."""
        return round(len(self.held_out) / (len(self.train) + len(self.held_out)) * self.total)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Tokens of the training rows, in their order (of a sample, in the order of the rows that were drawn)."""

    rows: int  # training rows in all
    held_out: int
    lengths: tuple[int, ...]  # of each row's longest sequence, uncut
    first_trained: tuple[int, ...]  # place of the first token with a label in the longest sequence that has one
    trained: int  # tokens with a label, uncut
    by_tokens: bool  # whether the objective learns from tokens of the rows themselves
    largest_id: int
    ended: int  # rows whose last trained token is one at which the model stops
    exact: bool = True  # every row was counted

    def untrained(self, max_length: int) -> int:
        """Counted rows that have no trained token left when they are cut at `max_length`."""
        return sum(first >= max_length or first >= length for first, length in self._pairs()) if self.by_tokens else 0

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return zip(self.first_trained, self.lengths, strict=True)

    def all_lengths(self) -> tuple[int, ...]:
        """One length per training row; where only a sample was counted, the sample stands for the others in turn."""
        times, rest = divmod(self.rows, max(1, len(self.lengths)))
        return self.lengths * times + self.lengths[:rest]


def accepts(plan: Plan) -> tuple[str, ...]:
    """The shapes of rows that the plan's objective takes."""
    return OBJECTIVES[plan.objective].shapes if plan.objective in OBJECTIVES else ()


def check_rows(plan: Plan) -> list[Issue]:
    """Whether the rows of all sources, each as often as its weight says, are more than a process can hold."""
    shapes = accepts(plan)
    rows = [data.scan(source, shapes).rows * source.weight for source in plan.datasets]
    if sum(rows) <= MOST_ROWS:
        return []
    largest = max(range(len(rows)), key=rows.__getitem__)
    message = (
        f"its rows times its weight make {sum(rows):,.0f} rows with the others, more than the {MOST_ROWS:,} that a run holds."
    )
    return [Issue(field=f"datasets[{largest}].weight", message=message, fix="Use a smaller weight, or more epochs.")]


def load(plan: Plan) -> Rows:
    """The rows that are looked at. Bad ones are left out, so that data can be looked at before they are mended.

    Raises `PlanError` if there is not one row, or if there are too many.
    """
    shapes = accepts(plan)
    too_many = check_rows(plan)
    if too_many:
        raise PlanError(too_many)
    if sum(data.scan(source, shapes).rows * max(1, source.weight) for source in plan.datasets) <= MOST_LOADED:
        rows = data.load(plan.datasets, shapes, skip_bad=True)
        numbers = list(range(1, len(rows) + 1))
        total = len(rows)
    else:
        rows, numbers, total = _sample(plan)
    if not rows:
        raise PlanError([Issue(field="datasets", message="there are no rows.", fix="Choose data first.")])
    ids = [data.row_id(row) for row in rows]
    aside = holdout.places(plan, ids)
    return Rows(
        train=[row for place, row in enumerate(rows) if place not in aside],
        held_out=[rows[place] for place in sorted(aside)],
        numbers=tuple(number for place, number in enumerate(numbers) if place not in aside),
        total=total,
    )


def _sample(plan: Plan) -> tuple[list[Row], list[int], int]:
    """(rows, their numbers, rows in all) of a set that is too large to be held: read once, MOST_COUNTED rows kept.

    Of several sets each gives as many as its weighted share of the rows is; none of them gives a row twice.
    """
    sizes = [data.scan(source, accepts(plan)).rows for source in plan.datasets]
    weighted = [size * source.weight for size, source in zip(sizes, plan.datasets, strict=True)]
    draw, chosen, start = random.Random(0), set[int](), 0
    for size, share in zip(sizes, weighted, strict=True):
        chosen |= set(draw.sample(range(start, start + size), min(size, round(MOST_COUNTED * share / sum(weighted)))))
        start += size
    kept = [(place + 1, row) for place, row in enumerate(every_row(plan)) if place in chosen]
    return [row for _, row in kept], [number for number, _ in kept], round(sum(weighted))


def every_row(plan: Plan) -> Iterator[Row]:
    """Each row of the plan's sources that can be used, once, in their order."""
    for source in plan.datasets:
        yield from (row for _, row in data.iterate(source, accepts(plan)))


def local_tokenizer(plan: Plan) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the plan's model, if it is on this computer; nothing is fetched for a look."""
    from transformers import AutoTokenizer

    model = models.find(plan.model)
    if model.id.startswith("config:"):
        return None
    template_sandbox.guard()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.folder or model.id, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None
    return chat_templates.of_plan(tokenizer, plan)


def count(plan: Plan, tokenizer: PreTrainedTokenizerBase | None, rows: Rows | None = None) -> Counts:
    """The counts of the plan's rows, from the disk if they were counted before. Raises `PlanError`."""
    known = remembered(plan)
    if known is None:
        known = count_rows(rows or load(plan), tokenizer, plan.objective)
        write_atomically(_file(plan), json.dumps(asdict(known)))
    return known


def count_rows(rows: Rows, tokenizer: PreTrainedTokenizerBase | None, objective: str) -> Counts:
    """Count rows that were loaded already: all of them, or MOST_COUNTED drawn from them."""
    order = list(range(len(rows.train)))
    if len(order) > MOST_COUNTED:
        order = sorted(random.Random(0).sample(order, MOST_COUNTED))
    found = _count([rows.train[place] for place in order], tokenizer, objective)
    return Counts(
        rows=rows.total - rows.total_held_out,
        held_out=rows.total_held_out,
        exact=rows.exact and len(order) == len(rows.train),
        **found,
    )


def _count(rows: list[Row], tokenizer: PreTrainedTokenizerBase | None, objective: str) -> dict[str, Any]:
    lengths, first, trained, largest, ended = [], [], 0, 0, 0
    stops = stop_ids(tokenizer)
    for row in rows:
        sequences = tokenization.encode(row, tokenizer, objective)
        lengths.append(max((len(one.ids) for one in sequences), default=0))
        first.append(min((one.first_trained for one in sequences if True in one.trained), default=lengths[-1]))
        trained += sum(sum(one.trained) for one in sequences)
        largest = max([largest, *(max(one.ids, default=0) for one in sequences)])
        ended += any(one.last_trained in stops for one in sequences)
    return {
        "lengths": tuple(lengths),
        "first_trained": tuple(first),
        "trained": trained,
        "largest_id": largest,
        "ended": ended,
        "by_tokens": tokenization.reading(objective, tokenization.shape_of(rows[0])).by_tokens,
    }


def stop_ids(tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """Tokens at which a model may stop: the end-of-sequence token, and the template's own end of a turn."""
    if tokenizer is None:
        return frozenset()
    names = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>")  # of common chat templates
    known = tokenizer.get_added_vocab()
    ids = {known[name] for name in names if name in known}
    return frozenset(ids | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()))


# --- kept on the disk -----------------------------------------------------------------------------------------------


def remembered(plan: Plan) -> Counts | None:
    """What was counted of this plan's rows before, with this tokenizer; None if nothing was."""
    if not plan.datasets or not (file := _file(plan)).is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return Counts(**values | {"lengths": tuple(values["lengths"]), "first_trained": tuple(values["first_trained"])})


def _file(plan: Plan) -> Path:
    """The file of the counts: named after the data, the tokenizer, and what else the counts depend on."""
    key = (VERSION, data.fingerprint(plan.datasets), _tokenizer_of(plan), plan.objective, plan.eval_fraction, plan.seed)
    folder = home() / "cache" / "lengths"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"


def _tokenizer_of(plan: Plan) -> tuple[Any, ...]:
    """What tells tokenizers apart: the model's name, the template, and the age of the tokenizer's files where they are here."""
    model = models.find(plan.model)
    files = sorted(model.folder.glob("*token*")) + sorted(model.folder.glob("chat_template*")) if model.folder else []
    return (model.id, plan.chat_template, *((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


# --- what stops a start ---------------------------------------------------------------------------------------------


def check_shapes(plan: Plan) -> list[Issue]:
    """Sets whose rows the objective cannot learn from."""
    wanted = accepts(plan)
    scans = [(source, data.scan(source, wanted)) for source in plan.datasets]
    return [
        Issue(
            field="datasets",
            message=f"the rows of {data.title(source)} are {found.format}, and {OBJECTIVES[plan.objective].label} takes "
            f"{' or '.join(wanted)}.",
            fix="Choose another objective or other data, or map the columns by hand (Data tab).",
        )
        for source, found in scans
        if wanted and found.format and found.format not in wanted
    ]


def check(plan: Plan) -> list[Issue]:
    """What the counts say against a start, where the rows were counted before. Cheap: nothing is counted here."""
    try:
        counts = remembered(plan)
    except PlanError:  # the data or the model cannot be found, which the other checks say
        return []
    return [] if counts is None else problems(counts, plan.max_length)


def problems(counts: Counts, max_length: int) -> list[Issue]:
    """Rows without a trained token: all of them stop a start, some are left out by the trainer."""
    without, counted = counts.untrained(max_length), len(counts.lengths)
    if not without:
        return []
    longest_prompt = max(
        first
        for first, length in zip(counts.first_trained, counts.lengths, strict=True)
        if first >= max_length or first >= length
    )
    if without == counted:
        return [
            Issue(
                field="max_length",
                message=f"none of the {counted:,} rows has a token to learn from within {max_length:,} tokens.",
                fix=f"Raise it above {longest_prompt:,}, or check the rows on the Data tab.",
            )
        ]
    return [
        Issue(
            field="max_length",
            message=f"{without:,} of {counted:,} rows have no token to learn from within {max_length:,} tokens: left out.",
            fix=f"Raise it above {longest_prompt:,} to keep them.",
            severity="warning",
        )
    ]


def refuse_untrained(plan: Plan) -> None:
    """Raise `PlanError` if the loss would be computed on no token at all, or the rows do not suit the objective.

    For the worker, before it loads the model: the command line has no estimate that would have counted the rows. Where
    the tokenizer is not on this computer nothing is said.
    """
    found = check_shapes(plan)
    tokenizer = local_tokenizer(plan)
    if not found and tokenizer is not None:
        found = problems(count(plan, tokenizer), plan.max_length)
    errors = [issue for issue in found if issue.severity == "error"]
    if errors:
        raise PlanError(errors)
