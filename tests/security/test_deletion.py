"""Deleting takes what was named by its id, whole or not at all, and touches nothing else.

What is at work is refused. An id that is a path, and a link in the place of an item, are refused. A crash between any two
steps leaves the item whole or gone once the server has started again. No name that a person types reaches a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from engine import data
from engine.data import sources
from engine.data.values import printable
from engine.export import downloads, merge
from engine.issues import PlanError
from engine.jobs import runs, series
from engine.pipelines import chain_runs, compare, trash
from engine.plan import DataSource, Plan
from engine.system import workers
from engine.system.events import EventLog
from ui.tabs import history_tab, train_tab
from ui.views import formats as words
from ui.views.curves import Curves

ROOT = Path(__file__).resolve().parents[2]
NO_IDS = [
    "/",
    "..",
    ".",
    "",
    "../runs",
    "/etc/passwd",
    "%2e%2e",
    "0" * 31,
    "0" * 33,
    "0" * 32 + "\n",
    "A" * 32,
    "0" * 31 + "/",
    "a\0b",
]


def tree(folder: Path) -> str:
    """A hash of all that is below a folder: names, kinds, link targets and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        digest.update(repr((str(path.relative_to(folder)), path.is_symlink(), path.is_dir(), content)).encode())
    return digest.hexdigest()


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, chains and comparisons are entered without starting their processes."""
    monkeypatch.setattr(runs, "_launch", lambda run, database: None)
    monkeypatch.setattr(series, "launch", lambda module, folder: EventLog(folder).write("finished"))


@pytest.fixture
def outside(tmp_path: Path, home: Path) -> Iterator[Path]:
    """A folder beside the data folder that nothing may change, and what else lies beside it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.txt").write_text("precious")
    before = tree(folder)
    yield folder
    assert tree(folder) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "outside"}


def a_run(plan: Plan, name: str = "") -> str:
    run = runs.start(plan, name=name)
    (run.folder / "adapter").mkdir()
    (run.folder / "adapter" / "weights").write_text("weights")
    runs._change_state(run.id, runs.ACTIVE, "finished")
    return run.id


def an_upload(folder: Path) -> str:
    """The id of an upload with a folder of images beside its rows."""
    source, target = sources.new_upload("rows.jsonl")
    target.write_text('{"text": "one"}\n')
    target.with_suffix("").mkdir()
    (target.with_suffix("") / "000000.png").write_bytes(b"image")
    return source.path


def a_comparison(plan: Plan) -> str:
    return compare.start(plan, ("lora", "dora")).id


def files_named_after(home: Path, item_id: str) -> list[Path]:
    return [path for path in home.rglob("*") if item_id.removeprefix("upload/") in path.name]


# --- what is deleted is gone ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("outside")
def test_a_deleted_run_is_gone_and_the_others_stay(home: Path, short_plan: Plan) -> None:
    kept, deleted = a_run(short_plan), a_run(short_plan)
    before = tree(runs.runs_folder() / kept)
    trash.delete_run(deleted)
    assert files_named_after(home, deleted) == []
    assert [run.id for run in runs.all_runs()] == [kept]
    assert tree(runs.runs_folder() / kept) == before
    assert list((home / trash.FOLDER).iterdir()) == []


@pytest.mark.usefixtures("outside")
def test_a_deleted_upload_is_gone_with_its_name_and_its_images(home: Path) -> None:
    kept, deleted = an_upload(home), an_upload(home)
    trash.delete_upload(deleted)
    assert files_named_after(home, deleted) == []
    assert [path for _, path in sources.uploads()] == [kept]


@pytest.mark.usefixtures("outside")
def test_a_deleted_comparison_is_gone(home: Path, short_plan: Plan) -> None:
    deleted = a_comparison(short_plan)
    trash.delete_folder("comparison", deleted)
    assert compare.every() == []
    assert files_named_after(home, deleted) == []


@pytest.mark.usefixtures("outside")
def test_a_run_without_its_folder_can_be_deleted(home: Path, short_plan: Plan) -> None:
    run_id = a_run(short_plan)
    (home / "runs" / run_id).rename(home / "elsewhere")
    trash.delete_run(run_id)
    assert runs.all_runs() == []


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", NO_IDS)
def test_only_an_id_is_taken(wrong: str, home: Path, outside: Path, short_plan: Plan) -> None:
    a_run(short_plan)
    before = tree(runs.runs_folder())
    for delete in (trash.delete_run, trash.delete_upload, lambda words: trash.delete_folder("chain", words)):
        with pytest.raises(PlanError, match=r"is not named by an id\. Choose one of the list\."):
            delete(wrong)
    assert tree(runs.runs_folder()) == before


