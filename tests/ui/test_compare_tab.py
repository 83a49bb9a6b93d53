"""The Compare tab: its table, its charts and its sentences, from rows as the engine gives them."""

from __future__ import annotations

from engine.issues import Issue, PlanError
from engine.pipelines.compare import Comparison, Row
from engine.plan import Plan
from estimators.advice.compare_costs import Costs
from estimators.estimate import Estimate
from ui.plan.survey_table import in_order
from ui.tabs import compare_tab, compare_views
from ui.tabs.compare_views import AXES, COLUMNS, LOSS, RIGHT

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


def test_names_do_not_cover_each_other_on_a_phone() -> None:
    close = [("Houlsby adapters", 793.0, 0.74), ("LoRA", 827.0, 0.82), ("DoRA", 829.0, 0.82), ("(IA)3", 796.0, 0.2)]
    across, up = ([low - 0.2 * (high - low), high + 0.2 * (high - low)] for low, high in ((793.0, 829.0), (0.2, 0.82)))
    width, height = compare_views.NARROW
    spots = [((x - across[0]) / (across[1] - across[0]) * width, (y - up[0]) / (up[1] - up[0]) * height) for _, x, y in close]
    places = compare_views._places(close, across, up)
    boxes = [compare_views._box(name, spot, place) for (name, _, _), spot, place in zip(close, spots, places, strict=True)]
    assert all(compare_views._shared(one, other) == 0 for one in boxes for other in boxes if one is not other)
    assert all(compare_views._outside(box) == 0 for box in boxes)


def test_marks_of_a_logarithmic_axis_are_round_and_named() -> None:
    axis = compare_views.chart(ROWS, AXES[0], RIGHT).layout.xaxis
    assert axis.tickvals == (200_000, 500_000, 1_000_000, 2_000_000, 5_000_000)
    assert axis.ticktext[:3] == ("200 k", "500 k", "1 M")


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


class Starting:
    """An estimator that is ready as soon as someone waits for it, and that refuses one of the methods."""

    ready = False

    def wait(self, seconds: float) -> bool:
        self.ready = True
        return True

    def ask(self, plan: Plan) -> Estimate:
        raise PlanError([Issue(field="method", message=f"{plan.method} does not go with it.", fix="Leave it out.")])


def test_the_costs_come_by_themselves_once_the_estimator_has_started() -> None:
    told = list(compare_tab.priced(Plan(), ["lora", "full"], Starting()))
    assert [sentence for sentence, _ in told[:2]] == [compare_tab.WARMING_UP, compare_tab.ASKING]
    assert "2 of them do not go" in told[-1][0]
    assert "full does not go with it" in told[-1][1]
    assert list(compare_tab.priced(Plan(), ["lora"], Starting())) == [(compare_tab.CHOOSE_TWO, "")]
