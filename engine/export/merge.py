"""Merge: adapter and base become one model, proven to answer like the two. `python -m engine.export.merge RUN_FOLDER`

The merging process writes `merge.jsonl` (progress, then the proof) and leaves `merged/`, a standard Hugging Face
folder, only when the merged model, loaded back from the disk, answers held-out prompts as base + adapter does.
A QLoRA adapter is merged into the weights that it was trained on: the 4-bit ones, unpacked.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from engine import checks, data
from engine.adapters import attach
from engine.catalog import prequantized
from engine.catalog.models import find
from engine.data import holdout
from engine.inference import worker
from engine.issues import Issue, PlanError
from engine.jobs import artifacts, runs
from engine.jobs.runs import Run
from engine.methods import METHODS
from engine.modeling import build, libraries
from engine.objectives import OBJECTIVES
from engine.plan import Plan
from engine.system import events, redaction, workers
from engine.system.errors import in_plain_words
from engine.system.home import free_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EVENTS_FILE = "merge.jsonl"
LOCK_FILE = "merge.lock"
LOG_FILE = "merge.log"
START_SECONDS = 30.0  # how long a launched process may take to Python's first line on a busy machine
PROOF_PROMPTS = 16
PROOF_NEW_TOKENS = 32

# The largest difference of two logits that rounding explains, by the number type of the merged weights. Logits are of
# the order of 10; bf16 keeps 8 bits and fp16 11 bits of each weight, and the differences add up over the layers.
TOLERANCE = {"fp32": 1e-2, "fp16": 0.1, "bf16": 0.5}


@dataclass(frozen=True, kw_only=True)
class MergeStatus:
    """How far the merge of a run is."""

    state: str  # none | running | finished | failed
    fraction: float = 0.0
    message: str = ""
    report: Mapping[str, Any] | None = None


# --- the page's side ------------------------------------------------------------------------------------------------


def start(run_id: str) -> None:
    """Start merging in the background. Raises `PlanError` if there is nothing to merge or a merge is under way."""
    run = runs.get(run_id)
    if run is None or not (run.folder / "adapter").is_dir():
        raise _wrong("there is no adapter to merge.", "Choose a finished run of a method with an adapter.")
    method = METHODS[runs.plan_of(run.folder).method]
    if not method.mergeable:
        raise _wrong(f"{method.label} cannot be added to the weights.", "Take the adapter: it works with its base model.")
    stored = prequantized.of_config(find(runs.plan_of(run.folder).model).config)
    if stored is not None:
        message = f"an adapter cannot be added to weights that are stored in {stored.label}."
        raise _wrong(message, "Take the adapter: it works with its base model.")
    if status(run).state == "running":
        raise _wrong("this run is being merged already.", "Wait until it is done.")
    for earlier in (EVENTS_FILE, f"{LOG_FILE}.pid"):
        (run.folder / earlier).unlink(missing_ok=True)
    events.EventLog(run.folder, EVENTS_FILE).write("queued", message="Starting.")
    workers.launch("engine.export.merge", run.folder, LOG_FILE)


def status(run: Run) -> MergeStatus:
    """How far the merge is, from its event file and its process."""
    happened, _ = events.since(run.folder, file=EVENTS_FILE)
    if not happened:
        return MergeStatus(state="none")
    last = happened[-1]
    if last["kind"] == "finished":
        return MergeStatus(state="finished", fraction=1.0, report=last["report"])
    if last["kind"] == "failed":
        return MergeStatus(state="failed", message=last["message"])
    just_queued = last["kind"] == "queued" and time.time() - last["time"] < START_SECONDS
    just_queued = just_queued and not workers.launched_process_is_gone(run.folder, LOG_FILE)
    if not just_queued and not workers.lock_is_held(run.folder, LOCK_FILE):
        return MergeStatus(state="failed", message="The merge was interrupted. Start it again: nothing is lost.")
    return MergeStatus(state="running", fraction=last.get("fraction", 0.0), message=last["message"])


# --- the merging process --------------------------------------------------------------------------------------------


def merge(run_folder: Path, log: events.EventLog) -> dict[str, Any]:
    """The recipe, top to bottom. Returns the proof."""
    plan = runs.plan_of(run_folder)
    _check_disk(plan, run_folder)

    log.write("progress", fraction=0.1, message="Asking base + adapter.")
    pair = worker.Pair(run_folder)
    prompts = proof_prompts(plan)
    expected = [observe(pair.tuned, pair.tokenizer, prompt) for prompt in prompts]

    log.write("progress", fraction=0.4, message="Adding the adapter to the weights.")
    merged, changed, adapted = add_to_weights(plan, pair, run_folder / "adapter")
    partial = run_folder / "merged.partial"
    shutil.rmtree(partial, ignore_errors=True)
    log.write("progress", fraction=0.6, message="Writing the merged model.")
    merged.save_pretrained(partial)
    pair.tokenizer.save_pretrained(partial)
    tokenizer = pair.tokenizer
    del merged, pair

    log.write("progress", fraction=0.8, message="Loading it back and comparing.")
    reloaded = worker.load_whole(partial, build.device_here())
    observed = [observe(reloaded, tokenizer, prompt) for prompt in prompts]
    report = compare(plan, expected, observed) | {"weights_changed": changed, "weights": adapted, "base": base_of(plan)}
    _refuse_if_different(report)

    report["bytes"] = sum(file.stat().st_size for file in partial.iterdir())
    artifacts.publish(partial, plan)
    (partial / "README.md").write_text(model_card(plan, report), encoding="utf-8")
    _promote(partial, run_folder / "merged")
    return report


def add_to_weights(plan: Plan, pair: worker.Pair, adapter: Path) -> tuple[PreTrainedModel, int, int]:
    """(merged model, adapted weights that changed, adapted weights). Quantised weights are unpacked first."""
    tuned = pair.tuned
    if checks.quantization(plan) != "none":
        tuned = attach.load(unpacked_base(plan), adapter)
    before = {name: _checksum(weight) for name, weight in _adapted_weights(tuned)}
    merged = attach.merge(tuned)
    after = {name: _checksum(merged.get_parameter(name)) for name in before}
    changed = sum(before[name] != after[name] for name in before)
    return merged, changed, len(before)


def unpacked_base(plan: Plan) -> PreTrainedModel:
    """The quantised base as the adapter knew it, its weights written out in the plan's number type."""
    unpacked = build.load_base(plan, build.device_here()).dequantize(dtype=build.torch_dtype(plan))
    # transformers (5.23) leaves these marks, by which some of PEFT's methods refuse to merge.
    unpacked.is_loaded_in_4bit = unpacked.is_loaded_in_8bit = False
    return unpacked


