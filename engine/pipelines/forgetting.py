"""The forgetting report: what training on one thing costs of the others.

The mean loss of a model on a fixed general probe and on the held-out rows of earlier stages, before the chain and after
each stage. A loss that has risen by more than the limit above its best is a warning. Models that write text are asked
per token about the probe, and about the stages that learned from texts; any other model about the stages whose rows it
can still read: those of its own kind, with the same classes where there are classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import data
from engine.data import holdout
from engine.modeling import build
from engine.objectives import OBJECTIVES, task_of
from engine.plan import Plan

if TYPE_CHECKING:
    from engine.pipelines.chains import Chain

MOST_ROWS = 64  # of each probe; judgement: the mean of 64 chats is steady to about a hundredth
ASKED = ("sft", "dapt")  # of the objectives of text-writing models, those whose rows have a likelihood of their own


def probes(chain: Chain, number: int) -> dict[str, Plan]:
    """Name -> the plan whose rows a stage's result is asked about: the probe, and the stages up to this one that it can read.

    None for a model of another kind than those that write text, unless the chain has two stages for it: only then can
    something be forgotten.
    """
    stages = [(place, stage.plan) for place, stage in enumerate(chain.stages, start=1)]
    alike = [(place, plan) for place, plan in stages if _reads_alike(chain.stages[number].plan, plan)]
    asked = {f"stage {place}: {data.title(plan.datasets[0])}": plan for place, plan in alike if place <= number + 1}
    if not _writes_text(chain.stages[number].plan):
        return asked if len(alike) > 1 else {}
    longest = chain.stages[0].plan.max_length  # of all rows of the report, so that they can be compared
    return {data.title(one): Plan(datasets=(one,), eval_fraction=0.0, max_length=longest) for one in chain.probe} | asked


def _writes_text(plan: Plan) -> bool:
    return OBJECTIVES[plan.objective].task == "causal-lm"


def _reads_alike(now: Plan, other: Plan) -> bool:
    """Whether a model of the plan `now` has a loss on the rows of `other`."""
    task = task_of(now)
    if task.key != task_of(other).key:
        return False
    if _writes_text(now):
        return other.objective in ASKED
    return task.labels in ("none", "one") or build.labels_of(now) == build.labels_of(other)


def can_tell(chain: Chain) -> bool:
    """Whether a chain can have a report: it writes text, or two of its stages train one kind of model."""
    kinds = [OBJECTIVES[stage.plan.objective].task for stage in chain.stages]
    return any(kinds.count(kind) > 1 or _writes_text(stage.plan) for kind, stage in zip(kinds, chain.stages, strict=True))


def look(plan: Plan, asked: Mapping[str, Plan], *, name: str) -> dict[str, Any]:
    """One row of the report: `when`, and the mean loss on each probe, by its name.

    Of a stage's data only the held-out rows are asked, the same that its run kept aside; of the probe all.
    """
    return {"when": name} | {title: loss_on(plan, of, held_out_rows(of)) for title, of in asked.items()}


def held_out_rows(plan: Plan) -> list[data.Row]:
    """The rows of a plan to ask about; all of them where none is held out."""
    rows, held_out = holdout.split(plan, data.load(plan.datasets, OBJECTIVES[plan.objective].shapes))
    return (held_out or rows)[:MOST_ROWS]


def loss_on(plan: Plan, of: Plan, rows: list[data.Row]) -> float:
    """The mean loss of the plan's model on rows of another plan, as that plan's objective has it.

    Of a model that writes text it is the negative log-likelihood per token of the answers (of whole texts, where rows are
    texts).
    """
    from engine.train import make_trainer

    likelihood = {"objective": "sft", "objective_options": {}} if _writes_text(of) else {}
    asking = of.with_(
        **likelihood,
        model=plan.model, method="full", method_options={}, quantization="none", precision=plan.precision,
        chat_template=plan.chat_template, packing=False,
    )  # fmt: skip
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
