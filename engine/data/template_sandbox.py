"""Render chat templates of strangers in a child process that has 5 s and 1 GB for each chat.

A chat template is a program. transformers runs it in Jinja's immutable sandbox, which keeps it from the interpreter but
not from running for ever or filling the memory. `guard()` puts `render` in the place of transformers' own function, in
every process that has a tokenizer (the estimator, the worker, the merge, Try): the sandbox is the same, in a child that
the kernel ends when its time is up. Templates that come with this program are rendered where they are asked for.

`python -m engine.data.template_sandbox` is the child: one JSON object per line in, one out.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from engine.catalog.chat_templates import TEMPLATES
from engine.catalog.model_files import LARGEST_TEMPLATE
from engine.issues import Issue, PlanError
from engine.system import helper, redaction
from engine.system.home import ASSETS

SECONDS = 5.0  # for one request, and for all of them beyond what chats may take
MEMORY = 10**9  # bytes beyond those of the child's own program
SECONDS_TO_START = 60.0  # the child imports transformers, without torch: 1.2 s on an idle core
# What chats may take, of the child's processor time: ten times what common templates do (Llama 3.1's and Qwen 3's write
# a turn in some 50 us). With it a template that is slow for each of 20,000 rows ends within a minute.
SECONDS_PER_CHAT, SECONDS_PER_CHARACTER = 2e-3, 1e-6
SECONDS_REMEMBERED = 300.0  # a refused template is not tried again: each question about it would cost the 5 s
LONGEST = 16 * 10**6  # characters that one request may become: some 4 million tokens
USE_ANOTHER = "Choose another chat template, or another model."
# What a template can raise: its own complaints and those of the operations in it.
RAISED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

# --- the side of the tokenizers -------------------------------------------------------------------------------------


def guard() -> None:
    """From now on tokenizers and processors of this process render chat templates through `render`."""
    for module in ("transformers.tokenization_utils_base", "transformers.processing_utils"):
        importlib.import_module(module).render_jinja_template = render


def render(conversations: list[Any], **settings: Any) -> tuple[list[str], list[Any]]:
    """What transformers' `render_jinja_template` returns: the texts, and where the assistant's words are in each.

    Raises:
        PlanError: the template took too long or too much memory, or reached for what a template may not.
        jinja2.TemplateError: the template refuses the chats, or cannot write them.
    """
    template = settings["chat_template"]
    if template in _own_templates():
        from transformers.utils.chat_template_utils import render_jinja_template

        return render_jinja_template(conversations=conversations, **settings)
    if len(template) > LARGEST_TEMPLATE:
        raise _refused(f"has {len(template):,} characters, and at most {LARGEST_TEMPLATE:,} are read")
    return _renderer.render(template, {"conversations": conversations, **settings})


@functools.cache
def _own_templates() -> frozenset[str]:
    """The templates that come with this program."""
    files = [*ASSETS.glob("demo_model/chat_template.jinja"), *ASSETS.glob("demo_models/*/chat_template.jinja")]
    return frozenset([row.jinja for row in TEMPLATES.values()] + [file.read_text(encoding="utf-8") for file in files])


class _Renderer:
    """The child, and how much of its time each template has had."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._lifeline: BinaryIO | None = None
        self._owner = 0  # the process that started the child: one that was forked from it starts its own
        self._left: dict[bytes, float] = {}  # digest of a template -> seconds that it may still take
        self._refused: dict[bytes, tuple[Issue, float]] = {}  # digest -> what was said of it, and when

    def render(self, template: str, request: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        name = hashlib.sha256(template.encode(errors="surrogatepass")).digest()
        with self._lock:
            issue, when = self._refused.get(name, (None, 0.0))
            if issue is not None and time.monotonic() - when < SECONDS_REMEMBERED:
                raise PlanError([issue])
            try:
                reply = self._ask(request)
                self._charge(name, request, reply)
            except PlanError as error:
                self._refused[name] = (error.issues[0], time.monotonic())
                self._left.pop(name, None)
                raise
        if "error" in reply:
            raise _as_template_error(reply["error"], reply["message"])
        return reply["texts"], reply["marks"]

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
            self._start()
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return json.loads(line)
        ended = self._child.wait()
        self._child = None
        if ended == -signal.SIGALRM:
            raise _refused(f"took longer than {SECONDS:g} seconds for one chat, and was stopped")
        raise _refused("ended the process that renders it")

    def _charge(self, name: bytes, request: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Count the time of one request. Raises `PlanError` where the chats so far do not explain what they took."""
        if reply.get("error") == "MemoryError":
            raise _refused(f"needed more than {MEMORY / 1e9:g} GB for one chat, and was stopped")
        if reply.get("error") == "Longest":
            raise _refused(f"makes more than {LONGEST:,} characters of one chat")
        if reply.get("error") == "SecurityError":
            raise _refused(f"reaches for what a template may not use ({reply['message'][:200]})")
        allowed = SECONDS_PER_CHAT * len(request["conversations"]) + SECONDS_PER_CHARACTER * reply["characters"]
        left = self._left.get(name, SECONDS) + min(0.0, allowed - reply["seconds"])
        self._left[name] = left
        if left < 0:
            raise _refused("takes too long for the chats that it writes, and was stopped")

    def _start(self) -> None:
        environment = redaction.environment_without_secrets() | {"HF_HUB_OFFLINE": "1"}
        self._child, self._lifeline = helper.popen("engine.data.template_sandbox", stderr=subprocess.DEVNULL, env=environment)
        self._owner = os.getpid()
        assert self._child.stdout is not None
        self._child.stdout.readline()  # it is ready; what it takes to start is not the template's

    def close(self) -> None:
        """End the child."""
        if self._child is not None and self._owner == os.getpid():
            self._child.kill()
            self._child.wait()
            self._child = None


_renderer = _Renderer()
atexit.register(_renderer.close)


def _as_template_error(kind: str, message: str) -> Exception:
    """The exception that the template raised in the child; libraries catch Jinja's own kinds."""
    import jinja2

    known = getattr(jinja2.exceptions, kind, None)
    if kind == "TemplateSyntaxError" or known is None or not issubclass(known, jinja2.TemplateError):
        return jinja2.TemplateError(f"{kind}: {message}")
    return known(message)


def _refused(message: str) -> PlanError:
    return PlanError([Issue(field="model", message=f"its chat template {message}.", fix=USE_ANOTHER)])


# --- the child ------------------------------------------------------------------------------------------------------


def main() -> int:
    """Render request after request until the input ends. SIGALRM, whose default is to end the process, is the limit of time."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_START)
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    signal.setitimer(signal.ITIMER_REAL, 0)
    _send(replies, {})
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        reply = _answer(line, render_jinja_template)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)
    return 0


def _limit_memory() -> None:
    """No more than `MEMORY` beyond what the program has now, no core dump, and no byte into any file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        before = resource.getrlimit(resource.RLIMIT_AS)[1]  # of the process that started this one; it can only be lowered
        least = most if before == resource.RLIM_INFINITY else min(most, before)
        resource.setrlimit(resource.RLIMIT_AS, (least, least))


def _answer(line: bytes, render_jinja_template: Any) -> dict[str, Any]:
    """The reply to one request: texts and marks, or the kind of error and its message."""
    import jinja2

    began = time.process_time()
    try:
        texts, marks = render_jinja_template(**json.loads(line))
    except MemoryError:
        return {"error": "MemoryError", "message": ""}
    except (jinja2.TemplateError, *RAISED) as error:
        failed = {"error": type(error).__name__, "message": str(error)[:500]}
        return failed | {"seconds": time.process_time() - began, "characters": len(line)}
    written = sum(len(text) for text in texts)
    if written > LONGEST:
        return {"error": "Longest", "message": ""}
    seconds = time.process_time() - began
    return {"texts": texts, "marks": marks, "seconds": seconds, "characters": len(line) + written}


def _send(replies: Any, reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
