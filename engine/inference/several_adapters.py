"""Several adapters on one base: one model in memory, the adapters in it by name. `python -m engine.inference.several_adapters`

One adapter per task on a shared base costs little more memory than one alone. The process reads one request per line:

    {"runs": [RUN_ID, ...], "prompt": "...", "max_new_tokens": 64}    each adapter's answer, as it comes
    {"runs": [RUN_ID, ...]}                                           each adapter's loss on each run's held-out rows

and writes lines {"name", "task", "value", "done"}: `name` is a run's id or "" for the base, `value` a text or a number.
`Joint` is the page's side of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import data
from engine.data import holdout, tokenization
from engine.issues import Issue, PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.methods import METHODS
from engine.objectives import OBJECTIVES
from engine.plan import Plan
from engine.system import redaction
from engine.system.errors import in_plain_words
from engine.system.home import home
from engine.system.json_process import JsonProcess, asked_by

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = ""
MOST_ADAPTERS = 8
MOST_ROWS = 32  # of each task; judgement: enough to tell a task that was learned from one that was not
SECONDS = 600.0
# One model holds one adapter only of these: they change weights of the base itself, are two adapters already, or (AdaLoRA)
# give each layer another rank. Every other method was tried with two: each answers as it does alone (PEFT 0.21.2).
ALONE = ("adalora", "lora_bitfit", "lora_embeddings", "lora_prompt_tuning", "lora_prefix_tuning", "ia3_prompt_tuning")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one adapter (a run's id, or "" for the base) gave: an answer, or its loss on the rows of a task (a run's id)."""

    name: str
    task: str
    value: str | float


# --- the page's side ------------------------------------------------------------------------------------------------


def can_be_joined(run: Run) -> bool:
    """Whether the run left an adapter of a model that writes text."""
    try:
        plan = run.plan
    except PlanError:
        return False
    writes = plan.objective in OBJECTIVES and OBJECTIVES[plan.objective].task == "causal-lm"
    return writes and not run.is_active and (run.folder / "adapter").is_dir()


def check(chosen: Sequence[Run]) -> None:
    """Raise `PlanError` where the adapters do not go into one model: they need one base, and one kind of method."""
    if not 1 <= len(chosen) <= MOST_ADAPTERS:
        raise _wrong(f"{len(chosen)} adapters are chosen.", f"Choose 1 to {MOST_ADAPTERS}.")
    first = chosen[0]
    for other in chosen[1:]:
        if _base_of(other.plan) != _base_of(first.plan):
            raise _wrong(f"“{other.name}” and “{first.name}” have different bases.", "Choose adapters of one base model.")
        if other.plan.method != first.plan.method:
            message = f"“{other.name}” is {METHODS[other.plan.method].label}, “{first.name}” is not."
            raise _wrong(message, "One model takes the adapters of one method: choose those.")

    if len(chosen) > 1 and first.plan.method in ALONE:
        message = f"one model holds one adapter of {METHODS[first.plan.method].label} only."
        raise _wrong(message, "Choose one of them, or ask them one after the other on Try.")


def _base_of(plan: Plan) -> tuple[Any, ...]:
    """What decides the weights that an adapter stands on."""
    return json.dumps(plan.model), plan.quantization, plan.precision, plan.chat_template


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="adapters", message=message, fix=fix)])


class Joint:
    """Made once by the page; one process answers for whatever adapters are asked for."""

    def __init__(self) -> None:
        self._process = JsonProcess("engine.inference.several_adapters", log=home() / "joint.log")

    def answers(self, chosen: Sequence[Run], prompt: str, max_new_tokens: int = 64) -> Iterator[Said]:
        """The base's and each adapter's answer to a prompt. Raises `PlanError`."""
        check(chosen)
        if not prompt.strip():
            raise PlanError([Issue(field="prompt", message="is empty.", fix="Write a question.")])
        return self._ask({"runs": [run.id for run in chosen], "prompt": prompt, "max_new_tokens": max_new_tokens})

    def losses(self, chosen: Sequence[Run]) -> Iterator[Said]:
        """The loss of the base and of each adapter on the held-out rows of each run. Raises `PlanError`."""
        check(chosen)
        return self._ask({"runs": [run.id for run in chosen]})

    def _ask(self, request: Mapping[str, Any]) -> Iterator[Said]:
        for reply in self._process.ask(request, timeout=SECONDS):
            if "issues" in reply:
                raise PlanError([Issue(**issue) for issue in reply["issues"]])
            if reply:  # the last line says only that it is the last
                yield Said(**reply)

    def close(self) -> None:
        """End the process."""
        self._process.close()


