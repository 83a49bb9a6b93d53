"""The worker: one run, from its plan to its result. `python -m engine.train RUN_FOLDER`

It reads `plan.json`, writes `events.jsonl`, and leaves `adapter/` (or `model/`) behind. It is a process group of its
own, holds the folder's lock for as long as it lives, and needs no server. SIGTERM stops it after the step under way;
what has been learned until then is saved. In a folder that has a checkpoint it goes on from there.
"""

from __future__ import annotations

import logging
import math
import resource
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import filelock
from safetensors import SafetensorError

from engine import data, objectives
from engine.adapters import attach
from engine.data import holdout, token_counts
from engine.issues import Issue, PlanError
from engine.jobs import artifacts, runs
from engine.methods import METHODS
from engine.modeling import build, checkpoints, libraries
from engine.objectives import OBJECTIVES, Metric
from engine.plan import Plan
from engine.system import errors, redaction, workers
from engine.system.errors import in_plain_words
from engine.system.events import EventLog
from engine.system.home import free_bytes

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerControl, TrainerState

NON_FINITE_STEPS = 3  # a loss that is not a number for this many steps in a row ends the run
PATIENCE_SECONDS = 12 * 3600  # a night, for somebody to make room on a full disk
SAVE_AGAIN_SECONDS = 5
CHECKPOINT_SECONDS = 300.0  # between two checkpoints, at least: what a power cut may cost
CHECKPOINT_SHARE = 0.02  # of a run's time, at most, is spent on writing them
CHECKPOINT_ROOM = 4  # times the trained weights and the optimizer's state: an old one is removed after the new one is there
OPTIMIZER_BYTES = 8  # of a trained parameter: AdamW's two moments in fp32
MOST_LOSS = 80.0  # exp of more is no figure that a chart can show


class Stop:
    """Whether somebody asked the worker to stop (SIGTERM): while training it is a wish, before and after it ends at once."""

    def __init__(self) -> None:
        self.asked = False
        self.in_training = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.in_training:
            raise KeyboardInterrupt


def train(run_folder: Path, log: EventLog, stop: Stop) -> None:
    """The recipe, top to bottom."""
    import transformers

    started = time.monotonic()
    plan = runs.plan_of(run_folder)
    device = build.device_here()
    transformers.set_seed(plan.seed)
    checkpoint, damaged = checkpoints.verified(run_folder)
    for problem in damaged:
        log.write("note", message=problem)
    if checkpoint is not None:
        log.write("resumed", step=checkpoints.step_of(checkpoint))
    log.write("note", message="Loading the model.")

    processor = build.load_processor(plan)
    token_counts.refuse_untrained(plan)
    train_rows, eval_rows = load_rows(plan)
    model = build.build(plan, device)

    trainer = make_trainer(plan, run_folder, model, processor, train_rows, eval_rows)
    trainer.optimizer = build.make_optimizer(plan, model)  # None: the trainer makes the plan's
    reporter = make_reporter(log, stop, OBJECTIVES[plan.objective].metric)
    trainer.add_callback(reporter)
    trainer.add_callback(make_checkpoints(stop, model, run_folder))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.write("started", device=device, rows=len(train_rows), eval_rows=len(eval_rows), trainable_params=trainable)

    if checkpoint is None and (begin := METHODS[plan.method].begin) is not None:
        log.write("note", message="Looking at the first rows.")
        begin(model, trainer.get_train_dataloader())
    stop.in_training = True
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    if reporter.diverged:
        raise PlanError(
            [
                Issue(
                    field="learning_rate",
                    message=f"the loss was not a finite number for {NON_FINITE_STEPS} steps, so the run was stopped.",
                    fix=f"Try a smaller rate than {build.learning_rate(plan):g}, or a longer warm-up.",
                )
            ]
        )
    if eval_rows and not stop.asked and reporter.evaluated_at != trainer.state.global_step:
        trainer.evaluate()

    log.write("saving")
    where = save_when_there_is_room(trainer, processor, run_folder, plan, log, stop)
    log.write("saved", folder=where.name, bytes=sum(file.stat().st_size for file in where.rglob("*") if file.is_file()))
    early = trainer.state.global_step < trainer.state.max_steps
    if not early:
        shutil.rmtree(run_folder / checkpoints.TRAINER_FOLDER, ignore_errors=True)  # the checkpoint has done its duty
    log.write(
        "stopped" if early else "finished",
        seconds=time.monotonic() - started,
        message="Stopped before its end, and saved as it was." if early else "",
        step=trainer.state.global_step,
    )


