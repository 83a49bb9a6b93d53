"""The demo model learns a demo set with many methods, one after the other: `python benchmarks/methods.py [METHOD ...]`

The set is *json_answers*: it shows a form of answer that the model has never given. This writes
`assets/method_results.json`, from which `docs/methods.md` has its table: of the held-out questions, how many are
answered in the right form with the right word; trained parameters; seconds; bytes of the result; the learning rate and
the day. A method that is named again replaces its row.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.data.demos import DEMOS  # noqa: E402
from engine.jobs import runs  # noqa: E402
from engine.jobs.runs import Run  # noqa: E402
from engine.methods import METHODS  # noqa: E402
from engine.modeling import build  # noqa: E402
from engine.pipelines import scoring  # noqa: E402
from engine.system import events  # noqa: E402

FILE = ROOT / "assets" / "method_results.json"
TRIED = (
    *("lora", "full", "qlora", "dora", "houlsby", "prefix_tuning", "pissa", "loha", "oft", "ia3", "freeze", "lora_plus"),
    *("ln_tuning", "pfeiffer", "miss", "adalora", "prompt_tuning", "rslora", "osf", "shira", "olora", "lora_fa"),
    *("lora_prompt_tuning", "lora_prefix_tuning"),
)

# The demo model is 256 wide: a sixteenth of that, the default for large models, is a handful of numbers (judgement).
OPTIONS = {key: {"reduction_factor": 4} for key in ("houlsby", "pfeiffer")}


def train(method: str) -> Run:
    """Run the demo's own plan with another method, to its end."""
    own = {"method": method, "method_options": OPTIONS.get(method, {}), "quantization": METHODS[method].quantization}
    plan = DEMOS["json_answers"].plan().with_(**own)
    run = runs.start(plan)
    for _ in runs.follow(run.id):
        pass
    ended = runs.get(run.id)
    assert ended is not None
    return ended


def measure(method: str) -> dict[str, Any]:
    """One row of the table."""
    run = train(method)
    happened, _ = events.since(run.folder)
    by_kind = {event["kind"]: event for event in happened}
    if run.state != "finished":
        raise RuntimeError(f"{method}: {run.reason} (see {run.folder})")
    return {
        "method": method,
        "success": scoring.score(run.folder).success,
        "trainable_params": by_kind["started"]["trainable_params"],
        "seconds": round(by_kind["finished"]["seconds"], 1),
        "bytes": by_kind["saved"]["bytes"],
        "learning_rate": build.learning_rate(runs.plan_of(run.folder)),
        "measured": datetime.date.today().isoformat(),
    }


def main(methods: tuple[str, ...]) -> None:
    results = {row["method"]: row for row in json.loads(FILE.read_text(encoding="utf-8"))} if FILE.is_file() else {}
    for method in methods:
        results[method] = measure(method)
        print(json.dumps(results[method]), flush=True)
        FILE.write_text(json.dumps(list(results.values()), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FITTINGROOM_HOME"] = folder
        main(tuple(sys.argv[1:]) or TRIED)