# --- the process ----------------------------------------------------------------------------------------------------


class Adapters:
    """A base model with the adapters of several runs, by the runs' ids."""

    def __init__(self, chosen: Sequence[Run]):
        from engine.adapters import attach
        from engine.modeling import build

        self.plans = {run.id: run.plan for run in chosen}
        plan = chosen[0].plan
        self.tokenizer: PreTrainedTokenizerBase = build.load_processor(plan)
        base = build.load_base(plan, build.device_here())
        self.model: PreTrainedModel = attach.load(base, chosen[0].folder / "adapter")
        self.names = {chosen[0].id: self.model.active_adapter}
        for run in chosen[1:]:
            self._add(run.id, run.folder / "adapter")
        self.model.eval()

    def _add(self, name: str, folder: Path) -> None:
        self.model.load_adapter(str(folder), adapter_name=name, use_safetensors=True)
        self.names[name] = name

    def answering(self, name: str) -> AbstractContextManager[Any]:
        """Within it the model answers with this adapter, or as the base."""
        if name == BASE:
            return self.model.disable_adapter()
        self.model.set_adapter(self.names[name])
        return contextlib.nullcontext()


def replies(adapters: Adapters, request: Mapping[str, Any]) -> Iterator[Said]:
    """What is said to one request, piece by piece."""
    from engine.inference import worker

    for name in (BASE, *request["runs"]):
        with adapters.answering(name):
            if "prompt" in request:
                grown = list(worker.stream(adapters.model, adapters.tokenizer, request["prompt"], request))
                yield Said(name=name, task="", value=grown[-1] if grown else "")
                continue
            for task in request["runs"]:
                yield Said(name=name, task=task, value=loss(adapters, adapters.plans[task]))


def loss(adapters: Adapters, plan: Plan) -> float:
    """Mean negative log-likelihood per trained token of a plan's held-out rows (of all, where none is held out)."""
    import torch

    rows, held_out = holdout.split(plan, data.load(plan.datasets, OBJECTIVES[plan.objective].shapes))
    total, tokens = 0.0, 0
    for row in (held_out or rows)[:MOST_ROWS]:
        for sequence in tokenization.encode(row, adapters.tokenizer, plan.objective):
            ids = torch.tensor([sequence.ids[: plan.max_length]], device=adapters.model.device)
            trained = torch.tensor(sequence.trained[1 : plan.max_length], device=ids.device)
            if not bool(trained.any()):
                continue
            with torch.no_grad():
                likelihoods = adapters.model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            picked = likelihoods.gather(1, ids[0, 1:, None])[:, 0]
            total -= float(picked[trained].sum())
            tokens += int(trained.sum())
    return total / tokens if tokens else math.nan


def main() -> int:
    """Answer requests until the input ends; another choice of adapters replaces the ones in memory."""
    redaction.redact_output()
    adapters: Adapters | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            with in_plain_words(), asked_by(request):
                chosen = [found for run_id in request["runs"] if (found := runs.get(run_id)) is not None]
                check(chosen)
                if adapters is None or list(adapters.plans) != [run.id for run in chosen]:
                    adapters = None  # one base at a time
                    adapters = Adapters(chosen)
                for said in replies(adapters, request):
                    _say(vars(said) | {"done": False})
                _say({"done": True})
        except PlanError as error:
            _say({"issues": [vars(issue) for issue in error.issues], "done": True})
    return 0


def _say(reply: Mapping[str, Any]) -> None:
    print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    sys.exit(main())
