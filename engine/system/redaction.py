"""Keep access tokens out of logs, events and messages.

The Hugging Face token is in the environment of the processes that fetch models, and nowhere else: never an argument, a
plan or a file. What libraries print or raise may still quote it (a request's headers, for instance); `redact` takes it out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

REMOVED = "[token removed]"
# Names of variables whose values are secrets: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, ...
SECRET_NAME = re.compile(r"TOKEN(?!IZER)|SECRET|PASSWORD|API_KEY|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
SHORTEST = 8  # characters of a value that is taken for a secret, rather than a switch
# Hugging Face's tokens are hf_ and 34 letters (https://huggingface.co/docs/hub/security-tokens).
TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}")
HEADER = re.compile(r"""(authorization['"]?\s*[:=]\s*['"]?(?:bearer|basic)\s+|\bbearer\s+)[^\s'",;\\]{8,}""", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without access tokens: those of this process's environment, and what looks like one."""
    for secret in _secrets(os.environ):
        text = text.replace(secret, REMOVED)
    return HEADER.sub(rf"\1{REMOVED}", TOKEN.sub(REMOVED, text))


def has_secret(text: str) -> bool:
    """Whether there is an access token in the text."""
    return redact(text) != text


def environment_without_secrets() -> dict[str, str]:
    """This process's environment, for a child that needs no token."""
    return {name: value for name, value in os.environ.items() if not SECRET_NAME.search(name)}


def redact_output() -> None:
    """From now on what this process prints, or logs to its standard streams, has no access token in it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Redacted):
            setattr(sys, name, _Redacted(stream))


class _Redacted:
    """A text stream that takes tokens out of what is written, line by line."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """The secret values, the longest first: one may be a part of another."""
    values = {value for name, value in environment.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    return sorted(values, key=len, reverse=True)
