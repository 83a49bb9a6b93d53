"""The lifecycle of real runs: start, find again, stop, kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.export import merge
from engine.issues import PlanError
from engine.jobs import runs, series
from engine.jobs.runs import Run
from engine.plan import Plan
from engine.system import events, workers


def wait_for(run: Run, kind: str, seconds: float = 90) -> None:
    """Wait until the run has written an event of this kind."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(event["kind"] == kind for event in events.since(run.folder)[0]):
            return
        time.sleep(0.1)
    pytest.fail(f"no {kind!r} event: {(run.folder / runs.LOG_FILE).read_text()[-2000:]}")


def settled(run_id: str, seconds: float = 30) -> Run:
    """Wait until the run is not active any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run = runs.get(run_id)
        assert run is not None
        if not runs.settle(run).is_active:
            return runs.get(run_id) or run
        time.sleep(0.1)
    pytest.fail("the run did not end")


@pytest.fixture
def long_plan(short_plan: Plan) -> Plan:
    return short_plan.with_(max_steps=100_000)


@pytest.mark.trains
def test_a_run_starts_trains_and_is_listed(short_plan: Plan) -> None:
    run = runs.start(short_plan)
    assert run.state == "running"
    assert [event["kind"] for event in runs.follow(run.id)][-2:] == ["saved", "finished"]
    ended = runs.all_runs()[0]
    assert (ended.id, ended.state, ended.plan) == (run.id, "finished", short_plan)
    assert runs.summary(ended)["step"] == 4
    assert {file.suffix for file in (ended.folder / "adapter").iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}


@pytest.mark.trains
def test_stop_saves_what_was_learned_and_a_second_run_waits(long_plan: Plan, short_plan: Plan) -> None:
    run = runs.start(long_plan)
    with pytest.raises(PlanError, match="still running on this machine"):
        runs.start(short_plan)
    wait_for(run, "step")
    runs.stop(run.id)
    runs.stop(run.id)  # a second click changes nothing
    ended = settled(run.id)
    assert ended.state == "stopped"
    assert (ended.folder / "adapter" / "adapter_model.safetensors").exists()
    runs.stop(run.id)
    assert (runs.get(run.id) or run).state == "stopped"


@pytest.mark.trains
def test_a_killed_worker_is_told_from_a_finished_one(long_plan: Plan) -> None:
    run = runs.start(long_plan)
    wait_for(run, "step")
    os.kill(run.pid or 0, signal.SIGKILL)
    ended = settled(run.id)
    assert ended.state == "interrupted"
    assert "killed (signal 9) at step" in ended.reason


@pytest.mark.trains
def test_a_run_outlives_the_process_that_started_it(long_plan: Plan, home: Path, tmp_path: Path) -> None:
    plan_file = tmp_path / "plan.json"
    plan_file.write_text(long_plan.to_json())
    script = "import sys; from engine import plan; from engine.jobs import runs; "
    script += "print(runs.start(plan.Plan.from_json(open(sys.argv[1]).read())).id)"
    server = subprocess.run([sys.executable, "-c", script, plan_file], capture_output=True, text=True, check=True)
    run = runs.get(server.stdout.strip())
    assert run is not None
    wait_for(run, "step")
    runs.settle_all()  # what a new server does first
    found = runs.get(run.id)
    assert found is not None
    assert found.state == "running"
    _, cursor = events.since(run.folder)
    time.sleep(2)
    assert events.since(run.folder, cursor)[0], "it goes on"
    runs.stop(run.id)
    assert settled(run.id).state == "stopped"


@pytest.mark.trains
def test_a_worker_that_does_not_listen_is_ended_after_the_grace(long_plan: Plan) -> None:
    run = runs.start(long_plan)
    wait_for(run, "step")
    os.kill(run.pid or 0, signal.SIGSTOP)
    runs.stop(run.id, grace=1)
    assert settled(run.id).state == "interrupted"


def test_somebody_elses_process_is_never_signalled(short_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(workers, "launch", lambda *args: innocent)
    monkeypatch.setattr(workers, "start_time", lambda pid: 1.0)  # the pid is there, but it began at another time
    run = runs.start(short_plan)
    runs.stop(run.id, grace=0.1)
    assert settled(run.id).state == "interrupted"
    time.sleep(0.5)
    assert psutil.pid_exists(innocent.pid)
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_a_special_pid_is_nobodys_worker(pid: int) -> None:
    assert workers.find(pid, time.time()) is None


def test_two_starts_at_once_give_one_run(short_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    sleeper = ["sleep", "30"]
    children: list[subprocess.Popen] = []
    monkeypatch.setattr(workers, "launch", lambda *args: children.append(subprocess.Popen(sleeper)) or children[-1])

    def try_to_start(_: int) -> bool:
        try:
            runs.start(short_plan)
        except PlanError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_to_start, range(16))) == 1
    assert len(children) == 1
    children[0].kill()
    children[0].wait()


def test_a_bad_plan_leaves_nothing_behind(short_plan: Plan) -> None:
    with pytest.raises(PlanError, match="per_device_train_batch_size"):
        runs.start(short_plan.with_(per_device_train_batch_size=0))
    assert runs.all_runs() == []


def test_an_unknown_run_is_none() -> None:
    assert runs.get("nope") is None
    assert runs.stop("nope") is None


@pytest.fixture
def sleeper(short_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run whose worker does nothing."""
    process = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(workers, "launch", lambda *args: process)
    yield runs.start(short_plan)
    process.kill()
    process.wait()


