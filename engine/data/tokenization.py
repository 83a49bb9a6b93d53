"""Rows as tokens, each trained on or only read, as the trainers of TRL and transformers take them.

`encode(row, tokenizer, objective)` gives the sequences that one row becomes. READINGS has one row per shape of data, and
one per objective that reads a shape in another way. Tests compare the flags with the labels of the real trainers.
No torch; the tokenizer is the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import data
from engine.data import Row
from engine.issues import Issue, PlanError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Tokenizer = PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One sequence of tokens that a row becomes: its ids, and which of them the loss is computed on."""

    name: str  # "" where there is only one; else chosen, rejected, source, ...
    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def first_trained(self) -> int:
        """The place of the first trained token; the length if there is none."""
        return self.trained.index(True) if True in self.trained else len(self.ids)

    @property
    def last_trained(self) -> int | None:
        """The id of the last trained token: where an answer ends, the model learns to stop."""
        return next((one for one, trained in zip(reversed(self.ids), reversed(self.trained), strict=True) if trained), None)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a trainer reads rows of a shape. `by_tokens`: the loss is computed on tokens of the row itself, so that a row
    without a trained token teaches nothing."""

    read: Callable[[Row, Any], list[Sequence]]
    by_tokens: bool
    note: str = ""


def reading(objective: str, shape: str) -> Reading:
    """How an objective reads rows of a shape."""
    return OBJECTIVE_READINGS.get(objective) or READINGS[shape]


def encode(row: Row, tokenizer: Tokenizer | None, objective: str = "sft") -> list[Sequence]:
    """The sequences of a row (in one of `data.SHAPES`); none, where it has no text and needs no tokenizer.

    Raises `PlanError` where the tokenizer has no chat template.
    """
    if tokenizer is not None and is_chat(row) and tokenizer.chat_template is None:
        raise PlanError([NO_TEMPLATE])
    return reading(objective, shape_of(row)).read(row, tokenizer)


NO_TEMPLATE = Issue(
    field="model",
    message="its tokenizer has no chat template, and the data are chats.",
    fix="Write the rows with a named template (Data tab), or choose a chat (instruct) model.",
)


def shape_of(row: Row) -> str:
    """The shape of a row that `data.load` gave: the one with the most of its columns there."""
    fitting = [name for name, columns in data.SHAPES.items() if all(column in row for column in columns)]
    return max(fitting, key=lambda name: len(data.SHAPES[name]))


def marks_answers(tokenizer: Tokenizer) -> bool:
    """Whether the chat template tells the assistant's words from the others."""
    return "{% generation %}" in (tokenizer.chat_template or "")


def is_chat(row: Row) -> bool:
    """Whether a chat template is needed to read the row."""
    return any(isinstance(value, list) and value and isinstance(value[0], dict) for value in row.values())


# --- pieces ---------------------------------------------------------------------------------------------------------


def _whole(name: str, ids: list[int], trained: bool) -> Sequence:
    return Sequence(name=name, ids=tuple(ids), trained=(trained,) * len(ids))


def _ids(value: str | list[Row], tokenizer: Tokenizer, **template: Any) -> list[int]:
    """The ids of a text, or of messages through the chat template."""
    if isinstance(value, str):
        return list(tokenizer(value)["input_ids"])
    return list(tokenizer.apply_chat_template(value, tokenize=True, return_dict=True, **template)["input_ids"])


def _with_end(text: str, tokenizer: Tokenizer) -> str:
    """TRL ends texts, which no chat template ends, with the end-of-sequence token."""
    end = tokenizer.eos_token
    if end is None:
        message = "its tokenizer has no end-of-sequence token, so a text would never end."
        raise PlanError([Issue(field="model", message=message, fix="Choose another model, or chat rows.")])
    return text if text.endswith(end) else text + end


def _tools(row: Row) -> dict[str, Any]:
    return {"tools": json.loads(row["tools"])} if row.get("tools") else {}


def _common_length(one: list[int], two: list[int]) -> int:
    for place, (left, right) in enumerate(zip(one, two, strict=False)):
        if left != right:
            return place
    return min(len(one), len(two))


