"""Regular expressions of strangers: which options are ones, and a refusal of those that take too long to match.

PEFT matches options such as `target_modules` against the name of every module with Python's `re`, which backtracks: a
pattern of 20 characters can take longer than the age of the universe. No look at a pattern tells for sure, so it is
tried on module names in a process of its own, which the system ends after a quarter of a second of computing.
Standard library only.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from engine.issues import Issue, PlanError

EXPRESSION = re.compile(r"[*+?\\\[\]{}()|^$]")  # a name with one of these is a regular expression
LONGEST = 1000  # characters; an alternation of all the layers of a large model is better written as a list
MOST_PATTERNS = 64  # of one plan
CPU_SECONDS = 0.25  # all of a plan's patterns on all names; ordinary ones take under 0.1 s on 5,000 names
WALL_SECONDS = 20.0  # on a machine that is busy with other work
# As PEFT 0.21 writes them around what a person gives (tuners_utils.py, utils/other.py).
AROUND = {"layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", "modules_to_save": r"(^|.*\.){}($|\..*)", "keys": r"(.*\.)?({})$"}
NAMES = ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules", "layers_pattern")
SAMPLE = (
    "model.layers.11.self_attn.q_proj",
    "base_model.model.model.language_model.layers.27.mlp.experts.down_proj",
    "bert.encoder.layer.11.attention.output.LayerNorm",
    "transformer.h.11.attn.c_attn",
    "encoder.block.3.layer.1.DenseReluDense.wi_0",
    "resnet.encoder.stages.3.layers.2.layer.0.convolution",
    "lm_head",
    "a" * 60,
    "0123456789" * 6,
)
# The process that tries them. It compiles them, too: a pattern can also be slow to compile.
CHILD = """
import json, re, signal, sys
seconds, patterns, names = json.load(sys.stdin)
if hasattr(signal, "setitimer"):
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
for number, pattern in enumerate(patterns):
    print(number, flush=True)
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        print("wrong", str(error).splitlines()[0][:80] or type(error).__name__, flush=True)
        sys.exit(0)
    for name in names:
        compiled.fullmatch(name)
print("fine")
"""


def of_options(options: Mapping[str, Any]) -> dict[str, list[str]]:
    """By option, the regular expressions in it as PEFT will match them."""
    found: dict[str, list[str]] = {}
    for name, value in options.items():
        if name in NAMES:
            given = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
            around = AROUND.get(name, "{}")
        elif name.endswith("_pattern") and isinstance(value, Mapping):
            given, around = list(value), AROUND["keys"]
        else:
            continue
        texts = [text for text in given if isinstance(text, str) and EXPRESSION.search(text)]
        if texts:
            found[name] = [around.replace("{}", text) for text in texts]
    return found


def check(options: Mapping[str, Any]) -> list[Issue]:
    """What is wrong with the regular expressions of a method's options, tried on names that modules often have."""
    expressions = of_options(options)
    if sum(map(len, expressions.values())) > MOST_PATTERNS:
        field = next(iter(expressions))
        message = f"the options hold more than {MOST_PATTERNS} regular expressions."
        return [Issue(field=field, message=message, fix="Write plain names of modules.")]
    return [issue for name, texts in expressions.items() for issue in _tried(name, tuple(texts), SAMPLE)]


def check_text(field: str, pattern: str) -> list[Issue]:
    """What is wrong with one regular expression that is matched against texts."""
    return _tried(field, (pattern,), SAMPLE)


def refuse_slow(expressions: Mapping[str, list[str]], names: Iterable[str]) -> None:
    """Try the expressions on a model's own module names. Raises `PlanError` on the option."""
    known = tuple(names)
    issues = [issue for name, texts in expressions.items() for issue in _tried(name, tuple(texts), known)]
    if issues:
        raise PlanError(issues)


@functools.lru_cache(maxsize=256)
def _answers(texts: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """What the process printed, line by line; without "fine" at its end it was ended at the pattern that it named last."""
    request = json.dumps([CPU_SECONDS, texts, names])
    command = [sys.executable, "-I", "-S", "-c", CHILD]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.split("\n")


def _tried(field: str, texts: tuple[str, ...], names: tuple[str, ...]) -> list[Issue]:
    longest = max(map(len, texts))
    if longest > LONGEST + max(map(len, AROUND.values())):
        message = f"a regular expression of {longest:,} characters is too long."
        return [Issue(field=field, message=message, fix="Write a list of module names.")]
    lines = [line for line in _answers(texts, names) if line]
    if lines and lines[-1] == "fine":
        return []
    if lines and lines[-1].startswith("wrong"):
        message = f"is not a regular expression ({lines[-1].removeprefix('wrong ')})."
        return [Issue(field=field, message=message, fix="Use names with commas between, or a valid expression.")]
    message = "this regular expression takes too long to match."
    return [Issue(field=field, message=message, fix="Do not repeat what is repeated already, as in (a+)+; or write names.")]
