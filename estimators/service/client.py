"""The page's side of the estimator: a process that has torch, started early and asked over a pipe.

The web process never imports torch; a repeated question is answered from memory.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from engine import data
from engine.data.cleaning import Cleaned
from engine.issues import Issue, PlanError
from engine.methods import METHODS
from engine.modeling.xray import Look, XRay
from engine.plan import Plan
from engine.system.home import current_visitor, home
from engine.system.json_process import HelperStopped, JsonProcess
from estimators.advice import fixes, limits, survey
from estimators.advice.budget import Solution
from estimators.advice.fixes import Fix
from estimators.advice.limits import Limit
from estimators.advice.survey import GpuRow, MethodRow
from estimators.estimate import Estimate
from estimators.timing import measured
from estimators.timing.measured import Measured

REMEMBERED = 512
SECONDS_BETWEEN_COLLECTIONS = 5.0
SECONDS_TO_CLEAN = 600  # a set of a GB is read twice and written once
SECONDS_FOR_DATA = 120  # a look through all rows
# An estimate took at most 4 s of CPU time after the imports, of a 405 B model too (benchmarks/estimate_speed.py).
CPU_SECONDS = 30.0
MEMORY = 4 * 2**30  # the process held 0.7 GB after estimates of a 405 B model, 1.5 GB after the table of all methods
SECONDS_STOPPED = 600.0  # that a plan which was too slow or too large is not tried again
OF_DATA = ("xray", "look")  # questions whose answer takes as long as the data are large
Answer = TypeVar("Answer")


class Estimator:
    """Made once by the app; safe to call from several requests at once (they wait for each other)."""

    def __init__(self) -> None:
        self._process = JsonProcess("estimators", "--jsonl", log=home() / "estimator.log", memory=MEMORY)
        self._known: OrderedDict[tuple[str, str | None, str, str | None], Any] = OrderedDict()
        # By plan: when and by what it cost the process its life.
        self._stopped: OrderedDict[tuple[str, str | None], tuple[float, HelperStopped]] = OrderedDict()
        self._ready = threading.Event()
        self._closed = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether the first answer has come: from now on they are quick."""
        return self._ready.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is ready, at most so long. Returns whether it is."""
        return self._ready.wait(seconds)

    def warm_up(self) -> None:
        """Start the process and let it work out the plan that the page opens with, in the background."""
        from engine.data.demos import first_plan

        threading.Thread(target=self._first, args=(first_plan(),), daemon=True).start()

    def _first(self, plan: Plan) -> None:
        with contextlib.suppress(PlanError):  # whoever asks next gets the reason
            self.ask(plan)
        self._ready.set()
        while not self._closed.wait(SECONDS_BETWEEN_COLLECTIONS):
            with contextlib.suppress(PlanError, OSError, sqlite3.OperationalError):  # a full disk now is tried again
                self.collect()

    def collect(self) -> list[Measured]:
        """Note what runs that have ended since the last time measured; later estimates learn from it."""
        added = measured.collect(self._uncorrected)
        if added:
            self._known.clear()
        return added

    def _uncorrected(self, plan: Plan) -> Estimate:
        return self._remembered("estimate", plan, Estimate.from_dict, only="uncorrected")

    def ask(self, plan: Plan) -> Estimate:
        """The estimate of a plan. Raises `PlanError` with the issues, also those that only a real build shows."""
        return self._remembered("estimate", plan, Estimate.from_dict)

    def fixes(self, plan: Plan, kinds: Iterable[str] | None = None) -> Iterator[Fix]:
        """The changes that would make the plan fit, each as it is found. The estimates of others come in between.

        Args:
            plan: a checked plan.
            kinds: which of `fixes.KINDS` to try, read one at a time; all, if None.
        """
        if fixes.wanted(self.ask(plan)):
            yield from fixes.search(lambda kind: self._fixes_of(kind, plan), kinds)

    def _fixes_of(self, kind: str, plan: Plan) -> tuple[Fix, ...]:
        return self._remembered("fixes", plan, lambda reply: tuple(Fix(**fix) for fix in reply["fixes"]), only=kind)

    def gpu_survey(self, plan: Plan) -> Iterator[list[GpuRow]]:
        """The plan on every GPU: all rows that are known, again with each group of GPUs that is worked out."""
        rows: list[GpuRow] = []
        for group in survey.gpu_groups(plan):
            rows += self._remembered("survey", plan, lambda reply: [GpuRow(**row) for row in reply["survey"]], only=group)
            yield survey.in_table_order(rows)

    def method_survey(self, plan: Plan) -> Iterator[MethodRow]:
        """The plan with every method, each as it is worked out."""
        for key in METHODS:
            yield self._remembered("methods", plan, lambda reply: MethodRow(**reply["methods"][0]), only=key)

    def xray(self, plan: Plan, template: str = "") -> XRay:
        """What a look through the plan's rows shows. Raises `PlanError`."""
        return self._of_data("xray", plan, XRay.from_dict, template=template)

    def look(self, plan: Plan, number: int, template: str = "") -> Look:
        """One row of the plan as tokens. Raises `PlanError`."""
        return self._of_data("look", plan, Look.from_dict, number=number, template=template)

    def clean(self, plan: Plan, wishes: Mapping[str, Any], template: str = "") -> Cleaned:
        """Write a cleaned version of the plan's first data set; or its chats with a named template. Raises `PlanError`."""
        wanted = json.dumps({"wishes": dict(wishes), "template": template})
        request = {"ask": "clean", "plan": plan.to_dict(), "only": wanted}
        reply = next(iter(self._process.ask(request, timeout=SECONDS_TO_CLEAN)))
        if "error" in reply:
            raise PlanError([Issue(**issue) for issue in reply["issues"]])
        return Cleaned.from_dict(reply["clean"])

    def _of_data(self, ask: str, plan: Plan, read: Callable[[dict[str, Any]], Answer], **wanted: Any) -> Answer:
        """A question whose answer depends on what is in the files now."""
        only = json.dumps(wanted | {"data": data.fingerprint(plan.datasets)})
        return self._remembered(ask, plan, lambda reply: read(reply[ask]), only=only)

    def limit(self, plan: Plan, field: str) -> Limit:
        """The largest value of one field of `limits.LIMITED` with which the plan fits; others may ask in between."""
        return limits.largest(plan, field, self.ask)

    def budget(self, plan: Plan, words: str) -> tuple[Solution, ...]:
        """The sizes of the method within a budget: "4000000" parameters, or a file of "16 MB". Raises `PlanError`."""
        return self._remembered("budget", plan, lambda reply: tuple(Solution(**row) for row in reply["budget"]), only=words)

    def _remembered(self, ask: str, plan: Plan, read: Callable[[dict[str, Any]], Answer], only: str | None = None) -> Answer:
        """The answer to a question, from memory if it was asked before."""
        # Everybody shares what is known of a plan, but for plans about files of one's own.
        uploads = [source for source in plan.datasets if source.path.startswith("upload/")]
        for source in uploads:
            data.locate(source)
        key = (ask, only, plan.to_json(), current_visitor() if uploads else None)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        reply = self._answer(ask, plan, only)
        if "error" in reply:
            raise PlanError([Issue(**issue) for issue in reply["issues"]])
        answer = self._known[key] = read(reply)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return answer

    def _answer(self, ask: str, plan: Plan, only: str | None) -> dict[str, Any]:
        """The process's answer. What cost it its life is not asked again soon: the page asks much about one plan."""
        about_data = ask in OF_DATA
        limits = {"timeout": SECONDS_FOR_DATA} if about_data else {"cpu_seconds": CPU_SECONDS}
        key = (plan.to_json(), only if about_data else None)
        since, error = self._stopped.get(key, (-math.inf, None))
        if error is not None and time.monotonic() - since < SECONDS_STOPPED:
            raise HelperStopped(error.issues)
        try:
            return next(iter(self._process.ask({"ask": ask, "plan": plan.to_dict(), "only": only}, **limits)))
        except HelperStopped as error:
            self._stopped[key] = (time.monotonic(), error)
            if len(self._stopped) > REMEMBERED:
                self._stopped.popitem(last=False)
            raise

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        self._process.close()
