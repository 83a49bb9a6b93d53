"""The Compare tab: its table, its charts and its sentences, from rows as the engine gives them."""

from __future__ import annotations

from engine.compare import Comparison, Row
from engine.plan import Plan
from estimators.compare_costs import Costs
from ui import compare_tab, compare_views
from ui.compare_views import AXES, COLUMNS, LOSS, RIGHT
from ui.survey_table import in_order

ROWS = (
    Row(
        method="lora", label="LoRA", state="finished", run_id="a", eval_loss=0.5, metric="perplexity", value=1.6, success=0.9,
        trainable_params=300_000, memory_peak=750_000_000, seconds=40.0, bytes=1_300_000,
    ),
    Row(
        method="full", label="Full", state="finished", run_id="b", eval_loss=0.4, metric="perplexity", value=1.5, success=0.95,
        trainable_params=3_500_000, memory_peak=800_000_000, seconds=35.0, bytes=14_000_000,
    ),
    Row(method="vblora", label="VB-LoRA", state="failed", run_id="c", reason="<b>no</b>"),
    Row(method="ia3", label="(IA)3", state="waiting"),
)  # fmt: skip
COMPARISON = Comparison(id="0" * 32, name="<i>mine</i>", created=0.0, plan=Plan(), methods=("lora", "full", "vblora", "ia3"))


def test_every_column_sorts_as_its_name_says() -> None:
    cells = compare_views.cells(ROWS)
    by = {column.sort: [row[0] for row in in_order(cells, COLUMNS, column.sort)] for column in COLUMNS if column.sort}
    assert by["Most right answers"][:2] == by["Lowest loss"][:2] == by["Fastest"][:2] == ["Full", "LoRA"]
    assert by["Fewest trained"][:2] == by["Least memory"][:2] == by["Smallest file"][:2] == ["LoRA", "Full"]
    assert all(set(names[2:]) == {"VB-LoRA", "(IA)3"} for names in by.values()), "what is not known comes last"


def test_quality_is_drawn_against_each_cost() -> None:
    for axis in AXES:
        figure = compare_views.chart(ROWS, axis, RIGHT)
        assert list(figure.data[0].y) == [0.9, 0.95], "methods that have not finished are no points"
        assert list(figure.data[0].x) == [axis.of(ROWS[0]), axis.of(ROWS[1])]
        assert list(figure.data[0].text) == ["LoRA", "Full"]
    assert compare_views.chart(ROWS[2:], AXES[0], LOSS).layout.annotations[0].text == compare_views.NOTHING_YET


def test_they_are_judged_by_what_there_is() -> None:
    assert compare_views.qualities(ROWS) == [RIGHT, LOSS]
    assert compare_views.qualities(ROWS[2:]) == [LOSS]
    of_classes = [Row(method="lora", label="LoRA", state="finished", metric="accuracy", value=0.8, eval_loss=0.3)]
    assert compare_views.qualities(of_classes) == ["Accuracy", LOSS]
    assert compare_views.chart(of_classes, AXES[0], "Accuracy").data[0].y == ()  # it has no figure of its costs yet


def test_what_people_typed_is_escaped() -> None:
    page = compare_views.head(COMPARISON, "running", ROWS) + compare_views.table_of([(COMPARISON, "finished")])
    assert "<i>mine" not in page
    assert "3 of 4 methods done" in page
    assert f"?compare={COMPARISON.id}" in page
    assert compare_views.table_of([]) == ""


def test_the_sum_is_said_in_a_sentence() -> None:
    assert "about 2 min in all, at most 1 GB at once." in compare_tab.in_sum(
        Costs(rows=(), seconds=120.0, memory=10**9, refused=0)
    )
    assert "2 of them do not go" in compare_tab.in_sum(Costs(rows=(), seconds=None, memory=None, refused=2))
