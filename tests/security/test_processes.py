"""No process is left behind, and none takes the computer from the others.

However the server ends (Ctrl-C once or twice, SIGTERM, a closed terminal, SIGKILL, a crash), its helper processes end with
it within three seconds, also those that are busy; runs in training go on. A question to a helper has a limit of time and of
memory, questions are answered in the order in which they came, and whoever goes away keeps nobody waiting.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine.inference import client as answering
from engine.inference.client import Answers
from engine.issues import PlanError
from engine.jobs import runs
from engine.plan import Plan
from engine.system import json_process
from engine.system.json_process import HelperStopped, JsonProcess
from estimators.service import client

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 3.0  # until no helper may be left when its server is gone
PATIENCE = 90.0  # for what only a busy computer makes slow
# timeit runs code that is given on its command line, so it stands in for a helper of any kind.
BACKTRACKING = ("timeit", "-n1", "-r1", "import re", r"re.match(r'([a-z0-9_]+\.?)+!', 'a' * 60)")  # holds the GIL
GROWING = ("timeit", "-n1", "-r1", "rows = []", "while True: rows.append(b'x' * 20_000_000)")
ECHO = "for line in sys.stdin: time.sleep(json.loads(line)['seconds']); print(line, flush=True)"
ECHOING = ("timeit", "-n1", "-r1", "import json, sys, time", ECHO)


def processes_of(home: Path, module: str) -> list[psutil.Process]:
    """The living processes with this data folder that run a module."""
    found = []
    for process in psutil.process_iter():
        try:
            of_home = process.environ().get("FITTINGROOM_HOME") == str(home)
            if of_home and module in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether something becomes true in this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return holds()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def app(home: Path) -> Iterator[subprocess.Popen[str]]:
    """The real app, open, with its estimator at work."""
    environment = os.environ | {"PORT": str(free_port())}
    # `env` undoes what the tests may have been started with: under nohup, a closed terminal is ignored.
    command = ["env", "--default-signal=HUP", sys.executable, "app.py"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "is open at" in process.stdout.readline()
        assert within(PATIENCE, lambda: len(processes_of(home, "estimators")) == 1), "the estimator starts with the server"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("signals", "exit_code"),
    [
        ([signal.SIGTERM], 0),
        ([signal.SIGINT], 0),
        ([signal.SIGINT, signal.SIGINT], None),
        ([signal.SIGHUP], 0),
        ([signal.SIGKILL], -signal.SIGKILL),
    ],
    ids=["SIGTERM", "Ctrl-C", "Ctrl-C twice", "a closed terminal", "SIGKILL"],
)
def test_no_helper_outlives_the_server(
    app: subprocess.Popen[str], home: Path, signals: list[signal.Signals], exit_code: int | None
) -> None:
    for number in signals:
        app.send_signal(number)
        time.sleep(0.2)
    assert within(PATIENCE, lambda: app.poll() is not None), "the server ends"
    assert within(SECONDS, lambda: processes_of(home, "engine.system.helper") == [])
    assert exit_code is None or app.returncode == exit_code
    assert app.stderr is not None
    assert "Traceback" not in app.stderr.read()


def test_ctrl_c_before_the_server_is_open_leaves_no_traceback_and_no_helper(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(free_port())], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert within(PATIENCE, lambda: processes_of(home, "estimators") != [])
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 0
    assert within(SECONDS, lambda: processes_of(home, "engine.system.helper") == [])
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_a_crash_at_the_start_leaves_no_helper(home: Path) -> None:
    script = (
        "import sys, app, ui.page\ndef broken(*parts): raise RuntimeError\nui.page.build_page = broken\napp.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert within(SECONDS, lambda: processes_of(home, "engine.system.helper") == [])


OWNER = """
import os, sys, threading, time
from engine.system.json_process import JsonProcess
helper = JsonProcess(*sys.argv[2:])
threading.Thread(target=lambda: list(helper.ask({})), daemon=True).start()
print("begun", flush=True)
if sys.argv[1] == "exit":
    sys.stdin.readline()
    os._exit(0)
