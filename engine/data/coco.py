"""Boxes round things on images: the objects of a row, and files in the layout of COCO.

A box is [x, y, width, height] in pixels of its image, from the top left corner: COCO's own
(https://cocodataset.org/#format-data). Rows may hold objects as `datasets`' ImageFolder has them, lists by column
(https://huggingface.co/docs/datasets/image_dataset#object-detection), or as a list of objects.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from engine.data.values import BadRow, Row, json_in, kind_of

BOXES = ("bbox", "box")
LABELS = ("label", "category", "category_name", "categories", "labels", "category_id")
MOST_OBJECTS = 10_000  # in one image; judgement: COCO's fullest image has 93


def objects_in(row: Row) -> list[Row]:
    """The objects of a row: {"box": [x, y, width, height], "label": its class as a text} each. None at all is fine."""
    value = row["objects"]
    if isinstance(value, str):
        value = json_in(value, "objects")
    if isinstance(value, dict):
        value = _by_object(value)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRow(f"has {kind_of(value)} in 'objects', not a list of boxes with labels")
    if len(value) > MOST_OBJECTS:
        raise BadRow(f"has more than {MOST_OBJECTS:,} objects")
    return [{"box": _box(_first(one, BOXES)), "label": _label(_first(one, LABELS))} for one in value]


def _by_object(columns: Row) -> list[Row]:
    """Lists by column as a list of objects."""
    boxes, labels = _first(columns, BOXES), _first(columns, LABELS)
    if not isinstance(boxes, list) or not isinstance(labels, list) or len(boxes) != len(labels):
        raise BadRow("has objects without as many labels as boxes")
    return [{"bbox": box, "label": label} for box, label in zip(boxes, labels, strict=True)]


def _first(values: Row, names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _box(value: Any) -> list[float]:
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) != 4 or not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        raise BadRow("has a box that is not four numbers (x, y, width, height)")
    if numbers[2] <= 0 or numbers[3] <= 0:
        raise BadRow("has a box without width or height")
    return [float(one) for one in numbers]


def _label(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise BadRow("has a box without a label")
    return str(value)


# --- whole files ----------------------------------------------------------------------------------------------------


def is_coco(value: Any) -> bool:
    """Whether a JSON object is a file of COCO's layout."""
    return isinstance(value, dict) and all(isinstance(value.get(part), list) for part in ("images", "annotations"))


def rows(values: Row) -> Iterator[Row]:
    """A row for each image: {"file_name", "objects"}. Raises `BadRow` for parts that are not what they should be.

    Crowds (`iscrowd`) are left out: their boxes are round many things at once, and detectors are not trained on them.
    """
    categories = values.get("categories")
    named = [one for one in categories if isinstance(one, dict)] if isinstance(categories, list) else []
    names = {one["id"]: one.get("name") for one in named if isinstance(one.get("id"), (int, str))}
    found: defaultdict[Any, list[Row]] = defaultdict(list)
    for one in values["annotations"]:
        if not isinstance(one, dict) or not isinstance(one.get("image_id"), (int, str)):
            raise BadRow("has an annotation without an image")
        if not one.get("iscrowd"):
            kind = one.get("category_id")
            label = names.get(kind, kind) if isinstance(kind, (int, str)) else None
            found[one["image_id"]].append({"bbox": one.get("bbox"), "label": label})
    for image in values["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise BadRow("has an image without a file_name")
        if not isinstance(image.get("id"), (int, str)):
            raise BadRow("has an image without an id")
        yield {"file_name": image["file_name"], "objects": found[image["id"]]}
