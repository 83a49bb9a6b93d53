"""Estimates: the figures hang together, the claims of the literature hold, and bad input is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engine.data.demos import first_plan
from engine.issues import PlanError
from engine.plan import Plan
from estimators.estimate import Estimate
from estimators.estimator import estimate
from estimators.service.client import Estimator

NAMES = """trainable_params total_params memory fits step_seconds tokens_per_second total_seconds cost host_memory disk phases
suggestions source"""
MEMORY_NAMES = "allocated weights gradients optimizer activations loss overhead peak low high capacity"
BIG = Plan(model="huggyllama/llama-7b", max_length=512, per_device_train_batch_size=1, gradient_checkpointing=True)


def test_the_first_plan_fits_on_this_machine() -> None:
    found = estimate(first_plan())
    assert found.fits == "yes"
    assert found.steps
    assert found.total_seconds
    assert found.total_seconds.low < found.total_seconds.likely < found.total_seconds.high
    assert found.cost is None, "this machine has no price"


def test_the_names_that_others_rely_on_are_there() -> None:
    values = estimate(first_plan()).to_dict()
    assert set(NAMES.split()) <= set(values)
    assert set(MEMORY_NAMES.split()) <= set(values["memory"])
    assert set(values["phases"]) == {"load", "train", "evaluate", "save", "merge"}
    assert set(values["step_seconds"]) == {"low", "likely", "high"}


def test_json_round_trip() -> None:
    found = estimate(first_plan())
    assert Estimate.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_parts_add_up() -> None:
    memory = estimate(BIG.with_(gpu="L40S")).memory
    parts = memory.weights + memory.gradients + memory.optimizer + memory.activations + memory.loss
    assert parts == memory.allocated
    assert memory.allocated + memory.fragments == memory.peak
    assert memory.low < memory.total < memory.high


@pytest.mark.parametrize(("precision", "bytes_per_param"), [("fp32", 16), ("bf16", 8)])
def test_a_7b_in_full_precision_needs_112_gb_of_states(precision: str, bytes_per_param: int) -> None:
    """16 bytes per parameter for fp32 weights, gradients and AdamW (https://arxiv.org/abs/1910.02054); bf16 needs half."""
    found = estimate(BIG.with_(method="full", gpu="H200 SXM 141GB", precision=precision, optim="adamw_torch_fused"))
    memory = found.memory
    gradients = found.trainable_params * bytes_per_param / 4  # at the highest moment not all of them are there yet
    assert memory.weights + memory.optimizer + gradients == pytest.approx(found.total_params * bytes_per_param, rel=0.01)


def test_qlora_of_a_65b_fits_48_gb_and_not_24() -> None:
    """https://arxiv.org/abs/2305.14314: "finetune a 65B parameter model on a single 48GB GPU"."""
    config = {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 22016,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "vocab_size": 32000,
    }
    plan = BIG.with_(model=config, method="qlora", method_options={"r": 64})
    assert estimate(plan.with_(gpu="RTX A6000")).fits != "no"
    assert estimate(plan.with_(gpu="RTX 4090")).fits == "no"


def test_more_of_anything_is_never_less() -> None:
    small = estimate(BIG.with_(gpu="L40S", method="lora"))
    for change in ({"per_device_train_batch_size": 2}, {"gradient_checkpointing": False}, {"method": "full"}):
        assert estimate(BIG.with_(gpu="L40S", **change)).memory.peak > small.memory.peak


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": '{"model_type": "llama", "hidden_size": 1000000000}'}, "model"),
        ({"model": '{"model_type": "llama", "hidden_size": -4}'}, "model"),
        ({"model": '{"model_type": "nobody_knows"}'}, "model"),
        ({"method_options": {"target_modules": ["no_such_layer"]}}, "target_modules"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size"),
    ],
)
def test_what_only_a_build_can_tell_is_one_sentence_too(changes: dict, field: str) -> None:
    line = first_plan().with_(gpu="L40S", precision="bf16", **changes).to_json().replace("\n", " ")
    done = subprocess.run(
        [sys.executable, "-m", "estimators", "--jsonl"],
        input=line + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["error"].startswith(f"{field}:")
    assert answer["issues"][0]["fix"]


def test_a_bad_line_does_not_stop_the_next_one() -> None:
    lines = ["oops", json.dumps({"modell": "x"}), first_plan().to_json().replace("\n", " ")]
    done = subprocess.run(
        [sys.executable, "-m", "estimators", "--jsonl"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in answer for answer in answers] == [True, True, False]


def test_the_command_line_is_for_people(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(first_plan().to_json())
    done = subprocess.run([sys.executable, "-m", "estimators", plan], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("It fits on CPU")
    missing = subprocess.run(
        [sys.executable, "-m", "estimators", "no.json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert missing.returncode == 2
    assert missing.stderr.strip() == "plan: no.json cannot be read (No such file or directory). Check the path."


def test_the_client_answers_again_after_its_process_was_killed() -> None:
    estimator = Estimator()
    first = estimator.ask(first_plan())
    child = psutil.Process(estimator._process.pid)
    child.kill()
    child.wait()
    assert estimator.ask(first_plan()) is first, "what is known needs no process"
    again = estimator.ask(first_plan().with_(per_device_train_batch_size=4))
    assert again.memory.peak < first.memory.peak
    with pytest.raises(PlanError, match="learning_rate"):
        estimator.ask(first_plan().with_(learning_rate=-1.0))
    estimator.close()