@pytest.mark.parametrize("kind", ["run", "upload", "..", "/", "runs", ""])
def test_only_chains_and_comparisons_are_deleted_as_folders(kind: str) -> None:
    with pytest.raises(PlanError, match="Use chain or comparison"):
        trash.delete_folder(kind, "0" * 32)


@pytest.mark.parametrize("path", ["/", "..", "../outside", "/etc"])
def test_a_row_whose_id_was_edited_to_a_path_deletes_nothing(path: str, outside: Path, short_plan: Plan) -> None:
    run_id = a_run(short_plan)
    with runs._database() as database:
        database.execute("UPDATE runs SET id = ? WHERE id = ?", (path, run_id))
    with pytest.raises(PlanError):
        trash.delete_run(path)
    assert [run.id for run in runs.all_runs()] == [path]


def test_a_link_in_the_place_of_an_item_deletes_nothing(home: Path, outside: Path, short_plan: Plan) -> None:
    run_id, upload_id, comparison_id = a_run(short_plan), an_upload(home), a_comparison(short_plan)
    rows = sources.locate(DataSource(path=upload_id))
    for place in (home / "runs" / run_id, rows, home / "comparisons" / comparison_id):
        place.rename(home / f"moved-{place.name}")
        place.symlink_to(outside if place != rows else outside / "precious.txt")
    for delete in (
        lambda: trash.delete_run(run_id),
        lambda: trash.delete_upload(upload_id),
        lambda: trash.delete_folder("comparison", comparison_id),
    ):
        with pytest.raises(PlanError, match="a link stands in its place, so nothing is deleted"):
            delete()
    assert [run.id for run in runs.all_runs()] == [run_id]


@pytest.mark.parametrize("linked", [".trash", "runs"])
def test_a_folder_of_the_data_folder_that_is_a_link_deletes_nothing(
    linked: str, home: Path, outside: Path, short_plan: Plan
) -> None:
    run_id = a_run(short_plan)
    if (home / linked).exists():
        (home / linked).rename(home / "moved")
    (home / linked).symlink_to(outside)
    with pytest.raises(PlanError, match=r"is a link|a link stands in its place"):
        trash.delete_run(run_id)


def test_a_link_that_waits_in_the_trash_is_not_followed(home: Path, outside: Path, short_plan: Plan) -> None:
    run_id = a_run(short_plan)
    (home / trash.FOLDER).mkdir()
    (home / trash.FOLDER / f"run-{run_id}").symlink_to(outside)
    with pytest.raises(PlanError, match="a link stands in"):
        trash.delete_run(run_id)
    trash.finish()
    assert [run.id for run in runs.all_runs()] == [run_id]


def test_links_inside_a_run_are_removed_and_not_followed(home: Path, outside: Path, short_plan: Plan) -> None:
    run_id = a_run(short_plan)
    (home / "runs" / run_id / "adapter" / "link").symlink_to(outside)
    trash.delete_run(run_id)
    assert runs.all_runs() == []


@pytest.mark.usefixtures("outside")
def test_what_is_at_work_is_not_deleted(home: Path, short_plan: Plan) -> None:
    run_id, comparison_id = a_run(short_plan), a_comparison(short_plan)
    run = runs.get(run_id)
    assert run is not None
    with workers.hold_lock(run.folder, runs.LOCK_FILE), pytest.raises(PlanError, match=r"still at work\. Stop it first"):
        trash.delete_run(run_id)
    EventLog(run.folder, merge.EVENTS_FILE).write("progress", fraction=0.1, message="Merging.")
    with workers.hold_lock(run.folder, merge.LOCK_FILE), pytest.raises(PlanError, match="is being merged"):
        trash.delete_run(run_id)
    folder = home / "comparisons" / comparison_id
    EventLog(folder).write("run", method="lora", run=run_id)
    with workers.hold_lock(folder, series.LOCK_FILE):
        with pytest.raises(PlanError, match="still at work"):
            trash.delete_folder("comparison", comparison_id)
        with pytest.raises(PlanError, match="belongs to a comparison that is under way"):
            trash.delete_run(run_id)
    trash.delete_run(run_id)
    trash.delete_folder("comparison", comparison_id)


@pytest.mark.usefixtures("outside")
def test_an_upload_that_is_trained_on_is_not_deleted(home: Path, short_plan: Plan) -> None:
    path = an_upload(home)
    runs._register(short_plan.with_(datasets=(DataSource(path=path),)), "at work")
    with pytest.raises(PlanError, match="a run trains on it"):
        trash.delete_upload(path)
    assert data.locate(DataSource(path=path)).is_file()


