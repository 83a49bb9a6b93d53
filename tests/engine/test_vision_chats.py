"""Chats about images: how people write them, what is trained on of them, and every family of models that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)

from engine import data, objectives
from engine.data import token_counts, tokenization
from engine.data.demos import DEMOS
from engine.data.values import BadRow, EmptyRow
from engine.modeling import build, xray
from engine.modeling.build import load_processor
from engine.plan import DataSource, Plan
from engine.recipes import grids
from engine.recipes.vision import answer_batch, images_of
from engine.system.home import ASSETS
from engine.train import make_trainer
from estimators.simulate.dry_run import make_fake

PARTS = {
    "images": ["a.png"],
    "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat"}]},
    ],
}


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        PARTS,
        {
            "images": "a.png",
            "messages": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A cat"}],
        },
        {"images": ["a.png"], "conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat"}]},
    ],
    ids=["parts", "places", "none"],
)
def test_chats_about_images_are_read_as_people_write_them(row: dict[str, Any]) -> None:
    found, read = data.Recognition().read(row)
    assert found.becomes == "image-messages"
    assert read == PARTS


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": "<image><image>Hi"}, {"role": "assistant", "content": "Yes"}], "1 images and 2 places"),
        ([{"role": "user", "content": "Hi"}], "does not end with an answer"),
        ([{"role": "tool", "content": "Hi"}], "of the role 'tool'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "neither a text nor an image of its row"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}], "ends with an empty answer"),
        ([], "has no messages"),
    ],
)
def test_what_is_wrong_with_a_chat_is_one_sentence(messages: Any, said: str) -> None:
    with pytest.raises((BadRow, EmptyRow), match=said):
        data.Recognition().read({"images": ["a.png"], "messages": messages})


def test_images_of_a_chat_lie_beside_the_file_and_are_opened(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(PARTS | {"images": [name]}) for name in ("a.png", "../a.png", "none.png")))
    scan = data.scan(DataSource(path=str(file)), objectives.OBJECTIVES["vqa"].shapes)
    assert (scan.rows, scan.bad, scan.format) == (1, 2, "image-messages")
    (row,) = [row for _, row in data.iterate(DataSource(path=str(file)))]
    assert row["images"] == [str(tmp_path / "a.png")]


# --- what is trained on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("demo", ["captions", "questions"])
def test_the_flags_of_the_xray_are_the_labels_of_the_collator(demo: str) -> None:
    """Where one token stands for an image in the X-ray, the model reads many: they carry no label."""
    plan = DEMOS[demo].plan()
    processor, tokenizer = load_processor(plan), token_counts.local_tokenizer(plan)
    rows = data.load(plan.datasets, objectives.OBJECTIVES[plan.objective].shapes)[:4]
    batch = answer_batch(processor, [images_of(row) for row in rows], [tokenization.image_chat(row) for row in rows])
    place = tokenizer.convert_tokens_to_ids("<image>")
    for number, row in enumerate(rows):
        (ours,) = tokenization.encode(row, tokenizer, plan.objective)
        read = batch["attention_mask"][number].bool()
        ids, labels = batch["input_ids"][number][read], batch["labels"][number][read]
        words = ids != place
        assert [one for one in ours.ids if one != place] == ids[words].tolist()
        trained = [flag for one, flag in zip(ours.ids, ours.trained, strict=True) if one != place]
        assert trained == (labels[words] != -100).tolist()
        assert (labels[~words] == -100).all()
        assert tokenizer.decode(labels[labels >= 0]).startswith(row.get("answer", row.get("text")))


def test_the_look_at_a_row_shows_its_image() -> None:
    plan = DEMOS["captions"].plan()
    shown = xray.look(plan, 1, token_counts.local_tokenizer(plan)).picture
    assert shown is not None
    assert (shown.width, shown.height) == (32, 32)


# --- families -------------------------------------------------------------------------------------------------------

SIDE = 28
_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
_ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}
_PATCHES = {"patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2}
_CHAT = (
    "{%- for message in messages -%}<|{{ message['role'] }}|>{%- for part in message['content'] -%}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{%- endfor -%}<|end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
# The family's own fields beside the words of its text model: vision config, and what its text config has on top.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ({"embed_dim": 32, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, **_PATCHES}, _ROPE),
    "qwen2_5_vl": (
        {"hidden_size": 32, "out_hidden_size": 32, "depth": 2, "num_heads": 2, "intermediate_size": 64, "window_size": 28,
         "fullatt_block_indexes": [1], **_PATCHES},
        _ROPE,
    ),
    "qwen3_vl": (
        {"hidden_size": 32, "out_hidden_size": 32, "depth": 2, "num_heads": 2, "intermediate_size": 64,
         "num_position_embeddings": 16, "deepstack_visual_indexes": [0], **_PATCHES},
        _ROPE | {"head_dim": 16},
    ),
    "idefics3": ({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "image_size": SIDE, "patch_size": 7}, {"model_type": "llama"}),
}  # fmt: skip


def folder_of(name: str, where: Path) -> Path:
    """A tiny model of the family with random weights, and what prepares its inputs."""
    words = PreTrainedTokenizerFast.from_pretrained(ASSETS / "demo_model")
    words.add_tokens(["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"], special_tokens=True)
    words.chat_template = _CHAT
    vision, text = FAMILIES[name]
    place = words.convert_tokens_to_ids("<image>")
    ends = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(
        name, text_config={**_TEXT, "vocab_size": len(words), **ends, **text}, vision_config=vision, image_token_id=place,
        tie_word_embeddings=True, **({"scale_factor": 2, "pad_token_id": words.pad_token_id} if name == "idefics3" else {}),
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(where)
    words.save_pretrained(where)
    if name == "idefics3":
        eye = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
        Idefics3Processor(image_processor=eye, tokenizer=words, image_seq_len=4, chat_template=_CHAT).save_pretrained(where)
    else:
        Qwen2VLImageProcessorPil(min_pixels=SIDE * SIDE, max_pixels=4 * SIDE * SIDE, patch_size=7).save_pretrained(where)
    return where


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_from_images_and_is_priced(name: str, tmp_path: Path) -> None:
    demo = DEMOS["questions"]
    plan = demo.plan().with_(
        model=str(folder_of(name, tmp_path / "model")), precision="fp32", max_steps=2, per_device_train_batch_size=4,
        learning_rate=5e-3, warmup_ratio=0.0, method="full",
    )  # fmt: skip
    rows = data.load(plan.datasets, objectives.OBJECTIVES["vqa"].shapes)
    trainer = make_trainer(plan, tmp_path, build.build(plan, "cpu"), load_processor(plan), rows[:8], rows[8:12])
    batch = trainer.data_collator(rows[:2])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before

    recipe, config = objectives.recipe(plan), build.load_config(plan)
    mode, model = FakeTensorMode(allow_non_fake_inputs=True), build.build(plan, "meta").train()
    make_fake(model, mode)
    with mode:
        dry = recipe.dry_batch(config, plan, 2, 10)
        assert dry["pixel_values"].shape == batch["pixel_values"].shape
        recipe.dry_loss(model, dry, plan, {}).backward()
    taken = (batch["input_ids"] == config.image_token_id).sum(1)
    assert dry["input_ids"].size(1) - 10 == int(taken.max())
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("size", [(28, 28), (84, 70), (140, 56)])
def test_what_follows_from_a_grid_is_what_the_library_works_out(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

    config = AutoConfig.for_model("qwen2_5_vl", vision_config={**FAMILIES["qwen2_5_vl"][0]})
    monkeypatch.setattr(grids, "grid_of", lambda *_: (size[0] // 7, size[1] // 7))
    made = grids.image_inputs(config, Plan(), 2)
    grid = torch.tensor(made["image_grid_thw"])
    assert made["image_cu_seqlens"].tolist() == get_vision_cu_seqlens(grid).tolist()
    assert made["image_position_ids"].shape == get_vision_position_ids(grid, 2).shape
    index, ends = get_vision_window_index(grid, 2, 28, 7)
    assert made["image_window_index"].shape == index.shape
    assert sorted(made["image_cu_window_seqlens"].tolist()) == ends.tolist()


def test_the_grid_is_that_of_the_largest_image(tmp_path: Path) -> None:
    for number, side in enumerate((28, 56)):
        Image.new("RGB", (side, 28)).save(tmp_path / f"{number}.png")
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(PARTS | {"images": [f"{number}.png"]}) for number in range(2)))
    plan = Plan(objective="vqa", model=str(folder_of("qwen2_vl", tmp_path / "m")), datasets=(DataSource(path=str(file)),))
    assert grids.grid_of(build.load_config(plan), plan) == (4, 8)
