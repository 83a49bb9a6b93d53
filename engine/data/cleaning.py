"""CLEANINGS: what can be done to a data set before training, each one tick. The result is a new version beside the old.

`clean` reads the file row by row, decides on each row, writes those that stay as they were into a new upload, and says
how many rows each cleaning has removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine import data
from engine.catalog import chat_templates
from engine.data import Row, languages, near_duplicates, reading, scanning, sources, token_counts, tokenization
from engine.data.formats import Recognition
from engine.data.values import BadRow
from engine.issues import Issue, PlanError
from engine.plan import DataSource, Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_NEARLY = 200_000  # rows among which near copies are looked for; about 30 s
LOOKED_AT = 2_000  # rows that say which language is the main one


@dataclass
class Rows:
    """The usable rows of a source as the cleanings see them. `kept` shrinks with each cleaning."""

    plan: Plan
    tokenizer: PreTrainedTokenizerBase | None
    rows: list[Row]
    kept: set[int] = field(default_factory=set)  # places in `rows`

    def places(self) -> list[int]:
        return sorted(self.kept)

    def words(self, place: int) -> str:
        return "\n".join(data.texts(self.rows[place]))


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """One thing to do. `find` gives the places of the rows to remove; `value` is the default of what it asks for."""

    key: str
    label: str
    find: Callable[[Rows, Any], set[int]]
    value: int | str | None = None  # a number or a text that it needs; None: it is a tick alone
    needs_tokenizer: bool = False


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A new version of a data set, and what it lost."""

    source: DataSource
    name: str
    before: int  # rows of the old version, bad ones too
    after: int
    removed: tuple[tuple[str, int], ...]  # (label of the cleaning, rows)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cleaned:
        """The result from its JSON form."""
        removed = tuple((label, rows) for label, rows in values["removed"])
        return cls(**values | {"source": DataSource(**values["source"]), "removed": removed})


# --- what each removes ----------------------------------------------------------------------------------------------


def _bad(seen: Rows, value: Any) -> set[int]:
    return set()  # bad and empty rows are never among the usable ones


def _copies(seen: Rows, value: Any) -> set[int]:
    known: set[str] = set()
    found: set[int] = set()
    for place in seen.places():
        id_ = data.row_id(seen.rows[place])
        if id_ in known:
            found.add(place)
        known.add(id_)
    return found


def _near_copies(seen: Rows, value: Any) -> set[int]:
    places = seen.places()[:MOST_NEARLY]
    return {places[copy] for copy, _ in near_duplicates.near_copies(map(seen.words, places))}


def _untrained(seen: Rows, value: Any) -> set[int]:
    longest = seen.plan.max_length
    return {
        place
        for place in seen.kept
        if not any(one.first_trained < min(longest, len(one.ids)) for one in _sequences(seen, place))
        and tokenization.reading(seen.plan.objective, tokenization.shape_of(seen.rows[place])).by_tokens
    }


def _long(seen: Rows, value: Any) -> set[int]:
    most = int(value)
    return {place for place in seen.kept if any(len(one.ids) > most for one in _sequences(seen, place))}


def _sequences(seen: Rows, place: int) -> list[tokenization.Sequence]:
    assert seen.tokenizer is not None
    return tokenization.encode(seen.rows[place], seen.tokenizer, seen.plan.objective)


def _other_languages(seen: Rows, value: Any) -> set[int]:
    places = seen.places()
    spoken = {place: languages.language(seen.words(place)) for place in places}
    main = str(value) or Counter(spoken[place] for place in places[:LOOKED_AT]).most_common(1)[0][0]
    return {place for place in places if languages.is_other(spoken[place], main)}


def _containing(seen: Rows, value: Any) -> set[int]:
    wanted = str(value).lower()
    return {place for place in seen.kept if wanted and wanted in seen.words(place).lower()}


def _balance(seen: Rows, value: Any) -> set[int]:
    """Of each class as many rows as the smallest has, those whose ids come first."""
    by_class: dict[str, list[int]] = {}
    for place in seen.places():
        if "label" in seen.rows[place]:
            by_class.setdefault(str(seen.rows[place]["label"]), []).append(place)
    if not by_class:
        return set()
    fewest = min(map(len, by_class.values()))
    return {place for places in by_class.values() for place in _by_id(seen, places)[fewest:]}


def _cap(seen: Rows, value: Any) -> set[int]:
    return set(_by_id(seen, seen.places())[max(1, int(value)) :])


def _by_id(seen: Rows, places: list[int]) -> list[int]:
    """The places in an order that comes from the rows' content: the same choice each time, and from all of the file."""
    return sorted(places, key=lambda place: data.row_id(seen.rows[place]))


_ROWS = (
    Cleaning(key="drop_bad", label="Leave out rows that cannot be used, and empty ones", find=_bad),
    Cleaning(key="deduplicate", label="Remove exact copies", find=_copies),
    Cleaning(key="deduplicate_nearly", label="Remove near copies", find=_near_copies),
    Cleaning(key="drop_untrained", label="Remove rows without a token to learn from", find=_untrained, needs_tokenizer=True),
    Cleaning(key="drop_long", label="Remove rows longer than (tokens)", find=_long, value=768, needs_tokenizer=True),
    Cleaning(key="drop_languages", label="Keep one language (empty: the commonest)", find=_other_languages, value=""),
    Cleaning(key="drop_containing", label="Remove rows that contain", find=_containing, value=""),
    Cleaning(key="balance", label="Balance the classes", find=_balance),
    Cleaning(key="cap", label="Keep at most (rows)", find=_cap, value=10_000),
)
CLEANINGS: dict[str, Cleaning] = {row.key: row for row in _ROWS}


