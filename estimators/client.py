"""The page's side of the estimator: a process that has torch, started early and asked over a pipe.

The web process never imports torch; a repeated question is answered from memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from engine.home import home
from engine.methods import METHODS
from engine.pipe import JsonProcess
from engine.plan import Issue, Plan, PlanError
from estimators import fixes
from estimators.estimate import Estimate
from estimators.fixes import Fix
from estimators.survey import GpuRow, MethodRow

REMEMBERED = 512
Answer = TypeVar("Answer")


class Estimator:
    """Made once by the app; safe to call from several requests at once (they wait for each other)."""

    def __init__(self) -> None:
        self._process = JsonProcess("estimators", "--jsonl", log=home() / "estimator.log")
        self._known: OrderedDict[tuple[str, str | None, str], Any] = OrderedDict()
        self._ready = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether the first answer has come: from now on they are quick."""
        return self._ready.is_set()

    def warm_up(self) -> None:
        """Start the process and let it work out the plan that the page opens with, in the background."""
        from engine.demos import first_plan

        threading.Thread(target=self._first, args=(first_plan(),), daemon=True).start()

    def _first(self, plan: Plan) -> None:
        with contextlib.suppress(PlanError):  # whoever asks next gets the reason
            self.ask(plan)
        self._ready.set()

    def ask(self, plan: Plan) -> Estimate:
        """The estimate of a plan. Raises `PlanError` with the issues, also those that only a real build shows."""
        return self._remembered("estimate", plan, Estimate.from_dict)

    def fixes(self, plan: Plan) -> Iterator[Fix]:
        """The changes that would make the plan fit, each as it is found. The estimates of others come in between."""
        if fixes.wanted(self.ask(plan)):
            yield from fixes.search(lambda kind: self._fixes_of(kind, plan))

    def _fixes_of(self, kind: str, plan: Plan) -> tuple[Fix, ...]:
        return self._remembered("fixes", plan, lambda reply: tuple(Fix(**fix) for fix in reply["fixes"]), only=kind)

    def gpu_survey(self, plan: Plan) -> list[GpuRow]:
        """The plan on every GPU."""
        return self._remembered("survey", plan, lambda reply: [GpuRow(**row) for row in reply["survey"]])

    def method_survey(self, plan: Plan) -> Iterator[MethodRow]:
        """The plan with every method, each as it is worked out."""
        for key in METHODS:
            yield self._remembered("methods", plan, lambda reply: MethodRow(**reply["methods"][0]), only=key)

    def _remembered(self, ask: str, plan: Plan, read: Callable[[dict[str, Any]], Answer], only: str | None = None) -> Answer:
        """The answer to a question, from memory if it was asked before."""
        key = (ask, only, plan.to_json())
        if key not in self._known:
            reply = next(iter(self._process.ask({"ask": ask, "plan": plan.to_dict(), "only": only})))
            if "error" in reply:
                raise PlanError([Issue(**issue) for issue in reply["issues"]])
            self._known[key] = read(reply)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def close(self) -> None:
        """End the process."""
        self._process.close()
