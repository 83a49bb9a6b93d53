"""Rows of the tasks beyond chat: texts and labels, marked words, answers in a text, pairs, images and what is said of them."""

from __future__ import annotations

from typing import Any

from engine.data.coco import objects_in
from engine.data.turns import image_turns_in, said_in
from engine.data.values import BadRow, Row, check_number, label_in, list_in, text_in


def read_prompt_only(row: Row) -> Row:
    prompt = said_in({"prompt": row.pop("query")}, "prompt")
    return {**row, "prompt": prompt}


def read_text_only(row: Row) -> Row:
    return {"text": text_in(row, "text")}


def read_text_label(row: Row) -> Row:
    pair = {"text_pair": text_in(row, "text_pair")} if row.get("text_pair") is not None else {}
    return {"text": text_in(row, "text"), **pair, "label": label_in(row)}


def read_tokens_tags(row: Row) -> Row:
    tokens, tags = list_in(row, "tokens"), list_in(row, "tags")
    if len(tokens) != len(tags):
        raise BadRow(f"has {len(tokens)} tokens and {len(tags)} tags")
    if not all(isinstance(token, str) for token in tokens) or not all(isinstance(tag, (str, int)) for tag in tags):
        raise BadRow("has a token or a tag that is not a text")
    return {"tokens": tokens, "tags": tags}


def read_question_answering(row: Row) -> Row:
    """SQuAD's columns: the answers are passages of the context, each with the character at which it starts."""
    answers, context = row["answers"], text_in(row, "context")
    if isinstance(answers, list):
        answers = {"text": [answer.get("text") for answer in answers if isinstance(answer, dict)],
                   "answer_start": [answer.get("answer_start") for answer in answers if isinstance(answer, dict)]}  # fmt: skip
    texts, starts = (answers.get("text"), answers.get("answer_start")) if isinstance(answers, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise BadRow("has answers that are not lists of `text` and `answer_start`")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or context[start : start + len(text)] != text:
            raise BadRow("has an answer that does not stand in the context where it should")
    return {"question": text_in(row, "question"), "context": context, "answers": {"text": texts, "answer_start": starts}}


def read_source_target(row: Row) -> Row:
    return {"source": text_in(row, "source"), "target": text_in(row, "target")}


def read_translation(row: Row) -> Row:
    sides = row["translation"]
    if not isinstance(sides, dict) or len(sides) != 2:
        raise BadRow("has a translation that is not an object of two languages")
    source, target = sides
    return {"source": text_in(sides, source), "target": text_in(sides, target)}


def read_pairs(row: Row) -> Row:
    more = {"negative": text_in(row, "negative")} if row.get("negative") is not None else {}
    if isinstance(row.get("score"), (int, float)):
        check_number(row["score"])
        more["score"] = float(row["score"])
    return {"anchor": text_in(row, "anchor"), "positive": text_in(row, "positive"), **more}


def _image(row: Row) -> Any:
    """A path beside the file, or the bytes that a Parquet file holds."""
    return _one_image(row["image"], "image")


def _one_image(image: Any, role: str) -> Any:
    if isinstance(image, str) and image.strip():
        return image
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        return {"bytes": image["bytes"], "path": None}
    raise BadRow(f"has no image in {role!r}")


def read_image_label(row: Row) -> Row:
    return {"image": _image(row), "label": label_in(row)}


def read_image_text(row: Row) -> Row:
    return {"image": _image(row), "text": text_in(row, "caption")}


def read_image_question_answer(row: Row) -> Row:
    return {"image": _image(row), "question": text_in(row, "question"), "answer": text_in(row, "answer")}


def read_image_objects(row: Row) -> Row:
    return {"image": _image(row), "objects": objects_in(row)}


def read_image_messages(row: Row) -> Row:
    """A chat about images: as many places for them in its messages as there are images."""
    images = row["images"] if isinstance(row["images"], list) else [row["images"]]
    messages = image_turns_in(row, len(images))
    return {"images": [_one_image(image, "images") for image in images], "messages": messages}


def read_image_sharegpt(row: Row) -> Row:
    return read_image_messages({**row, "messages": row["conversations"]})
