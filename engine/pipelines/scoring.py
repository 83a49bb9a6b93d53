"""How many held-out questions of a demo set a run's model answers rightly. `python -m engine.pipelines.scoring RUN_FOLDER`

Some demo sets have a rule that judges an answer (`engine/data/demos.py`). This asks the tuned model the set's held-out
questions, greedily, and leaves `score.json` in the run's folder: {"success": share, "asked": questions}.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.data.demos import DEMOS, Demo, never_asked
from engine.issues import PlanError
from engine.jobs import runs
from engine.plan import Plan
from engine.system.errors import in_plain_words
from engine.system.home import write_atomically

FILE = "score.json"
MOST_ASKED = 60  # one answer is right or wrong, so the share is known to 13 points at worst (95 %, binomial)
NEW_TOKENS = 64  # the longest right answer of a demo set has fewer


@dataclass(frozen=True, kw_only=True)
class Score:
    """The share of questions that were answered rightly, and how many there were."""

    success: float
    asked: int


def demo_of(plan: Plan) -> Demo | None:
    """The demo set whose rule judges what the plan's model says; None where there is no such rule."""
    paths = [source.path for source in plan.datasets]
    found = next((demo for demo in DEMOS.values() if [demo.path] == paths), None)
    return found if found is not None and found.is_right is not never_asked else None


def read(run_folder: Path) -> Score | None:
    """What was found out before, if anything was."""
    try:
        return Score(**json.loads((run_folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def score(run_folder: Path) -> Score:
    """Ask the run's model. Raises `PlanError` where no rule judges its answers."""
    from engine.inference import worker

    demo = demo_of(runs.plan_of(run_folder))
    assert demo is not None, "the caller asks `demo_of` first"
    pair = worker.Pair(run_folder)
    rows = [json.loads(line) for line in demo.held_out_file.read_text(encoding="utf-8").splitlines()][:MOST_ASKED]
    right = 0
    for row in rows:
        inputs = worker.render(pair.tokenizer, row["messages"][0]["content"])  # one at a time: no padding before a prompt
        inputs = {name: tensor.to(pair.tuned.device) for name, tensor in inputs.items()}
        output = pair.tuned.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        said = pair.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += demo.is_right(said, row)
    return Score(success=right / len(rows), asked=len(rows))


def main(run_folder: Path) -> int:
    """Score the run and write it down. Returns the exit code."""
    try:
        with in_plain_words():
            found = score(run_folder)
    except PlanError as error:
        print(error, file=sys.stderr)
        return 1
    write_atomically(run_folder / FILE, json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
