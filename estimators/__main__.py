"""The estimator on the command line.

python -m estimators PLAN.json             for people
python -m estimators PLAN.json --json      one JSON object
python -m estimators --jsonl < plans       one estimate per line, in order; a bad line gives {"error": ...}
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

from engine.__main__ import read_text
from engine.faults import in_plain_words
from engine.plan import Issue, Plan, PlanError, nearest
from estimators.estimate import Estimate
from estimators.fixes import QUICK
from estimators.words import in_words


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
                return _asked(values)
            return estimated(Plan.from_dict(values), fixed_when=("no",), kinds=QUICK).to_dict()
    except PlanError as error:
        return {"error": str(error), "issues": [vars(issue) for issue in error.issues]}


def estimated(plan: Plan, *, fixed_when: tuple[str, ...], kinds: tuple[str, ...] | None = None) -> Estimate:
    """The estimate, with the fixes of some kinds (all, if None) as its suggestions where its verdict is one of `fixed_when`."""
    from estimators.estimator import estimate
    from estimators.fixes import fixes

    found = estimate(plan)
    if found.fits not in fixed_when:
        return found
    return dataclasses.replace(found, suggestions=tuple(map(dataclasses.asdict, fixes(plan, found, kinds))))


def _object(line: str) -> dict[str, Any]:
    """The line as an object; what is no object is left to the plan to complain about."""
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        values = None
    return values if isinstance(values, dict) and "ask" in values else Plan.from_json(line).to_dict()


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question about a plan: `estimate` (without fixes, so quicker), `fixes`, `survey`, `methods`."""
    from estimators import fixes, survey
    from estimators.estimator import estimate

    plan = Plan.from_dict(request.get("plan", {}))
    only = request.get("only")  # one kind of fix, one method
    match request["ask"]:
        case "estimate":
            return estimate(plan).to_dict()
        case "fixes":
            return {"fixes": [dataclasses.asdict(fix) for fix in fixes.fixes(plan, estimate(plan), [only] if only else None)]}
        case "survey":
            return {"survey": [dataclasses.asdict(row) for row in survey.gpu_survey(plan)]}
        case "methods":
            rows = [survey.method_row(plan, only)] if only else survey.method_survey(plan)
            return {"methods": [dataclasses.asdict(row) for row in rows]}
    known = ("estimate", "fixes", "survey", "methods")
    raise PlanError([Issue(field="ask", message="is not a question.", fix=nearest(str(request["ask"]), known))])


def serve(lines: TextIO) -> None:
    """Answer line after line. An empty line only warms the process up."""
    for line in lines:
        if line.strip():
            print(json.dumps(answer(line)), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, or 2 with one sentence per problem on stderr."""
    parser = argparse.ArgumentParser(prog="python -m estimators", description="What will this fine-tune need?")
    parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--jsonl", action="store_true", help="read a plan per line from stdin, print an estimate per line")
    options = parser.parse_args(arguments)
    quiet(keep_errors=options.jsonl)
    if options.jsonl:
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
