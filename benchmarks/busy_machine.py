"""What a busy neighbour costs the training, with and without our OpenMP setting. `python benchmarks/busy_machine.py`

Trains 30 steps of the demo run on an idle machine, then beside a program that keeps one core busy, each with
libgomp's default and with `engine.system.workers.SPIN_COUNT`. Prints tokens per second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = 30
LIBGOMP_DEFAULT = "300000"  # https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html


def tokens_per_second(spin_count: str) -> float:
    from engine.data.demos import first_plan
    from engine.jobs import runs
    from engine.system import events

    os.environ["GOMP_SPINCOUNT"] = spin_count
    run = runs.start(first_plan().with_(max_steps=STEPS, eval_fraction=0.0))
    for _ in runs.follow(run.id):
        pass
    steps = [event for event in events.since(run.folder)[0] if event["kind"] == "step"]
    return (steps[-1]["tokens"] - steps[0]["tokens"]) / sum(step["step_seconds"] for step in steps[1:])


def main() -> None:
    from engine.system.workers import SPIN_COUNT

    with tempfile.TemporaryDirectory() as home:
        os.environ["FITTINGROOM_HOME"] = home
        for beside in ("an idle machine", "a busy program"):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside == "a busy program" else None
            for name, value in (("ours", SPIN_COUNT), ("libgomp's default", LIBGOMP_DEFAULT)):
                print(f"beside {beside}, {name}: {tokens_per_second(value):.0f} tokens/s", flush=True)
            if busy is not None:
                busy.kill()
                busy.wait()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