def test_a_run_whose_folder_is_removed_says_so(sleeper: Run) -> None:
    shutil.rmtree(sleeper.folder)
    os.kill(sleeper.pid or 0, signal.SIGKILL)
    assert f"Its folder, runs/{sleeper.id} in the data folder, is gone" in settled(sleeper.id).reason


def test_a_suspended_worker_is_shown_as_stalled_until_it_goes_on(sleeper: Run) -> None:
    from ui.tabs import train_tab

    watch = train_tab.look(sleeper, train_tab.Watch())
    os.kill(sleeper.pid or 0, signal.SIGSTOP)
    time.sleep(0.2)
    stalled = train_tab.look(sleeper, watch)
    assert stalled != watch, "the page draws it anew"
    shown = train_tab.head(sleeper, stalled.curves, suspended=stalled.suspended)
    assert "Stalled" in shown
    assert f"Continue it with: kill -CONT {sleeper.pid}" in shown
    os.kill(sleeper.pid or 0, signal.SIGCONT)
    time.sleep(0.2)
    assert train_tab.look(sleeper, stalled) == watch


def test_a_second_click_on_resume_says_that_it_runs(sleeper: Run) -> None:
    with pytest.raises(PlanError, match=r"is already running\. Watch it on the Train tab\."):
        runs.resume(sleeper.id)


def test_a_merge_that_was_killed_before_its_first_event_is_not_shown_as_running(sleeper: Run) -> None:
    runs._change_state(sleeper.id, runs.ACTIVE, "finished")
    (sleeper.folder / "adapter").mkdir()
    events.EventLog(sleeper.folder, merge.EVENTS_FILE).write("queued", message="Starting.")
    assert merge.status(sleeper).state == "running"
    launched = launch_and_kill(sleeper.folder, merge.LOG_FILE)
    assert merge.status(sleeper).message == "The merge was interrupted. Start it again: nothing is lost."
    events.EventLog(sleeper.folder).write("queued", message="Starting.")
    launch_and_kill(sleeper.folder, series.LOG_FILE)
    assert series.state(sleeper.folder, events.since(sleeper.folder)[0])[0] == "interrupted", "a chain or a comparison likewise"
    assert launched.returncode == -signal.SIGKILL


def launch_and_kill(folder: Path, log_file: str) -> subprocess.Popen:
    """Start a process as a merge, a chain or a comparison is started, and kill it at once."""
    process = REAL_LAUNCH("engine.export.merge", folder, log_file)
    process.kill()
    process.wait()
    return process


REAL_LAUNCH = workers.launch