# --- crashes --------------------------------------------------------------------------------------------------------

STEPS = (trash._bury.__code__, trash._row_of.__wrapped__.__code__, runs.removal.__wrapped__.__code__)  # type: ignore[attr-defined]


def killed_after(steps: int, delete: Callable[[], None]) -> bool:
    """Delete in a process of its own that is killed before its n-th line of the deletion. Whether it got that far."""
    child = os.fork()
    if child == 0:
        left = steps

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if frame.f_code not in STEPS:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        delete()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def in_another_process(work: Callable[[], Any]) -> Any:
    """What some work gives that is done in a forked process: SQLite's connections must not be carried over a fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(work()))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("kind", ["run", "upload", "comparison"])
def test_a_crash_between_any_two_steps_leaves_it_whole_or_gone(kind: str, home: Path, short_plan: Plan) -> None:
    make = {"run": lambda: a_run(short_plan), "upload": lambda: an_upload(home), "comparison": lambda: a_comparison(short_plan)}
    delete = {
        "run": trash.delete_run,
        "upload": trash.delete_upload,
        "comparison": lambda item_id: trash.delete_folder("comparison", item_id),
    }

    def state_of(item_id: str) -> tuple[int, bool, list[str]]:
        """After the start: how many files there are of it, whether it has a row, and what is in the trash."""
        trash.finish()
        in_trash = [path.name for path in (home / trash.FOLDER).iterdir()]
        row = runs.get(item_id) is not None
        files = [path for path in home.rglob("*") if item_id.removeprefix("upload/") in str(path) and path.suffix != ".lock"]
        return len(files), row, in_trash

    whole = in_another_process(lambda: state_of(make[kind]()))
    outcomes = set()
    for steps in range(60):
        item_id = in_another_process(make[kind])
        crashed = killed_after(steps, lambda item_id=item_id: delete[kind](item_id))
        after = in_another_process(lambda item_id=item_id: state_of(item_id))
        assert after in (whole, [0, False, []]), f"half of it is left after {steps} steps"
        outcomes.add(after == whole)
        if not crashed:
            break
    assert not crashed, "the last one went through"
    assert outcomes == {True, False}


# --- names ----------------------------------------------------------------------------------------------------------

NAMES = [
    "../../app.py",
    "/etc/x",
    "a\0b",
    "CON",
    "x" * 300,
    ".",
    "..",
    "$(touch c)",
    ";touch c",
    "--help",
    "a\nb",
    "‮evil",
    "<b>x",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_kept_and_reach_no_path(name: str, home: Path, outside: Path, short_plan: Plan) -> None:
    run = runs.start(short_plan, name=name)
    runs._change_state(run.id, runs.ACTIVE, "finished")
    comparison = compare.start(short_plan, ("lora", "dora"), name=name)
    source, target = sources.new_upload(name)
    target.write_text("{}\n")
    assert (runs.get(run.id) or run).name == name
    assert [found.name for found in compare.every()] == [name]
    assert sources.file_name(target) == printable(name[-200:])
    made = {path.name for folder in ("runs", "comparisons", "uploads") for path in (home / folder).iterdir()}
    upload_id = source.path.removeprefix("upload/")
    assert made == {run.id, comparison.id, f"{upload_id}.jsonl", f"{upload_id}.name"}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name: str, short_plan: Plan) -> None:
    run = runs.start(short_plan, name=name)
    for shown in (history_tab.table([run]), train_tab.head(run, Curves())):
        assert words.escape(name) in shown
        assert "<b>x" not in shown


@pytest.mark.parametrize("name", NAMES)
def test_names_in_the_place_of_an_id_find_nothing(name: str, outside: Path) -> None:
    assert runs.get(name) is None
    assert runs.stop(name) is None
    assert compare.get(name) is None
    assert chain_runs.get(name) is None
    assert downloads.find(name, "adapter") is None
    assert downloads.find("0" * 32, name) is None
    for start in (runs.resume, merge.start, chain_runs.resume):
        with pytest.raises(PlanError):
            start(name)


@pytest.mark.parametrize("words_of_a_shell", ["$(touch c)", ";touch c", "`touch c`", "a\nb", "../../c"])
def test_the_command_line_takes_a_name_for_a_name(words_of_a_shell: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "engine", "resume", words_of_a_shell]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "run: There is no run with this id. Start its plan again from History.\n"
    assert not (tmp_path / "c").exists()
