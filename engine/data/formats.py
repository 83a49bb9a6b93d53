"""FORMATS: the kinds of rows that people have, one row each, and what each becomes.

`Recognition.read(row)` finds the format of a row by its columns (the most telling format first) and turns the row into
one of SHAPES: TRL's own types and column names (https://huggingface.co/docs/trl/dataset_formats), or what the tasks
beyond chat take. A column may go by several names (`NAMES`); a hand-made mapping of roles to columns overrides all.
The readers are in `chat_rows.py` and `task_rows.py`. Standard library and orjson only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.data import chat_rows, task_rows
from engine.data.values import BadRow, Row, UnknownColumns

# What rows can become: the name that an objective asks for, and the columns of such a row. Where a column holds text,
# `prompt`, `completion`, `chosen` and `rejected` may also be lists of messages.
SHAPES: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),  # and `tools`, as JSON, where the row has some
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired-preference": ("prompt", "completion", "label"),
    "prompt-only": ("prompt",),  # and every other column of the row, for reward functions
    "text-label": ("text", "label"),  # and `text_pair`, where the row has one
    "tokens-tags": ("tokens", "tags"),
    "question-answering": ("question", "context", "answers"),
    "source-target": ("source", "target"),
    "pairs": ("anchor", "positive"),  # and `negative` or `score`, where the row has one
    "image-label": ("image", "label"),
    "image-text": ("image", "text"),
    "image-question-answer": ("image", "question", "answer"),
    "image-messages": ("images", "messages"),  # content in parts, {"type": "image"} or {"type": "text", "text": ...}
    "image-objects": ("image", "objects"),  # each {"box": [x, y, width, height] in pixels, "label": a text}
}

# The names that a column goes by, the usual one first. What is not listed goes by its own name alone.
NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversation", "dialog"),
    "prompt": ("prompt",),
    "query": ("prompt", "question", "query", "problem"),
    "completion": ("completion", "response"),
    "verdict": ("label", "kto_tag"),
    "output": ("output", "response"),
    "input": ("input", "context"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels"),
    "text": ("text", "sentence", "content", "sentence1", "premise"),
    "text_pair": ("text_pair", "sentence2", "hypothesis"),
    "label": ("label", "labels"),
    "caption": ("text", "caption"),
    "source": ("source", "document", "article", "dialogue", "text"),
    "target": ("target", "summary", "highlights"),
    "anchor": ("anchor", "query", "sentence1"),
    "positive": ("positive", "sentence2"),
    "objects": ("objects", "annotations"),
    "images": ("images", "image"),
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of rows. `read` gets the values by role and returns the row in the shape that it becomes."""

    key: str
    label: str
    becomes: str  # a key of SHAPES
    columns: tuple[str, ...]  # the roles that must be there
    optional: tuple[str, ...] = ()
    read: Callable[[Row], Row]
    example: Row  # a row as people have it, for the docs and for a test


