"""Visitors of a public demo are alone: no upload, run, row, result or button of one is reached by another.

Each browser session has a data folder of its own, named after a key that only its cookie has. The tests are two visitors
and a caller without a session, and every event and route of the page.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import data
from engine.data.demos import first_plan
from engine.issues import PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.pipelines import chain_runs
from engine.pipelines.chains import Chain, Stage
from engine.plan import DataSource, Plan
from engine.system import visitors
from engine.system.home import home as home_folder
from engine.system.home import visiting
from tests.security.served import Served, call, serve, upload
from ui.web import janitor
from ui.web.access import Mode

CANARY = "canary-of-the-visitor-tests"
ROW = {"messages": [{"role": "user", "content": f"{CANARY} question"}, {"role": "assistant", "content": f"{CANARY} answer"}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(Mode.DEMO, tmp_path_factory.mktemp("home")) as one:
        yield one


def visitor_of(served: Served, client: httpx.Client) -> str:
    """The name of a browser's home."""
    cookie = next(value for name, value in client.cookies.items() if "session" in name)
    return visitors.name_of(cookie.partition(".")[0])


class Victim:
    """A visitor with an upload, a run under way and a chain, all of which have the canary in them."""

    def __init__(self, served: Served) -> None:
        self.client = served.owner()
        self.name = visitor_of(served, self.client)
        with visiting(self.name):
            self.source = self._upload(served)
            plan = first_plan().with_(datasets=(self.source,), eval_fraction=0.0, max_steps=2000, per_device_train_batch_size=2)
            self.run: Run = runs.start(plan, name=f"{CANARY} run")

    def _upload(self, served: Served) -> DataSource:
        rows = "".join(json.dumps(ROW) + "\n" for _ in range(20))
        file = upload(self.client, f"{CANARY}.jsonl", rows.encode())
        answer = call(self.client, served.number_of("upload"), inputs(served, "upload", {"uploadbutton": file}))
        assert answer["success"], answer
        found = json.dumps(answer["output"])
        return DataSource(path="upload/" + found.partition("upload/")[2].partition('"')[0].partition("\\")[0])


def inputs(served: Served, name: str, by_kind: dict[str, Any]) -> list[Any]:
    """What the page would send to an event: each component's value, but for those of some kinds."""
    config = served.config
    number = served.number_of(name)
    dependency = next(one for one in config["dependencies"] if one["id"] == number)
    values = {one["id"]: one["props"].get("value") for one in config["components"]}
    kinds = {one["id"]: one["type"] for one in config["components"]}
    return [by_kind.get(kinds[one], values[one]) for one in dependency["inputs"]]


@pytest.fixture(scope="module")
def victim(served: Served) -> Iterator[Victim]:
    one = Victim(served)
    yield one
    with visiting(one.name):
        runs.stop(one.run.id, grace=0.0)


def test_the_victim_sees_its_own(served: Served, victim: Victim) -> None:
    """Or else the other tests would see nothing for another reason."""
    events = victim.client.get(f"/api/runs/{victim.run.id}/events")
    assert events.json()["state"] in ("running", "starting")
    assert CANARY in json.dumps(call(victim.client, served.number_of("newest"), []))


def test_no_event_gives_anything_to_another_visitor_or_changes_it(served: Served, victim: Victim) -> None:
    """Every event is called by a stranger who knows all ids, with one of them in each input that takes words."""
    stranger, config = served.owner(), served.config
    inputs_ = {one["id"]: _loot(one, victim) for one in config["components"]}
    for dependency in config["dependencies"]:
        if dependency["id"] in served.site.events:
            answer = call(stranger, dependency["id"], [inputs_[one] for one in dependency["inputs"]], seconds=120)
            assert CANARY not in json.dumps(answer), dependency["api_name"]
    with visiting(victim.name):
        assert runs.settle(victim.run).state in ("running", "starting"), "nobody else stopped it"
        assert [run.id for run in runs.all_runs()] == [victim.run.id], "nobody else started anything there"
    name = visitor_of(served, stranger)
    with visiting(name):
        assert all(CANARY not in json.dumps(run.plan_json) for run in runs.all_runs())
    erased(served, name)  # what these calls have started


