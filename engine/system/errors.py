"""Exceptions of the libraries, in words that a person can act on.

`explain(error)` is the one place where a fault becomes an `Issue` (a field, a plain sentence, a remedy). The worker,
the estimator and the page all show its answer; the traceback stays in the log (`in_plain_words`). Classes of libraries
that may not be imported yet are recognised by name.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
from collections.abc import Iterator

from engine.issues import Issue, PlanError
from engine.system.events import is_disk_full
from engine.system.redaction import redact

HUB_ID_HELP = "Check the spelling on https://huggingface.co/models, or choose a model of the catalogue."

# What transformers says of a config whose model_type it lacks.
UNKNOWN_TYPE = ("does not recognize this architecture", "should have a `model_type` key", "Unrecognized model identifier")


@contextlib.contextmanager
def in_plain_words() -> Iterator[None]:
    """The border of every process but the page's: whatever is raised inside leaves as a `PlanError`, told in the log."""
    try:
        yield
    except PlanError:
        raise
    except Exception as error:
        logging.getLogger("fittingroom").error("This was not foreseen.", exc_info=True)
        raise PlanError([explain(error)]) from error


# What PEFT, transformers and torch raise where a value does not go with the others. Faults of the machine are not among them.
LIBRARY_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, re.error),
)


@contextlib.contextmanager
def laid_to(field: str, message: str, fix: str) -> Iterator[None]:
    """Around what a library makes of a person's own values: what it raises becomes an issue of `field` that quotes it.

    What `explain` has better words for is let through. The traceback goes to the log.
    """
    try:
        yield
    except PlanError:
        raise
    except LIBRARY_ERRORS as error:
        if any(_known(cause) is not None for cause in _causes(error)):
            raise
        logging.getLogger("fittingroom").error("A library refused %s.", field, exc_info=True)
        raise PlanError([Issue(field=field, message=f"{message} ({_first_line(error)}).", fix=fix)]) from error


def _first_line(error: BaseException) -> str:
    """What a library says, in one line without what a reader cannot use."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160].rstrip('.')}" if lines else type(error).__name__


def explain(error: BaseException) -> Issue:
    """The issue behind an exception; an unknown one is named as such and points to the log."""
    if isinstance(error, PlanError) and error.issues:
        return error.issues[0]
    for cause in _causes(error):
        if isinstance(cause, PlanError) and cause.issues:
            return cause.issues[0]
        issue = _known(cause)
        if issue is not None:
            return issue
    message = f"an unexpected fault stopped this: {redact(_first_line(error))}."
    return Issue(field="run", message=message, fix="The log has the details.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what caused it, the deepest first: libraries wrap the telling one."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return reversed(chain)


def _known(error: BaseException) -> Issue | None:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = str(error)
    if disk_is_full(error):
        return Issue(field="disk", message="the disk is full.", fix="Free some space (old runs, for instance) and start again.")
    if "OutOfMemoryError" in kinds or isinstance(error, MemoryError) or "not enough memory" in text:
        return Issue(
            field="memory",
            message="the device ran out of memory.",
            fix="Turn on gradient checkpointing, or use a smaller batch or a shorter longest sequence.",
        )
    if "BadRow" in kinds:  # an image that only its beginning makes one is found when it is trained on
        fix = "Leave that row out, or mend its image."
        return Issue(field="datasets", message=f"a row {text}.", fix=fix)
    return _hub_fault(kinds, text) or _model_fault(error, kinds, text)


def disk_is_full(error: BaseException) -> bool:
    """Whether a library or the operating system says that the disk has no room, each in words of its own."""
    text = str(error)
    if isinstance(error, OSError) and is_disk_full(error):
        return True
    if isinstance(error, sqlite3.OperationalError) and "disk is full" in text:
        return True
    return "No space left on device" in text or "iostream error" in text or "StorageFull" in text


def _hub_fault(kinds: list[str], text: str) -> Issue | None:
    # GatedRepoError subclasses RepositoryNotFoundError, so it is asked first.
    if "GatedRepoError" in kinds:
        return Issue(
            field="model",
            message="is gated: its owner asks you to accept terms first.",
            fix="Accept them on its page at huggingface.co, and set HF_TOKEN before starting the app.",
        )
    if "RepositoryNotFoundError" in kinds:
        return Issue(field="model", message="does not exist on the hub, or is private.", fix=HUB_ID_HELP)
    if "HFValidationError" in kinds:
        return Issue(field="model", message="is not a Hugging Face id.", fix=HUB_ID_HELP)
    offline = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout"}
    if offline & set(kinds) or "couldn't connect to" in text or "offline mode" in text:
        return Issue(
            field="model",
            message="is not on this computer, and the hub cannot be reached.",
            fix="Check the network, or choose the demo model: it needs none.",
        )
    if "EntryNotFoundError" in kinds or "does not appear to have a file named" in text:
        return Issue(
            field="model",
            message="lacks a file that is needed (a config.json, and weights as safetensors).",
            fix="Choose a repository that has both: other weight files can run code when they are opened.",
        )
    return None


def _model_fault(error: BaseException, kinds: list[str], text: str) -> Issue | None:
    if "trust_remote_code" in text:
        return Issue(
            field="model",
            message="needs code of its own, which is never run here.",
            fix="Use a model that transformers itself has.",
        )
    if isinstance(error, ImportError) and "timm" in text:
        return Issue(
            field="model",
            message="sees through a part that only the library timm has, and timm is not installed here.",
            fix="Choose a model without it (YOLOS or RT-DETR, for instance), or install timm.",
        )
    if any(kind.startswith("StrictDataclass") for kind in kinds):
        named = re.search(r"[Ff]ield '(\w+)'|`(\w+)`", text)
        what = f"the config's {next(filter(None, named.groups()))}" if named else "a value of the config"
        fix = "Check it in the config, or leave it out."
        return Issue(field="model", message=f"{what} is not what transformers takes.", fix=fix)
    if "Unrecognized configuration class" in text:
        return Issue(
            field="model",
            message="is of a kind that transformers has not for this objective.",
            fix="Choose another objective, or a model of the list.",
        )
    if any(words in text for words in UNKNOWN_TYPE):
        return Issue(field="model", message="is of a type that transformers does not know.", fix=HUB_ID_HELP)
    if isinstance(error, ValueError) and "arget modules" in text and ("not found" in text or "No modules" in text):
        return Issue(
            field="target_modules",
            message="match no layer of this model.",
            fix="Use all-linear, or names of its layers (q_proj, v_proj).",
        )
    if "TemplateError" in kinds:  # of Jinja: the base of all that a template raises
        about = " ".join(text.split())[:200]
        return Issue(
            field="model",
            message=f"its chat template cannot write these chats: {about}.".replace("..", "."),
            fix="Look at the rows, or choose another chat template.",
        )
    if "flash_attn" in text or "FlashAttention" in text:
        return Issue(field="attn_implementation", message="flash_attention_2 is not installed here.", fix="Use sdpa.")
    if isinstance(error, ValueError) and "chat_template" in text:
        return Issue(
            field="model",
            message="its tokenizer has no chat template, and the data are chats.",
            fix="Use a chat (instruct) model, or rows with a prompt and a completion.",
        )
    return None
