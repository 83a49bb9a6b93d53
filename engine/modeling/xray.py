"""The X-ray of a plan's data, before any training: what the model will read, what it learns from, and what is odd.

    xray(plan)              counts, the histogram of lengths, findings, what stops a start
    look(plan, number)      one row as its tokens, each trained on, read only, or cut off

FINDINGS has one row per thing that is looked for. Runs in the estimator's process, which has the tokenizer; the parts
that need none are pure functions on rows.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import data
from engine.catalog import chat_templates, models
from engine.data import Row, languages, near_duplicates, token_counts, tokenization
from engine.data.pictures import Picture, picture
from engine.data.token_counts import Counts, Rows
from engine.data.tokenization import NO_TEMPLATE
from engine.data.values import BadRow, classes_in
from engine.issues import Issue, PlanError
from engine.modeling import build
from engine.objectives import OBJECTIVES
from engine.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_LOOKED_AT = 20_000  # rows in which copies and languages are looked for
SHOWN_EXAMPLES = 3
EXAMPLE_CHARACTERS = 120
MOST_SHOWN_TOKENS = 4096  # of one sequence, on the page
BINS = 40
MOST_DRAWN = 0.98  # share of the rows whose lengths are told apart: one very long row would press the others together
ANSWERED = ("messages", "prompt-completion", "preference", "unpaired-preference")  # rows whose answers have an end
FEW_OF_A_CLASS = 0.1  # a class with fewer rows than this share of the largest one is called rare (judgement)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something odd in the data: how many rows, and a few of them by number. `cleaning` is a key of CLEANINGS."""

    key: str
    label: str
    rows: int
    examples: tuple[str, ...] = ()
    cleaning: str = ""
    serious: bool = True


