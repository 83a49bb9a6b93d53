"""A whole run without the browser: `python -m engine run PLAN.json [--merge]`

The run is an ordinary one: it appears in the page's history, and Ctrl-C stops it after the step under way.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from engine import merge, runs
from engine.plan import Plan, PlanError
from engine.runs import Run


def run_plan(plan: Plan) -> Run:
    """Start the plan and draw its progress until it ends."""
    run = runs.start(plan)
    print(f"{run.name}\n{run.folder}", file=sys.stderr)
    with tqdm(unit="step", desc="Starting", file=sys.stderr) as bar:
        try:
            _draw(run.id, bar)
        except KeyboardInterrupt:
            bar.set_description("Stopping")
            runs.stop(run.id)
            _draw(run.id, bar)
    ended = runs.get(run.id)
    assert ended is not None
    return ended


def _draw(run_id: str, bar: tqdm) -> None:
    for event in runs.follow(run_id):
        if event["kind"] == "note":
            bar.set_description(event["message"].rstrip("."))
        elif event["kind"] == "step":
            bar.set_description("Training")
            bar.total = event["max_steps"]
            bar.update(event["step"] - bar.n)
            bar.set_postfix(loss=f"{float(event['loss']):.3f}", tokens_per_second=f"{event['tokens_per_second'] or 0:.0f}")


def merge_run(run: Run) -> dict:
    """Merge a finished run and wait for the proof. Raises `PlanError` if the merge fails."""
    merge.start(run.id)
    with tqdm(total=100, unit="%", desc="Merging", file=sys.stderr) as bar:
        while (status := merge.status(run)).state == "running":
            bar.set_description(status.message.rstrip("."))
            bar.update(round(100 * status.fraction) - bar.n)
            time.sleep(0.2)
        bar.update(100 - bar.n)
    if status.state == "failed":
        sys.exit(status.message)
    return dict(status.report or {})


def main(arguments: list[str] | None = None) -> int:
    """The command line. One plain sentence per problem on stderr; 0 if the run finished, 1 if not, 2 for a bad plan."""
    parser = argparse.ArgumentParser(prog="python -m engine", description="Run a fine-tune without the browser.")
    commands = parser.add_subparsers(dest="command", required=True)
    run_command = commands.add_parser("run", help="train a plan, from its JSON file to its result")
    run_command.add_argument("plan", type=Path, metavar="PLAN.json")
    run_command.add_argument("--merge", action="store_true", help="merge the adapter afterwards and prove the merge")
    options = parser.parse_args(arguments)
    try:
        ended = run_plan(Plan.from_json(read_text(options.plan)))
        if ended.state != "finished":
            print(f"{ended.state}: {ended.reason}", file=sys.stderr)
            return 1
        if options.merge and (ended.folder / "adapter").is_dir():
            report = merge_run(ended)
            print(f"merged: {report['agree']} of {report['prompts']} answers agree with base + adapter", file=sys.stderr)
            print(ended.folder / "merged")
        else:
            print(next(ended.folder / part for part in ("adapter", "model") if (ended.folder / part).is_dir()))
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def read_text(path: Path) -> str:
    """The text of a plan file. Exits with one sentence if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"plan: {path} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8 text'}). Check the path.")


if __name__ == "__main__":
    sys.exit(main())
