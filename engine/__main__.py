"""Runs without the browser.

    python -m engine run PLAN.json [--merge]           a whole run; or a chain of them: run CHAIN.json
    python -m engine resume RUN                        one that was stopped goes on from its checkpoint
    python -m engine compare PLAN.json lora,dora,full  one plan with several methods, and what each reached and cost

The runs are ordinary ones: they appear in the page's history, and Ctrl-C stops one after the step under way.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from engine import json_input
from engine.export import merge
from engine.issues import Issue, PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.pipelines import chains, compare, forgetting
from engine.pipelines.chains import Chain
from engine.pipelines.compare import Comparison
from engine.plan import NOT_JSON, Plan
from engine.system import formatting
from engine.system.home import PRIVATE_UMASK


def to_its_end(run: Run) -> Run:
    """Draw the progress of a run until it ends."""
    watch(run)
    ended = runs.get(run.id)
    assert ended is not None
    return ended


def watch(run: Run) -> None:
    """The progress bar of a run that is under way; Ctrl-C stops the run after its step."""
    print(f"{run.name}\n{run.folder}", file=sys.stderr)
    with tqdm(unit="step", desc="Starting", file=sys.stderr) as bar:
        try:
            _draw(run.id, bar)
        except KeyboardInterrupt:
            bar.set_description("Stopping")
            runs.stop(run.id)
            _draw(run.id, bar)


def run_chain(chain: Chain) -> Path:
    """Run all stages, print what they measured and forgot, and return the last stage's model."""
    results, report = chains.run_chain(chain, watch)
    for result in results:
        figure = chains.last_figure(result.run)
        if figure is not None:
            print(f"{result.run.name}: {figure[0]} {figure[1]:.3g} -> {figure[2]:.3g}", file=sys.stderr)
    for row in report:
        losses = (f"{name} {loss:.3f}" for name, loss in row.items() if name != "when")
        print(f"{row['when']}: {', '.join(losses)}", file=sys.stderr)
    for warning in forgetting.warnings(report, chain.limit):
        print(f"warning: {warning}", file=sys.stderr)
    return results[-1].model


def _draw(run_id: str, bar: tqdm) -> None:
    for event in runs.follow(run_id):
        if event["kind"] == "note":
            bar.set_description(event["message"].rstrip("."))
        elif event["kind"] == "step":
            bar.set_description("Training")
            bar.total = event["max_steps"]
            bar.update(event["step"] - bar.n)
            bar.set_postfix(loss=f"{float(event['loss']):.3f}", tokens_per_second=f"{event['tokens_per_second'] or 0:.0f}")


def compare_methods(plan: Plan, methods: list[str]) -> Comparison:
    """Run the plan with each method, say when one has ended, and print what each reached and cost."""
    comparison = compare.start(plan, methods)
    print(f"{comparison.name}\n{comparison.folder}", file=sys.stderr)
    try:
        _tell(comparison)
    except KeyboardInterrupt:
        print("Stopping.", file=sys.stderr)
        compare.stop(comparison)
        _tell(comparison)
    print(comparison_table(compare.rows(comparison)))
    return comparison


def _tell(comparison: Comparison) -> None:
    told: dict[str, str] = {}
    for rows in compare.follow(comparison):
        for row in rows:
            if told.get(row.method, "waiting") != row.state:
                print(f"{row.label}: {row.state} {row.reason}".rstrip(), file=sys.stderr)
            told[row.method] = row.state


def comparison_table(rows: list[compare.Row]) -> str:
    """What is known of each method, in columns."""
    head = ("method", "state", "eval loss", "right", "trained", "peak memory", "time", "size")
    lines = [
        (
            row.method,
            row.state,
            formatting.figure(row.eval_loss),
            formatting.UNKNOWN if row.success is None else f"{row.success:.0%}",
            formatting.count(row.trainable_params),
            formatting.size(row.memory_peak),
            formatting.duration(row.seconds),
            formatting.size(row.bytes),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in (head, *lines))


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
    run_command = commands.add_parser("run", help="train a plan or a chain of them, from its JSON file to its result")
    run_command.add_argument("plan", type=Path, metavar="PLAN.json")
    run_command.add_argument("--merge", action="store_true", help="merge the adapter afterwards and prove the merge")
    compare_command = commands.add_parser("compare", help="train a plan with several methods, one after the other")
    compare_command.add_argument("plan", type=Path, metavar="PLAN.json")
    compare_command.add_argument("methods", metavar="METHOD,METHOD,...", help="for instance lora,dora,full")
    resume_command = commands.add_parser("resume", help="let a run go on that was stopped or interrupted, from its checkpoint")
    resume_command.add_argument("run", metavar="RUN", help="the run's id, which is the name of its folder")
    options = parser.parse_args(arguments)
    os.umask(PRIVATE_UMASK)
    try:
        if options.command == "resume":
            return told(to_its_end(runs.resume(options.run)), merged=False)
        text = read_text(options.plan)
        values = json_input.parse(text, "plan", fix=NOT_JSON)
        if options.command == "compare":
            compared = compare_methods(
                Plan.from_dict(values), [key.strip() for key in options.methods.split(",") if key.strip()]
            )
            return 0 if compare.state(compared) == "finished" else 1
        if chains.is_chain(values):
            print(run_chain(chains.from_dict(values)))
            return 0
        return told(to_its_end(runs.start(Plan.from_dict(values))), merged=options.merge)
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2


def told(ended: Run, *, merged: bool) -> int:
    """Print where an ended run's result is, merged first if that is wanted. Returns the exit code."""
    if ended.state != "finished":
        print(f"{ended.state}: {ended.reason}", file=sys.stderr)
        if runs.resumable(ended) is not None:
            print(f"Resume it with: python -m engine resume {ended.id}", file=sys.stderr)
        return 1
    if merged and (ended.folder / "adapter").is_dir():
        report = merge_run(ended)
        print(f"merged: {report['agree']} of {report['prompts']} answers agree with base + adapter", file=sys.stderr)
        print(ended.folder / "merged")
    else:
        print(next(ended.folder / part for part in ("adapter", "model") if (ended.folder / part).is_dir()))
    return 0


def read_text(path: Path) -> str:
    """The text of a plan file. Raises `PlanError` if there is none, or if it is no text of a plan's size."""
    try:
        with open(path, "rb") as file:
            content = file.read(json_input.MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        message = f"{str(path)[:200]} cannot be read ({reason})."
        raise PlanError([Issue(field="plan", message=message, fix="Check the path.")]) from None
    if len(content) > json_input.MOST_BYTES:
        message = f"{str(path)[:200]} is larger than {json_input.MOST_BYTES // 2**20} MB."
        raise PlanError([Issue(field="plan", message=message, fix="Check the path: that is no plan.")])
    return text


if __name__ == "__main__":
    sys.exit(main())
