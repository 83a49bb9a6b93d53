"""FORMATS: the kinds of rows that people have, one row each, and what each becomes.

`Recognition.read(row)` finds the format of a row by its columns (the most telling format first) and turns the row into
one of SHAPES: TRL's own types and column names (https://huggingface.co/docs/trl/dataset_formats), or what the tasks
beyond chat take. A column may go by several names (`NAMES`); a hand-made mapping of roles to columns overrides all.
Standard library and orjson only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

Row = dict[str, Any]

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
}

ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool",
    "function_call": "call", "tool_call": "call",
}  # fmt: skip


class BadRow(ValueError):
    """A row that cannot be used; the text goes on from "line 5 of x.jsonl"."""


class EmptyRow(BadRow):
    """A row that is well-formed and has nothing to learn from: it is left out and counted, and stops nothing."""


class UnknownColumns(BadRow):
    """A row whose columns say nothing: they can be mapped by hand."""


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


# --- values ---------------------------------------------------------------------------------------------------------


def _text(row: Row, role: str) -> str:
    value = row[role]
    if not isinstance(value, str):
        raise BadRow(f"has {_kind(value)} in {role!r}, not a text")
    if not value.strip():
        raise EmptyRow(f"has no text in {role!r}")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _list(row: Row, role: str) -> list[Any]:
    """A list; in a CSV file it is the text of a JSON list."""
    value = row[role]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, role)
    if not isinstance(value, list):
        raise BadRow(f"has {_kind(value)} in {role!r}, not a list")
    if not value:
        raise EmptyRow(f"has an empty list in {role!r}")
    return value


def _json(text: str, role: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRow(f"has no valid JSON in {role!r}") from None


def _label(row: Row) -> Any:
    value = row["label"]
    if isinstance(value, str) and not value.strip():
        raise BadRow("has no label")
    if not isinstance(value, (str, int, float)):
        raise BadRow(f"has {_kind(value)} as its label")
    return value


def _verdict(row: Row) -> bool:
    """Good or bad: true or false, 1 or 0, or these words in a CSV file."""
    value = row["verdict"]
    words = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise BadRow("has a label that is neither true nor false")


def _tools(row: Row) -> Row:
    """The tools that a conversation may call, as one JSON text: rows with different tools still fit into one table."""
    value = row.get("tools")
    if isinstance(value, str) and value.strip():
        value = _json(value, "tools")
    return {"tools": orjson.dumps(value).decode()} if value else {}


# --- conversations --------------------------------------------------------------------------------------------------


def _turns(turns: Any, role: str) -> list[Row]:
    """Messages with the roles of chat templates, from either way of writing them (role/content, from/value)."""
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = _json(turns, role)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list):
        raise BadRow(f"has {_kind(turns)} in {role!r}, not a list of messages")
    if not turns:
        raise EmptyRow("has no messages")
    return [_turn(turn) for turn in turns]


def _turn(turn: Any) -> Row:
    if not isinstance(turn, dict):
        raise BadRow("has a message that is not an object")
    said = turn.get("role", turn.get("from"))
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise BadRow(f"has a message of the unknown role {str(said)[:40]!r}")
    content = turn.get("content", turn.get("value"))
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    if isinstance(content, list):
        content = _parts(content)
    calls = turn.get("tool_calls")
    if role == "assistant" and isinstance(calls, list) and calls:
        return {"role": role, "content": content or "", "tool_calls": [_call(call) for call in calls]}
    if not isinstance(content, str):
        raise BadRow("has a message without text")
    return {"role": role, "content": content, **({"name": turn["name"]} if role == "tool" and "name" in turn else {})}


def _parts(parts: list[Any]) -> str:
    """The text of a message that is written in parts, as OpenAI's API has it."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if any(not isinstance(text, str) for text in texts):
        raise BadRow("has a part of a message that is not text")
    return "".join(texts)