def load_rows(plan: Plan) -> tuple[list[data.Row], list[data.Row]]:
    """The training and the held-out rows, in the columns of the objective."""
    rows = data.load(plan.datasets, OBJECTIVES[plan.objective].shapes)
    return holdout.split(plan, rows)


def make_trainer(
    plan: Plan, run_folder: Path, model: Any, processor: Any, train_rows: list[data.Row], eval_rows: list[data.Row]
) -> Trainer:
    """The trainer of the plan's objective, with its evaluations spread over the run."""
    from engine.recipes import Setup

    setup = Setup(
        plan=plan,
        folder=run_folder / checkpoints.TRAINER_FOLDER,
        model=model,
        processor=processor,
        train_rows=train_rows,
        eval_rows=eval_rows,
        evaluations=OBJECTIVES[plan.objective].evaluations,
    )
    return objectives.recipe(plan).make_trainer(setup)


def save_when_there_is_room(trainer: Trainer, processor: Any, run_folder: Path, plan: Plan, log: EventLog, stop: Stop) -> Path:
    """Save; while the disk is full, wait for room: hours of training are not thrown away for a moment's lack of it.

    Raises what the full disk raised when nobody made room in time, or somebody asked the run to stop.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    told = False
    while True:
        try:
            return save(trainer, processor, run_folder, plan)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not errors.disk_is_full(error) or stop.asked or time.monotonic() > deadline:
                raise
        if not told:
            log.write("note", message="The disk is full. Free some space, and the result is saved by itself.")
            told = True
        for _ in range(SAVE_AGAIN_SECONDS):
            if not stop.asked:
                time.sleep(1)


def save(trainer: Trainer, processor: Any, run_folder: Path, plan: Plan) -> Path:
    """Write the adapter, or the whole model where there is none, as one step: it is there complete, or not at all."""
    has_adapter = hasattr(trainer.model, "peft_config")
    where = run_folder / ("adapter" if has_adapter else "model")
    partial = where.with_name(where.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a try that found the disk full
    # Preference trainers keep a second adapter beside the trained one, the reference; it is no result.
    if has_adapter:
        attach.save(trainer.model, partial)
    else:
        trainer.model.save_pretrained(partial)
    processor.save_pretrained(partial)
    artifacts.publish(partial, plan)
    shutil.rmtree(where, ignore_errors=True)  # what the run had saved when it was stopped, before it was resumed
    partial.rename(where)
    return where


def peak_memory() -> int:
    """The most memory that this process has used, in bytes: the GPU allocator's on a GPU, the resident set else."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measured(metric: Metric, logs: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The objective's figure in what a trainer logged, as the fields of an event: `metric` its name, `value`."""
    value = logs.get(prefix + metric.logged)
    if value is None:
        return {}
    if metric.perplexity:
        value = math.exp(min(value, MOST_LOSS))
    return {"metric": metric.name, "value": value}


def make_reporter(log: EventLog, stop: Stop, metric: Metric) -> Any:
    """The one callback: what the trainer logs becomes events, and a wish to stop becomes the trainer's."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        diverged = False
        evaluated_at = -1

        def __init__(self) -> None:
            self.not_finite_in_a_row = 0
            self.tokens = 0.0
            self.seconds_of_steps = 0.0
            self.steps_timed = 0
            self.step_began = 0.0

        def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
            self.step_began = time.monotonic()

        def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict, **rest: Any) -> None:
            if "loss" in logs:
                self._on_step(args, state, logs)
                self._watch(logs, control)

        def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, metrics: dict, **rest: Any) -> None:
            self.evaluated_at = state.global_step
            log.write(
                "evaluated",
                step=state.global_step,
                epoch=state.epoch or 0.0,
                eval_loss=metrics.get("eval_loss"),
                **measured(metric, metrics, "eval_"),
            )

        def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
            if stop.asked:
                control.should_training_stop = True

        def _on_step(self, args: Any, state: TrainerState, logs: dict) -> None:
            rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
            seconds = time.monotonic() - self.step_began
            tokens = logs.get("num_tokens", 0.0) - self.tokens
            self.tokens += tokens
            if state.global_step > 1:  # the first step warms up caches and kernels
                self.seconds_of_steps += seconds
                self.steps_timed += 1
            mean = self.seconds_of_steps / self.steps_timed if self.steps_timed else seconds
            log.write(
                "step",
                step=state.global_step,
                max_steps=state.max_steps,
                epoch=logs.get("epoch"),
                loss=logs["loss"],
                learning_rate=logs.get("learning_rate"),
                grad_norm=logs.get("grad_norm"),
                tokens=self.tokens,
                tokens_per_second=tokens / seconds if seconds > 0 and tokens else None,
                samples_per_second=rows / seconds if seconds > 0 else None,
                step_seconds=seconds,
                memory_peak=peak_memory(),
                seconds_left=mean * (state.max_steps - state.global_step),
                **measured(metric, logs),
            )

        def _watch(self, logs: dict, control: TrainerControl) -> None:
            finite = math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))
            self.not_finite_in_a_row = 0 if finite else self.not_finite_in_a_row + 1
            if self.not_finite_in_a_row >= NON_FINITE_STEPS:
                self.diverged = True
                control.should_training_stop = True

    return Reporter()