def _adapted_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights that the adapter changes, by their names in the base model: those of its layers, and trained biases."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    prefix = "base_model.model."
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield f"{name.removeprefix(prefix)}.weight", module.get_base_layer().weight


def _checksum(weight: torch.Tensor) -> float:
    return weight.detach().double().abs().sum().item()


# --- the proof ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a model does with one prompt: its greedy answer, and the logits of the prompt [tokens, vocabulary]."""

    tokens: tuple[int, ...]
    logits: torch.Tensor


def proof_prompts(plan: Plan) -> list[str]:
    """Prompts that the run did not train on, as far as there are; else rows that it did."""
    train_rows, held_out = holdout.split(plan, data.load(plan.datasets, OBJECTIVES[plan.objective].shapes))
    return [_first_words(row) for row in (held_out + train_rows)[:PROOF_PROMPTS]]


def _first_words(row: data.Row) -> str:
    said = row.get("messages", row.get("prompt"))
    if isinstance(said, list):
        return next(message["content"] for message in said if message["role"] == "user")
    return said or row["text"][:200]


def observe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> Observation:
    """Run one prompt through a model."""
    import torch

    inputs = {name: tensor.to(model.device) for name, tensor in worker.render(tokenizer, prompt).items()}
    with torch.no_grad():
        logits = model(**inputs).logits[0].float().cpu()
        output = model.generate(**inputs, do_sample=False, max_new_tokens=PROOF_NEW_TOKENS)
    new = output[0, inputs["input_ids"].shape[1] :]
    return Observation(tokens=tuple(new.tolist()), logits=logits)


