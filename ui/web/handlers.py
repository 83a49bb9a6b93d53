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
from gradio.context import LocalContext

from engine.issues import PlanError
from engine.system.errors import explain
from engine.system.home import visiting
from engine.system.visitors import NOBODY, is_demo
from ui.views import formats
from ui.web.border import VISITOR
from ui.web.policy import Need

log = logging.getLogger("fittingroom.ui")
SHOWN_ISSUES = 3
SECONDS_SHOWN = 15


def guarded(handler: Callable[..., Any], need: Need = Need.OWNER) -> Callable[..., Any]:
    """The handler, whose faults become a message on the page, and which sees the data of its caller alone.

    Args:
        need: what a caller needs for this event; the border (ui/web/border.py) asks for it.
    """
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*args: Any, **values: Any) -> Iterator[Any]:
            visitor = _visitor()
            with contextlib.closing(handler(*args, **values)) as answers:
                # Gradio asks for each answer in whatever context it is in then, so the visitor is set for each.
                while True:
                    with _plain_words(), visiting(visitor):
                        try:
                            answer = next(answers)
                        except StopIteration:
                            return
                    yield answer

        guard = stream
    else:

        @functools.wraps(handler)
        def call(*args: Any, **values: Any) -> Any:
            with _plain_words(), visiting(_visitor()):
                return handler(*args, **values)

        guard = call
    guard.need = need  # type: ignore[attr-defined]
    return guard


def _visitor() -> str | None:
    """Whose data the running event sees: the border has written it into the scope of its request."""
    request = LocalContext.request.get(None)
    scope = getattr(getattr(request, "request", None), "scope", {})
    return scope.get(VISITOR, NOBODY if is_demo() else None)


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
        message = formats.escape(sentence(error))
        raise gr.Error(message, duration=SECONDS_SHOWN, print_exception=False) from error


# What Gradio raises over a value that it cannot read. It quotes the value, the handler and the types as Python writes them.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
NOT_READ = "A value that was sent is none that its field takes. Choose it again, or reload the page."
NO_CHOICE = "A field has a choice that it does not offer. Choose again, or reload the page."


def reading_plainly(read: Callable[..., Any]) -> Callable[..., Any]:
    """Gradio's reading of the values of a call (`Blocks.preprocess_data`), whose refusals are plain sentences too."""

    @functools.wraps(read)
    async def reading(*args: Any, **values: Any) -> Any:
        try:
            return await read(*args, **values)
        except gr.Error as error:
            said = NO_CHOICE if "is not in the list of choices" in error.message else formats.escape(error.message)
            raise gr.Error(said, duration=SECONDS_SHOWN, print_exception=False) from error
        except UNREADABLE as error:
            raise gr.Error(NOT_READ, duration=SECONDS_SHOWN, print_exception=False) from error

    return reading


def sentence(error: Exception) -> str:
    """What went wrong and what to do: the first few issues of a plan, else the one that `explain` finds."""
    if isinstance(error, PlanError) and error.issues:
        more = len(error.issues) - SHOWN_ISSUES
        told = [formats.issue(issue) for issue in error.issues[:SHOWN_ISSUES]]
        return " ".join([*told, f"And {more} more."] if more > 0 else told)
    return formats.issue(explain(error))
