"""Conversations: the ways in which people write them, as messages with the roles of chat templates."""

from __future__ import annotations

from typing import Any

from engine.data.values import BadRow, EmptyRow, Row, json_in, kind_of, text_in

ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool",
    "function_call": "call", "tool_call": "call",
}  # fmt: skip


def turns_in(turns: Any, role: str) -> list[Row]:
    """Messages with the roles of chat templates, from either way of writing them (role/content, from/value)."""
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = json_in(turns, role)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list):
        raise BadRow(f"has {kind_of(turns)} in {role!r}, not a list of messages")
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
    value = json_in(text, "function_call") if isinstance(text, str) else text
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any) -> Row:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("has a tool call without a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = json_in(arguments or "{}", "arguments")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def ended(messages: list[Row]) -> list[Row]:
    last = messages[-1]
    if last["role"] != "assistant":
        raise BadRow("does not end with an answer of the assistant")
    if not last["content"].strip() and not last.get("tool_calls"):
        raise EmptyRow("ends with an empty answer")
    return messages


def with_system(row: Row, messages: list[Row]) -> list[Row]:
    system = row.get("system")
    return [{"role": "system", "content": system}, *messages] if isinstance(system, str) and system.strip() else messages


def instruction_in(row: Row) -> list[Row]:
    """Alpaca's columns as the turns before the answer: the system's words, earlier pairs, then instruction and input."""
    question = "\n\n".join(
        part for part in (row.get("instruction"), row.get("input")) if isinstance(part, str) and part.strip()
    )
    if not question:
        raise EmptyRow("has no text in 'instruction'")
    earlier: list[Row] = []
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadRow("has a history that is not a list of pairs")
        earlier += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return with_system(row, [*earlier, {"role": "user", "content": question}])


def answer_in(row: Row, role: str) -> list[Row]:
    return [{"role": "assistant", "content": text_in(row, role)}]


def said_in(row: Row, role: str) -> str | list[Row]:
    """One side of a pair: a text, or messages."""
    return text_in(row, role) if isinstance(row[role], str) else turns_in(row[role], role)


# --- about images ---------------------------------------------------------------------------------------------------

PLACE = "<image>"  # where a text names an image (https://huggingface.co/docs/trl/dataset_formats, LLaMA-Factory's data)


def image_turns_in(row: Row, images: int) -> list[Row]:
    """Messages whose content is a list of parts, with a place for each of `images`.

    Places are parts {"type": "image"} or the word <image> in a text; without any, the images stand before the first
    question. The last message is an answer in words.
    """
    turns = row["messages"]
    if not isinstance(turns, list) or not turns:
        raise BadRow("has no messages")
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns = [{"role": "system", "content": row["system"]}, *turns]
    messages = [_image_turn(turn) for turn in turns]
    places = sum(part["type"] == "image" for message in messages for part in message["content"])
    first = next((message for message in messages if message["role"] == "user"), None)
    if not places and first is not None:
        first["content"], places = [*({"type": "image"} for _ in range(images)), *first["content"]], images
    if places != images:
        raise BadRow(f"has {images} images and {places} places for them in its messages")
    last = messages[-1]
    if last["role"] != "assistant" or any(part["type"] == "image" for part in last["content"]):
        raise BadRow("does not end with an answer of the assistant in words")
    if not "".join(part["text"] for part in last["content"]).strip():
        raise EmptyRow("ends with an empty answer")
    return messages


def _image_turn(turn: Any) -> Row:
    """One message in parts."""
    if not isinstance(turn, dict):
        raise BadRow("has a message that is not an object")
    said = turn.get("role", turn.get("from"))
    role = ROLES.get(said) if isinstance(said, str) else None
    if role not in ("user", "assistant", "system"):
        raise BadRow(f"has a message of the role {str(said)[:40]!r}, which chats about images do not have")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        return {"role": role, "content": _in_parts(content)}
    if not isinstance(content, list) or not content:
        raise BadRow("has a message without text")
    return {"role": role, "content": [_part(part) for part in content]}


def _in_parts(text: str) -> list[Row]:
    pieces = text.split(PLACE)
    parts: list[Row] = []
    for number, piece in enumerate(pieces):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": piece}] if piece.strip() or len(pieces) == 1 else []
    return parts


def _part(part: Any) -> Row:
    if isinstance(part, dict) and part.get("type") == "image":
        return {"type": "image"}
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    raise BadRow("has a part of a message that is neither a text nor an image of its row")