def _loot(component: dict[str, Any], victim: Victim) -> Any:
    """What a stranger would put into a component to get at the victim's: the data set, the plan, or the run."""
    kind, props = component["type"], component["props"]
    if kind == "dropdown" and "data" in str(props.get("label")).lower():
        return victim.source.path
    if kind in ("textbox", "code", "state") and props.get("max_lines") != 1:
        return victim.run.plan_json
    return victim.run.id if kind in ("dropdown", "textbox") else props.get("value")


def test_no_route_gives_anything_to_another_visitor(served: Served, victim: Victim) -> None:
    for stranger in (served.owner(), served.program()):
        for path in (f"/api/runs/{victim.run.id}/events", f"/download/{victim.run.id}/adapter.zip"):
            answer = stranger.get(path)
            assert answer.status_code in (401, 404), path
            assert CANARY not in answer.text


def test_a_known_upload_is_nobody_elses_data(served: Served, victim: Victim) -> None:
    """A planner's question about somebody's upload is answered to them alone, also after they have asked it."""
    plan = first_plan().with_(datasets=(victim.source,)).to_json()
    number = served.number_of("estimate")
    assert call(victim.client, number, [plan], seconds=180)["success"]
    for stranger in (served.owner(), served.program()):
        answer = call(stranger, number, [plan])
        assert not answer["success"]
        assert "there is no upload" in json.dumps(answer)


def test_a_session_cannot_be_listened_to_or_cancelled(served: Served) -> None:
    mine, other = served.owner(), served.owner()
    body = {"fn_index": served.number_of("search_models"), "data": ["", "", "", "", 0], "session_hash": "my0session"}
    event = mine.post("/gradio_api/queue/join", json=body).json()["event_id"]
    for stranger in (other, served.program()):
        assert stranger.get("/gradio_api/queue/data?session_hash=my0session").status_code == 404
        assert stranger.get("/gradio_api/heartbeat/my0session").status_code == 404
        assert stranger.get(f"/gradio_api/call/search_models/{event}").status_code in (401, 404)
        assert stranger.post("/gradio_api/queue/join", json=body).status_code == 404
        for session in ("my0session", "another"):
            cancel = {"session_hash": session, "event_id": event, "fn_index": 0}
            assert stranger.post("/gradio_api/cancel", json=cancel).status_code == 404