time.sleep(600)
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_helper_that_is_busy_in_c_code_ends_with_its_owner(home: Path, end: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, end, *BACKTRACKING], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert within(PATIENCE, lambda: len(processes_of(home, "engine.system.helper")) == 1)
    busy = processes_of(home, "engine.system.helper")[0]
    assert within(PATIENCE, lambda: busy.cpu_times().user > 1.0), "it is in the middle of the regular expression"
    if end == "kill":
        owner.kill()
    owner.communicate(b"\n")
    owner.wait(timeout=PATIENCE)
    assert within(SECONDS, lambda: processes_of(home, "engine.system.helper") == [])


def test_a_helper_outlives_the_thread_that_started_it(home: Path) -> None:
    helper = JsonProcess(*ECHOING)
    asking = threading.Thread(target=lambda: list(helper.ask({"seconds": 0})))
    asking.start()
    asking.join()
    first = helper.pid
    time.sleep(0.5)
    assert [reply["seconds"] for reply in helper.ask({"seconds": 0})] == [0]
    assert helper.pid == first
    helper.close()


def test_runs_go_on_when_the_server_is_killed(home: Path, short_plan: Plan, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(short_plan.with_(max_steps=100_000).to_json())
    script = "import sys, time\nfrom engine.jobs import runs\nfrom engine.plan import Plan\n"
    script += "runs.start(Plan.from_json(open(sys.argv[1]).read()))\nprint('started', flush=True)\ntime.sleep(600)"
    server = subprocess.Popen([sys.executable, "-c", script, str(plan)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "started\n"
    server.kill()
    server.wait()
    time.sleep(SECONDS)
    run = runs.all_runs()[0]
    assert runs.is_alive(run)
    runs.stop(run.id, grace=0)
    assert within(PATIENCE, lambda: not runs.settle(runs.get(run.id) or run).is_active)


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers that import nothing heavy need no time for it."""
    monkeypatch.setattr(json_process, "START_SECONDS", 1.0)


@pytest.mark.usefixtures("quick_start")
def test_a_question_that_takes_too_long_is_ended_in_one_sentence() -> None:
    helper = JsonProcess(*BACKTRACKING)
    began = time.monotonic()
    with pytest.raises(HelperStopped, match=r"took longer than \d seconds, so it was ended\. Use a simpler pattern"):
        list(helper.ask({}, cpu_seconds=1.0))
    assert time.monotonic() - began < PATIENCE
    assert helper.pid is None
    helper.close()


def test_a_helper_that_grows_too_large_is_ended_in_one_sentence() -> None:
    helper = JsonProcess(*GROWING, memory=2**30)
    with pytest.raises(HelperStopped, match=r"took more than 1 GB of host memory, so it was ended\."):
        list(helper.ask({}))
    helper.close()


def test_one_allocation_beyond_the_limit_fails_before_it_takes_the_memory() -> None:
    helper = JsonProcess("timeit", "-n1", "-r1", "rows = b'x' * 8_000_000_000", memory=2**30)
    with pytest.raises(PlanError, match="ended before it answered"):
        list(helper.ask({}))
    helper.close()


@pytest.mark.usefixtures("quick_start")
def test_the_next_question_is_answered_after_one_that_was_ended() -> None:
    helper = JsonProcess(*ECHOING)
    with pytest.raises(HelperStopped):
        list(helper.ask({"seconds": 60}, timeout=1))
    assert [reply["seconds"] for reply in helper.ask({"seconds": 0})] == [0]
    helper.close()


def test_questions_are_answered_in_the_order_in_which_they_came() -> None:
    helper = JsonProcess(*ECHOING)
    answered: list[int] = []

    def ask(number: int) -> None:
        answered.extend(reply["number"] for reply in helper.ask({"seconds": 0.1, "number": number}))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for asker in askers:
        asker.start()
        time.sleep(0.02)
    for asker in askers:
        asker.join()
    assert answered == list(range(8))
    helper.close()


def test_a_reader_that_stops_reading_keeps_nobody_waiting() -> None:
    talking = (
        "import sys\nfor line in sys.stdin: [print('{\"done\": false}', flush=True) for _ in range(3)]; print('{}', flush=True)"
    )
    helper = JsonProcess("timeit", "-n1", "-r1", talking)
    slow = helper.ask({})
    next(slow)  # and then it reads no further, without going away
    assert len(list(helper.ask({}))) == 4
    helper.close()


def test_the_page_is_told_once_per_plan_that_it_is_too_slow(monkeypatch: pytest.MonkeyPatch, short_plan: Plan) -> None:
    """The page asks a dozen things about one plan: only the first of them costs the others time."""
    estimator = client.Estimator()
    asked: list[str] = []

    def stopped(request: dict, **limits: float) -> Iterator[dict]:
        asked.append(request["ask"])
        raise HelperStopped([])
        yield {}

    monkeypatch.setattr(estimator._process, "ask", stopped)
    for ask in (estimator.ask, lambda plan: list(estimator.fixes(plan)), lambda plan: list(estimator.method_survey(plan))):
        with pytest.raises(HelperStopped):
            ask(short_plan)
    assert asked == ["estimate"]
    estimator.close()


# --- Try ------------------------------------------------------------------------------------------------------------

SLOW_ANSWER = """
def say(number, done=False): print(json.dumps({'base': str(number), 'tuned': '', 'done': done}), flush=True); time.sleep(0.3)
for line in sys.stdin: [say(number) for number in range(4)]; say(4, True)
"""


@pytest.fixture
def two_runs(home: Path, monkeypatch: pytest.MonkeyPatch, short_plan: Plan) -> list[str]:
    """Two runs with a result, whose answering processes take a second to answer."""
    process = JsonProcess
    slow = ("timeit", "-n1", "-r1", "import json, sys, time", SLOW_ANSWER)
    monkeypatch.setattr(answering, "JsonProcess", lambda module, folder, log: process(*slow, log=log))
    monkeypatch.setattr(runs, "_launch", lambda run, database: None)
    started = []
    for _ in range(2):
        run = runs.start(short_plan)
        (run.folder / "adapter").mkdir()
        runs._change_state(run.id, runs.ACTIVE, "finished")
        started.append(run.id)
    return started


@pytest.mark.usefixtures("home")
def test_a_second_visitors_question_waits_for_the_first_ones_answer(two_runs: list[str]) -> None:
    asked = Answers()
    first = asked.ask(two_runs[0], "Ahoy?")
    assert next(first).base == "0"
    second = asked.ask(two_runs[1], "Who are you?")
    assert next(second).waiting == 1, "the second visitor reads that one question comes first"
    assert [reply.base for reply in first] == ["1", "2", "3", "4", "4"], "the first answer is whole"
    assert [reply.base for reply in second if not reply.waiting] == ["0", "1", "2", "3", "4", "4"]
    asked.close()


@pytest.mark.usefixtures("home")
def test_a_visitor_who_goes_away_while_waiting_keeps_no_place(two_runs: list[str]) -> None:
    asked = Answers()
    first, second, third = (asked.ask(two_runs[number], "Ahoy?") for number in (0, 1, 0))
    assert (next(first).waiting, next(second).waiting, next(third).waiting) == (0, 1, 2)
    second.close()
    assert next(third).waiting == 1
    first.close()
    assert [reply.base for reply in third][-1] == "4"
    asked.close()


@pytest.mark.usefixtures("home")
def test_so_many_questions_wait_and_no_more(two_runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "MOST_WAITING", 1)
    asked = Answers()
    first = asked.ask(two_runs[0], "Ahoy?")
    next(first)
    with pytest.raises(PlanError, match=r"the queue of questions on this computer is full\. Try again in a minute\."):
        next(asked.ask(two_runs[1], "Ahoy?"))
    first.close()
    asked.close()
