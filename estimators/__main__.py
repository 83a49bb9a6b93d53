"""The estimator on the command line.

python -m estimators PLAN.json             for people
python -m estimators PLAN.json --json      one JSON object
python -m estimators --jsonl < plans       one estimate per line, in order; a bad line gives {"error": ...}
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import queue
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from engine import checks, json_input
from engine.__main__ import read_text
from engine.issues import Issue, PlanError, nearest, quoted
from engine.jobs import runs
from engine.methods import METHODS
from engine.modeling import libraries
from engine.plan import NOT_JSON, Plan
from engine.system import redaction
from engine.system.errors import in_plain_words
from engine.system.home import PRIVATE_UMASK
from engine.system.json_process import asked_by
from estimators.advice import survey
from estimators.advice.fixes import KINDS, QUICK
from estimators.advice.limits import LIMITED
from estimators.estimate import Estimate
from estimators.service.in_words import in_words

LONGEST_LINE = 2 * json_input.MOST_BYTES  # characters; a question holds a plan and little else
QUESTIONS = ("estimate", "fixes", "survey", "methods", "limits", "budget", "xray", "look", "clean")
UNCORRECTED = "uncorrected"  # an estimate that has not learnt from measured runs


def quiet(*, keep_errors: bool) -> None:
    """Keep the libraries' advice off the output; a serving process keeps errors, for its log."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING if keep_errors else logging.CRITICAL)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def answer(line: str) -> dict[str, Any]:
    """The answer to one line: a plan is estimated; {"ask": ..., "plan": {...}} asks for something else about it."""
    try:
        with in_plain_words():
            values = _object(line)
            if "ask" in values:
                with asked_by(values):
                    return _asked(values)
            return estimated(Plan.from_dict(values), fixed_when=("no",), kinds=QUICK).to_dict()
    except PlanError as error:
        return {"error": str(error), "issues": [vars(issue) for issue in error.issues]}


def estimated(plan: Plan, *, fixed_when: tuple[str, ...], kinds: tuple[str, ...] | None = None) -> Estimate:
    """The estimate, with the fixes of some kinds (all, if None) as its suggestions where its verdict is one of `fixed_when`."""
    _refuse(plan)  # before torch is imported: an absurd plan costs neither time nor memory
    libraries.load()
    from estimators.advice.fixes import fixes
    from estimators.estimator import estimate

    with _naming_layers(plan):
        found = estimate(plan)
    if found.fits not in fixed_when:
        return found
    return dataclasses.replace(found, suggestions=tuple(map(dataclasses.asdict, fixes(plan, found, kinds))))


@contextlib.contextmanager
def _naming_layers(plan: Plan) -> Iterator[None]:
    """Around an estimate: where target modules match nothing, the error names those that there are."""
    from engine.modeling.build import laid_to_step
    from estimators.advice import targets

    try:
        with in_plain_words(), laid_to_step(plan):
            yield
    except PlanError as error:
        raise targets.explained(plan, error) from error


def _refuse(plan: Plan) -> None:
    """Raise `PlanError` for what is wrong with the plan's own words."""
    errors = [issue for issue in checks.check(plan) if issue.severity == "error"]
    if errors:
        raise PlanError(errors)


def _object(line: str) -> dict[str, Any]:
    """The line as an object: a question, or a plan with all its fields. Raises `PlanError`."""
    values = json_input.parse(line, "plan", fix=NOT_JSON)
    return values if isinstance(values, dict) and "ask" in values else Plan.from_dict(values).to_dict()


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question about a plan: `estimate` (without fixes, so quicker) or one of the others of `QUESTIONS`."""
    if request["ask"] not in QUESTIONS:
        message = f"{quoted(request['ask'])} is not a question."
        raise PlanError([Issue(field="ask", message=message, fix=nearest(str(request["ask"]), QUESTIONS))])
    plan = Plan.from_dict(request.get("plan", {}))
    wrong = checks.check_values(plan)
    if wrong:
        raise PlanError(wrong)
    if request["ask"] in ("estimate", "fixes", "limits", "budget"):
        _refuse(plan)
    only = _only(request, plan)
    libraries.load()
    from estimators.advice import budget, fixes, limits
    from estimators.estimator import estimate
    from estimators.service import data_questions
    from estimators.timing import measured

    match request["ask"]:
        case "estimate":
            learnt = measured.without_correction() if only == UNCORRECTED else contextlib.nullcontext()
            with _naming_layers(plan), learnt:
                return estimate(plan).to_dict()
        case "fixes":
            return {"fixes": [dataclasses.asdict(fix) for fix in fixes.fixes(plan, estimate(plan), [only] if only else None)]}
        case "survey":
            rows = survey.gpu_group(plan, only) if only else survey.gpu_survey(plan)
            return {"survey": [dataclasses.asdict(row) for row in rows]}
        case "methods":
            rows = [survey.method_row(plan, only)] if only else survey.method_survey(plan)
            return {"methods": [dataclasses.asdict(row) for row in rows]}
        case "limits":
            fields = [only] if only else LIMITED
            return {"limits": [dataclasses.asdict(limits.largest(plan, field, estimate)) for field in fields]}
        case "budget":
            solutions = budget.solve(plan, **_budget(only))
            return {"budget": [dataclasses.asdict(solution) for solution in solutions]}
        case question:
            return data_questions.answer(question, plan, only or "{}")


def _only(request: dict[str, Any], plan: Plan) -> str | None:
    """The part of an answer that a request asks for: one kind of fix, one method, one group of GPUs, ...; None for all.

    Raises:
        PlanError: there is no such part.
    """
    only = request.get("only")
    if only is None:
        return None
    if not isinstance(only, str):
        raise PlanError([Issue(field="only", message=f"{quoted(only)} is not a text.", fix="Name one, or leave it out.")])
    known: dict[str, Iterable[str]] = {"fixes": KINDS, "methods": METHODS, "limits": LIMITED}
    names = survey.gpu_groups(plan) if request["ask"] == "survey" else known.get(request["ask"])
    if only and names is not None and only not in names:
        raise PlanError([Issue(field="only", message=f"{quoted(only)} is none of them.", fix=nearest(only, names))])
    return only


def _budget(only: Any) -> dict[str, Any]:
    """ "4000000" is a number of parameters, "16 MB" the size of the adapter's file."""
    words = str(only or "").replace(",", "").strip()
    number, _, unit = words.partition(" ")
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not 0 < amount < 1e13 or unit not in ("", "MB"):
        raise PlanError([Issue(field="budget", message=f"{quoted(words, 40)} is no budget.", fix='Write 4000000, or "16 MB".')])
    return {"megabytes": amount} if unit else {"params": int(amount)}


