"""Every demo at its full length through the real worker, as a newcomer starts it: `python benchmarks/demos.py [DEMO ...]`

Writes `assets/demo_results.json`, from which `docs/objectives.md` has its table: the objective's figure on held-out rows
before and after, the share of held-out questions that are answered rightly before and after (where a rule can tell),
and the seconds. A demo chain is a demo too; each of its stages is a row. A demo that is named
again replaces its rows.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.data.demos import DEMO_CHAINS, DEMOS, PROBE, Demo, never_asked  # noqa: E402
from engine.inference import worker  # noqa: E402
from engine.jobs import runs  # noqa: E402
from engine.jobs.runs import Run  # noqa: E402
from engine.pipelines import chains  # noqa: E402
from engine.system import events  # noqa: E402

FILE = ROOT / "assets" / "demo_results.json"
ASKED = 60  # held-out questions; each is one greedy answer
NEW_TOKENS = 40


def follow(run: Run) -> None:
    """Wait until the run has ended."""
    for _ in runs.follow(run.id):
        pass


def measure(demo: Demo) -> list[dict[str, Any]]:
    """The row of one demo, run to its end."""
    run = runs.start(demo.plan())
    follow(run)
    return [{"demo": demo.key, "title": demo.title, **figures(run), **answers(demo, run)}]


def measure_chain(key: str) -> list[dict[str, Any]]:
    """The rows of a demo chain: one for each stage."""
    chain = chains.from_json(DEMO_CHAINS[key].file.read_text(encoding="utf-8"))
    results, _ = chains.run_chain(chain, follow)
    return [
        {"demo": key, "title": f"{DEMO_CHAINS[key].title}: stage {number}", **figures(result.run)}
        for number, result in enumerate(results, start=1)
    ]


def figures(run: Run) -> dict[str, Any]:
    """What the run's own evaluations say of the held-out rows, at its beginning and at its end."""
    ended = runs.get(run.id)
    assert ended is not None
    if ended.state != "finished":
        raise RuntimeError(f"{ended.name}: {ended.reason} (see {ended.folder})")
    figure = chains.last_figure(ended)
    assert figure is not None, ended.name
    last = events.ending(ended.folder)
    assert last is not None
    return {
        "objective": ended.plan.objective,
        "metric": figure[0],
        "before": figure[1],
        "after": figure[2],
        "seconds": round(last["seconds"], 1),
    }


def answers(demo: Demo, run: Run) -> dict[str, Any]:
    """The share of held-out questions that base and tuned model answer rightly, where a rule can tell."""
    if demo.is_right is never_asked:
        return {}
    pair = worker.Pair(run.folder)
    asked = judged(demo) or judged(DEMOS["pirate"])  # preferences have no word to look for; their voice is the pirate's
    tuned = share(demo, asked, lambda prompt: say(pair.tuned, pair.tokenizer, prompt))
    with pair.as_base():
        model = pair.tuned if pair.has_adapter else pair.base
        base = share(demo, asked, lambda prompt: say(model, pair.tokenizer, prompt))
    return {"right_before": base, "right_after": tuned}


def judged(demo: Demo) -> list[dict[str, Any]]:
    """Held-out rows that say which word a right answer has."""
    rows = [json.loads(line) for line in demo.held_out_file.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "word" in row][:ASKED]


def share(demo: Demo, rows: list[dict[str, Any]], reply: Callable[[str], str]) -> float:
    """How many of the rows are answered rightly."""
    return sum(demo.is_right(reply(question(row)), row) for row in rows) / len(rows)


def question(row: dict[str, Any]) -> str:
    """What the row asks."""
    turns = row.get("messages") or row["prompt"]
    return turns if isinstance(turns, str) else turns[0]["content"]


def say(model: Any, tokenizer: Any, prompt: str) -> str:
    """One greedy answer."""
    inputs = {name: tensor.to(model.device) for name, tensor in worker.render(tokenizer, prompt).items()}
    output = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main(names: tuple[str, ...]) -> None:
    measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
        key: lambda demo=demo: measure(demo) for key, demo in DEMOS.items() if key != PROBE
    }
    for key in DEMO_CHAINS:
        measures[key] = lambda key=key: measure_chain(key)
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else []
    for name in names or tuple(measures):
        fresh = measures[name]()
        print(json.dumps(fresh), flush=True)
        by_demo = {key: [row for row in known if row["demo"] == key] for key in measures} | {name: fresh}
        known = [row for rows in by_demo.values() for row in rows]
        FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FITTINGROOM_HOME"] = folder
        main(tuple(sys.argv[1:]))
