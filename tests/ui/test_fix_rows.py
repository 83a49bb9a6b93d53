"""The fixes below the fit card: words with signs, nothing unescaped, and a click that changes the form."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest

from engine.issues import Issue, PlanError
from estimators.advice.fixes import KINDS, Fix
from estimators.advice.survey import GpuRow, MethodRow
from tests.ui.test_form import values_for
from ui.plan import fix_rows, form, survey_table
from ui.plan.fix_rows import FixRows
from ui.tabs import plan_tab
from ui.tabs.plan_tab import PlanTab
from ui.views import formats

FIX = Fix(
    label="Gradient checkpointing",
    changes={"gradient_checkpointing": True},
    memory_saved=3_900_000_000,
    time_factor=1.28,
    fits="yes",
    note="costs time alone",
)


@pytest.fixture(scope="module")
def tab() -> PlanTab:
    with gr.Blocks():
        return plan_tab.build()


@pytest.fixture
def rows(tab: PlanTab) -> FixRows:
    return tab.fixes


def test_a_fix_says_what_it_saves_and_costs() -> None:
    line = fix_rows.in_words(FIX)
    for piece in ("Gradient checkpointing", "✓ then it fits", "−3.9 GB", "+28 % time", "costs time alone"):
        assert piece in line


def test_nothing_unescaped_reaches_the_page() -> None:
    hostile = Fix(label="<img>{{x}}${1}", memory_saved=1, time_factor=None, fits="no", note="<b>$")
    line = fix_rows.in_words(hostile)
    assert "<img" not in line
    assert "<b>" not in line
    assert "{" not in line
    assert "$" not in line


@pytest.mark.parametrize(("factor", "said"), [(1.28, "+28 % time"), (0.9, "−10 % time"), (1.001, "same time"), (None, "")])
def test_the_change_of_time(factor: float | None, said: str) -> None:
    assert formats.change_of_time(factor) == said


def test_there_is_a_row_for_every_kind(rows: FixRows) -> None:
    assert len(rows.rows) == len(KINDS)


def test_rows_appear_one_by_one_and_stay(rows: FixRows) -> None:
    updates = list(fix_rows._shown(rows, iter([FIX, FIX])))
    assert updates[0][rows.rows[0].line]["visible"]
    assert not updates[0][rows.rows[1].line]["visible"]
    assert [updates[1][row.line]["visible"] for row in rows.rows[:3]] == [True, True, False]
    assert len(updates[1][rows.found]) == 2


def test_without_fixes_there_is_no_list(rows: FixRows) -> None:
    def refused() -> Iterator[Fix]:
        raise PlanError([Issue(field="model", message="is odd.", fix="")])
        yield FIX

    for fixes in (iter([]), refused()):
        assert [update[rows.box]["visible"] for update in fix_rows._shown(rows, fixes)] == [False]


def test_a_click_changes_the_form(tab: PlanTab) -> None:
    values = values_for(form.defaults(), tab.form)
    turn = fix_rows.Turn(number=3)
    updates = fix_rows._applied(tab.fixes, tab.form, 0)(found=[dict(FIX.changes)], turn=turn, **values)
    assert turn.number == 4, "a search that is under way shows nothing more"
    assert not updates[tab.fixes.box]["visible"]
    assert updates[tab.form.controls["gradient_checkpointing"]] is True
    assert form.read(values_for(form.defaults().with_(**FIX.changes), tab.form)).gradient_checkpointing


def test_the_tables_hold_numbers_and_words() -> None:
    gpu = GpuRow(
        name="T4",
        gpu="T4",
        precision="fp16",
        capacity=15_800_000_000,
        memory=None,
        fits=None,
        seconds=None,
        cost=None,
        note="why",
    )
    assert survey_table.gpu_cells([gpu]) == [["T4", survey_table.REFUSED, None, 15.8, None, None, "why"]]
    method = MethodRow(
        key="lora", label="LoRA", trainable_params=1, total_params=200, memory=2_000_000_000, fits="tight", seconds=3600
    )
    assert survey_table.method_cells([method]) == [["LoRA", "! tight", 0.5, 2.0, 1.0, ""]]
    assert len(survey_table.gpu_cells([gpu])[0]) == len(survey_table.GPU_COLUMNS)
    assert len(survey_table.method_cells([method])[0]) == len(survey_table.METHOD_COLUMNS)


ROWS = [
    ["A", survey_table.VERDICTS["no"], 30.0, 16.0, 2.0, None, ""],
    ["B", survey_table.VERDICTS["yes"], 20.0, 24.0, 1.0, 9.0, ""],
    ["C", survey_table.REFUSED, None, 24.0, None, None, "why"],
    ["D", survey_table.VERDICTS["tight"], 20.0, 24.0, 3.0, 1.0, ""],
]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        (survey_table.UNSORTED, "ABCD"),
        ("Verdict", "BDAC"),
        ("Memory needed", "BDAC"),
        ("Fastest", "BADC"),
        ("Cheapest", "DBAC"),
    ],
)
def test_a_survey_is_sorted_and_the_unknown_comes_last(by: str, names: str) -> None:
    assert "".join(row[0] for row in survey_table.in_order(ROWS, survey_table.GPU_COLUMNS, by)) == names


def test_the_most_trainable_comes_first() -> None:
    rows = [["x", survey_table.VERDICTS["yes"], share, 1.0, 1.0, ""] for share in (1.0, None, 100.0)]
    found = survey_table.in_order(rows, survey_table.METHOD_COLUMNS, "Most trainable")
    assert [row[2] for row in found] == [100.0, 1.0, None]


def test_a_survey_names_each_figure_and_escapes_what_people_wrote() -> None:
    table = survey_table.html([["<b>My card</b>", *ROWS[0][1:]]], survey_table.GPU_COLUMNS, "For a plan")
    assert "<b>My card</b>" not in table
    assert table.count("data-label=") == len(survey_table.GPU_COLUMNS)
    assert table.count('scope="col"') == len(survey_table.GPU_COLUMNS)
    assert ">–<" in table, "a figure that is not known is a dash"