def serve(lines: TextIO) -> None:
    """Answer line after line. An empty line only warms the process up.

    While nobody asks, the plan that was asked about last is probed: then its other batch sizes and lengths are answered at
    once.
    """
    waiting: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(lines, waiting), daemon=True).start()
    in_advance: Iterator[float | None] = iter(())
    patience: float | None = None  # None waits for ever
    while True:
        try:
            line = waiting.get(timeout=patience)
        except queue.Empty:
            pause = next(in_advance, IDLE)
            patience = None if pause is IDLE else pause or 0.0
            continue
        patience = SECONDS_UNTIL_IDLE
        if line is None:
            return
        if line.strip():
            reply = answer(line)
            print(json.dumps(reply), flush=True)
            in_advance = iter(()) if "error" in reply else _in_advance(line)


IDLE = object()
SECONDS_UNTIL_IDLE = 0.5  # without a question (judgement): the page asks several, one after the other
SECONDS_UNTIL_AWAY = 5.0  # then somebody reads, and a minute's work is not for nothing (judgement)


def _pump(lines: TextIO, waiting: queue.Queue[str | None]) -> None:
    """Read line after line; of one that is too long, the beginning alone, which `json_input` refuses."""
    while line := lines.readline(LONGEST_LINE):
        waiting.put(line)
        while line and not line.endswith("\n"):
            line = lines.readline(LONGEST_LINE)
    waiting.put(None)


def _in_advance(line: str) -> Iterator[float | None]:
    """Learn about the line's plan, about half a second's work at a time: a question that comes meanwhile waits for no more.

    Yields how many seconds to wait for a question before the next piece of work, or None for none.
    A run on this machine has the processor to itself.
    """
    with contextlib.suppress(PlanError), in_plain_words():
        values = _object(line)
        plan = Plan.from_dict(values.get("plan", {}) if "ask" in values else values)
        _refuse(plan)
        for pause in _lessons(plan):
            if runs.active_runs():
                return
            yield pause


def _lessons(plan: Plan) -> Iterator[float | None]:
    """What people ask next: other batch sizes and lengths, then all methods; and the plan itself, so that it stays known."""
    from estimators.estimator import estimate, probe
    from estimators.simulate import caching_allocator

    yield
    caching_allocator.compile()
    yield
    while probe(plan):
        yield
    yield SECONDS_UNTIL_AWAY
    for key in METHODS:
        survey.method_row(plan, key)
        yield
    estimate(plan)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, or 2 with one sentence per problem on stderr."""
    parser = argparse.ArgumentParser(prog="python -m estimators", description="What will this fine-tune need?")
    parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--jsonl", action="store_true", help="read a plan per line from stdin, print an estimate per line")
    options = parser.parse_args(arguments)
    os.umask(PRIVATE_UMASK)
    redaction.redact_output()
    quiet(keep_errors=options.jsonl)
    if options.jsonl:
        assert isinstance(sys.stdin, io.TextIOWrapper)
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # a bad byte is no reason to end: the line is answered
        serve(sys.stdin)
        return 0
    if options.plan is None:
        parser.error("name a PLAN.json, or use --jsonl")
    try:
        with in_plain_words():
            found = estimated(Plan.from_json(read_text(options.plan)), fixed_when=("no", "tight"))
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found.to_dict(), indent=2) if options.json else in_words(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