def test_a_cookie_that_the_server_did_not_sign_is_no_session(served: Served, victim: Victim) -> None:
    port = served.url.rpartition(":")[2]
    key = next(value for name, value in victim.client.cookies.items() if "session" in name)
    forged = (
        key.partition(".")[0],
        key[:-1] + ("0" if key[-1] != "0" else "1"),
        f"{'a' * 32}.{key.partition('.')[2]}",
        "../..",
    )
    for value in forged:
        stranger = served.program(cookie=f"fittingroom-session-{port}={value}")
        assert stranger.get(f"/api/runs/{victim.run.id}/events").status_code == 401
    assert key.partition(".")[0] not in json.dumps([str(path) for path in served.home.rglob("*")]), "it is on no disk"


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def visitor(served: Served) -> Iterator[str]:
    name = visitors.name_of(os.urandom(8).hex())
    with visiting(name):
        yield name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "Qwen/Qwen3-0.6B"}, "not one that this public demo trains"),
        ({"model": {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 64}}, "not one that this"),
        ({"datasets": (DataSource(path="tatsu-lab/alpaca"),)}, "is not fetched by this demo"),
        ({"per_device_train_batch_size": 65}, "above 64"),
        ({"num_train_epochs": 51}, "above 50"),
        ({"max_steps": 100_000}, "above 2000"),
    ],
)
def test_only_small_runs_start(visitor: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        runs.start(first_plan().with_(**changes))


def test_nobody_starts_nothing(served: Served) -> None:
    with visiting(visitors.NOBODY), pytest.raises(PlanError, match="belongs to nobody"):
        runs.start(first_plan())
    with visiting(None), pytest.raises(PlanError, match="belongs to nobody"):
        runs.start(first_plan())


def test_a_chain_and_a_comparison_are_short(visitor: str) -> None:
    with pytest.raises(PlanError, match="this public demo does 4"):
        chain_runs.start(Chain(stages=tuple(Stage(plan=first_plan(), goes_on=number > 0) for number in range(5))))


def test_there_is_room_for_two_runs_of_all_visitors_and_then_a_reason(served: Served, victim: Victim) -> None:
    plan = Plan.from_json(victim.run.plan_json).with_(datasets=first_plan().datasets)
    names = [visitors.name_of(f"busy {number}") for number in range(2)]
    started = []
    try:
        with visiting(names[0]):
            started.append(runs.start(plan))
            with pytest.raises(PlanError, match=r"still running|room for no more"):
                runs.start(plan)
        with visiting(names[1]), pytest.raises(PlanError, match="room for no more"):
            runs.start(plan)
    finally:
        with visiting(names[0]):
            for run in started:
                runs.stop(run.id, grace=0.0)
            ended_by = time.monotonic() + 20
            while runs.settle(runs.get(started[0].id)).is_active and time.monotonic() < ended_by:
                time.sleep(0.1)


def test_a_long_run_is_stopped(visitor: str, monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(runs, "stop", stopped.append)
    monkeypatch.setattr(runs, "active_runs", lambda: [Run(**_row("old", 1000)), Run(**_row("new", 100))])
    janitor.stop_long_runs()
    assert stopped == ["old"]


def _row(run_id: str, seconds_ago: float) -> dict[str, Any]:
    created = time.time() - seconds_ago
    return {
        "id": run_id, "name": "", "created": created, "plan_json": "{}", "state": "running", "pid": None, "pid_started": None,
        "reason": "",
    }  # fmt: skip


# --- erasing ----------------------------------------------------------------------------------------------------------


def test_everything_of_a_visitor_is_erased_an_hour_after_they_were_here(served: Served) -> None:
    client = served.owner()
    name = visitor_of(served, client)
    folder = served.home / "visitors" / name
    upload(client, "rows.jsonl", b'{"text": "x"}\n')
    with visiting(name):
        plan = first_plan().with_(eval_fraction=0.0, max_steps=2000)
        wait_for_room()
        run = runs.start(plan)
        assert home_folder() == folder
    client.get("/")
    assert not janitor.is_over(name)
    old = time.time() - visitors.KEPT_SECONDS - 1
    os.utime(folder / visitors.SEEN, (old, old))
    assert janitor.is_over(name)
    pid = run.pid
    erased(served, name)
    assert not (served.home / "erased").exists()
    assert pid is not None
    assert not Path(f"/proc/{pid}/cwd").exists(), "what was running has ended"
    client.get("/")
    assert call(client, served.number_of("newest"), [])["success"], "they can begin anew"


def test_a_page_that_is_opened_again_keeps_the_data(served: Served) -> None:
    client = served.owner()
    name = visitor_of(served, client)
    with visiting(name):
        seen = home_folder() / visitors.SEEN
    client.get("/")
    old = time.time() - visitors.KEPT_SECONDS - 1
    os.utime(seen, (old, old))
    client.get("/")
    assert not janitor.is_over(name)


def erased(served: Served, name: str) -> None:
    """Erase a visitor, however long what they have running takes to end."""
    folder = served.home / "visitors" / name
    ended_by = time.monotonic() + 30
    while folder.exists() and time.monotonic() < ended_by:
        janitor.erase(name)
        time.sleep(0.3)
    assert not folder.exists()


def wait_for_room() -> None:
    """Until the runs of the tests before have ended."""
    for _ in itertools.count():
        active = 0
        for name in visitors.all_names():
            with visiting(name):
                runs.settle_all()
                active += len(runs.active_runs())
        if active < visitors.MOST_ACTIVE_RUNS:
            return
        time.sleep(0.2)


def test_an_upload_of_a_visitor_is_bounded_and_so_are_the_visitors(
    served: Served, visitor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    monkeypatch.setattr("engine.data.sources.MOST_UPLOAD_BYTES", 100)
    with pytest.raises(PlanError, match="on this public demo"):
        data.store_upload(file)
    monkeypatch.setattr(visitors, "MOST_VISITORS", 1)
    assert served.program().get("/").status_code == 503, "one more home would be one too many"
