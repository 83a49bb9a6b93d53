"""No words of a person, a file or a model become a part of the page: they are shown as they are, and nothing runs.

Chromium looks at every tab of a data folder whose names, rows, labels, models, messages and logs are payloads. It does so
without the Content-Security-Policy, so that the page is safe by itself. A walk with the policy gives it nothing to stop; that
it alone is enough, too, is shown with payloads that are put into the page by force.
"""

from __future__ import annotations

import csv
import io
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload

from engine.data.demos import DEMOS, first_plan
from engine.export import merge
from engine.jobs import runs
from engine.pipelines.chains import Chain, Stage, to_dict
from engine.plan import DataSource
from engine.system.events import EventLog
from tests.security.browsing import Watched, missing, new_context, new_page
from tests.security.payloads import HANDLERS, PAYLOADS
from tests.security.served import Served, serve
from ui.web import url_state
from ui.web.access import Mode

pytestmark = pytest.mark.browser

SHORT = "<img src=x onerror=window.__pwned=1>"
ALL = "\n".join(PAYLOADS)
LABEL = '"><img src=x onerror="window.__pwned=1">'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(Mode.LOCAL, tmp_path_factory.mktemp("home"), warm=True) as one:
        yield one


@pytest.fixture(scope="module")
def hostile(served: Served) -> Hostile:
    return Hostile(served.home)


@pytest.fixture(scope="module")
def unprotected(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that heeds no policy. It is shared, so that its cache has the scripts of the page."""
    context = new_context(browser, policy=False)
    yield context
    context.close()


@pytest.fixture
def watched(served: Served, unprotected: BrowserContext, hostile: Hostile) -> Iterator[Watched]:
    """A page that nothing protects but how it is made."""
    watched = Watched(unprotected, served.url)
    yield watched
    watched.check()
    watched.page.close()


class Hostile:
    """A data folder in which every word that a person or a worker could have written is a payload."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.plan = first_plan().with_(datasets=(DataSource(path=f"demo/{SHORT}"),))
        runs.all_runs()  # makes the lifecycle file
        for payload in PAYLOADS:
            self.run(payload, reason=payload)
        self.shown = self.run(ALL, reason=ALL, model=LABEL)
        self.chain = self._chain()
        self.comparison = self._comparison()

    def run(self, name: str, *, reason: str, model: str = "", state: str = "failed") -> str:
        """A run that has ended; returns its id."""
        run_id = secrets.token_hex(16)
        plan = self.plan.to_dict() | ({"model": model} if model else {})
        row = (run_id, name, time.time(), json.dumps(plan), state, reason)
        with sqlite3.connect(self.home / "fittingroom.db") as database:
            database.execute("INSERT INTO runs (id, name, created, plan, state, reason) VALUES (?, ?, ?, ?, ?, ?)", row)
        folder = self.home / "runs" / run_id
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(json.dumps(plan))
        (folder / runs.LOG_FILE).write_text(ALL)
        log = EventLog(folder)
        log.write("note", message=ALL)
        log.write("failed", message=ALL, seconds=1.0)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"a result")
        EventLog(folder, merge.EVENTS_FILE).write("failed", message=ALL)
        return run_id

    def _chain(self) -> str:
        folder = self.home / "chains" / f"{1:032x}"
        folder.mkdir(parents=True)
        values = to_dict(Chain(stages=(Stage(plan=self.plan, goes_on=False),)))
        (folder / "chain.json").write_text(json.dumps({"name": ALL, "created": time.time(), "chain": values}))
        log = EventLog(folder)
        log.write("stage", number=0, run=self.shown)
        for place, payload in enumerate(PAYLOADS[:8]):
            log.write("looked", row={"when": f"{place} {payload}", **{one: 1.0 + place for one in PAYLOADS}})
        log.write("failed", message=ALL)
        return folder.name

    def _comparison(self) -> str:
        folder = self.home / "comparisons" / f"{2:032x}"
        folder.mkdir(parents=True)
        methods = [*PAYLOADS, "lora"]
        values = {"id": folder.name, "name": ALL, "created": time.time(), "plan": self.plan.to_dict(), "methods": methods}
        (folder / "comparison.json").write_text(json.dumps(values))
        log = EventLog(folder)
        for payload in PAYLOADS:
            log.write("refused", method=payload, message=payload)
        log.write("failed", message=ALL)
        return folder.name


