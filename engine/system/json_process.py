"""A helper process that answers JSON lines: the page asks, a process with torch in it answers.

    process = JsonProcess("estimators", "--jsonl")
    for reply in process.ask({"model": ...}): ...

Questions are answered one at a time, in the order in which they came. Each says whose home it is about, and the process
answers it within `asked_by`. A reply is one JSON object per line; the one with `"done": true` is the last of its question. A
thread of this side sends the questions and collects the replies, so a reader that is slow or gone keeps nobody waiting. A
question that takes too long, or a process that grows too large, costs the process its life; the next one starts it again.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.issues import Issue, PlanError
from engine.system import helper
from engine.system.home import current_visitor, visiting

START_SECONDS = 60.0  # more for the first answer of a process: importing torch, PEFT and TRL takes 5 to 20 s on two cores
LOOK_SECONDS = 0.25  # between two looks at the process: its memory, its time, whether the reader is still there
TURN_SECONDS = 300.0  # that a question waits for its turn
WAITING_QUESTIONS = 200  # of all visitors
# The wall-clock time of a question, as a multiple of its CPU time: on a computer that also trains, a helper gets a part of
# the cores only.
WALL_PER_CPU = 3.0
# A single allocation that is larger than this multiple of the memory limit fails at once, before the watch sees it. VmData,
# which the kernel limits, was 1.0 GB above the resident set of the estimator (threads' stacks, allocators' reserves).
HARD_LIMIT = 2


class HelperStopped(PlanError):
    """The process was ended because this question took too long or too much memory."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    line: str
    seconds: float
    cpu_seconds: float | None
    replies: queue.Queue[dict[str, Any] | PlanError] = field(default_factory=queue.Queue)
    begun: threading.Event = field(default_factory=threading.Event)
    abandoned: threading.Event = field(default_factory=threading.Event)


VISITOR = "visitor"  # in a request: see home.current_visitor


def asked_by(request: dict[str, Any]) -> AbstractContextManager[None]:
    """Within it, the process that answers a request sees the home of whoever asked."""
    visitor = request.pop(VISITOR, None)
    return visiting(visitor) if visitor else contextlib.nullcontext()