def _prompt_and(row: Row, sides: Mapping[str, str | list[Row]], tokenizer: Tokenizer) -> list[Sequence]:
    """Prompt + side for each side; only what comes after the part that the prompt alone has in common is trained on."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        prompt_ids = _ids(prompt, tokenizer)
        wholes = {name: _ids(prompt + _with_end(str(side), tokenizer), tokenizer) for name, side in sides.items()}
    else:
        prompt_ids = _ids(prompt, tokenizer, add_generation_prompt=True, **_tools(row))
        wholes = {name: _ids([*prompt, *side], tokenizer, **_tools(row)) for name, side in sides.items()}  # type: ignore[list-item]
    start = min(_common_length(prompt_ids, ids) for ids in wholes.values())
    return [
        Sequence(name=name, ids=tuple(ids), trained=(False,) * start + (True,) * (len(ids) - start))
        for name, ids in wholes.items()
    ]


# --- readers --------------------------------------------------------------------------------------------------------


def _messages(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    """Every answer where the template marks them; else the last one, as a completion."""
    if not marks_answers(tokenizer):
        return _completion(data.as_trl(row, assistant_mask=False), tokenizer)
    found = tokenizer.apply_chat_template(
        row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **_tools(row)
    )
    return [Sequence(name="", ids=tuple(found["input_ids"]), trained=tuple(map(bool, found["assistant_masks"])))]


def _completion(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    return _prompt_and(row, {"": row["completion"]}, tokenizer)


def _text(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    return [_whole("", _ids(_with_end(row["text"], tokenizer), tokenizer), True)]


def _all_texts(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    return _text({"text": "\n\n".join(data.texts(row))}, tokenizer)


def _hidden(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    """An encoder reads a text as it is; any token of it, the tokenizer's own aside, may be hidden."""
    found = tokenizer("\n\n".join(data.texts(row)), return_special_tokens_mask=True)
    mask = tuple(not special for special in found["special_tokens_mask"])
    return [Sequence(name="", ids=tuple(found["input_ids"]), trained=mask)]