def compare(plan: Plan, expected: list[Observation], observed: list[Observation]) -> dict[str, Any]:
    """How alike the two models are: prompts with the same greedy answer, and the largest difference of two logits."""
    pairs = list(zip(expected, observed, strict=True))
    # A quantised base runs its adapters in bf16, so that is the rounding to expect.
    number_type = plan.precision if checks.quantization(plan) == "none" else "bf16"
    return {
        "prompts": len(pairs),
        "agree": sum(one.tokens == two.tokens for one, two in pairs),
        "max_logit_difference": max((one.logits - two.logits).abs().max().item() for one, two in pairs),
        "tolerance": TOLERANCE[number_type],
    }


def _refuse_if_different(report: Mapping[str, Any]) -> None:
    """A merged model that answers differently is not handed out. Rounding may flip a near tie in one answer of ten."""
    alike = report["agree"] >= 0.9 * report["prompts"] and report["max_logit_difference"] <= report["tolerance"]
    if not alike or report["weights_changed"] < report["weights"]:
        raise _wrong(
            f"the merged model does not answer like base + adapter ({report['agree']} of {report['prompts']} answers agree, "
            f"largest logit difference {report['max_logit_difference']:.3g}, "
            f"{report['weights_changed']} of {report['weights']} weights changed), so it is not offered.",
            "Use the adapter as it is, or train longer if it has hardly moved.",
        )


# --- the folder -----------------------------------------------------------------------------------------------------


def base_of(plan: Plan) -> str:
    """Which weights the adapter was added to, in words."""
    kind = checks.quantization(plan)
    name = artifacts.public_name(plan.model)
    return name if kind == "none" else f"{name}, its {kind} weights unpacked"


def model_card(plan: Plan, report: Mapping[str, Any]) -> str:
    """The README.md of the merged folder."""
    base = find(plan.model)
    licence = f"license: {base.license}\n" if base.license and " " not in base.license else ""
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n{licence}---\n\n"
        f"# {base.title}, fine-tuned\n\n"
        f"Method: {METHODS[plan.method].label}, merged into {report['base']}. Trained with Fitting Room.\n\n"
        f"Proof of the merge: {report['agree']} of {report['prompts']} greedy answers equal those of base + adapter; "
        f"largest logit difference {report['max_logit_difference']:.2e} (tolerance {report['tolerance']:g}).\n\n"
        f"```python\nfrom transformers import pipeline\n\n"
        f'ask = pipeline("text-generation", model="path/to/this/folder")\n'
        f'print(ask([{{"role": "user", "content": "Hello"}}])[0]["generated_text"][-1]["content"])\n```\n'
    )


def _check_disk(plan: Plan, run_folder: Path) -> None:
    needed = (find(plan.model).params or 0) * (4 if plan.precision == "fp32" else 2) + 20 * 2**20
    free = free_bytes(run_folder)
    if free < needed:
        raise PlanError(
            [
                Issue(
                    field="disk",
                    message=f"the merged model needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free.",
                    fix="Free some space and merge again.",
                )
            ]
        )


def _promote(partial: Path, final: Path) -> None:
    """The complete folder takes its name in one step; an earlier merge steps aside first."""
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)


def _wrong(message: str, fix: str) -> PlanError:
    return PlanError([Issue(field="merge", message=message, fix=fix)])


def main(run_folder: Path) -> int:
    """Merge; whatever happens becomes the last event. Returns the exit code."""
    try:
        lock = workers.hold_lock(run_folder, LOCK_FILE)
    except filelock.Timeout:
        return 3
    redaction.redact_output()
    log = events.EventLog(run_folder, EVENTS_FILE)
    started = time.monotonic()
    with lock:
        try:
            with in_plain_words():
                libraries.load()
                report = merge(run_folder, log)
        except PlanError as error:
            log.write("failed", message=str(error))
            return 1
        log.write("finished", report=report, seconds=time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