# --- runs, their messages and their logs ------------------------------------------------------------------------------


def test_names_of_runs_are_words(watched: Watched) -> None:
    watched.go()
    watched.tab("History")
    watched.shows("#history", PAYLOADS[0])
    assert missing(watched.reads("#history")) == []


def test_a_run_its_reason_and_its_log_are_words(watched: Watched, hostile: Hostile) -> None:
    watched.go(f"/?run={hostile.shown}")
    watched.shows("#run-head", PAYLOADS[-1])
    assert missing(watched.reads("#run-head h2")) == []
    assert missing(watched.reads("#run-head .note")) == []
    assert LABEL in watched.reads("#run-head .run-what")
    watched.page.get_by_role("button", name="Log of the worker").click()
    watched.shows("#run-log", PAYLOADS[-1])
    watched.page.locator("#run input").click()  # the list of all runs
    watched.page.get_by_role("option").first.wait_for()
    assert missing("\n".join(watched.page.get_by_role("option").all_text_contents())) == []


def test_what_a_merge_says_is_words(watched: Watched) -> None:
    watched.go()
    watched.tab("Ship")
    watched.shows("#merge-progress", PAYLOADS[-1])
    assert missing(watched.reads("#merge-progress")) == []
    watched.tab("Try")
    watched.page.locator("#try-run input").click()
    watched.page.get_by_role("option").first.wait_for()
    assert missing("\n".join(watched.page.get_by_role("option").all_text_contents())) == []


def test_what_an_address_says_is_words(watched: Watched) -> None:
    said = ("</script><script>window.__pwned=1</script>", LABEL, "javascript:window.__pwned=1", SHORT)
    for name, payload in zip(url_state.NAMES, said, strict=True):
        watched.go(f"/?{urlencode({name: payload})}")
        watched.page.locator("#start-training").wait_for(state="attached")
        watched.page.wait_for_timeout(500)


def test_a_chain_and_what_it_forgot_are_words(watched: Watched, hostile: Hostile) -> None:
    watched.go(f"/?chain={hostile.chain}")
    watched.shows("#chain-head", PAYLOADS[-1])
    assert missing(watched.reads("#chain-head h2")) == []
    assert missing(watched.reads("#chain-head .note")) == []
    assert SHORT in watched.reads("#chain-head table")
    assert missing(watched.reads("#forgetting")) == []
    watched.page.wait_for_selector("#forgetting-chart .legendtext")
    assert missing("\n".join(watched.page.locator("#forgetting-chart .legendtext").all_text_contents())) == []


def test_a_comparison_is_words(watched: Watched, hostile: Hostile) -> None:
    watched.go(f"/?compare={hostile.comparison}")
    watched.shows("#comparison-head", PAYLOADS[-1])
    assert missing(watched.reads("#comparison-head h2")) == []
    watched.shows("#compare-table", PAYLOADS[-1])
    assert missing(watched.reads("#compare-table")) == []


# --- data -------------------------------------------------------------------------------------------------------------


