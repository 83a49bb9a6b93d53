"""The page's side of the estimator: a process that has torch, started early and asked over a pipe.

The web process never imports torch; a repeated question is answered from memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict

from engine.home import home
from engine.pipe import JsonProcess
from engine.plan import Issue, Plan, PlanError
from estimators.estimate import Estimate

REMEMBERED = 512


class Estimator:
    """Made once by the app; safe to call from several requests at once (they wait for each other)."""

    def __init__(self) -> None:
        self._process = JsonProcess("estimators", "--jsonl", log=home() / "estimator.log")
        self._known: OrderedDict[str, Estimate] = OrderedDict()
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
        key = plan.to_json()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        reply = next(iter(self._process.ask(plan.to_dict())))
        if "error" in reply:
            raise PlanError([Issue(**issue) for issue in reply["issues"]])
        self._known[key] = Estimate.from_dict(reply)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]

    def close(self) -> None:
        """End the process."""
        self._process.close()