def _calls(text: Any) -> list[Row]:
    """The calls in a `function_call` turn: the JSON of one, or of a list."""
    value = _json(text, "function_call") if isinstance(text, str) else text
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any) -> Row:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("has a tool call without a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments or "{}", "arguments")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _ends_with_answer(messages: list[Row]) -> list[Row]:
    last = messages[-1]
    if last["role"] != "assistant":
        raise BadRow("does not end with an answer of the assistant")
    if not last["content"].strip() and not last.get("tool_calls"):
        raise EmptyRow("ends with an empty answer")
    return messages


def _with_system(row: Row, messages: list[Row]) -> list[Row]:
    system = row.get("system")
    return [{"role": "system", "content": system}, *messages] if isinstance(system, str) and system.strip() else messages


def _instruction(row: Row) -> list[Row]:
    """Alpaca's columns as the turns before the answer: the system's words, earlier pairs, then instruction and input."""
    question = "\n\n".join(
        part for part in (row.get("instruction"), row.get("input")) if isinstance(part, str) and part.strip()
    )
    if not question:
        raise EmptyRow("has no text in 'instruction'")
    earlier: list[Row] = []
    for pair in row.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadRow("has a history that is not a list of pairs")
        earlier += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return _with_system(row, [*earlier, {"role": "user", "content": question}])


def _answer(row: Row, role: str) -> list[Row]:
    return [{"role": "assistant", "content": _text(row, role)}]


def _said(row: Row, role: str) -> str | list[Row]:
    """One side of a pair: a text, or messages."""
    return _text(row, role) if isinstance(row[role], str) else _turns(row[role], role)


# --- the formats' readers -------------------------------------------------------------------------------------------


def _messages(row: Row) -> Row:
    turns = _with_system(row, _turns(row["messages"], "messages"))
    return {"messages": _ends_with_answer(turns), **_tools(row)}


def _sharegpt(row: Row) -> Row:
    return _messages({**row, "messages": row["conversations"]})


def _alpaca(row: Row) -> Row:
    return {"messages": [*_instruction(row), *_answer(row, "output")]}


def _prompt_completion(row: Row) -> Row:
    prompt, completion = _said(row, "prompt"), _said(row, "completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        prompt, completion = _as_turns(prompt, "user"), _as_turns(completion, "assistant")
    return {"prompt": prompt, "completion": completion, **_tools(row)}


def _question_answer(row: Row) -> Row:
    return {"prompt": _text(row, "question"), "completion": _text(row, "answer")}


def _as_turns(side: str | list[Row], role: str) -> list[Row]:
    return [{"role": role, "content": side}] if isinstance(side, str) else side


def _preference(row: Row) -> Row:
    prompt, chosen, rejected = _said(row, "query"), _said(row, "chosen"), _said(row, "rejected")
    if any(isinstance(side, list) for side in (prompt, chosen, rejected)):
        prompt = _as_turns(prompt, "user")
        chosen, rejected = _as_turns(chosen, "assistant"), _as_turns(rejected, "assistant")
        if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:  # sides that repeat the prompt
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return _pair(prompt, chosen, rejected)


def _preference_implicit(row: Row) -> Row:
    """Both sides begin with the same prompt, which is not written by itself."""
    chosen, rejected = _said(row, "chosen"), _said(row, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow("has a text on one side and messages on the other")
    length = sum(1 for _ in _common(chosen, rejected))
    if isinstance(chosen, str) and isinstance(rejected, str):
        length = _word_boundary(chosen, length)
    if isinstance(chosen, list):
        length = min(length, len(chosen) - 1, len(rejected) - 1)
    if not length:
        raise BadRow("has a chosen and a rejected side that share no prompt")
    return _pair(chosen[:length], chosen[length:], rejected[length:])


def _common(one: Iterable[Any], two: Iterable[Any]) -> Iterator[Any]:
    for left, right in zip(one, two, strict=False):
        if left != right:
            return
        yield left


def _word_boundary(text: str, end: int) -> int:
    """The end of the last whole word before `end`: a prompt is not cut inside of a word that both answers begin with."""
    while end and not text[end - 1].isspace() and (end == len(text) or not text[end].isspace()):
        end -= 1
    return len(text[:end].rstrip())


def _pair(prompt: Any, chosen: Any, rejected: Any) -> Row:
    if not prompt or not chosen or not rejected:
        raise EmptyRow("has an empty prompt, chosen or rejected side")
    if chosen == rejected:
        raise EmptyRow("has the same text as chosen and as rejected")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _preference_sharegpt(row: Row) -> Row:
    prompt = _with_system(row, _turns(row["conversations"], "conversations"))
    return _pair(prompt, _answer_turns(row, "chosen"), _answer_turns(row, "rejected"))


def _answer_turns(row: Row, role: str) -> list[Row]:
    return _answer(row, role) if isinstance(row[role], str) else _ends_with_answer(_turns(row[role], role))


def _preference_alpaca(row: Row) -> Row:
    return _pair(_instruction(row), _answer_turns(row, "chosen"), _answer_turns(row, "rejected"))


def _kto(row: Row) -> Row:
    return {**_prompt_completion(row), "label": _verdict(row)}


def _kto_messages(row: Row) -> Row:
    messages = _messages(row)["messages"]
    if len(messages) < 2:
        raise BadRow("has no question before its answer")
    return {"prompt": messages[:-1], "completion": messages[-1:], "label": _verdict(row)}


def _kto_sharegpt(row: Row) -> Row:
    return _kto_messages({**row, "messages": row["conversations"]})


def _kto_alpaca(row: Row) -> Row:
    return {"prompt": _instruction(row), "completion": _answer(row, "output"), "label": _verdict(row)}


def _prompt_only(row: Row) -> Row:
    prompt = _said({"prompt": row.pop("query")}, "prompt")
    return {**row, "prompt": prompt}


def _text_only(row: Row) -> Row:
    return {"text": _text(row, "text")}


def _text_label(row: Row) -> Row:
    pair = {"text_pair": _text(row, "text_pair")} if row.get("text_pair") is not None else {}
    return {"text": _text(row, "text"), **pair, "label": _label(row)}


def _tokens_tags(row: Row) -> Row:
    tokens, tags = _list(row, "tokens"), _list(row, "tags")
    if len(tokens) != len(tags):
        raise BadRow(f"has {len(tokens)} tokens and {len(tags)} tags")
    if not all(isinstance(token, str) for token in tokens) or not all(isinstance(tag, (str, int)) for tag in tags):
        raise BadRow("has a token or a tag that is not a text")
    return {"tokens": tokens, "tags": tags}


def _question_answering(row: Row) -> Row:
    """SQuAD's columns: the answers are passages of the context, each with the character at which it starts."""
    answers, context = row["answers"], _text(row, "context")
    if isinstance(answers, list):
        answers = {"text": [answer.get("text") for answer in answers if isinstance(answer, dict)],
                   "answer_start": [answer.get("answer_start") for answer in answers if isinstance(answer, dict)]}  # fmt: skip
    texts, starts = (answers.get("text"), answers.get("answer_start")) if isinstance(answers, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise BadRow("has answers that are not lists of `text` and `answer_start`")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or context[start : start + len(text)] != text:
            raise BadRow("has an answer that does not stand in the context where it should")
    return {"question": _text(row, "question"), "context": context, "answers": {"text": texts, "answer_start": starts}}


def _source_target(row: Row) -> Row:
    return {"source": _text(row, "source"), "target": _text(row, "target")}


def _translation(row: Row) -> Row:
    sides = row["translation"]
    if not isinstance(sides, dict) or len(sides) != 2:
        raise BadRow("has a translation that is not an object of two languages")
    source, target = sides
    return {"source": _text(sides, source), "target": _text(sides, target)}


def _pairs(row: Row) -> Row:
    more = {"negative": _text(row, "negative")} if row.get("negative") is not None else {}
    if isinstance(row.get("score"), (int, float)):
        more["score"] = float(row["score"])
    return {"anchor": _text(row, "anchor"), "positive": _text(row, "positive"), **more}


def _image(row: Row) -> Any:
    """A path beside the file, or the bytes that a Parquet file holds."""
    image = row["image"]
    if isinstance(image, str) and image.strip():
        return image
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        return {"bytes": image["bytes"], "path": None}
    raise BadRow("has no image in 'image'")


def _image_label(row: Row) -> Row:
    return {"image": _image(row), "label": _label(row)}


def _image_text(row: Row) -> Row:
    return {"image": _image(row), "text": _text(row, "caption")}


def _image_question_answer(row: Row) -> Row:
    return {"image": _image(row), "question": _text(row, "question"), "answer": _text(row, "answer")}


_HI, _HELLO, _BYE = "Hi", "Hello", "Bye"
_SYSTEM = ("system", "tools")
_ROWS = (
    Format(
        key="kto-messages", label="messages with a verdict (KTO)", becomes="unpaired-preference",
        columns=("messages", "verdict"), optional=_SYSTEM, read=_kto_messages,
        example={"messages": [{"role": "user", "content": _HI}, {"role": "assistant", "content": _HELLO}], "label": True},
    ),
    Format(
        key="kto-sharegpt", label="ShareGPT with a verdict (KTO)", becomes="unpaired-preference",
        columns=("conversations", "verdict"), optional=_SYSTEM, read=_kto_sharegpt,
        example={"conversations": [{"from": "human", "value": _HI}, {"from": "gpt", "value": _HELLO}], "kto_tag": False},
    ),
    Format(
        key="kto-alpaca", label="Alpaca with a verdict (KTO)", becomes="unpaired-preference",
        columns=("instruction", "output", "verdict"), optional=("input", "system", "history"), read=_kto_alpaca,
        example={"instruction": _HI, "input": "", "output": _HELLO, "kto_tag": True},
    ),
    Format(
        key="kto", label="prompt and completion with a verdict (KTO)", becomes="unpaired-preference",
        columns=("prompt", "completion", "verdict"), read=_kto,
        example={"prompt": _HI, "completion": _HELLO, "label": True},
    ),
    Format(
        key="preference-sharegpt", label="ShareGPT with a chosen and a rejected answer", becomes="preference",
        columns=("conversations", "chosen", "rejected"), optional=_SYSTEM, read=_preference_sharegpt,
        example={"conversations": [{"from": "human", "value": _HI}], "chosen": {"from": "gpt", "value": _HELLO},
                 "rejected": {"from": "gpt", "value": _BYE}},
    ),
    Format(
        key="preference-alpaca", label="Alpaca with a chosen and a rejected answer", becomes="preference",
        columns=("instruction", "chosen", "rejected"), optional=("input", "system", "history"), read=_preference_alpaca,
        example={"instruction": _HI, "input": "", "chosen": _HELLO, "rejected": _BYE},
    ),
    Format(
        key="preference", label="preference pairs", becomes="preference",
        columns=("query", "chosen", "rejected"), read=_preference,
        example={"prompt": _HI, "chosen": _HELLO, "rejected": _BYE},
    ),
    Format(
        key="preference-implicit", label="preference pairs that repeat their prompt", becomes="preference",
        columns=("chosen", "rejected"), read=_preference_implicit,
        example={"chosen": f"Human: {_HI} Assistant: {_HELLO}", "rejected": f"Human: {_HI} Assistant: {_BYE}"},
    ),
    Format(
        key="sharegpt", label="ShareGPT conversations", becomes="messages",
        columns=("conversations",), optional=_SYSTEM, read=_sharegpt,
        example={"conversations": [{"from": "human", "value": _HI}, {"from": "gpt", "value": _HELLO}]},
    ),
    Format(
        key="messages", label="chat messages", becomes="messages",
        columns=("messages",), optional=_SYSTEM, read=_messages,
        example={"messages": [{"role": "user", "content": _HI}, {"role": "assistant", "content": _HELLO}]},
    ),
    Format(
        key="question-answering", label="questions on a context (SQuAD)", becomes="question-answering",
        columns=("question", "context", "answers"), read=_question_answering,
        example={"question": "Who?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}},
    ),
    Format(
        key="image-question-answer", label="images with a question and its answer", becomes="image-question-answer",
        columns=("image", "question", "answer"), read=_image_question_answer,
        example={"image": "a.png", "question": "What is it?", "answer": "A cat"},
    ),
    Format(
        key="alpaca", label="Alpaca", becomes="messages",
        columns=("instruction", "output"), optional=("input", "system", "history"), read=_alpaca,
        example={"instruction": _HI, "input": "", "output": _HELLO},
    ),
    Format(
        key="prompt-completion", label="prompt and completion", becomes="prompt-completion",
        columns=("prompt", "completion"), optional=("tools",), read=_prompt_completion,
        example={"prompt": _HI, "completion": _HELLO},
    ),
    Format(
        key="question-answer", label="question and answer", becomes="prompt-completion",
        columns=("question", "answer"), read=_question_answer,
        example={"question": "2 + 2?", "answer": "4"},
    ),
    Format(
        key="tokens-tags", label="tokens with tags", becomes="tokens-tags",
        columns=("tokens", "tags"), read=_tokens_tags,
        example={"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]},
    ),
    Format(
        key="image-text", label="images with captions", becomes="image-text",
        columns=("image", "caption"), read=_image_text,
        example={"image": "a.png", "caption": "A cat"},
    ),
    Format(
        key="image-label", label="images with labels", becomes="image-label",
        columns=("image", "label"), read=_image_label,
        example={"image": "a.png", "label": "cat"},
    ),
    Format(
        key="text-label", label="text with a label", becomes="text-label",
        columns=("text", "label"), optional=("text_pair",), read=_text_label,
        example={"text": "What a film!", "label": "good"},
    ),
    Format(
        key="translation", label="translations", becomes="source-target",
        columns=("translation",), read=_translation,
        example={"translation": {"en": _HELLO, "de": "Hallo"}},
    ),
    Format(
        key="source-target", label="source and target", becomes="source-target",
        columns=("source", "target"), read=_source_target,
        example={"source": "A long text.", "target": "A text."},
    ),
    Format(
        key="pairs", label="pairs of texts that belong together", becomes="pairs",
        columns=("anchor", "positive"), optional=("negative", "score"), read=_pairs,
        example={"anchor": "A cat", "positive": "A kitten"},
    ),
    Format(
        key="text", label="plain text", becomes="text",
        columns=("text",), read=_text_only,
        example={"text": _HELLO},
    ),
    Format(
        key="prompt", label="prompts alone", becomes="prompt-only",
        columns=("query",), read=_prompt_only,
        example={"prompt": "2 + 2?", "answer": "4"},
    ),
)  # fmt: skip
FORMATS: dict[str, Format] = {row.key: row for row in _ROWS}


# --- recognising ----------------------------------------------------------------------------------------------------


@dataclass
class Recognition:
    """Finds the format of each row and reads it. Rows with the same columns are looked up once.

    `mapping` (role or column of the wanted row -> column of the file) is a person's own: then nothing else is seen.
    `accepts` are the shapes that the objective takes, the best first: a row that can be read as one of them is.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    accepts: tuple[str, ...] = ()
    _known: dict[tuple[str, ...], tuple[Format, tuple[tuple[str, str], ...]]] = field(default_factory=dict)

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
        if columns not in self._known:
            fitting = [found for found in (_fit(row, columns) for row in FORMATS.values()) if found]
            if not fitting:
                shown = ", ".join(map(str, columns[:6])) or "none"
                raise UnknownColumns(f"has none of the known columns (it has {shown})")
            wanted = [found for found in fitting if found[0].becomes in self.accepts]
            wanted.sort(key=lambda found: self.accepts.index(found[0].becomes))
            self._known[columns] = (wanted or fitting)[0]
        return self._known[columns]


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


NOT_READ = ("tools", "image", "label", "tags")


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
            if isinstance(part, dict):
                yield part.get("content") or ""
            elif isinstance(part, str):
                yield part
