"""The Try tab: a run about images is asked with an image, the others in words; boxes are drawn on the image."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from engine.data import examples, pictures
from engine.data.demos import DEMOS, Demo
from engine.data.pictures import Box
from engine.objectives import task_of
from engine.plan import DataSource
from ui.tabs import try_tab
from ui.tabs.try_tab import TryTab
from ui.views import data_views

WITH_IMAGES = [demo for demo in DEMOS.values() if task_of(demo.plan()).reads_images]


@pytest.fixture(scope="module")
def tab() -> TryTab:
    with gr.Blocks(), gr.Tab("Try") as place:
        return try_tab.build(place)


@pytest.mark.parametrize("demo", WITH_IMAGES, ids=lambda demo: demo.key)
def test_a_run_about_images_offers_held_out_ones(demo: Demo, tab: TryTab) -> None:
    shown = try_tab.run_shown(tab, demo.plan())
    assert shown[tab.image]["visible"]
    assert len(shown[tab.images]["value"]) == examples.MOST
    assert all(answer for _, answer in shown[tab.images]["value"])
    assert shown[tab.prompt]["visible"] is (task_of(demo.plan()).key == "image-text-to-text")


def test_a_run_about_words_has_no_image(tab: TryTab) -> None:
    shown = try_tab.run_shown(tab, DEMOS["pirate"].plan())
    assert not shown[tab.image]["visible"]
    assert not shown[tab.images]["visible"]
    assert shown[tab.prompt] == {"label": "Question", "visible": True, "__type__": "update"}, "what was typed stays"
    assert shown[tab.examples]["visible"]


def test_examples_of_other_data_are_its_own_held_out_rows(tmp_path: Path) -> None:
    lines = []
    for number in range(10):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f'{{"image": "{number}.png", "label": "{number % 2}"}}')
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    plan = DEMOS["shapes"].plan().with_(datasets=(DataSource(path=str(tmp_path / "rows.jsonl")),), eval_fraction=0.2)
    assert [one.expected in ("0", "1") for one in examples.of(plan)] == [True, True]


def test_boxes_are_drawn_where_they_are_and_told_in_words(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (40, 20)).save(file)
    box = Box(label="<b>cat", left=0.25, top=0.5, width=0.5, height=0.25, share=0.93)
    drawn = try_tab.drawn(str(file), [box])
    assert "left: 25.00%; top: 50.00%; width: 50.00%; height: 25.00%" in drawn
    assert drawn.count("&lt;b&gt;cat 93%") == 2, "on the box, and in the words for those who do not see it"
    assert "<b>cat" not in drawn
    assert try_tab.drawn(str(file), []) == try_tab.drawn(None, [box]) == ""


def test_a_table_shows_small_pictures_in_the_place_of_images(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200)).save(tmp_path / "a.png")
    table = data_views.rows_table([{"image": pictures.picture(tmp_path / "a.png", most=96), "label": "x"}], "Rows")
    assert 'class="thumb" src="data:image/png;base64,' in table
    assert "400 x 200 pixels" in table
