"""Chains in the background: started, listed, stopped and resumed; and the process that conducts one.

`python -m engine.pipelines.chain_runs CHAIN_FOLDER` runs the stages of `chain.json`, one ordinary run after the other, as the
process of a series (`engine/jobs/series.py`). A chain that was cut off goes on where it was: a finished stage is never run
again, and a stage that is still training is waited for.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from engine.issues import Issue, PlanError
from engine.jobs import runs, series
from engine.jobs.runs import Run
from engine.pipelines import chains
from engine.pipelines.chains import Chain, Progress
from engine.system import events, visitors
from engine.system.events import Event, EventLog
from engine.system.home import home, write_atomically

CHAIN_FILE = "chain.json"


@dataclass(frozen=True, kw_only=True)
class ChainRun:
    """A chain that was started, as its folder tells of it.

    `state` is starting | running | finished | stopped | failed | interrupted; `stage` is the number of the stage under
    way, or of the last one, from 0.
    """

    id: str
    name: str
    created: float  # seconds since 1970
    chain: Chain
    state: str
    stage: int = 0
    message: str = ""
    progress: Progress = field(default_factory=Progress)

    @property
    def folder(self) -> Path:
        return folder_of(self.id)

    @property
    def is_active(self) -> bool:
        return self.state in runs.ACTIVE

    @property
    def run_id(self) -> str | None:
        """The run of the stage under way, or of the last one that was started."""
        return self.progress.runs.get(self.stage)


# --- what there is --------------------------------------------------------------------------------------------------


def chains_folder() -> Path:
    """The folder of all chains, made if it is absent."""
    path = home() / "chains"
    path.mkdir(exist_ok=True)
    return path


def folder_of(chain_id: str) -> Path:
    """The folder of a chain. Raises `PlanError` for words that are no id of a chain."""
    if not series.is_id(chain_id):
        raise PlanError([Issue(field="chain", message="there is no such chain.", fix="Choose one of the list.")])
    return chains_folder() / chain_id


def get(chain_id: str) -> ChainRun | None:
    """The chain with this id, or None."""
    if not series.is_id(chain_id) or not (folder_of(chain_id) / CHAIN_FILE).is_file():
        return None
    told = json.loads((folder_of(chain_id) / CHAIN_FILE).read_text(encoding="utf-8"))
    happened, _ = events.since(folder_of(chain_id))
    state, message = series.state(folder_of(chain_id), happened)
    done = progress(happened)
    return ChainRun(
        id=chain_id,
        name=told["name"],
        created=told["created"],
        chain=chains.from_dict(told["chain"]),
        state=state,
        stage=max([0, *done.runs]),
        message=message,
        progress=done,
    )


def all_chains() -> list[ChainRun]:
    """Every chain, the newest first; one that cannot be read any more is left out."""
    found: list[ChainRun] = []
    for folder in chains_folder().iterdir():
        with contextlib.suppress(PlanError, ValueError, KeyError):
            chain = get(folder.name)
            found += [chain] if chain is not None else []
    return sorted(found, key=lambda chain: chain.created, reverse=True)


def progress(happened: list[Event]) -> Progress:
    """What a chain's events say was done."""
    return Progress(
        runs={event["number"]: event["run"] for event in happened if event["kind"] in ("stage", "result")},
        results={event["number"]: event["model"] for event in happened if event["kind"] == "result"},
        report=tuple({event["row"]["when"]: event["row"] for event in happened if event["kind"] == "looked"}.values()),
    )


# --- starting, resuming, stopping -----------------------------------------------------------------------------------


