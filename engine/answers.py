"""The page's side of Try: asks the answering process of a run (`engine/answer.py`) and keeps it warm.

One run's models are in memory at a time; asking for another run replaces them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine import runs
from engine.data.pictures import Box
from engine.pipe import JsonProcess
from engine.plan import Issue, PlanError

MAX_PROMPT_CHARACTERS = 20_000
MAX_NEW_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The two answers so far."""

    base: str
    tuned: str
    done: bool
    base_boxes: tuple[Box, ...] = ()  # that a detector draws
    tuned_boxes: tuple[Box, ...] = ()


def _reply(values: Mapping[str, Any], *, done: bool) -> Reply:
    boxes = {name: tuple(Box(**box) for box in values.get(name, ())) for name in ("base_boxes", "tuned_boxes")}
    return Reply(base=values["base"], tuned=values["tuned"], done=done, **boxes)


class Answers:
    """Made once by the app; safe to call from several requests at once (they wait for each other)."""

    def __init__(self) -> None:
        self._run_id: str | None = None
        self._process: JsonProcess | None = None
        self._lock = threading.Lock()

    def ask(
        self, run_id: str, prompt: str, max_new_tokens: int = 64, temperature: float = 0.0, image: str | None = None
    ) -> Iterator[Reply]:
        """Growing answers of base and tuned model to one prompt, or about an image file. Raises `PlanError` in plain words."""
        self._check(prompt, max_new_tokens, temperature, image)
        request = {
            "prompt": prompt,
            "max_new_tokens": int(max_new_tokens),
            "temperature": float(temperature),
            **({"image": image} if image else {}),
        }
        for reply in self._process_of(run_id).ask(request, timeout=600):
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

    def _process_of(self, run_id: str) -> JsonProcess:
        run = runs.get(run_id)
        if run is None or not any((run.folder / part).is_dir() for part in ("adapter", "model")):
            raise PlanError([Issue(field="run", message="has no trained model yet.", fix="Choose a finished run.")])
        with self._lock:
            if self._run_id != run_id or self._process is None:
                self.close()
                self._process = JsonProcess("engine.answer", str(run.folder), log=run.folder / "answer.log")
                self._run_id = run_id
            return self._process
