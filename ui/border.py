"""The border between a fault and a person: every handler of the page is wrapped in `guarded`.

A person reads one plain sentence with a remedy; the traceback goes to the server's log. This is the one place in
`ui/` that catches everything.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from engine.faults import explain
from engine.plan import PlanError
from ui import words

log = logging.getLogger("fittingroom.ui")
SHOWN_ISSUES = 3
SECONDS_SHOWN = 15


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, whose faults become a message on the page. A generator stays one."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*args: Any, **values: Any) -> Iterator[Any]:
            with _plain_words():
                yield from handler(*args, **values)

        return stream

    @functools.wraps(handler)
    def call(*args: Any, **values: Any) -> Any:
        with _plain_words():
            return handler(*args, **values)

    return call


@contextlib.contextmanager
def _plain_words() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        if not isinstance(error, PlanError):  # a mistake in the plan is no news for the log
            log.exception("A handler of the page failed.")
        # Gradio shows messages as HTML, and issues may quote what is in a person's file.
        message = words.escape(sentence(error))
        raise gr.Error(message, duration=SECONDS_SHOWN, print_exception=False) from error


def sentence(error: Exception) -> str:
    """What went wrong and what to do: the first few issues of a plan, else the one that `explain` finds."""
    if isinstance(error, PlanError) and error.issues:
        more = len(error.issues) - SHOWN_ISSUES
        told = [words.issue(issue) for issue in error.issues[:SHOWN_ISSUES]]
        return " ".join([*told, f"And {more} more."] if more > 0 else told)
    return words.issue(explain(error))
