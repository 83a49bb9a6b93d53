"""What the tests share: a data folder of their own, and a few real runs that several tests look at."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Several pytest processes share the cores: each keeps to its part, or the threads of all of them wait for each other.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

from engine.jobs import runs
from engine.modeling import libraries
from engine.system import workers

os.environ.update(workers.environment())  # the tests run what those processes run
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"  # the tests need no network; the hub's answers are tested on a stub
if processes:  # not in the one that only deals the tests out
    libraries.load()

from engine.data.demos import first_plan
from engine.jobs.runs import Run
from engine.plan import Plan


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the fuzz tests of `tests/security` go on; their normal rounds and seeds are their own."""
    parser.addoption("--fuzz", type=int, default=0, metavar="ROUNDS", help="fuzz so many rounds, with seeds of their own")


class Dealt(LoadScopeScheduling):
    """The tests of a file stay in one process, and all those that look at the one shared run."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "pirate_run" if "pirate_run" in (self.config.rootpath / file).read_text(encoding="utf-8") else file


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Dealt:
    return Dealt(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with long tests first, so that both processes end together; of them the newcomer, whose run others look at."""
    long = {item.path for item in items if item.get_closest_marker("trains")}
    items.sort(key=lambda item: (item.path not in long, item.path.name != "test_newcomer.py"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has a data folder of its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FITTINGROOM_HOME", str(folder))
    return folder


@pytest.fixture
def quiet() -> Iterator[None]:
    """PEFT says much about layers that it adapts all the same."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def short_plan() -> Plan:
    """A real run of a few seconds."""
    return first_plan().with_(max_steps=4, eval_fraction=0.0)


def run_to_its_end(plan: Plan) -> Run:
    """Start a plan and wait until its run has ended."""
    run = runs.start(plan)
    for _ in runs.follow(run.id):
        pass
    ended = runs.get(run.id)
    assert ended is not None
    return ended


def log_of(run: Run) -> str:
    """The worker's log, for the message of a failed assertion."""
    return (run.folder / runs.LOG_FILE).read_text(encoding="utf-8")[-3000:]


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that lives as long as the test session."""
    return tmp_path_factory.mktemp("shared_home")


@pytest.fixture(scope="session")
def _pirate_run(shared_home: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITTINGROOM_HOME", str(shared_home))
        plan = first_plan()  # the page writes all the method's options out
        finished = (run for run in runs.all_runs() if run.state == "finished")
        of_newcomer = (run for run in finished if runs.plan_of(run.folder).with_(method_options=plan.method_options) == plan)
        return next(of_newcomer, None) or run_to_its_end(plan)


@pytest.fixture
def pirate_run(_pirate_run: Run, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that a newcomer starts first, finished: the demo model with LoRA on the pirate set, all defaults.

    Where `test_newcomer.py` has been run in this session, it is the one that was started there, with a click.
    """
    monkeypatch.setenv("FITTINGROOM_HOME", str(shared_home))
    assert _pirate_run.state == "finished", log_of(_pirate_run)
    return _pirate_run
