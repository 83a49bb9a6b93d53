"""What a model that does not chat says of a text: its class, its number, its tags, the answer in it, its gaps, its like.

`of(task, model, processor, text)` is one answer as a person reads it. Try shows it of the base and of the tuned model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from engine.plan import Issue, PlanError
from engine.tasks import Task

SHOWN_CLASSES = 3
GAP = re.compile(r"_{2,}")


def of(task: Task, model: Any, processor: Any, text: str) -> str:
    """What the model says of the text. Raises `PlanError` where a text alone is not enough."""
    if task.key not in _SAY:
        message = f"this model is for {task.label.lower()}, and a question in words is not enough for it."
        raise PlanError([Issue(field="prompt", message=message, fix="Its figure in the Train tab says how good it is.")])
    with torch.inference_mode():
        return _SAY[task.key](model, processor, text)


def _read(model: Any, processor: Any, *texts: str, **settings: Any) -> Any:
    return processor(*texts, return_tensors="pt", truncation=True, **settings).to(model.device)


def _class(model: Any, processor: Any, text: str) -> str:
    odds = model(**_read(model, processor, text)).logits[0].float().softmax(-1)
    best = odds.topk(min(SHOWN_CLASSES, len(odds)))
    names = model.config.id2label
    return ", ".join(f"{names[place]} {share:.0%}" for share, place in zip(*(part.tolist() for part in best), strict=True))


def _number(model: Any, processor: Any, text: str) -> str:
    return f"{model(**_read(model, processor, text)).logits.item():.3g}"


def _tags(model: Any, processor: Any, text: str) -> str:
    """Each word with its tag behind it, where it has another than O."""
    words = text.split()
    tokens = _read(model, processor, words, is_split_into_words=True)
    chosen = model(**tokens).logits[0].argmax(-1).tolist()
    tags: dict[int, str] = {}
    for word, place in zip(tokens.word_ids(), chosen, strict=True):
        if word is not None:
            tags.setdefault(word, model.config.id2label[place])
    return " ".join(word if tags.get(n, "O") == "O" else f"{word} [{tags[n]}]" for n, word in enumerate(words))


def _span(model: Any, processor: Any, text: str) -> str:
    """The answer to the question in the first line, out of the text below it."""
    question, _, context = text.partition("\n")
    if not context.strip():
        message = "has a question and no text to find its answer in."
        raise PlanError([Issue(field="prompt", message=message, fix="Write the question, and the text in the next line.")])
    tokens = _read(model, processor, question, context)
    outputs = model(**tokens)
    start, end = outputs.start_logits[0].argmax().item(), outputs.end_logits[0].argmax().item()
    return processor.decode(tokens["input_ids"][0, start : end + 1]).strip() if end >= start else ""


def _gaps(model: Any, processor: Any, text: str) -> str:
    """The text with its gaps (__) filled."""
    tokens = _read(model, processor, GAP.sub(processor.mask_token, text))
    ids = tokens["input_ids"]
    filled = torch.where(ids == processor.mask_token_id, model(**tokens).logits.argmax(-1), ids)
    return processor.decode(filled[0], skip_special_tokens=True)


def _written(model: Any, processor: Any, text: str) -> str:
    written = model.generate(**_read(model, processor, text), max_new_tokens=128, do_sample=False)
    return processor.decode(written[0], skip_special_tokens=True).strip()


def _alike(model: Any, processor: Any, text: str) -> str:
    """How near each further line is to the first one: the cosine of their vectors."""
    from engine.recipes.vectors import embed

    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        message = "has one line, and a vector says nothing by itself."
        raise PlanError([Issue(field="prompt", message=message, fix="Write a text, and in the next lines some to compare.")])
    tokens = processor(lines, return_tensors="pt", padding=True, truncation=True).to(model.device)
    batch = {f"line_{part}": tokens[part] for part in ("input_ids", "attention_mask")}
    vectors = embed(model, batch, "line").float()
    return "\n".join(f"{near:.2f}  {line}" for near, line in zip((vectors[1:] @ vectors[0]).tolist(), lines[1:], strict=True))


_SAY: dict[str, Callable[[Any, Any, str], str]] = {
    "sequence-classification": _class,
    "regression": _number,
    "token-classification": _tags,
    "question-answering": _span,
    "masked-lm": _gaps,
    "seq2seq": _written,
    "sentence-embedding": _alike,
}