# --- doing it -------------------------------------------------------------------------------------------------------


def clean(
    plan: Plan, source: DataSource, wishes: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None = None
) -> Cleaned:
    """Apply the wished cleanings (key -> True, or its value), in the order of CLEANINGS, and write a new version.

    Rows that cannot be used are left out in any case. Raises `PlanError` if nothing would be left.
    """
    chosen = [cleaning for cleaning in CLEANINGS.values() if wishes.get(cleaning.key) not in (None, False)]
    file = sources.locate(source)
    accepts = token_counts.accepts(plan)
    numbers, rows = _usable(file, source, accepts)
    seen = Rows(plan=plan, tokenizer=tokenizer, rows=rows, kept=set(range(len(rows))))
    before = data.scan(source, accepts)
    unusable = before.bad + before.empty
    removed = [(CLEANINGS["drop_bad"].label, unusable)] if unusable else []
    for cleaning in chosen:
        if cleaning.needs_tokenizer and tokenizer is None:
            raise _wrong(f"{cleaning.label!r} needs the model's tokenizer, which is not here.", "Choose a model that is.")
        gone = cleaning.find(seen, _value(cleaning, wishes))
        seen.kept -= gone
        if cleaning.key != "drop_bad":
            removed.append((cleaning.label, len(gone)))
    if not seen.kept:
        raise _wrong("nothing would be left of the data.", "Choose fewer cleanings.")
    made, name = _write(file, source, {numbers[place] for place in seen.kept})
    return Cleaned(source=made, name=name, before=len(rows) + unusable, after=len(seen.kept), removed=tuple(removed))


def write_with_template(plan: Plan, source: DataSource, tokenizer: PreTrainedTokenizerBase, key: str) -> Cleaned:
    """Write chats as prompt and completion texts through a named chat template, for a model that has none of its own.

    The last answer is the completion; what comes before it, and the template's invitation to answer, is the prompt. The
    trainer ends the completion with the end-of-sequence token, so that the model learns to stop.
    """
    if not key:
        raise _wrong("no template is chosen.", "Choose one on the Data tab.")
    named = chat_templates.with_template(tokenizer, key)
    numbers, rows = _usable(sources.locate(source), source, token_counts.accepts(plan))
    made, target = sources.new_upload(_next_name(sources.title(source)).replace(", cleaned", f", {key}"))
    skipped = 0
    with open(target, "wb") as stream:
        for row in rows:
            messages = row.get("messages")
            if not messages or messages[-1].get("tool_calls"):
                skipped += 1
                continue
            prompt = named.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            stream.write(orjson.dumps({"prompt": prompt, "completion": messages[-1]["content"]}) + b"\n")
    if skipped == len(rows):
        sources.remove_upload(target)
        raise _wrong("there are no chats in these rows.", "Choose a set of chats.")
    removed = (("Rows that do not end with an answer in words", skipped),) if skipped else ()
    written = DataSource(path=made.path, weight=source.weight)
    return Cleaned(
        source=written, name=sources.title(written), before=len(numbers), after=len(numbers) - skipped, removed=removed
    )


def _value(cleaning: Cleaning, wishes: Mapping[str, Any]) -> Any:
    value = wishes[cleaning.key]
    if isinstance(cleaning.value, int) and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1):
        raise _wrong(f"{cleaning.label!r} needs a number.", "Write a whole number above 0.")
    return value


def _usable(file: Path, source: DataSource, accepts: tuple[str, ...]) -> tuple[list[int], list[Row]]:
    recognition = Recognition(mapping=source.columns, accepts=accepts)
    numbers: list[int] = []
    rows: list[Row] = []
    for number, _, row in scanning.usable_rows(file, recognition):
        numbers.append(number)
        rows.append(row)
    return numbers, rows


def _write(file: Path, source: DataSource, kept: set[int]) -> tuple[DataSource, str]:
    """Write the kept rows as they stand in the file, under a name that says what it is a version of."""
    name = _next_name(sources.title(source))
    made, target = sources.new_upload(name)
    try:
        with open(target, "wb") as stream:
            for number, raw, problem in reading.rows_of(file):
                if problem is None and number in kept:
                    stream.write(orjson.dumps(_movable(raw, file, target)) + b"\n")
    except (BadRow, TypeError):
        sources.remove_upload(target)
        raise _wrong("the rows hold images, which stay where they are.", "Upload them as a zip, then clean that.") from None
    return DataSource(path=made.path, weight=source.weight, columns=source.columns), name


def _movable(raw: Any, file: Path, target: Path) -> Any:
    """The row, if it means the same beside the new file: the images of uploads lie in one folder."""
    if isinstance(raw, dict) and ("image" in raw or "images" in raw) and file.parent != target.parent:
        raise BadRow("has an image elsewhere")
    return raw


def _next_name(title: str) -> str:
    """ "rows.csv" becomes "rows, cleaned.jsonl", then "rows, cleaned 2.jsonl"."""
    stem, _, rest = title.partition(", cleaned")
    if not rest and ", cleaned" not in title:
        return f"{Path(title).stem if Path(title).suffix in sources.SUFFIXES else stem}, cleaned.jsonl"
    number = rest.removesuffix(".jsonl").strip()
    return f"{stem}, cleaned {int(number) + 1 if number.isdigit() else 2}.jsonl"


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="datasets", message=message, fix=fix)])
