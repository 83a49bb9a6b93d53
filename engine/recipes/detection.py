"""Object detection: DETR's family (DETR, YOLOS, RT-DETR, ...), which finds a set of boxes and matches it to the wanted one."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss
from torch.overrides import TorchFunctionMode
from transformers import EvalPrediction, PretrainedConfig, Trainer

from engine.data.pictures import open_image
from engine.modeling import build
from engine.plan import Plan
from engine.recipes import Batch, Models, Recipe, Row, Setup
from engine.recipes.detections import Boxes, found, mean_average_precision
from engine.recipes.images import image_settings
from engine.recipes.vision import pictures_trainer

OBJECTS = 8  # in an image of a dry run: COCO has 7.7 on average (https://arxiv.org/abs/1405.0312)
# Height and width that image processors make where neither folder nor config says: DETR's, and those of RT-DETR's kin, which
# need multiples of 32 (`DetrImageProcessor.size`, `RTDetrImageProcessor.size`, transformers 5.23).
USUAL_SIZE, SQUARE = (800, 1333), (640, 640)
SQUARE_TYPES = ("rt_detr", "rt_detr_v2", "d_fine")


def detection_trainer(setup: Setup) -> Trainer:
    """Boxes with classes, matched to the wanted ones by the model's own loss; pictures are opened batch by batch."""
    places = {name: place for place, name in enumerate(build.labels_of(setup.plan))}
    inputs = inputs_of(setup.model)

    def collate(rows: list[Row]) -> dict[str, Any]:
        made = setup.processor(
            images=[open_image(row["image"]) for row in rows],
            annotations=[annotation(row, places) for row in rows],
            return_tensors="pt",
        )
        wanted = [{name: one[name] for name in ("class_labels", "boxes")} for one in made["labels"]]
        return {name: made[name] for name in inputs if name in made} | {"labels": wanted}

    def precision(prediction: EvalPrediction) -> dict[str, float]:
        return {"map_50": map_of(prediction, len(places))}

    # Each image has boxes of its own number, so that batches cannot be put together.
    return pictures_trainer(setup, collate, precision, scores_and_boxes, eval_do_concat_batches=False)


def inputs_of(model: torch.nn.Module) -> tuple[str, ...]:
    """What the model takes of what the processor makes: not every one has a mask for padding."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(base.forward).parameters
    return tuple(name for name in ("pixel_values", "pixel_mask") if name in known)


def annotation(row: Row, places: dict[str, int]) -> dict[str, Any]:
    """The objects of a row as image processors take them, in COCO's layout. The number of the image is not used."""
    return {
        "image_id": 0,
        "annotations": [
            {"bbox": one["box"], "category_id": places[one["label"]], "area": one["box"][2] * one["box"][3], "iscrowd": 0}
            for one in row["objects"]
        ],
    }


def scores_and_boxes(outputs: tuple[Any, ...], labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [batch, queries, classes] and boxes [batch, queries, 4] out of a model's outputs.

    The outputs of DETR's family begin with the parts of the loss, the logits, the boxes (transformers 5.23).
    """
    return outputs[1].float(), outputs[2].float()


def map_of(prediction: EvalPrediction, classes: int) -> float:
    """The mean average precision over all batches."""
    predicted, expected = [], []
    for (logits, boxes), wanted in zip(prediction.predictions, prediction.label_ids, strict=True):
        predicted += [found(one, where, classes) for one, where in zip(logits, boxes, strict=True)]
        expected += [
            Boxes(boxes=one["boxes"], classes=one["class_labels"], scores=np.ones(len(one["boxes"]))) for one in wanted
        ]
    return mean_average_precision(predicted, expected)


# --- the dry run ----------------------------------------------------------------------------------------------------


def image_size(config: PretrainedConfig, plan: Plan) -> tuple[int, int]:
    """(height, width) of the images as the model reads them: what its folder's processor says, else its config."""
    size = image_settings(plan).get("size") or {}
    if size.get("height"):
        return size["height"], size["width"]
    if size.get("longest_edge"):
        return size["shortest_edge"], size["longest_edge"]
    side = getattr(config, "image_size", None)
    usual = SQUARE if config.model_type in SQUARE_TYPES else USUAL_SIZE
    return (side, side) if isinstance(side, int) else tuple(side or usual)


def detection_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """pixel_values float [batch, 3, height, width]; what is wanted on them is in `detection_loss`."""
    height, width = image_size(config, plan)
    return {
        "pixel_values": torch.zeros(batch, 3, height, width),
        "pixel_mask": torch.ones(batch, height, width, dtype=torch.int64),
    }


def detection_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The model's loss with the first queries matched to the objects: which are, only numbers could tell."""
    with _AllFinite():
        outputs = model(**{name: batch[name] for name in inputs_of(model)})
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return matched_loss(outputs.logits, outputs.pred_boxes, base.config)


class _AllFinite(TorchFunctionMode):
    """Answers for numbers that are not there: DETR's encoder layers ask in training whether theirs are all finite."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return np.True_ if func is torch.isfinite else func(*args, **(kwargs or {}))


def matched_loss(logits: torch.Tensor, boxes: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Classes of all queries, and distance and overlap of the first OBJECTS boxes with wanted ones (a test compares it).

    Args:
        logits: [batch, queries, classes], with one more for "nothing" where a softmax is taken.
        boxes: [batch, queries, 4].
    """
    rows, queries, kinds = logits.shape
    objects = min(OBJECTS, queries)
    if kinds > config.num_labels:
        classes = torch.full((rows, queries), config.num_labels, dtype=torch.int64)
        classes[:, :objects] = 0
        weight = torch.ones(kinds)
        weight[-1] = config.eos_coefficient
        of_classes = cross_entropy(logits.transpose(1, 2).float(), classes.to(logits.device), weight.to(logits.device))
    else:
        of_classes = (
            binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none").mean(1).sum() / objects
        )
    near, wanted = boxes[:, :objects].flatten(0, 1), torch.full((rows * objects, 4), 0.5, device=boxes.device)
    distance = l1_loss(near, wanted, reduction="none").sum() / len(wanted)
    apart = (1 - generalized_overlap(near, wanted)).sum() / len(wanted)
    # RT-DETR calls its weights otherwise; they change no shape.
    of_distance, of_overlap = (getattr(config, f"{name}_loss_coefficient", 1.0) for name in ("bbox", "giou"))
    return of_classes + of_distance * distance + of_overlap * apart


def generalized_overlap(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Generalised intersection over union (https://arxiv.org/abs/1902.09630) of boxes [n, 4] with as many others: [n]."""
    (low, high), (low2, high2) = ((box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2) for box in (one, two))
    common = (torch.minimum(high, high2) - torch.maximum(low, low2)).clamp(min=0).prod(-1)
    together = one[:, 2:].prod(-1) + two[:, 2:].prod(-1) - common
    around = (torch.maximum(high, high2) - torch.minimum(low, low2)).clamp(min=0).prod(-1)
    return common / together - (around - together) / around


RECIPES = {
    "object_detection": Recipe(make_trainer=detection_trainer, dry_batch=detection_batch, dry_loss=detection_loss),
}