def make_checkpoints(stop: Stop, model: torch.nn.Module, run_folder: Path) -> Any:
    """The callback that has the trainer write a checkpoint now and then, and when the run is stopped.

    Each is sealed with a manifest (`engine/modeling/checkpoints.py`), and the two newest are kept. They are so far apart that
    writing them takes `CHECKPOINT_SHARE` of the time at most, and none is tried where the disk has no room for it: a run
    does not end for want of a checkpoint.
    """
    from transformers import TrainerCallback

    held = sum(p.numel() * (p.element_size() + OPTIMIZER_BYTES) for p in model.parameters() if p.requires_grad)

    class Checkpoints(TrainerCallback):
        def __init__(self) -> None:
            self.newest = self.asked = time.monotonic()
            self.apart = CHECKPOINT_SECONDS

        def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
            last = state.global_step >= state.max_steps
            due = stop.asked or time.monotonic() - self.newest > self.apart
            if due and not last and free_bytes(run_folder) > CHECKPOINT_ROOM * held:
                control.should_save = True
                self.asked = time.monotonic()

        def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
            try:
                checkpoints.seal(run_folder / checkpoints.TRAINER_FOLDER / f"checkpoint-{state.global_step}")
            except OSError as error:  # a checkpoint without a manifest is passed over; the run goes on
                if not errors.disk_is_full(error):
                    raise
            self.newest = time.monotonic()
            self.apart = max(CHECKPOINT_SECONDS, (self.newest - self.asked) / CHECKPOINT_SHARE)

    return Checkpoints()


def main(run_folder: Path) -> int:
    """Run the recipe; whatever happens becomes the last event. Returns the exit code."""
    try:
        lock = workers.hold_lock(run_folder, runs.LOCK_FILE)
    except filelock.Timeout:
        print("This run already has a worker.", file=sys.stderr)
        return 3
    redaction.redact_output()
    logging.captureWarnings(True)
    log = EventLog(run_folder)
    with lock:
        try:
            with in_plain_words():
                stop = Stop()
                libraries.load()
                train(run_folder, log, stop)
        except KeyboardInterrupt:
            log.write("stopped", message="Stopped before its end; nothing was saved.")
        except PlanError as error:
            log.write("failed", field=error.issues[0].field, message=str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
