"""Rows to chat on: messages, prompts with completions, pairs of a better and a worse answer, answers with a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from engine.data.turns import answer_in, ended, instruction_in, said_in, turns_in, with_system
from engine.data.values import BadRow, EmptyRow, Row, text_in, tools_in, verdict_in


def read_messages(row: Row) -> Row:
    turns = with_system(row, turns_in(row["messages"], "messages"))
    return {"messages": ended(turns), **tools_in(row)}


def read_sharegpt(row: Row) -> Row:
    return read_messages({**row, "messages": row["conversations"]})


def read_alpaca(row: Row) -> Row:
    return {"messages": [*instruction_in(row), *answer_in(row, "output")]}


def read_prompt_completion(row: Row) -> Row:
    prompt, completion = said_in(row, "prompt"), said_in(row, "completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        prompt, completion = _as_turns(prompt, "user"), _as_turns(completion, "assistant")
    return {"prompt": prompt, "completion": completion, **tools_in(row)}


def read_question_answer(row: Row) -> Row:
    return {"prompt": text_in(row, "question"), "completion": text_in(row, "answer")}


def _as_turns(side: str | list[Row], role: str) -> list[Row]:
    return [{"role": role, "content": side}] if isinstance(side, str) else side


def read_preference(row: Row) -> Row:
    prompt, chosen, rejected = said_in(row, "query"), said_in(row, "chosen"), said_in(row, "rejected")
    if any(isinstance(side, list) for side in (prompt, chosen, rejected)):
        prompt = _as_turns(prompt, "user")
        chosen, rejected = _as_turns(chosen, "assistant"), _as_turns(rejected, "assistant")
        if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:  # sides that repeat the prompt
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return _pair(prompt, chosen, rejected)


def read_preference_implicit(row: Row) -> Row:
    """Both sides begin with the same prompt, which is not written by itself."""
    chosen, rejected = said_in(row, "chosen"), said_in(row, "rejected")
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


def read_preference_sharegpt(row: Row) -> Row:
    prompt = with_system(row, turns_in(row["conversations"], "conversations"))
    return _pair(prompt, _answer_turns(row, "chosen"), _answer_turns(row, "rejected"))


def _answer_turns(row: Row, role: str) -> list[Row]:
    return answer_in(row, role) if isinstance(row[role], str) else ended(turns_in(row[role], role))


def read_preference_alpaca(row: Row) -> Row:
    return _pair(instruction_in(row), _answer_turns(row, "chosen"), _answer_turns(row, "rejected"))


def read_kto(row: Row) -> Row:
    return {**read_prompt_completion(row), "label": verdict_in(row)}


def read_kto_messages(row: Row) -> Row:
    messages = read_messages(row)["messages"]
    if len(messages) < 2:
        raise BadRow("has no question before its answer")
    return {"prompt": messages[:-1], "completion": messages[-1:], "label": verdict_in(row)}


def read_kto_sharegpt(row: Row) -> Row:
    return read_kto_messages({**row, "messages": row["conversations"]})


def read_kto_alpaca(row: Row) -> Row:
    return {"prompt": instruction_in(row), "completion": answer_in(row, "output"), "label": verdict_in(row)}
