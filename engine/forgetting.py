"""The forgetting report: what training on one thing costs of the others.

The mean loss per token of a model on a fixed general probe and on the held-out rows of earlier stages, before the chain
and after each stage. A loss that has risen by more than the limit is a warning. Only models that write text are asked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import data
from engine.objectives import OBJECTIVES
from engine.plan import DataSource, Plan

if TYPE_CHECKING:
    from engine.chains import Chain

MOST_ROWS = 64  # of each probe; judgement: the mean of 64 chats is steady to about a hundredth
ASKED = ("sft", "dapt")  # the objectives whose rows have a likelihood of their own


def can_be_asked(plan: Plan) -> bool:
    """Whether the plan's model writes text, so that a text has a likelihood under it."""
    return OBJECTIVES[plan.objective].task == "causal-lm"


def probes(chain: Chain, number: int) -> dict[str, tuple[tuple[DataSource, ...], float]]:
    """Name -> (sources, share held out) of what is asked after a stage: the probe, and every stage up to this one."""
    asked = {source.path: ((source,), 0.0) for source in chain.probe}
    for place, stage in enumerate(chain.stages[: number + 1], start=1):
        if stage.plan.objective in ASKED:
            asked[f"stage {place}: {data.title(stage.plan.datasets[0])}"] = (stage.plan.datasets, stage.plan.eval_fraction)
    return asked


def look(plan: Plan, asked: dict[str, tuple[tuple[DataSource, ...], float]], *, name: str) -> dict[str, Any]:
    """One row of the report: `when`, and the mean loss per token on each probe, by its name.

    Of a stage's data only the held-out rows are asked, the same that its run kept aside; of the probe all.
    """
    return {"when": name} | {
        title: loss_on(plan, held_out_rows(sources, share, plan.seed)) for title, (sources, share) in asked.items()
    }


def held_out_rows(sources: tuple[DataSource, ...], share: float, seed: int) -> list[data.Row]:
    """The rows to ask about; all of them where none is held out."""
    rows = data.load(sources, OBJECTIVES["sft"].shapes)
    held_out = data.split(rows, eval_fraction=share, seed=seed)[1] if share else []
    return (held_out or rows)[:MOST_ROWS]


def loss_on(plan: Plan, rows: list[data.Row]) -> float:
    """Mean negative log-likelihood per token of the answers (of whole texts, where rows are texts) under the plan's model."""
    from engine import build
    from engine.train import make_trainer

    asking = Plan(model=plan.model, method="full", precision=plan.precision, max_length=plan.max_length)
    model = build.load_base(asking, build.device_here())
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(asking, Path(folder), model, build.load_processor(asking), rows[:1], rows)
        return float(trainer.evaluate()["eval_loss"])


def warnings(report: list[dict[str, Any]], limit: float) -> list[str]:
    """One sentence for each probe whose loss has risen by more than the limit since it was first asked."""
    said = []
    for title in {title for row in report for title in row if title != "when"}:
        losses = [row[title] for row in report if title in row]
        if losses[-1] > losses[0] * (1 + limit):
            said.append(
                f"{title}: the loss rose from {losses[0]:.3f} to {losses[-1]:.3f}, by more than {limit:.0%}. "
                "Replay some of the earlier rows, take a smaller learning rate, or fewer steps."
            )
    return sorted(said)
