"""The estimator on the command line.

python -m estimators PLAN.json             for people
python -m estimators PLAN.json --json      one JSON object
python -m estimators --jsonl < plans       one estimate per line, in order; a bad line gives {"error": ...}
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

from engine.__main__ import read_text
from engine.faults import in_plain_words
from engine.plan import Plan, PlanError
from estimators.estimate import Estimate
from estimators.words import in_words


def quiet(*, keep_errors: bool) -> None:
    """Keep the libraries' advice off the output; a serving process keeps errors, for its log."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING if keep_errors else logging.CRITICAL)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def answer(line: str) -> dict[str, Any]:
    """The estimate of one line, or what is wrong with it."""
    from estimators.estimator import estimate

    try:
        with in_plain_words():
            return estimate(Plan.from_json(line)).to_dict()
    except PlanError as error:
        return {"error": str(error), "issues": [vars(issue) for issue in error.issues]}


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
    reply = answer(read_text(options.plan))
    if "error" in reply:
        print(reply["error"], file=sys.stderr)
        return 2
    print(json.dumps(reply, indent=2) if options.json else in_words(Estimate.from_dict(reply)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
