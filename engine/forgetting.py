"""The forgetting report: what training on one thing costs of the others.

The mean loss per token of a model on a fixed general probe and on the held-out rows of earlier stages, before the chain
and after each stage. A loss that has risen by more than the limit above its best is a warning. Only models
that write text are asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import data, splits
from engine.objectives import OBJECTIVES
from engine.plan import Plan

if TYPE_CHECKING:
    from engine.chains import Chain

MOST_ROWS = 64  # of each probe; judgement: the mean of 64 chats is steady to about a hundredth
ASKED = ("sft", "dapt")  # the objectives whose rows have a likelihood of their own


def can_be_asked(plan: Plan) -> bool:
    """Whether the plan's model writes text, so that a text has a likelihood under it."""
    return OBJECTIVES[plan.objective].task == "causal-lm"


def probes(chain: Chain, number: int) -> dict[str, Plan]:
    """Name -> the plan whose rows are asked after a stage: the probe, and every stage up to this one."""
    asked = {data.title(source): Plan(datasets=(source,), eval_fraction=0.0) for source in chain.probe}
    for place, stage in enumerate(chain.stages[: number + 1], start=1):
        if stage.plan.objective in ASKED:
            asked[f"stage {place}: {data.title(stage.plan.datasets[0])}"] = stage.plan
    return asked


def look(plan: Plan, asked: Mapping[str, Plan], *, name: str) -> dict[str, Any]:
    """One row of the report: `when`, and the mean loss per token on each probe, by its name.

    Of a stage's data only the held-out rows are asked, the same that its run kept aside; of the probe all.
    """
    return {"when": name} | {title: loss_on(plan, held_out_rows(of)) for title, of in asked.items()}


def held_out_rows(plan: Plan) -> list[data.Row]:
    """The rows of a plan to ask about; all of them where none is held out."""
    rows, held_out = splits.split(plan, data.load(plan.datasets, OBJECTIVES[plan.objective].shapes))
    return (held_out or rows)[:MOST_ROWS]


def loss_on(plan: Plan, rows: list[data.Row]) -> float:
    """Mean negative log-likelihood per token of the answers (of whole texts, where rows are texts) under the plan's model."""
    from engine import build
    from engine.train import make_trainer

    asking = Plan(
        model=plan.model, method="full", precision=plan.precision, max_length=plan.max_length, chat_template=plan.chat_template
    )
    model = build.load_base(asking, build.device_here())
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(asking, Path(folder), model, build.load_processor(asking), rows[:1], rows)
        return float(trainer.evaluate()["eval_loss"])


def warnings(report: Sequence[Mapping[str, Any]], limit: float) -> list[str]:
    """One sentence for each probe whose loss has risen by more than the limit above the best that it was."""
    said = []
    for title, losses in lines(report).items():
        best = min(losses)
        if losses[-1] > best * (1 + limit):
            said.append(
                f"{title}: the loss rose from {best:.3f} to {losses[-1]:.3f}, by more than {limit:.0%}. "
                "Replay some of the earlier rows, take a smaller learning rate, or fewer steps."
            )
    return said


def lines(report: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The losses of each probe in the order in which they were asked, probe by probe."""
    titles = dict.fromkeys(title for row in report for title in row if title != "when")
    return {title: [row[title] for row in report if title in row] for title in titles}
