"""Object detection: COCO files become rows, the boxes that the model sees are those of the rows, the figure is right, and
the dry run's loss is the library's."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForObjectDetection,
    DetrConfig,
    DetrImageProcessorPil,
    ResNetConfig,
    RTDetrConfig,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    YolosConfig,
    YolosImageProcessorPil,
)
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss, HungarianMatcher

from engine import data, objectives
from engine.data import pictures
from engine.data.demos import DEMOS
from engine.data.values import BadRow
from engine.modeling import build
from engine.plan import DataSource
from engine.recipes import Setup
from engine.recipes.detection import OBJECTS, detection_trainer, matched_loss
from engine.recipes.detections import Boxes, found, mean_average_precision, overlap
from engine.system.errors import explain
from engine.train import make_trainer
from estimators.simulate.dry_run import make_fake

WIDE, HIGH = 40, 20


def png(width: int = WIDE, height: int = HIGH) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, format="PNG")
    return file.getvalue()


def coco(**changes: Any) -> dict[str, Any]:
    return {
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 1, "category_id": 9, "bbox": [1, 2, 10, 8]},
            {"image_id": 1, "category_id": 7, "bbox": [20, 4, 6.5, 6]},
            {"image_id": 1, "category_id": 7, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
    } | changes


BOTH = [{"box": [1.0, 2.0, 10.0, 8.0], "label": "dog"}, {"box": [20.0, 4.0, 6.5, 6.0], "label": "cat"}]


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home_of_json", ["set/", "set/annotations/"])
def test_a_zip_with_a_coco_file_is_images_with_boxes(tmp_path: Path, home_of_json: str) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as bundle:
        bundle.writestr("set/a.png", png())
        bundle.writestr("set/b.png", png())
        bundle.writestr(f"{home_of_json}instances.json", json.dumps(coco()))
    stored = data.store_upload(tmp_path / "pets.zip")
    scan = data.scan(stored)
    assert (scan.format, scan.rows, scan.issues, dict(scan.labels)) == ("image-objects", 2, (), {"dog": 1, "cat": 1})
    assert [row["objects"] for row in data.load((stored,))] == [BOTH, []]


def test_a_coco_file_beside_its_images_is_read_where_the_owner_allows_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(coco(), indent=1))
    rows = data.load((DataSource(path=str(file)),))
    assert [row["objects"] for row in rows] == [BOTH, []]
    assert rows[0]["image"] == str(tmp_path / "a.png")
    file.write_text(json.dumps(coco(images=[{"id": 1, "file_name": "../a.png"}])))
    assert (
        "row 1 of instances.json names an image that is not beside the file"
        in data.scan(DataSource(path=str(file))).issues[0].message
    )


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": [[1, 2, 10, 8], [20, 4, 6.5, 6]], "category": ["dog", "cat"]},
        {"bbox": [[1, 2, 10, 8], [20, 4, 6.5, 6]], "categories": ["dog", "cat"], "id": [0, 1]},
        [{"bbox": [1, 2, 10, 8], "label": "dog"}, {"box": [20, 4, 6.5, 6], "category_name": "cat"}],
    ],
)
def test_objects_are_read_as_people_write_them(objects: Any) -> None:
    _, row = data.Recognition().read({"image": "a.png", "objects": objects})
    assert row["objects"] == BOTH


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"bbox": [[1, 2, 3]], "category": ["a"]}, "a box that is not four numbers"),
        ({"bbox": [[1, 2, 0, 3]], "category": ["a"]}, "a box without width or height"),
        ({"bbox": [[1, 2, 3, float("nan")]], "category": ["a"]}, "a box that is not four numbers"),
        ({"bbox": [[1, 2, 3, 4]], "category": []}, "without as many labels as boxes"),
        ([{"bbox": [1, 2, 3, 4]}], "a box without a label"),
        ("oops", "no valid JSON in 'objects'"),
        (5, "a number in 'objects'"),
    ],
)
def test_what_is_wrong_with_objects_is_one_sentence(objects: Any, said: str) -> None:
    with pytest.raises(BadRow, match=said):
        data.Recognition().read({"image": "a.png", "objects": objects})


def test_a_box_outside_of_its_image_and_a_file_that_is_no_image_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(b"not an image")
    boxes = {"bbox": [[41, 0, 5, 5]], "category": ["cat"]}
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"image": name, "objects": boxes}) for name in ("a.png", "b.png")))
    first, second = data.scan(DataSource(path=str(file))).issues
    assert "line 1 of rows.jsonl has a box outside of its image, which has 40 x 20 pixels" in first.message
    assert (
        "line 2 of rows.jsonl has an image that cannot be read (it is of no known kind, which are PNG, JPEG, WEBP, GIF, BMP)"
        in second.message
    )


def test_a_picture_for_the_page_is_small_and_has_its_boxes_in_shares() -> None:
    shown = pictures.picture(Image.new("RGB", (2000, 1000)), [{"box": [500, 250, 1000, 500], "label": "cat"}])
    (box,) = shown.boxes
    assert (box.left, box.top, box.width, box.height) == (0.25, 0.25, 0.5, 0.5)
    assert shown.source.startswith("data:image/jpeg;base64,")
    assert len(shown.source) < 20_000


# --- the figure -----------------------------------------------------------------------------------------------------


def boxes(*rows: tuple[float, ...], classes: tuple[int, ...] = (), scores: tuple[float, ...] = ()) -> Boxes:
    return Boxes(
        boxes=np.array(rows, dtype=float).reshape(-1, 4),
        classes=np.array(classes or (0,) * len(rows), dtype=int),
        scores=np.array(scores or (1.0,) * len(rows)),
    )


LEFT, RIGHT, FAR = (0.25, 0.5, 0.2, 0.2), (0.75, 0.5, 0.2, 0.2), (0.5, 0.1, 0.1, 0.1)


def test_overlap_is_intersection_over_union() -> None:
    shifted = (0.35, 0.5, 0.2, 0.2)  # by half of its width: a third is common
    assert np.allclose(overlap(np.array(LEFT), np.array([LEFT, RIGHT, shifted])), [1, 0, 1 / 3])


@pytest.mark.parametrize(
    ("predicted", "expected", "figure"),
    [
        ([boxes(LEFT, RIGHT)], [boxes(LEFT, RIGHT)], 1.0),
        ([boxes(LEFT)], [boxes(LEFT, RIGHT)], 0.5),
        ([boxes()], [boxes(LEFT)], 0.0),
        # The surest is wrong: precision 1/2 at the one hit, which is all there is.
        ([boxes(FAR, LEFT, scores=(0.9, 0.8))], [boxes(LEFT)], 0.5),
        # A second box round the same thing is a wrong one, and comes after all right ones.
        ([boxes(LEFT, LEFT, scores=(0.9, 0.8))], [boxes(LEFT)], 1.0),
        # Hits at ranks 1 and 3 of two things: 1/2 * 1 + 1/2 * 2/3.
        ([boxes(LEFT, FAR, RIGHT, scores=(0.9, 0.8, 0.7))], [boxes(LEFT, RIGHT)], 0.5 + 1 / 3),
        # The right place with the wrong name; the mean over both classes.
        ([boxes(LEFT, RIGHT, classes=(0, 0))], [boxes(LEFT, RIGHT, classes=(0, 1))], 0.5),
        # The same place on another image does not count.
        ([boxes(LEFT), boxes()], [boxes(), boxes(LEFT)], 0.0),
        ([boxes(LEFT)], [boxes()], 0.0),
    ],
)
def test_the_mean_average_precision_is_what_one_works_out_by_hand(
    predicted: list[Boxes], expected: list[Boxes], figure: float
) -> None:
    assert mean_average_precision(predicted, expected) == pytest.approx(figure)


def test_queries_say_their_likeliest_class_with_or_without_one_for_nothing() -> None:
    softmax = found(np.array([[2.0, 0.0, 5.0], [0.0, 3.0, 0.0]]), np.zeros((2, 4)), 2)
    assert softmax.classes.tolist() == [0, 1]
    assert softmax.scores[0] < 0.1 < 0.8 < softmax.scores[1]
    assert found(np.array([[0.0, 2.0]]), np.zeros((1, 4)), 2).scores[0] == pytest.approx(1 / (1 + np.exp(-2)))


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan() -> Any:
    return DEMOS["boxes"].plan().with_(precision="fp32")


def test_the_model_is_shown_the_boxes_of_the_rows_in_shares_of_the_image(plan: Any, tmp_path: Path) -> None:
    model, processor = build.build(plan, "cpu"), build.load_processor(plan)
    rows = data.load(plan.datasets)[:8]
    setup = Setup(plan=plan, folder=tmp_path, model=model, processor=processor, train_rows=rows, eval_rows=[])
    batch = detection_trainer(setup).data_collator(rows)
    names = build.labels_of(plan)
    for row, seen in zip(rows, batch["labels"], strict=True):
        assert [names[place] for place in seen["class_labels"]] == [one["label"] for one in row["objects"]]
        for one, box in zip(row["objects"], seen["boxes"].tolist(), strict=True):
            left, top, width, height = (part / 48 for part in one["box"])
            assert box == pytest.approx([left + width / 2, top + height / 2, width, height], abs=1e-5)


_SIZES = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "d_model": 32,
}  # fmt: skip
_EYE = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
FAMILIES: dict[str, Any] = {
    "yolos": lambda: YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 64],
        num_detection_tokens=12, num_labels=3,
    ),
    "detr": lambda: DetrConfig(
        **_SIZES, num_queries=12, num_labels=3, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=ResNetConfig(**_EYE, out_features=["stage4"]),
    ),
    "rt_detr": lambda: RTDetrConfig(
        backbone_config=RTDetrResNetConfig(**_EYE, out_features=["stage2", "stage3", "stage4"]),
        encoder_hidden_dim=32, encoder_in_channels=[16, 16, 32], feat_strides=[8, 16, 32], encoder_layers=1, encoder_ffn_dim=32,
        encoder_attention_heads=2, d_model=32, num_queries=12, decoder_in_channels=[32, 32, 32], decoder_ffn_dim=32,
        num_feature_levels=3, decoder_layers=2, decoder_attention_heads=2, num_denoising=4, num_labels=3,
    ),
}  # fmt: skip
PROCESSORS = {"yolos": YolosImageProcessorPil, "detr": DetrImageProcessorPil, "rt_detr": RTDetrImageProcessorPil}


@pytest.mark.parametrize("name", ["yolos", "detr"])
def test_the_dry_loss_is_the_librarys_for_the_same_matching(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which query is matched to which object is the one thing that a dry run cannot know."""
    config = FAMILIES[name]()
    first = torch.arange(OBJECTS)
    monkeypatch.setattr(HungarianMatcher, "forward", lambda self, outputs, targets: [(first, first)] * len(targets))
    logits, where = torch.randn(2, 12, 4), torch.rand(2, 12, 4) * 0.5 + 0.2
    wanted = [{"class_labels": torch.zeros(OBJECTS, dtype=torch.int64), "boxes": torch.full((OBJECTS, 4), 0.5)}] * 2
    theirs, _, _ = ForObjectDetectionLoss(logits, wanted, torch.device("cpu"), where, config)
    assert torch.allclose(matched_loss(logits, where, config), theirs, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_trained_measured_and_priced(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForObjectDetection.from_config(FAMILIES[name]()).save_pretrained(tmp_path / "model")
    PROCESSORS[name](size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    plan = DEMOS["boxes"].plan().with_(
        model=str(tmp_path / "model"), precision="fp32", max_steps=1, per_device_train_batch_size=4, warmup_ratio=0.0
    )  # fmt: skip
    rows = data.load(plan.datasets)
    trainer = make_trainer(plan, tmp_path, build.build(plan, "cpu"), build.load_processor(plan), rows[:8], rows[8:12])
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_map_50"] <= 1

    mode, model = FakeTensorMode(allow_non_fake_inputs=True), build.build(plan, "meta").train()
    make_fake(model, mode)
    recipe = objectives.recipe(plan)
    with mode:
        batch = recipe.dry_batch(build.load_config(plan), plan, 2, 1)
        assert batch["pixel_values"].shape == (2, 3, 64, 64)
        recipe.dry_loss(model, batch, plan, {}).backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_an_image_that_only_begins_like_one_is_told_in_words_when_it_is_trained_on(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((WIDE, HIGH), 50).save(whole, format="PNG")
    file = tmp_path / "cut.png"
    file.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    assert pictures.size_of(file) == (WIDE, HIGH)
    with pytest.raises(BadRow) as caught:
        pictures.open_image(file)
    issue = explain(caught.value)
    assert issue.field == "datasets"
    assert issue.message.startswith("a row has an image that cannot be read (")
    assert str(tmp_path) not in issue.message
