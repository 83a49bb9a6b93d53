"""Whether a change of the code has changed an estimate: the answers to some 350 plans, written down and compared.

    python benchmarks/same_estimates.py before.jsonl      on the commit before
    python benchmarks/same_estimates.py after.jsonl       on the commit after
    cmp before.jsonl after.jsonl

The plans are all methods on a small and on an 8B model, all objectives with LoRA and with full fine-tuning, all
shardings on 2 and 8 GPUs, and every GPU of the table. They are asked through `python -m estimators --jsonl`, in an empty
data folder, so nothing that this computer has measured has a part in them, and every plan is for a GPU of the table.
`host_memory` is left out: it holds what the asked process itself takes, which differs from one start to the next.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.catalog import hardware, models  # noqa: E402
from engine.catalog.shardings import SHARDINGS  # noqa: E402
from engine.methods import METHODS  # noqa: E402
from engine.objectives import OBJECTIVES  # noqa: E402
from engine.plan import Plan  # noqa: E402

SMALL, LARGE = "Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.1-8B"
CARD = "A100 80GB SXM"
# The objectives that cannot do without an option, or not with the settings of the others.
WITH_OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"per_device_train_batch_size": 8},
    "rloo": {"per_device_train_batch_size": 8},
    "distillation": {"objective_options": {"teacher": SMALL}},
    "clip": {"max_length": 32},
}


def plans() -> Iterator[Plan]:
    """The plans, in an order that does not change."""
    for key in METHODS:
        yield Plan(model=SMALL, method=key, gpu="RTX 4090", max_length=512, max_steps=100)
        yield Plan(model=LARGE, method=key, gpu=CARD, max_length=1024, max_steps=100, gradient_checkpointing=True)
    for key, objective in OBJECTIVES.items():
        model = models.trainable_models(objective.task)[0].id
        for method in ("lora", "full"):
            yield Plan(model=model, objective=key, method=method, gpu="RTX 4090", max_length=256, max_steps=50)
    for sharding, num_gpus, method in itertools.product(SHARDINGS, (2, 8), ("qlora", "full")):
        yield Plan(model=LARGE, method=method, gpu=CARD, sharding=sharding, num_gpus=num_gpus, max_length=512, max_steps=100)
    for name in hardware.gpus():
        precision = hardware.recommended_precision(hardware.find_gpu(name))
        yield Plan(model=LARGE, method="qlora", gpu=name, precision=precision, max_length=1024, max_steps=100)
    for key, changes in WITH_OPTIONS.items():
        model = models.trainable_models(OBJECTIVES[key].task)[0].id
        for method in ("lora", "full"):
            settings: dict[str, Any] = {"gpu": "RTX 4090", "max_length": 256, "max_steps": 50, **changes}
            yield Plan(model=model, objective=key, method=method, **settings)


def main(out: Path) -> int:
    """Write one line of JSON per plan. Returns the exit code."""
    lines = [json.dumps(plan.to_dict()) for plan in plans()]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"FITTINGROOM_HOME": home}
        command = [sys.executable, "-m", "estimators", "--jsonl"]
        asked = "\n".join(lines) + "\n"
        done = subprocess.run(command, cwd=ROOT, env=environment, input=asked, stdout=subprocess.PIPE, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        answer.pop("host_memory", None)
    out.write_text("".join(json.dumps(answer, sort_keys=True) + "\n" for answer in answers), encoding="utf-8")
    refused = sum("error" in answer for answer in answers)
    print(f"{len(answers)} plans, {refused} of them refused, in {out}")
    return 0 if len(answers) == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
