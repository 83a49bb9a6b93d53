"""Several data sets at once: what the rows of the Plan tab say is what the plan mixes, prices and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from engine import checks, data
from engine.data import holdout, token_counts
from engine.data.demos import DEMOS
from engine.modeling import xray
from engine.modeling.build import load_tokenizer
from engine.plan import DataSource, Plan
from ui.plan import form, mixture
from ui.plan.form import BASE, MORE_SETS, MOST_SETS
from ui.tabs import plan_tab
from ui.tabs.plan_tab import PlanTab

PIRATE, FACTS = DataSource(path="demo/pirate"), DataSource(path="demo/facts", weight=0.5)


@pytest.fixture(scope="module")
def tab() -> PlanTab:
    with gr.Blocks():
        return plan_tab.build()


def values_of(tab: PlanTab, plan: Plan) -> dict[str, Any]:
    """What the controls would say after the form has shown a plan."""
    updates = form.shown(plan, tab.form)
    values = {name: control.value for name, control in tab.form.controls.items()}
    for name, control in tab.form.controls.items():
        update = updates.get(control, values[name])
        values[name] = update.get("value", values[name]) if isinstance(update, dict) and "__type__" in update else update
    return values


@pytest.mark.parametrize(
    "sets", [(PIRATE,), (PIRATE, FACTS), (FACTS, PIRATE, DataSource(path="demo/json_answers", weight=3.0))]
)
def test_the_form_shows_a_mixture_and_reads_it_back(tab: PlanTab, sets: tuple[DataSource, ...]) -> None:
    assert form.read(values_of(tab, form.defaults().with_(datasets=sets))).datasets == sets


def test_columns_and_splits_of_a_set_outlive_a_change_of_its_weight(tab: PlanTab) -> None:
    mapped = DataSource(path="owner/name", config="de", split="test", columns={"prompt": "Frage", "completion": "Antwort"})
    values = values_of(tab, form.defaults().with_(datasets=(PIRATE, mapped)))
    values[form.weight_name(2)] = 2
    found = form.read(values).datasets[1]
    assert (found.weight, found.config, found.split, found.columns) == (2, "de", "test", mapped.columns)


def test_a_set_that_is_removed_is_gone_and_more_sets_than_rows_stay(tab: PlanTab) -> None:
    many = tuple(DataSource(path=demo.path) for demo in list(DEMOS.values())[: MOST_SETS + 1])
    values = values_of(tab, form.defaults().with_(datasets=many))
    assert form.read(values).datasets == many
    values[form.set_name(3)] = None
    assert form.read(values).datasets == (*many[:2], *many[3:])


def test_each_new_set_goes_with_the_objective_and_is_another_one(tab: PlanTab) -> None:
    plan, paths = form.defaults(), []
    for _ in MORE_SETS[:2]:
        paths.append(mixture.another(plan))
        plan = plan.with_(datasets=(*plan.datasets, DataSource(path=paths[-1])))
    assert paths == ["demo/json_answers", "demo/facts"]
    assert [issue for issue in checks.check_start(plan) if issue.severity == "error"] == []


def test_the_shares_are_those_of_the_rows_that_are_trained_on(tab: PlanTab) -> None:
    plan = form.defaults().with_(datasets=(PIRATE, FACTS), eval_fraction=0.0)
    rows = data.load(plan.datasets, token_counts.accepts(plan))
    assert sum(holdout.sizes(plan)) == len(rows)
    told = mixture.shares(plan)
    assert f"{holdout.sizes(plan)[1] / len(rows):.0%}" in told
    assert f"2 sets · {len(rows):,} rows" in plan_tab.data_facts(plan)
    assert mixture.shares(form.defaults()) == ""
    seen = xray.xray(plan, load_tokenizer(plan))
    assert seen.rows == len(rows)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), 1e9, "x", True])
def test_a_weight_that_is_none_is_one_sentence(weight: Any, tab: PlanTab) -> None:
    values = values_of(tab, form.defaults().with_(datasets=(PIRATE, FACTS)))
    values[form.weight_name(2)] = weight
    (issue,) = checks.check(form.read(values))
    assert issue.field == "datasets[1].weight"
    assert issue.sentence().endswith("Use a number above 0 and at most 10000.")


def test_a_sample_of_large_sets_keeps_the_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counts, "MOST_LOADED", 100)
    monkeypatch.setattr(token_counts, "MOST_COUNTED", 60)
    sources = []
    for name, weight in (("short", 0.25), ("long", 1.0)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(f'{{"text": "{name} {number}"}}' for number in range(100)))
        sources.append(DataSource(path=str(file), weight=weight))
    found = token_counts.load(Plan(datasets=tuple(sources), eval_fraction=0.0))
    assert [sum(row["text"].startswith(name) for row in found.train) for name in ("short", "long")] == [12, 48]
    assert found.total == 125


def test_the_base_plan_has_no_say_in_the_sets(tab: PlanTab) -> None:
    """A set that was chosen last wins over the one of a plan that was loaded before."""
    values = values_of(tab, form.defaults()) | {BASE: form.defaults().with_(datasets=(PIRATE, FACTS)).to_json()}
    assert form.read(values).datasets == (PIRATE,)
