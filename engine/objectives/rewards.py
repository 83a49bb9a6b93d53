"""REWARDS: what GRPO and RLOO can reward, by name, and how a person's own Python file joins in.

A reward takes the answers as texts, the rows that they answer and the objective's options, and gives one number per
answer. A file of the user's own is only run when the server's owner allows it (`FITTINGROOM_REWARD_FILES=1`): it is
code. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.catalog.models import local_paths_allowed
from engine.issues import Issue, PlanError, nearest, quoted
from engine.system.local_paths import is_file, local_path

ALLOW_FILES = "FITTINGROOM_REWARD_FILES"
Row = Mapping[str, Any]
Reward = Callable[[Sequence[str], Sequence[Row], Mapping[str, Any]], list[float]]


def exact_answer(answers: Sequence[str], rows: Sequence[Row], options: Mapping[str, Any]) -> list[float]:
    """1 where the answer holds the row's `answer` (or `solution`, or `word`) as whole words, capitals aside; else 0."""
    return [float(_holds(answer, _expected(row))) for answer, row in zip(answers, rows, strict=True)]


def format_matches(answers: Sequence[str], rows: Sequence[Row], options: Mapping[str, Any]) -> list[float]:
    """1 where the whole answer matches the option `pattern`, a regular expression; else 0."""
    pattern = re.compile(str(options["pattern"]), re.DOTALL)
    return [float(pattern.fullmatch(answer.strip()) is not None) for answer in answers]


def near_length(answers: Sequence[str], rows: Sequence[Row], options: Mapping[str, Any]) -> list[float]:
    """1 at the option `target_length` in characters, falling evenly to 0 at none and at twice that length."""
    target = float(options["target_length"])
    return [max(0.0, 1.0 - abs(len(answer.strip()) - target) / target) for answer in answers]


REWARDS: dict[str, Reward] = {"exact_answer": exact_answer, "format": format_matches, "length": near_length}


def _expected(row: Row) -> str:
    return str(next((row[name] for name in ("answer", "solution", "word") if row.get(name) is not None), ""))


def _holds(answer: str, expected: str) -> bool:
    return bool(expected) and re.search(rf"(?<!\w){re.escape(expected.strip())}(?!\w)", answer, re.IGNORECASE) is not None


def names_of(value: Any) -> list[str]:
    """The rewards that a plan names: a list, or one text with commas between."""
    parts = value.split(",") if isinstance(value, str) else value
    return [str(part).strip() for part in parts if str(part).strip()]


def check_name(name: str) -> list[Issue]:
    """What is wrong with the name of a reward."""
    if name in REWARDS:
        return []
    if not name.rpartition(":")[0].endswith(".py"):
        return [Issue(field="reward_funcs", message=f"{quoted(name)} is not a reward.", fix=nearest(name, REWARDS))]
    if os.environ.get(ALLOW_FILES) != "1" or not local_paths_allowed():
        message = "a Python file is code, and this server does not run it."
        return [Issue(field="reward_funcs", message=message, fix=f"Its owner can allow it with {ALLOW_FILES}=1.")]
    words = name.rpartition(":")[0]
    try:
        file = local_path(words, field="reward_funcs")
    except PlanError as error:
        return list(error.issues)
    return [] if is_file(file) else [Issue(field="reward_funcs", message=f"there is no file {words}.", fix="Check the path.")]


def find(name: str) -> Reward:
    """The reward of this name. Raises `PlanError` if there is none or it may not be run."""
    issues = check_name(name)
    if issues:
        raise PlanError(issues)
    return REWARDS[name] if name in REWARDS else _from_file(name)


def _from_file(name: str) -> Reward:
    path, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location("reward_file", Path(path).expanduser())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        message = f"{Path(path).name} has no function {function}."
        raise PlanError([Issue(field="reward_funcs", message=message, fix="Write it as file.py:function.")])
    return getattr(module, function)