_HI, _HELLO, _BYE = "Hi", "Hello", "Bye"
_SYSTEM = ("system", "tools")
_ROWS = (
    Format(
        key="kto-messages", label="messages with a verdict (KTO)", becomes="unpaired-preference",
        columns=("messages", "verdict"), optional=_SYSTEM, read=chat_rows.read_kto_messages,
        example={"messages": [{"role": "user", "content": _HI}, {"role": "assistant", "content": _HELLO}], "label": True},
    ),
    Format(
        key="kto-sharegpt", label="ShareGPT with a verdict (KTO)", becomes="unpaired-preference",
        columns=("conversations", "verdict"), optional=_SYSTEM, read=chat_rows.read_kto_sharegpt,
        example={"conversations": [{"from": "human", "value": _HI}, {"from": "gpt", "value": _HELLO}], "kto_tag": False},
    ),
    Format(
        key="kto-alpaca", label="Alpaca with a verdict (KTO)", becomes="unpaired-preference",
        columns=("instruction", "output", "verdict"), optional=("input", "system", "history"), read=chat_rows.read_kto_alpaca,
        example={"instruction": _HI, "input": "", "output": _HELLO, "kto_tag": True},
    ),
    Format(
        key="kto", label="prompt and completion with a verdict (KTO)", becomes="unpaired-preference",
        columns=("prompt", "completion", "verdict"), read=chat_rows.read_kto,
        example={"prompt": _HI, "completion": _HELLO, "label": True},
    ),
    Format(
        key="preference-sharegpt", label="ShareGPT with a chosen and a rejected answer", becomes="preference",
        columns=("conversations", "chosen", "rejected"), optional=_SYSTEM, read=chat_rows.read_preference_sharegpt,
        example={"conversations": [{"from": "human", "value": _HI}], "chosen": {"from": "gpt", "value": _HELLO},
                 "rejected": {"from": "gpt", "value": _BYE}},
    ),
    Format(
        key="preference-alpaca", label="Alpaca with a chosen and a rejected answer", becomes="preference",
        columns=("instruction", "chosen", "rejected"), optional=("input", "system", "history"),
        read=chat_rows.read_preference_alpaca,
        example={"instruction": _HI, "input": "", "chosen": _HELLO, "rejected": _BYE},
    ),
    Format(
        key="preference", label="preference pairs", becomes="preference",
        columns=("query", "chosen", "rejected"), read=chat_rows.read_preference,
        example={"prompt": _HI, "chosen": _HELLO, "rejected": _BYE},
    ),
    Format(
        key="preference-implicit", label="preference pairs that repeat their prompt", becomes="preference",
        columns=("chosen", "rejected"), read=chat_rows.read_preference_implicit,
        example={"chosen": f"Human: {_HI} Assistant: {_HELLO}", "rejected": f"Human: {_HI} Assistant: {_BYE}"},
    ),
    Format(
        key="image-sharegpt", label="ShareGPT conversations about images", becomes="image-messages",
        columns=("conversations", "images"), optional=("system",), read=task_rows.read_image_sharegpt,
        example={"images": ["a.png"], "conversations": [{"from": "human", "value": f"<image>{_HI}"},
                                                        {"from": "gpt", "value": _HELLO}]},
    ),
    Format(
        key="image-messages", label="chat messages about images", becomes="image-messages",
        columns=("messages", "images"), optional=("system",), read=task_rows.read_image_messages,
        example={"images": ["a.png"], "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _HI}]},
            {"role": "assistant", "content": _HELLO},
        ]},
    ),
    Format(
        key="sharegpt", label="ShareGPT conversations", becomes="messages",
        columns=("conversations",), optional=_SYSTEM, read=chat_rows.read_sharegpt,
        example={"conversations": [{"from": "human", "value": _HI}, {"from": "gpt", "value": _HELLO}]},
    ),
    Format(
        key="messages", label="chat messages", becomes="messages",
        columns=("messages",), optional=_SYSTEM, read=chat_rows.read_messages,
        example={"messages": [{"role": "user", "content": _HI}, {"role": "assistant", "content": _HELLO}]},
    ),
    Format(
        key="question-answering", label="questions on a context (SQuAD)", becomes="question-answering",
        columns=("question", "context", "answers"), read=task_rows.read_question_answering,
        example={"question": "Who?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}},
    ),
    Format(
        key="image-question-answer", label="images with a question and its answer", becomes="image-question-answer",
        columns=("image", "question", "answer"), read=task_rows.read_image_question_answer,
        example={"image": "a.png", "question": "What is it?", "answer": "A cat"},
    ),
    Format(
        key="alpaca", label="Alpaca", becomes="messages",
        columns=("instruction", "output"), optional=("input", "system", "history"), read=chat_rows.read_alpaca,
        example={"instruction": _HI, "input": "", "output": _HELLO},
    ),
    Format(
        key="prompt-completion", label="prompt and completion", becomes="prompt-completion",
        columns=("prompt", "completion"), optional=("tools",), read=chat_rows.read_prompt_completion,
        example={"prompt": _HI, "completion": _HELLO},
    ),
    Format(
        key="question-answer", label="question and answer", becomes="prompt-completion",
        columns=("question", "answer"), read=chat_rows.read_question_answer,
        example={"question": "2 + 2?", "answer": "4"},
    ),
    Format(
        key="tokens-tags", label="tokens with tags", becomes="tokens-tags",
        columns=("tokens", "tags"), read=task_rows.read_tokens_tags,
        example={"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]},
    ),
    Format(
        key="image-text", label="images with captions", becomes="image-text",
        columns=("image", "caption"), read=task_rows.read_image_text,
        example={"image": "a.png", "caption": "A cat"},
    ),
    Format(
        key="image-objects", label="images with boxes round things", becomes="image-objects",
        columns=("image", "objects"), read=task_rows.read_image_objects,
        example={"image": "a.png", "objects": {"bbox": [[4, 6, 20, 12]], "category": ["cat"]}},
    ),
    Format(
        key="image-label", label="images with labels", becomes="image-label",
        columns=("image", "label"), read=task_rows.read_image_label,
        example={"image": "a.png", "label": "cat"},
    ),
    Format(
        key="text-label", label="text with a label", becomes="text-label",
        columns=("text", "label"), optional=("text_pair",), read=task_rows.read_text_label,
        example={"text": "What a film!", "label": "good"},
    ),
    Format(
        key="translation", label="translations", becomes="source-target",
        columns=("translation",), read=task_rows.read_translation,
        example={"translation": {"en": _HELLO, "de": "Hallo"}},
    ),
    Format(
        key="source-target", label="source and target", becomes="source-target",
        columns=("source", "target"), read=task_rows.read_source_target,
        example={"source": "A long text.", "target": "A text."},
    ),
    Format(
        key="pairs", label="pairs of texts that belong together", becomes="pairs",
        columns=("anchor", "positive"), optional=("negative", "score"), read=task_rows.read_pairs,
        example={"anchor": "A cat", "positive": "A kitten"},
    ),
    Format(
        key="text", label="plain text", becomes="text",
        columns=("text",), read=task_rows.read_text_only,
        example={"text": _HELLO},
    ),
    Format(
        key="prompt", label="prompts alone", becomes="prompt-only",
        columns=("query",), read=task_rows.read_prompt_only,
        example={"prompt": "2 + 2?", "answer": "4"},
    ),
)  # fmt: skip
FORMATS: dict[str, Format] = {row.key: row for row in _ROWS}
_ALL_NAMES = frozenset(name for row in _ROWS for role in (*row.columns, *row.optional) for name in NAMES.get(role, (role,)))
MOST_KNOWN = 1_000  # sets of columns that are remembered: a stranger's file may have another one in each row


# --- recognising ----------------------------------------------------------------------------------------------------


@dataclass
class Recognition:
    """Finds the format of each row and reads it. Rows with the same columns are looked up once.

    `mapping` (role or column of the wanted row -> column of the file) is a person's own: then nothing else is seen.
    `accepts` are the shapes that the objective takes, the best first: a row that can be read as one of them is.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    accepts: tuple[str, ...] = ()
    _known: dict[tuple[str, ...], tuple[Format, tuple[tuple[str, str], ...]] | None] = field(default_factory=dict)

    def format_of(self, columns: Iterable[str]) -> Format | None:
        """The format of rows with these columns, if it is clear."""
        try:
            return self._found(tuple(columns))[0]
        except BadRow:
            return None

    def read(self, row: Any) -> tuple[Format, Row]:
        """(format, the row in that format's shape). Raises `BadRow` with what is wrong with it."""
        if not isinstance(row, dict):
            raise BadRow("is not a JSON object")
        if self.mapping:
            row = self._mapped(row)
        found, pairs = self._found(tuple(row))
        named = {role: row[column] for role, column in pairs}
        if found.becomes == "prompt-only":  # what else the row has is for the reward functions
            used = {column for _, column in pairs}
            named |= {column: value for column, value in row.items() if column not in used}
        return found, found.read(named)

    def _mapped(self, row: Row) -> Row:
        missing = [column for column in self.mapping.values() if column not in row]
        if missing:
            raise BadRow(f"has no column {missing[0]!r}")
        return {role: row[column] for role, column in self.mapping.items()}

    def _found(self, columns: tuple[str, ...]) -> tuple[Format, tuple[tuple[str, str], ...]]:
        known = tuple(name for name in columns if name in _ALL_NAMES)  # the others say nothing, and may differ by row
        if known not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[known] = self._best(known)
        best = self._known[known]
        if best is None:
            shown = ", ".join(str(name)[:40] for name in columns[:6]) or "none"
            raise UnknownColumns(f"has none of the known columns (it has {shown})")
        return best

    def _best(self, columns: tuple[str, ...]) -> tuple[Format, tuple[tuple[str, str], ...]] | None:
        fitting = [found for found in (_fit(row, columns) for row in FORMATS.values()) if found]
        wanted = [found for found in fitting if found[0].becomes in self.accepts]
        wanted.sort(key=lambda found: self.accepts.index(found[0].becomes))
        return next(iter(wanted or fitting), None)


def _fit(format_: Format, columns: tuple[str, ...]) -> tuple[Format, tuple[tuple[str, str], ...]] | None:
    """The format with (role, column) pairs, if the columns have all that it needs. No column plays two roles."""
    pairs: list[tuple[str, str]] = []
    for role in (*format_.columns, *format_.optional):
        free = [name for name in NAMES.get(role, (role,)) if name in columns and name not in {used for _, used in pairs}]
        if free:
            pairs.append((role, free[0]))
        elif role in format_.columns:
            return None
    return format_, tuple(pairs)


def roles() -> list[str]:
    """The names that a column can be mapped to by hand, in the order of the formats."""
    names = [NAMES.get(role, (role,))[0] for row in FORMATS.values() for role in (*row.columns, *row.optional)]
    return list(dict.fromkeys(names))


NOT_READ = ("tools", "image", "images", "label", "tags", "objects")


def texts(row: Row) -> Iterator[str]:
    """The texts of a row of any shape, in order; labels, images and numbers are none."""
    for name, value in row.items():
        if name not in NOT_READ:
            yield from _texts_in(value)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, dict) and isinstance(part.get("content"), list):
                yield "".join(piece.get("text", "") for piece in part["content"])
            elif isinstance(part, dict):
                yield part.get("content") or ""
            elif isinstance(part, str):
                yield part
