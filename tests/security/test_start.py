"""No environment variable opens the server behind its owner's back.

The app does not start under a switch of Gradio's that opens files, code or the network to visitors, whatever its value
says, and says so in one sentence. Every variable that the installed Gradio reads has a row in `ui/web/switches.py`. Without
HOST it listens on this computer alone. Other accounts of the computer read nothing of the data folder.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.jobs import runs
from engine.plan import Plan
from engine.system import workers
from engine.system.home import home as data_folder
from ui.web import switches
from ui.web.switches import StartError

ROOT = Path(__file__).resolve().parents[2]


def gradio_sources() -> Iterator[Path]:
    """The files of the installed Gradio and its client, without the command line, which is not imported by a page."""
    for name in ("gradio", "gradio_client"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        folder = Path(found.origin).parent
        yield from (file for file in folder.rglob("*.py") if "cli" not in file.relative_to(folder).parts)


def variables_in(source: str) -> set[str]:
    """The names of Gradio's variables that stand as text in a program, however it reads them."""
    texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"GRADIO_[A-Z0-9_]+", text)}


def test_every_variable_that_gradio_reads_is_decided_about() -> None:
    read = set().union(*(variables_in(file.read_text(encoding="utf-8")) for file in gradio_sources()))
    decided = {*switches.REFUSED, *switches.FORCED, *switches.HARMLESS}
    assert len(read) > 40, "the search finds them"
    assert read - decided == set(), "a new variable: find out what it opens, and give it a row in ui/web/switches.py"
    assert decided - read == set(), "Gradio does not read these any more"


def test_no_variable_is_decided_about_twice() -> None:
    rows = [*switches.REFUSED, *switches.FORCED, *switches.HARMLESS]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("value", ["1", "True", "False", "false", "0", "no", " ", "/", "\t"])
@pytest.mark.parametrize("name", switches.REFUSED)
def test_an_open_switch_is_refused_whatever_its_value(name: str, value: str) -> None:
    with pytest.raises(StartError, match=rf"^{name} is set, and .*\. Unset it and start again\.$"):
        switches.close({name: value})


def test_an_empty_switch_is_unset() -> None:
    """For some, Gradio asks only whether they are there."""
    environment = dict.fromkeys(switches.REFUSED, "")
    switches.close(environment)
    assert environment == switches.FORCED


@pytest.mark.parametrize("name", switches.FORCED)
def test_what_gradio_must_read_is_set_over_what_somebody_has_set(name: str) -> None:
    environment = {name: "True"}
    switches.close(environment)
    assert environment[name] == switches.FORCED[name]


@pytest.mark.parametrize("environment", [{"GRADIO_VIBE_MODE": "False"}, {"GRADIO_SHARE": "True"}, {"GRADIO_TEMP_DIR": "/"}])
def test_the_app_does_not_start_under_an_open_switch(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith(f"{next(iter(environment))} is set")
    assert done.stderr.count("\n") == 1


def test_without_host_it_listens_on_this_computer_alone(home: Path) -> None:
    """Also where Gradio's own variable names all addresses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("HOST", "SPACE_ID")}
    environment |= {"GRADIO_SERVER_NAME": "0.0.0.0", "PORT": str(port)}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout is not None
        assert "is open at" in app.stdout.readline()
        listening = {one.laddr.ip for one in psutil.Process(app.pid).net_connections() if one.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    finally:
        app.kill()
        app.wait()


# --- the data folder ------------------------------------------------------------------------------------------------


def rights_of_others(folder: Path) -> list[str]:
    """What in a folder, itself included, others have any right to."""
    return [str(path) for path in (folder, *folder.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o077]


def test_the_data_folder_is_made_for_its_owner_alone(home: Path) -> None:
    assert data_folder().stat().st_mode & 0o777 == 0o700


def test_an_older_data_folder_that_others_can_read_is_closed(home: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    data_folder()
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_all_share_keeps_its_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may have named /tmp."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("FITTINGROOM_HOME", str(shared))
    data_folder()
    assert shared.stat().st_mode & 0o7777 == 0o1777


@pytest.mark.trains
def test_nothing_of_a_run_from_the_command_line_is_readable_for_others(home: Path, short_plan: Plan, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(short_plan.to_json())
    command = [sys.executable, "-m", "engine", "run", str(plan)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=200, check=True)
    assert runs.all_runs()[0].state == "finished"
    assert rights_of_others(home) == []


def test_a_worker_writes_for_its_owner_alone_whoever_starts_it(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    workers.launch("engine.train", folder, "worker.log").wait(timeout=60)  # it finds no plan, says so, and ends
    assert (folder / "events.jsonl").exists()
    written = [path for path in folder.iterdir() if path.name not in ("worker.log", "worker.log.pid")]
    assert [str(path) for path in written if path.stat().st_mode & 0o077] == []


def test_nothing_of_the_server_is_readable_for_others(home: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port)]
    app = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout is not None
        assert "is open at" in app.stdout.readline()
        assert (home / "estimator.log").exists()
        assert rights_of_others(home) == []
    finally:
        app.kill()
        app.wait()
