"""The worker beside a bare SFTTrainer script with the same settings. `python benchmarks/training_speed.py [--rounds 8]`

Both train the demo model on the demo set, in turns (each round the other one first), each in a process of its own, and
evaluate as often. Many short runs tell more than few long ones: the speed of a shared machine wanders by several
per cent within minutes. Prints the tokens per second of each, the ratio of their medians and the spread of the rounds;
the product's promise is at least 0.97.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.plan import Plan  # noqa: E402 - found through the line above

# What a person would write by hand with TRL and PEFT alone, for the same model, data and settings.
BARE = """
import json, sys, time
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model_folder, rows_file, eval_file, settings, out = sys.argv[1:]
read = lambda name: Dataset.from_list([json.loads(line) for line in open(name)])
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32"),
    args=SFTConfig(output_dir=out, **json.loads(settings)),
    train_dataset=read(rows_file),
    eval_dataset=read(eval_file),
    processing_class=AutoTokenizer.from_pretrained(model_folder),
    peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
)
began = time.monotonic()
trainer.train()
seconds = time.monotonic() - began
tokens = [log["num_tokens"] for log in trainer.state.log_history if "num_tokens" in log][-1]
print(json.dumps({"tokens_per_second": tokens / seconds}))
"""


EPOCHS = 4


def bare(plan: Plan, folder: Path) -> float:
    """Tokens per second of the bare script."""
    from engine import data
    from engine.modeling import build
    from engine.objectives import OBJECTIVES

    train_rows, eval_rows = data.split(data.load(plan.datasets), eval_fraction=plan.eval_fraction, seed=plan.seed)
    for name, rows in (("train", train_rows), ("eval", eval_rows)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = build.training_arguments(plan, folder).to_dict()
    names = (
        "per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs", "learning_rate",
        "lr_scheduler_type", "warmup_steps", "optim", "bf16", "gradient_checkpointing", "seed", "use_cpu", "logging_steps",
        "save_strategy", "report_to", "disable_tqdm", "prediction_loss_only",
    )  # fmt: skip
    settings = {name: arguments[name] for name in names} | {
        "max_length": plan.max_length,
        "assistant_only_loss": True,
        "eval_strategy": "steps",
        "eval_steps": 1 / OBJECTIVES[plan.objective].evaluations,
        "eval_on_start": True,
    }
    settings["lr_scheduler_type"], settings["optim"] = plan.lr_scheduler_type, plan.optim
    script = folder / "bare.py"
    script.write_text(BARE)
    command = [sys.executable, script, build.weights_location(plan), folder / "train.jsonl", folder / "eval.jsonl"]
    done = subprocess.run([*command, json.dumps(settings), folder / "out"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["tokens_per_second"]


def worker(plan: Plan) -> float:
    """Tokens per second of the app's worker, from its start to its last event of training, evaluations included."""
    from engine.jobs import runs
    from engine.system import events

    run = runs.start(plan)
    for _ in runs.follow(run.id):
        pass
    seen, _ = events.since(run.folder)
    began = next(event["time"] for event in seen if event["kind"] == "started")
    last = [event for event in seen if event["kind"] in ("step", "evaluated")][-1]
    tokens = [event["tokens"] for event in seen if event["kind"] == "step"][-1]
    return tokens / (last["time"] - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    from engine.data.demos import first_plan

    plan = dataclasses.replace(first_plan(), num_train_epochs=EPOCHS)
    rates: dict[str, list[float]] = {"bare": [], "worker": []}
    with tempfile.TemporaryDirectory() as home:
        os.environ["FITTINGROOM_HOME"] = home
        for number in range(rounds):
            folder = Path(home) / f"bare{number}"
            folder.mkdir()
            turns = {"bare": lambda folder=folder: bare(plan, folder), "worker": lambda: worker(plan)}
            for name in sorted(turns, reverse=number % 2 == 1):
                rates[name].append(turns[name]())
            print(f"bare {rates['bare'][-1]:.0f} tokens/s   worker {rates['worker'][-1]:.0f} tokens/s", flush=True)
    ratio = statistics.median(rates["worker"]) / statistics.median(rates["bare"])
    each = sorted(ours / theirs for ours, theirs in zip(rates["worker"], rates["bare"], strict=True))
    print(f"worker / bare: {ratio:.3f} (medians of {rounds} rounds; single rounds {each[0]:.3f} to {each[-1]:.3f})")


if __name__ == "__main__":
    main()