def start(chain: Chain, *, name: str = "") -> ChainRun:
    """Write the chain's folder and start its conductor.

    Raises:
        PlanError: a stage is not sound as far as that can be told before the stages before it have run, or another
            chain is under way.
    """
    problems = visitors.check_count("stages", len(chain.stages), visitors.MOST_STAGES) or chains.check(chain)
    if problems:
        raise PlanError(problems)
    _refuse_a_second()
    chain_id = secrets.token_hex(16)
    folder_of(chain_id).mkdir()
    told = {"name": name.strip() or chains.default_name(chain), "created": time.time(), "chain": chains.to_dict(chain)}
    write_atomically(folder_of(chain_id) / CHAIN_FILE, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return _launch(chain_id)


def resume(chain_id: str) -> ChainRun:
    """Go on with a chain that was stopped, failed or was cut off. Raises `PlanError` if there is nothing to go on with."""
    chain = get(chain_id)
    if chain is None or chain.is_active or chain.state == "finished":
        raise PlanError([Issue(field="chain", message="is not waiting to be resumed.", fix="Choose a chain that ended early.")])
    _refuse_a_second()
    return _launch(chain_id)


def stop(chain_id: str) -> None:
    """Ask the conductor to stop, which stops the stage under way and keeps what it has learned. Returns at once.

    Where the conductor is gone, the stage that it left running is stopped.
    """
    chain = get(chain_id)
    if chain is None:
        return
    process = series.process_of(chain.folder)
    if process is not None and chain.is_active:
        process.send_signal(signal.SIGTERM)
    elif chain.run_id is not None:
        runs.stop(chain.run_id)


def _launch(chain_id: str) -> ChainRun:
    series.launch("engine.pipelines.chain_runs", folder_of(chain_id))
    started = get(chain_id)
    assert started is not None
    return started


def _refuse_a_second() -> None:
    busy = next((chain for chain in all_chains() if chain.is_active), None)
    if busy is not None:
        message = f"“{busy.name}” is still running on this machine."
        raise PlanError([Issue(field="chain", message=message, fix="Wait until it ends, or stop it first.")])


# --- the conducting process -----------------------------------------------------------------------------------------


class Conductor:
    """Runs the stages, and stops the one under way when it is told to stop (SIGTERM)."""

    def __init__(self, log: EventLog):
        self.log = log
        self.stage: Run | None = None
        self.asked_to_stop = False
        self.is_starting = False  # a run is being started: it must be known before anything stops it
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True
        if not self.is_starting:
            raise KeyboardInterrupt

    def begin(self, start: Callable[[], Run]) -> Run:
        """Start a stage's run when no other one is under way. It is watched next, and may not be interrupted till then."""

        def start_known() -> Run:
            self.is_starting = True
            try:
                self.stage = start()
            except PlanError:
                self.is_starting = False
                raise
            return self.stage

        begun = series.start_when_free(start_known, waits=self._tell_of, stopped=lambda: self.asked_to_stop)
        if begun is None:
            raise KeyboardInterrupt
        return begun

    def _tell_of(self, busy: Run) -> None:
        self.log.write("note", message=f"Waiting until “{busy.name}” has ended.")

    def watch(self, run: Run) -> None:
        """Wait until the run has ended."""
        self.stage, self.is_starting = run, False
        if self.asked_to_stop:
            raise KeyboardInterrupt
        for _ in runs.follow(run.id):
            pass
        self.stage = None

    def leave(self) -> None:
        """Stop the stage under way, and wait until it has saved what it has learned."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.stage is not None:
            runs.stop(self.stage.id)
            for _ in runs.follow(self.stage.id):
                pass


def conduct(folder: Path, log: EventLog) -> None:
    """The recipe, top to bottom: what was done before is kept, the rest is run."""
    happened, _ = events.since(folder)
    chain = chains.from_dict(json.loads((folder / CHAIN_FILE).read_text(encoding="utf-8"))["chain"])
    conductor = Conductor(log)
    try:
        chains.run_chain(chain, conductor.watch, tell=log.write, begin=conductor.begin, done=progress(happened))
    except KeyboardInterrupt:
        conductor.leave()
        log.write("stopped", message="Stopped. Finished stages are kept: resume it to go on.")
        return
    log.write("finished", message="")


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1]).resolve()
    sys.exit(series.run(FOLDER, lambda log: conduct(FOLDER, log)))
