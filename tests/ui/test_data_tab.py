"""The Data tab: what it shows is escaped, readable without colour, and goes back into the plan's form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from engine import data
from engine.data.cleaning import Cleaned
from engine.data.demos import first_plan
from engine.issues import PlanError
from engine.modeling import xray
from engine.modeling.build import load_tokenizer
from engine.modeling.xray import Look, Piece, Strip
from engine.plan import DataSource, Plan
from engine.system.home import visiting
from estimators.service.client import Estimator
from ui.plan import form
from ui.plan.form import BASE, Form
from ui.tabs import data_tab
from ui.tabs.data_tab import DataTab
from ui.views import charts, data_views

EVIL = "<script>alert(1)</script>{{ 7*7 }}${x}"


@pytest.fixture(scope="module")
def tab() -> DataTab:
    with gr.Blocks(), gr.Tab("Data") as place:
        return data_tab.build(place)


@pytest.fixture(scope="module")
def the_form() -> Form:
    with gr.Blocks():
        return Form(controls={BASE: gr.State(""), "datasets": gr.Dropdown()})


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estimator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITTINGROOM_HOME", str(tmp_path_factory.mktemp("estimator")))
        asked = Estimator()
        asked._ready.set()  # a look needs no estimate before it
        yield asked
        asked.close()


def plan_of(folder: Path, rows: list[Any], name: str = "rows.jsonl", **changes: Any) -> Plan:
    file = folder / name
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return first_plan().with_(datasets=(DataSource(path=str(file)),), **changes)


def seen(plan: Plan) -> xray.XRay:
    return xray.xray(plan, load_tokenizer(plan))


# --- views ----------------------------------------------------------------------------------------------------------


def test_text_of_a_file_is_never_html(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": EVIL}]}
    file = tmp_path / f"{EVIL.replace('/', '')}.jsonl"
    file.write_text("\n".join([json.dumps(chat), json.dumps(chat), json.dumps({EVIL: EVIL}), EVIL]))
    plan = first_plan().with_(datasets=(data.store_upload(file),), eval_fraction=0.0)
    look = xray.look(plan, 1, load_tokenizer(plan))
    found = seen(plan)
    cleaned = Cleaned(source=plan.datasets[0], name=EVIL, before=2, after=1, removed=((EVIL, 1),))
    shown = [
        data_views.source_facts(data.scan(plan.datasets[0])),
        data_views.rows_table([chat, {EVIL: EVIL}], EVIL),
        data_views.row(look),
        data_views.findings(found),
        data_views.shares(EVIL, [(EVIL, 3)]),
        data_views.cleaned(cleaned),
        data_tab.preview(plan.datasets[0], (), "messages"),
    ]
    assert found.findings
    for html in shown:
        assert "<script" not in html
        assert "{{" not in html
        assert "${" not in html


def test_what_is_learned_and_cut_is_told_without_colour() -> None:
    pieces = tuple(
        Piece(text=text, trained=trained, cut=cut, special=False)
        for text, trained, cut in (("Hi ", False, False), ("Hel", True, False), ("lo\n", True, False), ("gone", False, True))
    )
    look = Look(number=1, rows=2, strips=(Strip(name="", pieces=pieces, tokens=4, trained=2),), note="", label="good")
    html = data_views.row(look)
    assert html.count("<ins") == html.count("<del") == 1  # underlined, struck through
    assert "[learned: " in html
    assert "[cut: " in html
    assert "4 tokens, 2 of them learned" in html
    assert "↵" in html
    assert "good" in html


def test_the_chart_hatches_what_is_cut_and_marks_the_longest_sequence(tmp_path: Path) -> None:
    rows = [{"text": "word " * (5 + n)} for n in range(40)]
    found = seen(plan_of(tmp_path, rows, max_length=20))
    chart = charts.lengths(found)
    kept, cut = chart.data
    assert sum(kept.y) == found.counted - found.cut_rows
    assert sum(cut.y) == found.cut_rows > 0
    assert cut.marker.pattern.shape == "/"
    assert not kept.marker.pattern.shape
    assert [line.x0 for line in chart.layout.shapes] == [20.5]
    assert "longest sequence: 20" in chart.layout.annotations[0].text


def test_a_longest_sequence_far_to_the_right_is_named_and_not_drawn(tmp_path: Path) -> None:
    chart = charts.lengths(seen(plan_of(tmp_path, [{"text": "a b c"}] * 3, max_length=500, eval_fraction=0.0)))
    assert not chart.layout.shapes
    assert chart.layout.annotations[0].text == "longest sequence: 500 →"


# --- the source -----------------------------------------------------------------------------------------------------


def test_a_set_is_shown_as_it_is_and_as_training_gets_it(tmp_path: Path, tab: DataTab) -> None:
    plan = plan_of(tmp_path, [{"instruction": "Hi", "input": "", "output": "Hello"}, "oops"])
    shown = data_tab.source_shown(tab, plan)
    assert "Alpaca" in shown[tab.source]
    assert "line 2 of rows.jsonl" in shown[tab.source]
    assert "instruction" in shown[tab.preview]
    assert "What training gets: messages" in shown[tab.preview]


def test_columns_are_mapped_by_hand(tmp_path: Path, tab: DataTab) -> None:
    plan = plan_of(tmp_path, [{"Frage": "Hi", "Antwort": "Hallo"}])
    source = plan.datasets[0]
    roles = data_tab.roles_shown(tab, "prompt-completion", data.scan(source).columns, source)
    labels = [roles[dropdown].get("label") for dropdown in tab.roles[:2]]
    assert labels == ["prompt", "completion"]
    assert roles[tab.roles[0]]["choices"] == ["Frage", "Antwort"]
    assert data_tab.mapping("prompt-completion", ("Frage", None)) == {}
    mapping = data_tab.mapping("prompt-completion", ("Frage", "Antwort", None))
    mapped = DataSource(path=source.path, columns=mapping)
    assert data.load((mapped,)) == [{"prompt": "Hi", "completion": "Hallo"}]
    assert data_tab.source_shown(tab, plan.with_(datasets=(mapped,)))[tab.read_as] == "prompt-completion"


@pytest.mark.parametrize("key", data.FORMATS)
def test_every_format_can_be_asked_for_and_is_what_comes_out(key: str, tab: DataTab) -> None:
    row = data.FORMATS[key].example
    roles = data_tab.roles_shown(tab, key, tuple(row), DataSource(path="x"))
    picked = tuple(roles[dropdown].get("value") for dropdown in tab.roles)
    found, _ = data.Recognition(mapping=data_tab.mapping(key, picked)).read(dict(row))
    assert found.key == key


def test_an_upload_is_listed_by_its_name_after_a_reload(tmp_path: Path, the_form: Form) -> None:
    file = tmp_path / "my rows.jsonl"
    file.write_text('{"text": "a"}')
    stored = data.store_upload(file)
    assert ("Yours: my rows.jsonl", stored.path) in form.own_data(form.defaults())
    update = data_tab.chosen(the_form, form.defaults(), stored)[the_form.controls["datasets"]]
    assert update["value"] == stored.path
    assert ("Yours: my rows.jsonl", stored.path) in update["choices"]


def test_the_uploads_of_others_are_not_listed_on_a_public_demo(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "a"}')
    with visiting("a" * 32):
        stored = data.store_upload(file)
        assert form.own_data(form.defaults()) == [("Yours: mine.jsonl", stored.path)]
    for stranger in ("b" * 32, None):
        with visiting(stranger):
            assert form.own_data(form.defaults()) == []


def test_what_is_no_hub_id_is_not_fetched() -> None:
    with pytest.raises(PlanError, match="not the id of a data set of the hub"):
        data_tab.fetch_checked(DataSource(path="../../etc/passwd"))


# --- the estimator's process ----------------------------------------------------------------------------------------


def test_the_whole_look_through_the_other_process(tab: DataTab, estimator: Estimator, tmp_path: Path) -> None:
    rows = [{"prompt": f"Number {n}", "completion": f"It is {n * 7}"} for n in range(30)]
    plan = plan_of(tmp_path, [*rows, rows[0]])
    *_, last = data_tab.looked_through(tab, plan, estimator, number=2)
    assert last[tab.working] == ""
    assert "that copy an earlier row" in last[tab.findings]
    assert "Number 1" in "".join(last[tab.row].replace('</i><i class="tok">', ""))
    assert last[tab.template]["visible"] is False
    result = estimator.clean(plan, {"deduplicate": True, "cap": 10})
    assert (result.before, result.after) == (31, 10)


def test_a_model_without_a_tokenizer_here_is_one_sentence(tab: DataTab, estimator: Estimator, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [{"text": "a"}], model="Qwen/Qwen3-8B", gpu="L40S")
    *_, last = data_tab.looked_through(tab, plan, estimator)
    assert "tokenizer is not on this computer" in last[tab.working]
    assert last[tab.row] == ""
