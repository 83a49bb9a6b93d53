"""What a detector has found, and how good that is: boxes with classes and scores, and the mean average precision.

Boxes here are [centre x, centre y, width, height] as shares of the image, as DETR's family gives them
(https://arxiv.org/abs/2005.12872). numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH_OVERLAP = 0.5  # of a box that counts as found: the threshold of PASCAL VOC (https://doi.org/10.1007/s11263-009-0275-4)


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes on one image: float [n, 4], the class of each int [n], and how sure a detector is of each [n]."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def found(logits: np.ndarray, boxes: np.ndarray, classes: int) -> Boxes:
    """What the queries of one image say, each its likeliest class.

    Args:
        logits: [queries, classes], or one more for "nothing": then they are a softmax's, else each is a sigmoid's own.
        boxes: [queries, 4].
        classes: how many there are.
    """
    if logits.shape[-1] > classes:
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        odds = (odds / odds.sum(-1, keepdims=True))[:, :classes]
    else:
        odds = 1 / (1 + np.exp(-logits))
    return Boxes(boxes=boxes, classes=odds.argmax(-1), scores=odds.max(-1))


def overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box [4] with others [n, 4]: [n], from 0 to 1."""
    low = np.maximum(one[:2] - one[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(one[:2] + one[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    common = np.clip(high - low, 0, None).prod(-1)
    together = one[2] * one[3] + others[:, 2] * others[:, 3] - common
    return common / np.maximum(together, 1e-12)


def mean_average_precision(predicted: Sequence[Boxes], expected: Sequence[Boxes]) -> float:
    """The mean, over the classes that are there, of the area under precision by recall; one entry per image on each side.

    A found box is right if it overlaps an expected one of its class by half or more, and no surer box has taken that one.
    """
    classes = sorted({int(name) for image in expected for name in image.classes})
    found_areas = [_average_precision(predicted, expected, name) for name in classes]
    return float(np.mean(found_areas)) if found_areas else 0.0


def _average_precision(predicted: Sequence[Boxes], expected: Sequence[Boxes], name: int) -> float:
    wanted = [image.boxes[image.classes == name] for image in expected]
    taken = [np.zeros(len(boxes), dtype=bool) for boxes in wanted]
    said = [
        (score, place, box)
        for place, image in enumerate(predicted)
        for score, box in zip(image.scores[image.classes == name], image.boxes[image.classes == name], strict=True)
    ]
    said.sort(key=lambda one: -one[0])
    right = np.zeros(len(said), dtype=bool)
    for rank, (_, place, box) in enumerate(said):
        shared = np.where(taken[place], 0.0, overlap(box, wanted[place]))
        if len(shared) and shared.max() >= ENOUGH_OVERLAP:
            taken[place][shared.argmax()] = right[rank] = True
    hits = right.cumsum()
    recall = hits / sum(map(len, wanted))
    precision = hits / np.arange(1, len(said) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]  # precision never falls with less recall
    return float((np.diff(recall, prepend=0.0) * best_from_here).sum())
