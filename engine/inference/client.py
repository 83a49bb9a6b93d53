"""The page's side of Try: asks the answering process of a run (`engine/inference/worker.py`) and keeps it warm.

One run's models are in memory at a time. Questions are answered in the order in which they came: one about another run
waits until the answer before it is whole, then its models replace the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.pictures import Box
from engine.issues import Issue, PlanError
from engine.jobs import runs
from engine.system.json_process import JsonProcess

MAX_PROMPT_CHARACTERS = 20_000
MAX_NEW_TOKENS = 2048
MOST_WAITING = 20  # questions of all visitors: each takes seconds to minutes
LOOK_SECONDS = 0.5  # between two looks at whose turn it is; a visitor who has gone loses the place then
ANSWER_SECONDS = 600.0  # for each part of an answer: loading a large model takes minutes


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The two answers so far."""

    base: str
    tuned: str
    done: bool
    base_boxes: tuple[Box, ...] = ()  # that a detector draws
    tuned_boxes: tuple[Box, ...] = ()
    waiting: int = 0  # how many questions are answered before this one


def _reply(values: Mapping[str, Any], *, done: bool) -> Reply:
    boxes = {name: tuple(Box(**box) for box in values.get(name, ())) for name in ("base_boxes", "tuned_boxes")}
    return Reply(base=values["base"], tuned=values["tuned"], done=done, **boxes)


class Answers:
    """Made once by the app; safe to call from several requests at once (they wait for each other)."""

    def __init__(self) -> None:
        self._run_id: str | None = None
        self._process: JsonProcess | None = None
        self._turns: list[object] = []  # of the questions, the first is being answered
        self._lock = threading.Lock()  # around `_turns`

    def ask(
        self, run_id: str, prompt: str, max_new_tokens: int = 64, temperature: float = 0.0, image: str | None = None
    ) -> Iterator[Reply]:
        """Growing answers of base and tuned model to one prompt, or about an image file. Raises `PlanError` in plain words.

        While others are answered, the replies are empty and say how many there are before.
        """
        self._check(prompt, max_new_tokens, temperature, image)
        request = {
            "prompt": prompt,
            "max_new_tokens": int(max_new_tokens),
            "temperature": float(temperature),
            **({"image": image} if image else {}),
        }
        self._folder_of(run_id)  # what cannot be asked does not wait
        turn = self._take_turn()
        try:
            while (before := self._turns.index(turn)) > 0:
                yield Reply(base="", tuned="", done=False, waiting=before)
                time.sleep(LOOK_SECONDS)
            yield from self._answered(run_id, request)
        finally:
            with self._lock:
                self._turns.remove(turn)

    def _take_turn(self) -> object:
        turn = object()
        with self._lock:
            if len(self._turns) >= MOST_WAITING:
                message = "the queue of questions on this computer is full."
                raise PlanError([Issue(field="run", message=message, fix="Try again in a minute.")])
            self._turns.append(turn)
        return turn

    def _answered(self, run_id: str, request: Mapping[str, Any]) -> Iterator[Reply]:
        for reply in self._process_of(run_id).ask(request, timeout=ANSWER_SECONDS):
            if "issues" in reply:
                raise PlanError([Issue(**issue) for issue in reply["issues"]])
            yield _reply(reply, done=False)
        yield _reply(reply, done=True)

    def close(self) -> None:
        """End the answering process."""
        if self._process is not None:
            self._process.close()

    def _check(self, prompt: str, max_new_tokens: int, temperature: float, image: str | None) -> None:
        if not prompt.strip() and not image:
            raise PlanError([Issue(field="prompt", message="is empty.", fix="Write a question.")])
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise PlanError(
                [Issue(field="prompt", message="is too long.", fix=f"Use at most {MAX_PROMPT_CHARACTERS} characters.")]
            )
        if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
            raise PlanError([Issue(field="max_new_tokens", message="is out of range.", fix=f"Use 1 to {MAX_NEW_TOKENS}.")])
        if not 0 <= temperature <= 5:
            raise PlanError([Issue(field="temperature", message="is out of range.", fix="Use 0 to 5.")])

    def _folder_of(self, run_id: str) -> Path:
        """The folder of a run that has a result. Raises `PlanError`."""
        run = runs.get(run_id)
        if run is None or not any((run.folder / part).is_dir() for part in ("adapter", "model")):
            raise PlanError([Issue(field="run", message="has no trained model yet.", fix="Choose a finished run.")])
        return run.folder

    def _process_of(self, run_id: str) -> JsonProcess:
        """The process with this run's models; only the question whose turn it is may ask for it."""
        folder = self._folder_of(run_id)
        if self._run_id != run_id or self._process is None:
            self.close()
            self._process = JsonProcess("engine.inference.worker", str(folder), log=folder / "answer.log")
            self._run_id = run_id
        return self._process