def upload(watched: Watched, name: str, content: bytes) -> None:
    """Upload a file on the Plan tab; what is chosen then is this file."""
    watched.tab("Plan")
    file = FilePayload(name=name, mimeType="application/octet-stream", buffer=content)
    watched.page.locator("#upload").locator("xpath=..").locator("input[type=file]").first.set_input_files(file)
    watched.shows("#dataset", "Yours: ")


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_rows_of_every_role_are_words(watched: Watched) -> None:
    watched.go()
    rows = [chat(("system", one), ("user", one), ("assistant", one)) for one in PAYLOADS]
    rows = [chat(("system", ALL), ("user", ALL), ("assistant", ALL)), *rows, *rows]
    upload(watched, f"{SHORT}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    watched.tab("Data")
    watched.shows("#data-preview", PAYLOADS[0])
    watched.shows("#data-preview", PAYLOADS[1])
    watched.shows("#findings", PAYLOADS[0])
    watched.page.locator("#row-tokens .strip").first.wait_for()
    read = watched.reads("#row-tokens").replace("↵", "\n")
    assert missing(read) == []


def test_names_of_columns_are_words(watched: Watched) -> None:
    watched.go()
    table = io.StringIO()
    csv.writer(table).writerows([PAYLOADS, PAYLOADS, PAYLOADS])
    upload(watched, "columns.csv", table.getvalue().encode())
    watched.shows("#fit-card", "columns.csv")
    watched.tab("Data")
    watched.shows("#data-preview", PAYLOADS[0])
    assert missing(watched.reads("#data-preview thead")) == []


def test_labels_are_words(watched: Watched) -> None:
    watched.go()
    demo = next(one for one in DEMOS.values() if one.changes.get("objective") == "classification")
    watched.page.locator("#demos").get_by_text(demo.title.partition(":")[0], exact=True).first.click()
    watched.shows("#dataset", demo.title)
    rows = [{"text": f"{one} {number}", "label": one} for one in PAYLOADS for number in range(3)]
    upload(watched, "labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    watched.tab("Data")
    watched.shows("#balance", PAYLOADS[0])
    watched.shows("#row-tokens .answer", "<")


# --- the plan and its messages ----------------------------------------------------------------------------------------


def test_a_model_that_is_a_payload_is_named_in_words(watched: Watched) -> None:
    watched.go()
    field = watched.page.locator("#model input")
    for model in (LABEL, "<script>alert(1)</script>", "${window.__pwned=1}/{{7*7}}"):
        field.fill(model)
        field.press("Enter")
        field.press("Tab")
        watched.shows("#fit-card", model)
        watched.page.locator("#start-training").click()
        watched.page.locator(".toast-body").filter(has_text=model).first.wait_for()
    watched.page.get_by_role("button", name="The plan as JSON").click()
    watched.shows("#plan-json", "${window.__pwned=1}/{{7*7}}")


def test_an_option_that_is_a_payload_is_named_in_words(watched: Watched) -> None:
    watched.go()
    watched.page.get_by_role("button", name="More settings").click()
    field = watched.page.locator("#option-others").locator("textarea, input")
    field.fill(json.dumps({SHORT: SHORT}))
    field.press("Tab")
    watched.shows("#fit-card", SHORT.partition("__")[0])  # a label has spaces for its underscores


# --- what a browser keeps, and the policy alone -----------------------------------------------------------------------


def test_a_browser_keeps_nothing_of_the_data(watched: Watched) -> None:
    watched.go()
    canary = "canary-of-the-browser"
    upload(watched, f"{canary}.jsonl", (json.dumps(chat(("user", canary), ("assistant", canary))) + "\n").encode() * 20)
    watched.page.locator("#run-name input, #run-name textarea").fill(canary)
    watched.tab("Data")
    watched.shows("#data-preview", canary)
    watched.tab("Try")
    watched.page.locator("#prompt textarea").fill(canary)
    kept = json.dumps(watched.page.context.storage_state(indexed_db=True)) + watched.page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, window.name, history.state, location.href])"
    )
    assert canary not in kept
    assert "learning_rate" not in kept, "no plan either"


def test_a_walk_gives_the_policy_nothing_to_stop(served: Served, browser: Browser, hostile: Hostile) -> None:
    watched = new_page(browser, served.url)
    for said in (f"run={hostile.shown}", f"chain={hostile.chain}", f"compare={hostile.comparison}"):
        watched.go(f"/?{said}")
        watched.page.locator("#start-training").wait_for(state="attached")
    for name in ("Plan", "Data", "Train", "Try", "Ship", "Chains", "Compare", "History"):
        watched.tab(name)
        watched.page.wait_for_timeout(500)
    watched.shows("#history", PAYLOADS[0])
    watched.check()
    watched.page.context.close()


@pytest.mark.parametrize("policy", [True, False], ids=["with the policy", "without the policy"])
def test_the_policy_alone_stops_what_got_into_the_page(served: Served, browser: Browser, policy: bool) -> None:
    """The payloads do run where nothing stops them, or else the other tests would show nothing."""
    watched = new_page(browser, served.url, policy=policy)
    watched.go()
    watched.page.get_by_role("tab", name="Plan", exact=True).wait_for()
    watched.page.evaluate(
        "all => { const place = document.createElement('div'); place.innerHTML = all.join(' '); document.body.append(place); }",
        [*HANDLERS, '<a id="planted" href="javascript:void(window.__pwned=1)">link</a>'],
    )
    watched.page.locator("#planted").evaluate("link => link.click()")
    watched.page.wait_for_timeout(1000)
    assert watched.page.evaluate("window.__pwned") == (None if policy else 1)
    assert any("the policy had to step in" in one for one in watched.seen) is policy
    watched.page.context.close()
