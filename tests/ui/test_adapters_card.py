"""The joint view of several adapters: what each said, and which does each task best."""

from __future__ import annotations

import pytest

from engine.data.demos import first_plan
from engine.inference.several_adapters import BASE, Said
from engine.issues import PlanError
from engine.jobs.runs import Run
from ui.tabs import adapters_card


def run_of(number: int, name: str) -> Run:
    return Run(
        id=f"{number:032x}", name=name, created=0.0, plan_json=first_plan().to_json(), state="finished",
        pid=None, pid_started=None, reason="",
    )  # fmt: skip


RUNS = [run_of(1, "pirate"), run_of(2, "<i>facts</i>")]


def test_answers_are_text() -> None:
    said = [Said(name=BASE, task="", value="plain"), Said(name=RUNS[1].id, task="", value="<b>Oona</b>")]
    told = adapters_card.answers_table(RUNS, said)
    assert "&lt;i&gt;facts" in told
    assert "&lt;b&gt;Oona" in told
    assert "<b>" not in told


def test_the_best_of_a_task_is_marked_when_all_were_asked() -> None:
    names = (BASE, RUNS[0].id, RUNS[1].id)
    losses = {(name, run.id): 1.0 + (name != run.id) + 0.5 * (name == BASE) for name in names for run in RUNS}
    said = [Said(name=name, task=task, value=value) for (name, task), value in losses.items()]
    assert adapters_card.losses_table(RUNS, said[:-1]).count("✓") == 1, "the last one may still be the best"
    told = adapters_card.losses_table(RUNS, said)
    assert told.count("✓") == 2
    assert told.count("1 ✓") == 2, "each adapter is the best at its own task"
    assert "…" in adapters_card.losses_table(RUNS, said[:1])
    assert "✓" not in adapters_card.losses_table(RUNS, said[:1])


def test_without_a_choice_it_says_what_to_do() -> None:
    with pytest.raises(PlanError, match="Choose finished runs of one base model"):
        adapters_card.runs_of([])
    assert adapters_card.choices() == []
