"""The worker: one run, from its plan to its result. `python -m engine.train RUN_FOLDER`

It reads `plan.json`, writes `events.jsonl`, and leaves `adapter/` (or `model/`) behind. It is a process group of its
own, holds the folder's lock for as long as it lives, and needs no server. SIGTERM stops it after the step under way;
what has been learned until then is saved.
"""

from __future__ import annotations

import logging
import math
import resource
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import filelock

from engine import build, data, runs, workers
from engine.events import EventLog
from engine.faults import in_plain_words
from engine.plan import Issue, Plan, PlanError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState
    from trl import SFTTrainer

NON_FINITE_STEPS = 3  # a loss that is not a number for this many steps in a row ends the run
EVALUATIONS = 10  # over a whole run, and one before its first step


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
    started = time.monotonic()
    plan = runs.plan_of(run_folder)
    device = build.device_here()
    log.write("note", message="Loading the model.")

    tokenizer = build.load_tokenizer(plan)
    train_rows, eval_rows = load_rows(plan, tokenizer)
    model = build.build(plan, device)

    trainer = make_trainer(plan, run_folder, model, tokenizer, train_rows, eval_rows)
    reporter = make_reporter(log, stop, trainer)
    trainer.add_callback(reporter)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.write("started", device=device, rows=len(train_rows), eval_rows=len(eval_rows), trainable_params=trainable)

    stop.in_training = True
    trainer.train()

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
    where = save(trainer, tokenizer, run_folder)
    log.write("saved", folder=where.name, bytes=sum(file.stat().st_size for file in where.iterdir()))
    early = trainer.state.global_step < trainer.state.max_steps
    log.write(
        "stopped" if early else "finished",
        seconds=time.monotonic() - started,
        message="Stopped before its end, and saved as it was." if early else "",
        step=trainer.state.global_step,
    )


def load_rows(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The training and the held-out rows, as TRL takes them."""
    import datasets

    marks = marks_answers(tokenizer)
    parts = data.split(data.load(plan.datasets), eval_fraction=plan.eval_fraction, seed=plan.seed)
    train_rows, eval_rows = ([data.as_trl(row, assistant_mask=marks) for row in part] for part in parts)
    return datasets.Dataset.from_list(train_rows), datasets.Dataset.from_list(eval_rows)


def marks_answers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template tells the assistant's words from the others."""
    return "{% generation %}" in (tokenizer.chat_template or "")


def make_trainer(
    plan: Plan,
    run_folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: datasets.Dataset,
    eval_rows: datasets.Dataset,
) -> SFTTrainer:
    """TRL's SFTTrainer with the plan's settings, and evaluations spread over the run."""
    from trl import SFTTrainer

    evaluates = len(eval_rows) > 0
    arguments = build.training_arguments(
        plan,
        run_folder / "trainer",
        assistant_only_loss="messages" in train_rows.column_names,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=1 / EVALUATIONS if evaluates else None,
        eval_on_start=evaluates,
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=train_rows,
        eval_dataset=eval_rows if evaluates else None,
    )


def save(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, run_folder: Path) -> Path:
    """Write the adapter, or the whole model where there is none, as one step: it is there complete, or not at all."""
    where = run_folder / ("adapter" if hasattr(trainer.model, "peft_config") else "model")
    partial = where.with_name(where.name + ".partial")
    trainer.model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(where)
    return where


def peak_memory() -> int:
    """The most memory that this process has used, in bytes: the GPU allocator's on a GPU, the resident set else."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def make_reporter(log: EventLog, stop: Stop, trainer: SFTTrainer) -> Any:
    """The one callback: what the trainer logs becomes events, and a wish to stop becomes the trainer's."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        diverged = False

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
                self._on_step(state, logs)
                self._watch(logs, control)

        def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, metrics: dict, **rest: Any) -> None:
            log.write("evaluated", step=state.global_step, epoch=state.epoch or 0.0, eval_loss=metrics["eval_loss"])

        def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
            if stop.asked:
                control.should_training_stop = True

        def _on_step(self, state: TrainerState, logs: dict) -> None:
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
                tokens_per_second=tokens / seconds if seconds > 0 else None,
                step_seconds=seconds,
                memory_peak=peak_memory(),
                seconds_left=mean * (state.max_steps - state.global_step),
            )

        def _watch(self, logs: dict, control: TrainerControl) -> None:
            finite = math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))
            self.not_finite_in_a_row = 0 if finite else self.not_finite_in_a_row + 1
            if self.not_finite_in_a_row >= NON_FINITE_STEPS:
                self.diverged = True
                control.should_training_stop = True

    return Reporter()


def main(run_folder: Path) -> int:
    """Run the recipe; whatever happens becomes the last event. Returns the exit code."""
    try:
        lock = workers.hold_lock(run_folder, runs.LOCK_FILE)
    except filelock.Timeout:
        print("This run already has a worker.", file=sys.stderr)
        return 3
    logging.captureWarnings(True)
    log = EventLog(run_folder)
    with lock:
        try:
            with in_plain_words():
                train(run_folder, log, Stop())
        except KeyboardInterrupt:
            log.write("stopped", message="Stopped before its end; nothing was saved.")
        except PlanError as error:
            log.write("failed", field=error.issues[0].field, message=str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