def _preference(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    return _prompt_and(row, {"chosen": row["chosen"], "rejected": row["rejected"]}, tokenizer)


def _scored(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    """A reward model reads whole sequences; its score is taken at the last token."""
    return [
        Sequence(name=side.name, ids=side.ids, trained=(False,) * (len(side.ids) - 1) + (True,))
        for side in _preference(row, tokenizer)
    ]


def _prompt(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    """The prompt alone: the answers are written while training."""
    prompt = row["messages"][:-1] if "messages" in row else row["prompt"]
    template = {} if isinstance(prompt, str) else {"add_generation_prompt": True, **_tools(row)}
    return [_whole("prompt", _ids(prompt, tokenizer, **template), False)]


def _labelled(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    pair = {"text_pair": row["text_pair"]} if "text_pair" in row else {}
    return [_whole("", list(tokenizer(row["text"], **pair)["input_ids"]), False)]


def _tagged(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    """The first token of each word carries the word's tag."""
    found = tokenizer(row["tokens"], is_split_into_words=True)
    words = found.word_ids()
    first = [word is not None and word != before for before, word in zip([None, *words], words, strict=False)]
    return [Sequence(name="", ids=tuple(found["input_ids"]), trained=tuple(first))]


def _answered(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    """Question and context as one sequence; the tokens of the answer are what is looked for."""
    found = tokenizer(row["question"], row["context"], return_offsets_mapping=True)
    spans = [
        (start, start + len(text)) for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    ]
    in_answer = [
        part == 1 and any(start < end_ and end > start_ for start_, end_ in spans)
        for part, (start, end) in zip(found.sequence_ids(), found["offset_mapping"], strict=True)
    ]
    return [Sequence(name="", ids=tuple(found["input_ids"]), trained=tuple(in_answer))]


def _source_target(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    target = tokenizer(text_target=row["target"])["input_ids"]
    return [_whole("source", _ids(row["source"], tokenizer), False), _whole("target", list(target), True)]


def _sides(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    return [_whole(name, _ids(row[name], tokenizer), False) for name in ("anchor", "positive", "negative") if name in row]


def _seen(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    """A chat about images, in which one token stands for each; the last answer is trained on, with its end.

    A model without a chat template (BLIP) reads the answer alone.
    """
    chat = image_chat(row)
    if tokenizer.chat_template is None:
        return [_whole("", _ids(words_of(chat[-1]), tokenizer), True)]
    prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    start, ids = len(_ids(prompt, tokenizer)), _ids(answered(prompt, chat, tokenizer), tokenizer)
    return [Sequence(name="", ids=tuple(ids), trained=(False,) * start + (True,) * (len(ids) - start))]


def _beside_image(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    return [_whole("caption", _ids(row["text"], tokenizer), False)]


def image_chat(row: Row) -> list[Row]:
    """A row with images as messages whose content is a list of parts, as chat templates of such models read them."""
    if "messages" in row:
        return row["messages"]
    question, answer = (row["question"], row["answer"]) if "question" in row else (DESCRIBE, row["text"])
    return [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def words_of(message: Row) -> str:
    """The text of a message that is written in parts."""
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def answered(prompt: str, chat: list[Row], tokenizer: Tokenizer) -> str:
    """A prompt with the chat's last answer behind it, and the token at which the model is to stop."""
    return prompt + words_of(chat[-1]) + (tokenizer.eos_token or "")


def _image_alone(row: Row, tokenizer: Tokenizer) -> list[Sequence]:
    return []


DESCRIBE = "Describe the image."  # the question behind a caption
_STANDS_FOR = "The model reads the tokens of an image where one stands for it here."
WITHOUT_TEXT = ("image-label", "image-objects")  # shapes of rows that need no tokenizer
_WRITTEN = "The answers are written while training; this is what the model reads."

# By the shape of the data, as most objectives read it.
READINGS: dict[str, Reading] = {
    "messages": Reading(read=_messages, by_tokens=True),
    "prompt-completion": Reading(read=_completion, by_tokens=True),
    "text": Reading(read=_text, by_tokens=True),
    "preference": Reading(read=_preference, by_tokens=True),
    "unpaired-preference": Reading(read=_completion, by_tokens=True),
    "prompt-only": Reading(read=_prompt, by_tokens=False, note=_WRITTEN),
    "text-label": Reading(read=_labelled, by_tokens=False, note="The label is what is learned."),
    "tokens-tags": Reading(read=_tagged, by_tokens=True, note="The first token of each word carries its tag."),
    "question-answering": Reading(read=_answered, by_tokens=False, note="The marked tokens are the answer to be found."),
    "source-target": Reading(read=_source_target, by_tokens=True),
    "pairs": Reading(read=_sides, by_tokens=False, note="The texts are brought near to each other."),
    "image-label": Reading(read=_image_alone, by_tokens=False, note="The label of the image is what is learned."),
    "image-objects": Reading(read=_image_alone, by_tokens=False, note="The boxes and their labels are what is learned."),
    "image-text": Reading(read=_seen, by_tokens=True, note=_STANDS_FOR),
    "image-question-answer": Reading(read=_seen, by_tokens=True, note=_STANDS_FOR),
    "image-messages": Reading(read=_seen, by_tokens=True, note=_STANDS_FOR),
}
_ONLINE = Reading(read=_prompt, by_tokens=False, note=_WRITTEN)
# By the objective, where it reads a shape in its own way.
OBJECTIVE_READINGS: dict[str, Reading] = {
    "dapt": Reading(read=_all_texts, by_tokens=True),
    "masked_lm": Reading(read=_hidden, by_tokens=True, note="A share of these tokens is hidden and guessed."),
    "reward": Reading(read=_scored, by_tokens=False, note="The score is read at the last token."),
    "grpo": _ONLINE,
    "rloo": _ONLINE,
    "rlhf": _ONLINE,
    "distillation": _ONLINE,
    "clip": Reading(read=_beside_image, by_tokens=False, note="Image and text are brought near to each other."),
}