class JsonProcess:
    """`python -m module arguments...`, kept alive between questions.

    Args:
        memory: bytes of resident memory above which the process is ended.
    """

    def __init__(self, module: str, *arguments: str, log: Path | None = None, memory: int | None = None):
        self.command = (module, *arguments)
        self.log = log
        self.memory = memory
        self._questions: queue.Queue[_Question] = queue.Queue(WAITING_QUESTIONS)
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._helper: helper.Helper | None = None
        self._is_warm = False  # whether this process has answered before
        self._too_large = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()  # around `_helper` and `_thread`
        self._thread: threading.Thread | None = None

    def ask(
        self, request: Mapping[str, Any], *, timeout: float = 120, cpu_seconds: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Each reply to one question. Raises `PlanError` if the process dies or gives no answer in time.

        Args:
            timeout: seconds for each reply, once the question has its turn.
            cpu_seconds: CPU time for the whole question; the wall clock then has `WALL_PER_CPU` times as much.
        """
        seconds = timeout if cpu_seconds is None else WALL_PER_CPU * cpu_seconds
        question = _Question(
            line=json.dumps({**request, VISITOR: current_visitor()}) + "\n", seconds=seconds, cpu_seconds=cpu_seconds
        )
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            raise _busy() from None
        self._keep_answering()
        try:
            if not question.begun.wait(TURN_SECONDS):
                raise _busy()
            finished = False
            while not finished:
                reply = question.replies.get()
                if isinstance(reply, PlanError):
                    raise reply
                finished = bool(reply.pop("done", True))
                yield reply
        finally:
            question.abandoned.set()  # what is still coming must not answer the next question

    def close(self) -> None:
        """End the process for good."""
        self._closed.set()
        self._end()

    @property
    def pid(self) -> int | None:
        """The process's id, while there is one."""
        return self._helper.process.pid if self._helper is not None else None

    # --- the thread that asks ---------------------------------------------------------------------------------------

    def _keep_answering(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._answer_all, daemon=True)
                self._thread.start()

    def _answer_all(self) -> None:
        while True:
            question = self._questions.get()
            question.begun.set()
            if question.abandoned.is_set():
                continue
            try:
                self._answer(question)
            except PlanError as error:
                self._end()
                question.replies.put(error)

    def _answer(self, question: _Question) -> None:
        """Send the question and pass its replies on. Raises `PlanError` where the process must not be used again."""
        if self._closed.is_set():
            raise _gone()
        running = self._running()
        assert running.process.stdin is not None
        used_before = _cpu_seconds(running.process.pid)
        try:
            running.process.stdin.write(question.line)
            running.process.stdin.flush()
        except OSError:
            raise _gone() from None
        finished = False
        while not finished:
            reply = self._receive(question, running.process.pid, used_before)
            finished = bool(reply.get("done", True))
            question.replies.put(reply)
        self._is_warm = True

    def _receive(self, question: _Question, pid: int, used_before: float) -> dict[str, Any]:
        """The next reply."""
        more = 0.0 if self._is_warm else START_SECONDS
        deadline = time.monotonic() + question.seconds + more
        while True:
            with contextlib.suppress(queue.Empty):
                reply = self._lines.get(timeout=LOOK_SECONDS)
                if reply is None:
                    raise _too_large(self.memory) if self._too_large.is_set() else _gone()
                return reply
            if question.abandoned.is_set():
                raise _gone()
            if time.monotonic() > deadline:
                raise _too_slow(question.seconds)
            if question.cpu_seconds is not None and _cpu_seconds(pid) - used_before > question.cpu_seconds + more:
                raise _too_slow(question.cpu_seconds)

    # --- the process ------------------------------------------------------------------------------------------------

    def _running(self) -> helper.Helper:
        """The process, started if there is none. Raises `PlanError`."""
        with self._lock:
            if self._helper is not None and self._helper.process.poll() is None:
                return self._helper
            if self._helper is not None:
                self._helper.end()
            hard = helper.NO_LIMIT if self.memory is None else HARD_LIMIT * self.memory
            module, *arguments = self.command
            try:
                started = helper.start(module, *arguments, log=self.log, memory=hard)
            except OSError:
                message = "the helper process could not be started: the computer has no memory or no process to spare."
                raise PlanError([Issue(field="run", message=message, fix="Close other programs and try again.")]) from None
            self._helper, self._lines, self._is_warm, self._too_large = started, queue.Queue(), False, threading.Event()
        threading.Thread(target=_pump, args=(started, self._lines), daemon=True).start()
        if self.memory is not None:
            threading.Thread(target=_watch, args=(started, self.memory, self._too_large), daemon=True).start()
        return started

    def _end(self) -> None:
        with self._lock:
            ended, self._helper = self._helper, None
        if ended is not None:
            ended.end()


def _pump(started: helper.Helper, lines: queue.Queue[dict[str, Any] | None]) -> None:
    """Move the helper's replies into the queue; None says that it has ended."""
    assert started.process.stdout is not None
    with contextlib.suppress(OSError, ValueError):  # the pipe was closed while it was read
        for line in started.process.stdout:
            reply = _read(line)
            if reply is not None:
                lines.put(reply)
    lines.put(None)


def _read(line: str) -> dict[str, Any] | None:
    """A reply; None for what a library has printed."""
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _watch(started: helper.Helper, memory: int, too_large: threading.Event) -> None:
    """End a helper whose resident memory grows beyond the limit, also while it works in advance."""
    while started.process.poll() is None:
        try:
            resident = psutil.Process(started.process.pid).memory_info().rss
        except psutil.Error:
            return
        if resident > memory:
            too_large.set()
            started.process.kill()
            return
        time.sleep(LOOK_SECONDS)


def _cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used; 0 if it is gone."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return used.user + used.system


def _gone() -> PlanError:
    fix = "Try again; a smaller model if it recurs."
    return PlanError([Issue(field="run", message="the helper process ended before it answered.", fix=fix)])


def _busy() -> PlanError:
    message = "many questions of others are waiting on this computer."
    return PlanError([Issue(field="run", message=message, fix="Try again in a minute.")])


def _too_slow(seconds: float) -> HelperStopped:
    message = f"working this out took longer than {seconds:.3g} seconds, so it was ended."
    fix = "Use a simpler pattern of target modules or chat template, less data, or a smaller model."
    return HelperStopped([Issue(field="run", message=message, fix=fix)])


def _too_large(memory: int | None) -> HelperStopped:
    message = f"working this out took more than {(memory or 0) / 2**30:.3g} GB of host memory, so it was ended."
    fix = "Use shorter rows, less data, or a smaller model."
    return HelperStopped([Issue(field="run", message=message, fix=fix)])
