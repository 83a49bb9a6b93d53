"""What a model that does not chat says of a text (its class, its number, its tags, the answer in it, its gaps, its like)
or of an image (its class, a description, which text fits, the boxes on it).

`of(task, model, processor, text, image)` is one answer as a person reads it. Try shows it of the base and of the tuned
model; `boxes_on` is what a detector draws.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from engine.catalog.tasks import Task
from engine.data.pictures import Box
from engine.issues import Issue, PlanError

SHOWN_CLASSES = 3
SURE = 0.5  # a box of which a detector is less sure is not shown (judgement)
MOST_WORDS = 64  # tokens of what is said about an image
GAP = re.compile(r"_{2,}")


def of(task: Task, model: Any, processor: Any, text: str, image: Any = None) -> str:
    """What the model says of the text, or of the image (a PIL image in RGB). Raises `PlanError` where that is not enough."""
    if task.reads_images:
        if image is None:
            raise PlanError([Issue(field="image", message="is not chosen.", fix="Upload one, or take one of the data.")])
        with torch.inference_mode():
            return _SAY_OF_IMAGE[task.key](model, processor, text, image)
    if task.key not in _SAY:
        message = f"this model is for {task.label.lower()}, and a question in words is not enough for it."
        raise PlanError([Issue(field="prompt", message=message, fix="Its figure in the Train tab says how good it is.")])
    with torch.inference_mode():
        return _SAY[task.key](model, processor, text)


def _read(model: Any, processor: Any, *texts: str, **settings: Any) -> Any:
    return processor(*texts, return_tensors="pt", truncation=True, **settings).to(model.device)


def _class(model: Any, processor: Any, text: str) -> str:
    return _likeliest(model, model(**_read(model, processor, text)).logits[0])


def _likeliest(model: Any, logits: torch.Tensor) -> str:
    """The first few classes [classes] with their shares."""
    odds = logits.float().softmax(-1)
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


# --- of an image ----------------------------------------------------------------------------------------------------


def _pixels(model: Any, processor: Any, image: Any) -> Any:
    return processor(images=[image], return_tensors="pt").to(model.device, model.dtype)["pixel_values"]


def _image_class(model: Any, processor: Any, text: str, image: Any) -> str:
    return _likeliest(model, model(pixel_values=_pixels(model, processor, image)).logits[0])


def _described(model: Any, processor: Any, text: str, image: Any) -> str:
    """The answer to a question about the image; without a question, its description."""
    from engine.data import tokenization
    from engine.recipes import vision

    chats = getattr(processor, "chat_template", None) is not None
    question = tokenization.image_chat({"question": text.strip() or tokenization.DESCRIBE, "answer": ""})[:-1]
    inputs = vision.processed(processor, [[image]], [vision.chat_prompt(processor, question) if chats else text])
    inputs = {name: part.to(model.device, model.dtype if part.is_floating_point() else None) for name, part in inputs.items()}
    written = model.generate(**inputs, max_new_tokens=MOST_WORDS, do_sample=False)[0]
    if chats:  # a chat goes on after its question, which is repeated
        written = written[inputs["input_ids"].size(1) :]
    return processor.decode(written, skip_special_tokens=True).strip()


def _fitting(model: Any, processor: Any, text: str, image: Any) -> str:
    """How well each line of the text fits the image, all lines together 100 %."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        message = "has fewer than two lines, and the model says which of several texts fits the image best."
        raise PlanError([Issue(field="prompt", message=message, fix="Write each text in a line of its own.")])
    words = processor.tokenizer(lines, return_tensors="pt", padding=True, truncation=True).to(model.device)
    odds = model(pixel_values=_pixels(model, processor, image), **words).logits_per_image[0].float().softmax(-1)
    return "\n".join(f"{share:.0%}  {line}" for share, line in zip(odds.tolist(), lines, strict=True))


def _seen(model: Any, processor: Any, text: str, image: Any) -> str:
    """The boxes in words."""
    width, height = image.size
    told = [
        f"{box.label} {box.share:.0%}, {box.width * width:.0f} x {box.height * height:.0f} pixels "
        f"at {box.left * width:.0f}, {box.top * height:.0f}"
        for box in boxes_on(model, processor, image)
    ]
    return "\n".join(told) or "Nothing was found."


def boxes_on(model: Any, processor: Any, image: Any) -> tuple[Box, ...]:
    """What a detector finds on an image, the surest first: all of which it is at least half sure."""
    from engine.recipes.detection import inputs_of
    from engine.recipes.detections import found

    made = processor(images=[image], return_tensors="pt").to(model.device, model.dtype)
    with torch.inference_mode():
        outputs = model(**{name: made[name] for name in inputs_of(model)})
    seen = found(outputs.logits[0].float().cpu().numpy(), outputs.pred_boxes[0].float().cpu().numpy(), model.config.num_labels)
    boxes = [
        Box(
            label=model.config.id2label[int(name)],
            left=float(across - width / 2),
            top=float(down - height / 2),
            width=float(width),
            height=float(height),
            share=float(share),
        )
        for (across, down, width, height), name, share in zip(seen.boxes, seen.classes, seen.scores, strict=True)
        if share >= SURE
    ]
    return tuple(sorted(boxes, key=lambda box: -(box.share or 0.0)))


_SAY_OF_IMAGE: dict[str, Callable[[Any, Any, str, Any], str]] = {
    "image-classification": _image_class,
    "image-text-to-text": _described,
    "image-text-contrastive": _fitting,
    "object-detection": _seen,
}