@dataclass(frozen=True, kw_only=True)
class XRay:
    """What a look through the data has shown. Lengths are in tokens, of the training rows, before they are cut."""

    rows: int
    held_out: int
    shape: str
    counted: int  # rows whose tokens were counted
    exact: bool
    tokens: int  # of all training rows
    trained: int  # of the counted rows
    counted_tokens: int
    median: int
    longest: int
    max_length: int
    cut_rows: int  # of the counted rows
    cut_tokens: int
    histogram: tuple[tuple[int, int, int], ...]  # (from, up to and without, rows)
    by_tokens: bool
    findings: tuple[Finding, ...]
    classes: tuple[tuple[str, int], ...] = ()
    languages: tuple[tuple[str, int], ...] = ()
    packed: bool = False  # rows are joined and cut into full sequences: none of their tokens is left out
    template: str = ""  # "own", "none", or the key of a named one
    templates: tuple[tuple[str, str], ...] = ()  # (key, label) of those that can be chosen instead
    held_out_ids: tuple[str, ...] = ()
    issues: tuple[Issue, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> XRay:
        """The X-ray from its JSON form."""
        pairs = {name: tuple(map(tuple, values[name])) for name in ("histogram", "classes", "languages", "templates")}
        findings = tuple(Finding(**one | {"examples": tuple(one["examples"])}) for one in values["findings"])
        issues = tuple(Issue(**one) for one in values["issues"])
        return cls(**values | pairs | {"findings": findings, "issues": issues, "held_out_ids": tuple(values["held_out_ids"])})


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A few letters of the rendered row: one token, or several that only together make a letter."""

    text: str
    trained: bool
    cut: bool
    special: bool  # a token of the template's, not of the text
    tokens: int = 1


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One sequence of a row."""

    name: str
    pieces: tuple[Piece, ...]
    tokens: int
    trained: int  # within the longest sequence
    hidden: int = 0  # tokens at the end that are not shown


@dataclass(frozen=True, kw_only=True)
class Look:
    """One row, as it is trained on."""

    number: int  # among the rows that can be used, from 1
    rows: int
    strips: tuple[Strip, ...]
    note: str
    label: str = ""  # what is learned beside the tokens
    template: str = ""  # "own", or the name of the one that was chosen
    picture: Picture | None = None  # the row's image, with its boxes

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Look:
        """The look from its JSON form."""
        shown = values["picture"] and Picture.from_dict(values["picture"])
        strips = tuple(
            Strip(**strip | {"pieces": tuple(Piece(**piece) for piece in strip["pieces"])}) for strip in values["strips"]
        )
        return cls(**values | {"strips": strips, "picture": shown})


# --- the whole ------------------------------------------------------------------------------------------------------


def xray(plan: Plan, tokenizer: PreTrainedTokenizerBase | None, template: str = "") -> XRay:
    """Look through the plan's rows. Raises `PlanError` if they cannot be read.

    The tokenizer may be None where rows have no text. `template` is a key of `chat_templates.TEMPLATES` for a tokenizer
    that has none; "" takes the first one. The held-out rows' ids are recorded (`engine/data/holdout.py`).
    """
    rows = token_counts.load(plan)
    offered = _offered(tokenizer, rows.train[0])
    template = template or (offered[0][0] if offered else "")
    tokenizer = chat_templates.with_template(tokenizer, template)
    counts = _counts(plan, rows, tokenizer, template)
    seen = seen_in(plan, rows, counts)
    longest = most_kept(plan)
    cut = [length - longest for length in counts.lengths if length > longest]
    return XRay(
        rows=counts.rows,
        held_out=counts.held_out,
        shape=tokenization.shape_of(rows.train[0]),
        counted=len(counts.lengths),
        exact=counts.exact,
        tokens=sum(counts.all_lengths()),
        trained=counts.trained,
        counted_tokens=sum(counts.lengths),
        median=sorted(counts.lengths)[len(counts.lengths) // 2],
        longest=max(counts.lengths),
        max_length=plan.max_length,
        packed=OBJECTIVES[plan.objective].packs,
        cut_rows=len(cut),
        cut_tokens=sum(cut),
        histogram=histogram(counts.lengths, plan.max_length),
        by_tokens=counts.by_tokens,
        findings=findings(seen),
        classes=classes(rows.train),
        languages=tuple(Counter(seen.languages).most_common(8)),
        template=template or ("own" if tokenizer is not None and tokenizer.chat_template else "none"),
        templates=offered,
        held_out_ids=tuple(data.row_id(row) for row in seen.held_out),
        issues=tuple(issues(plan, counts, tokenizer, rows.train[0], templated=bool(offered))),
    )


def most_kept(plan: Plan) -> int:
    """The tokens of a row that are trained on, at most: all of them where rows are packed wherever they end."""
    return sys.maxsize if OBJECTIVES[plan.objective].packs else plan.max_length


def _counts(plan: Plan, rows: Rows, tokenizer: PreTrainedTokenizerBase | None, template: str) -> Counts:
    """Kept on the disk, except with a template that the tokenizer does not have itself."""
    return token_counts.count_rows(rows, tokenizer, plan.objective) if template else token_counts.count(plan, tokenizer, rows)


def _offered(tokenizer: PreTrainedTokenizerBase | None, row: Row) -> tuple[tuple[str, str], ...]:
    """The chat templates that can be chosen, where the rows are chats and the tokenizer has no template."""
    if not tokenization.is_chat(row) or tokenizer is None or tokenizer.chat_template:
        return ()
    return tuple((template.key, template.label) for template in chat_templates.TEMPLATES.values())


def issues(
    plan: Plan, counts: Counts, tokenizer: PreTrainedTokenizerBase | None, row: Row, *, templated: bool = False
) -> list[Issue]:
    """What stops a start, or is left out without a word by the trainers."""
    found = [*token_counts.check_shapes(plan), *([NO_TEMPLATE] if templated else [])]
    found += token_counts.problems(counts, most_kept(plan))
    if tokenizer is None:
        return found
    vocabulary, context = model_limits(plan)
    found += check_vocabulary(counts.largest_id, vocabulary, len(tokenizer))
    over = sum(length > context for length in counts.lengths) if context else 0
    if over and context and plan.max_length > context:
        message = f"{over:,} of {len(counts.lengths):,} rows are longer than the {context:,} tokens that the model can read."
        found.append(Issue(field="max_length", message=message, fix=f"Use at most {context}."))
    if tokenization.shape_of(row) in ANSWERED and counts.by_tokens and not counts.ended:
        message = "no row ends with a token at which the model stops, so it would not learn to end its answers."
        found.append(Issue(field="model", message=message, fix="Choose another chat template.", severity="warning"))
    if row.get("tools") and "tools" not in (tokenizer.chat_template or ""):
        message = "its chat template leaves out tools and tool calls."
        found.append(Issue(field="model", message=message, fix="Choose a model that calls tools.", severity="warning"))
    return found


def model_limits(plan: Plan) -> tuple[int | None, int | None]:
    """(rows of the embedding, tokens of context) of the plan's model, as far as they are known."""
    try:
        text = build.load_config(plan).get_text_config()
    except (PlanError, OSError, ValueError, KeyError):
        return None, models.find(plan.model).context_length
    return getattr(text, "vocab_size", None), getattr(text, "max_position_embeddings", None)


def check_vocabulary(largest_id: int, vocabulary: int | None, known: int) -> list[Issue]:
    """A token that the model has no embedding for stops the first step that meets it."""
    if vocabulary is None or largest_id < vocabulary:
        return []
    message = (
        f"its tokenizer gives the id {largest_id:,} ({known:,} tokens), and the model has embeddings for {vocabulary:,} only."
    )
    return [Issue(field="model", message=message, fix="Use the tokenizer that belongs to this model.")]


def histogram(counted: Sequence[int], max_length: int, bins: int = BINS) -> tuple[tuple[int, int, int], ...]:
    """(from, up to and without, rows) of equal bins of whole numbers, one of which ends right after `max_length`.

    They reach up to the length that MOST_DRAWN of the rows keep within; the last bin holds all that is longer.
    """
    ordered = sorted(counted)
    high = ordered[round(MOST_DRAWN * (len(ordered) - 1))] + 1
    width = max(1, math.ceil((high - ordered[0]) / bins))
    edge = max_length + 1
    low = edge - math.ceil((edge - ordered[0]) / width) * width
    last = (high - 1 - low) // width
    rows = Counter(min((length - low) // width, last + 1) for length in ordered)
    found = [(low + place * width, low + (place + 1) * width, rows[place]) for place in range(last + 1)]
    if rows[last + 1]:
        found.append((low + (last + 1) * width, ordered[-1] + 1, rows[last + 1]))
    return tuple(found)


def classes(rows: Iterable[Row]) -> tuple[tuple[str, int], ...]:
    """(class, how often), the most frequent first, where rows have labels, tags or boxes of classes."""
    return tuple(Counter(name for row in rows for name in classes_in(row)).most_common(50))


# --- findings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the searches look at."""

    plan: Plan
    rows: Sequence[Row]  # training rows
    numbers: Sequence[int]  # of each training row among the plan's rows, from 1
    held_out: Sequence[Row]
    counts: Counts
    ids: tuple[str, ...]  # of the training rows
    near: tuple[tuple[int, int], ...]  # (row, earlier row that it nearly copies); held-out rows come after training rows
    languages: tuple[str, ...]


def seen_in(plan: Plan, rows: Rows, counts: Counts) -> Seen:
    """The rows, and what several searches need of them."""
    train, held_out = rows.train[:MOST_LOOKED_AT], rows.held_out[:MOST_LOOKED_AT]
    images = "image" in train[0] or "images" in train[0]  # other images may well have the same words
    return Seen(
        plan=plan,
        rows=train,
        numbers=rows.numbers,
        held_out=held_out,
        counts=counts,
        ids=tuple(map(data.row_id, train)),
        near=() if images else tuple(near_duplicates.near_copies(map(words, [*train, *held_out]))),
        languages=tuple(languages.language(words(row)) for row in train),
    )


def words(row: Row) -> str:
    """All texts of a row as one."""
    return "\n".join(data.texts(row))


@dataclass(frozen=True, kw_only=True)
class Search:
    """One thing that is looked for. `find` gives the places of rows in `Seen.rows`."""

    key: str
    label: str
    find: Callable[[Seen], list[int]]
    cleaning: str = ""  # a key of CLEANINGS that removes such rows
    serious: bool = True


def _untrained(seen: Seen) -> list[int]:
    pairs = zip(seen.counts.first_trained, seen.counts.lengths, strict=True)
    wanted = seen.counts.by_tokens and seen.counts.exact
    return [place for place, (first, length) in enumerate(pairs) if wanted and first >= min(most_kept(seen.plan), length)]


def _too_long(seen: Seen) -> list[int]:
    counted = seen.counts.lengths if seen.counts.exact else ()
    return [place for place, length in enumerate(counted) if length > most_kept(seen.plan)]


def _copies(seen: Seen) -> list[int]:
    first = {id_: place for place, id_ in reversed(list(enumerate(seen.ids)))}
    return [place for place, id_ in enumerate(seen.ids) if first[id_] != place]


def _near_copies(seen: Seen) -> list[int]:
    """Exact copies are counted by themselves."""
    pairs = [(place, first) for place, first in seen.near if place < len(seen.rows)]
    return [place for place, first in pairs if seen.ids[place] != seen.ids[first]]


def _leaked(seen: Seen) -> list[int]:
    """The training rows that a held-out row nearly copies: its loss says little of new text."""
    return [first for place, first in seen.near if place >= len(seen.rows) > first]


def _other_languages(seen: Seen) -> list[int]:
    main = Counter(seen.languages).most_common(1)[0][0]
    return [place for place, one in enumerate(seen.languages) if languages.is_other(one, main)]


def _placeholders(seen: Seen) -> list[int]:
    return [place for place, row in enumerate(seen.rows) if PLACEHOLDER.search(words(row))]


def _rare(seen: Seen) -> list[int]:
    counted = [pair for pair in classes(seen.rows) if "tags" not in seen.rows[0]]
    rare = {name for name, rows in counted if rows < FEW_OF_A_CLASS * counted[0][1]}
    return [place for place, row in enumerate(seen.rows) if "label" in row and str(row["label"]) in rare]


PLACEHOLDER = re.compile(r"\{\{ *\w+ *\}\}")
FINDINGS = (
    Search(key="untrained", label="without a token to learn from", find=_untrained, cleaning="drop_untrained"),
    Search(
        key="long",
        label="longer than the longest sequence: cut",
        find=_too_long,
        cleaning="drop_long",
        serious=False,
    ),
    Search(key="copies", label="that copy an earlier row", find=_copies, cleaning="deduplicate"),
    Search(
        key="near_copies",
        label="that nearly copy an earlier row",
        find=_near_copies,
        cleaning="deduplicate_nearly",
        serious=False,
    ),
    Search(key="leaks", label="nearly the same as a held-out row", find=_leaked, cleaning="deduplicate_nearly"),
    Search(
        key="languages",
        label="in another language or alphabet than most",
        find=_other_languages,
        cleaning="drop_languages",
        serious=False,
    ),
    Search(key="placeholders", label="with an unfilled placeholder such as {{name}}", find=_placeholders, serious=False),
    Search(key="rare", label="of a rare class", find=_rare, cleaning="balance", serious=False),
)


def findings(seen: Seen) -> tuple[Finding, ...]:
    """What is odd: lines that cannot be used, empty rows, then what FINDINGS looks for."""
    found = [*_unusable(seen.plan)]
    for search in FINDINGS:
        places = search.find(seen)
        examples = tuple(f"row {seen.numbers[place]:,}: {_short(words(seen.rows[place]))}" for place in places[:SHOWN_EXAMPLES])
        found.append(
            Finding(
                key=search.key,
                label=search.label,
                rows=len(places),
                examples=examples,
                cleaning=search.cleaning,
                serious=search.serious,
            )
        )
    return tuple(finding for finding in found if finding.rows)


def _unusable(plan: Plan) -> Iterator[Finding]:
    """What the scan has said: it reads every line of every file."""
    scans = [data.scan(source, token_counts.accepts(plan)) for source in plan.datasets]
    bad = tuple(issue.message for scan in scans for issue in scan.errors)
    empty = tuple(issue.message for scan in scans for issue in scan.issues if issue.severity == "warning")
    yield Finding(
        key="bad",
        label="that cannot be used",
        rows=sum(scan.bad for scan in scans),
        examples=bad[:SHOWN_EXAMPLES],
        cleaning="drop_bad",
    )
    yield Finding(
        key="empty",
        label="without anything to learn from: left out",
        rows=sum(scan.empty for scan in scans),
        examples=empty[:SHOWN_EXAMPLES],
        cleaning="drop_bad",
        serious=False,
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_CHARACTERS else line[: EXAMPLE_CHARACTERS - 1] + "…"


# --- one row --------------------------------------------------------------------------------------------------------


def look(plan: Plan, number: int, tokenizer: PreTrainedTokenizerBase | None, template: str = "") -> Look:
    """Row `number` (from 1, among the rows that can be used) as tokens. Raises `PlanError`."""
    total = sum(data.scan(source, token_counts.accepts(plan)).rows for source in plan.datasets)
    row = next(itertools.islice(token_counts.every_row(plan), number - 1, None), None) if 1 <= number <= total else None
    if row is None:
        raise PlanError([Issue(field="datasets", message=f"there is no row {number}.", fix=f"Use 1 to {total}.")])
    tokenizer = chat_templates.with_template(tokenizer, template)
    sequences = tokenization.encode(row, tokenizer, plan.objective)
    strips = tuple(strip(one, tokenizer, most_kept(plan)) for one in sequences if tokenizer is not None)
    return Look(
        number=number,
        rows=total,
        strips=strips,
        note=tokenization.reading(plan.objective, tokenization.shape_of(row)).note,
        label=_label(row),
        template=template or "own",
        picture=_picture(row),
    )


def _picture(row: Row) -> Picture | None:
    """The row's (first) image; None where it has none, or one that only its beginning makes an image."""
    image = row["images"][0] if "images" in row else row.get("image")
    try:
        return None if image is None else picture(image, row.get("objects", ()))
    except BadRow:
        return None


def _label(row: Row) -> str:
    """What a row is to be answered with, where that is not in its tokens."""
    if "objects" in row:
        return ", ".join(one["label"] for one in row["objects"]) or "nothing is on it"
    if "tags" in row:
        return " ".join(f"{token}/{tag}" for token, tag in zip(row["tokens"], row["tags"], strict=True))
    return str(next((row[name] for name in ("label", "answer", "score") if name in row), ""))


def strip(sequence: tokenization.Sequence, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Strip:
    """A sequence as pieces of text."""
    pieces: list[Piece] = []
    ids, special = sequence.ids[:MOST_SHOWN_TOKENS], set(tokenizer.all_special_ids)
    start = 0
    for end in range(1, len(ids) + 1):
        text = _decoded(ids, start, end, tokenizer)
        if "\ufffd" in text and end < len(ids) and end - start < 6 and ids[end - 1] not in special:
            continue  # a part of a letter: its other bytes are the next tokens'
        last = end - 1
        pieces.append(
            Piece(
                text=text,
                trained=sequence.trained[last] and last < max_length,
                cut=last >= max_length,
                special=ids[last] in special,
                tokens=end - start,
            )
        )
        start = end
    return Strip(
        name=sequence.name,
        pieces=tuple(pieces),
        tokens=len(sequence.ids),
        trained=sum(sequence.trained[:max_length]),
        hidden=len(sequence.ids) - len(ids),
    )


def _decoded(ids: Sequence[int], start: int, end: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of some ids in the middle: some tokenizers drop the first space of what they decode."""
    if start == 0:
        return tokenizer.decode(list(ids[:end]))
    before = tokenizer.decode([ids[start - 1]])
    both = tokenizer.decode(list(ids[start - 1 : end]))
    return both[len(before) :] if both.startswith(before) else tokenizer.decode(list(ids[start:end]))
