"""The newcomer's whole way, in Chromium, on the real app: plan, train, try, merge, download, load.

The run that is started here is the `pirate_run` of other tests.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from transformers import AutoModelForCausalLM, pipeline

ROOT = Path(__file__).resolve().parent.parent
expect.set_options(timeout=60_000)  # on a busy machine
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

pytestmark = [pytest.mark.browser, pytest.mark.trains]


class App:
    """The real app on a free port, as `python app.py` starts it."""

    def __init__(self, home: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home = home
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        environment = os.environ | {"PORT": str(self.port), "FITTINGROOM_HOME": str(self.home)}
        self.process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(self.url, timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        pytest.fail("the app did not answer")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def app(shared_home: Path) -> Iterator[App]:
    running = App(shared_home)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium where it is installed, else Playwright's own."""
    path = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


def open_page(browser: Browser, url: str) -> Page:
    page = browser.new_context(accept_downloads=True, viewport={"width": 1440, "height": 1000}).new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    return page


def points_of(page: Page, chart: str) -> int:
    """How many points the first line of a chart has."""
    script = "id => document.querySelector(`#${id} .js-plotly-plot`)?.data?.[0]?.x?.length ?? 0"
    return int(page.evaluate(script, chart))


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_from_a_fresh_start_to_a_model_at_home(app: App, browser: Browser, tmp_path: Path) -> None:
    page = open_page(browser, app.url)
    outside: list[str] = []
    page.on(
        "request",
        lambda request: outside.append(request.url) if not request.url.startswith((app.url, "data:", "blob:")) else None,
    )

    # Plan: everything is chosen, and the card says what it needs.
    expect(page.locator("#fit-card")).to_contain_text("It fits")
    expect(page.locator("#fit-card")).to_contain_text("Weights")
    page.locator("#start-training").click()

    # Train: the curve moves within seconds, also on a page that is opened in mid-run.
    expect(page.locator("#run-state")).to_be_visible()
    page.wait_for_function(
        "() => document.querySelector('#loss-chart .js-plotly-plot')?.data?.[0]?.x?.length > 0", timeout=120_000
    )
    second = open_page(browser, page.url)
    second.wait_for_function("() => document.querySelector('#loss-chart .js-plotly-plot')?.data?.[0]?.x?.length > 0")
    assert points_of(second, "loss-chart") >= 1
    second.close()
    expect(page.locator("#run-state")).to_contain_text(re.compile("finished", re.IGNORECASE), timeout=360_000)
    assert points_of(page, "loss-chart") > 50

    # Try: the two answers differ in the way that the data taught.
    tab(page, "Try")
    page.locator("#prompt textarea").fill("What is the colour of milk?")
    page.locator("#ask").click()
    tuned = page.locator("#answer-tuned textarea")
    expect(tuned).to_have_value(re.compile(r"\b(arr|matey|aye|ahoy|ye)\b", re.IGNORECASE), timeout=60_000)
    base = page.locator("#answer-base textarea").input_value()
    assert base
    assert not re.search(r"\b(arr|matey|ahoy)\b", base, re.IGNORECASE)

    # Ship: merge, the proof, the download.
    tab(page, "Ship")
    page.locator("#merge").click()
    link = page.locator("#download-merged")
    expect(link).to_be_visible(timeout=360_000)
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "merged.zip")
    assert outside == [], "the page asks nobody else"

    with zipfile.ZipFile(tmp_path / "merged.zip") as archive:
        archive.extractall(tmp_path / "home")
    folder = next((tmp_path / "home").iterdir())
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 1e6
    ask = pipeline("text-generation", model=str(folder))
    said = ask([{"role": "user", "content": "What is the colour of milk?"}])[0]["generated_text"][-1]["content"]
    assert re.search(r"\b(arr|matey|aye|ahoy|ye)\b", said, re.IGNORECASE)


def test_a_run_outlives_the_server_and_the_page_finds_it_again(app: App, browser: Browser) -> None:
    page = open_page(browser, app.url)
    tab(page, "Plan")
    expect(page.locator("#fit-card")).to_contain_text("It fits")
    page.locator("#num-train-epochs input").fill("400")
    page.locator("#start-training").click()
    page.wait_for_function(
        "() => document.querySelector('#loss-chart .js-plotly-plot')?.data?.[0]?.x?.length > 3", timeout=60_000
    )
    address = page.url
    page.close()
    app.stop()
    app.start()
    again = open_page(browser, address)
    again.wait_for_function("() => document.querySelector('#loss-chart .js-plotly-plot')?.data?.[0]?.x?.length > 3")
    before = points_of(again, "loss-chart")
    again.wait_for_function(f"() => document.querySelector('#loss-chart .js-plotly-plot').data[0].x.length > {before}")
    again.locator("#stop-run").click()
    expect(again.locator("#run-state")).to_contain_text(re.compile("stopped", re.IGNORECASE), timeout=120_000)


BAD_VALUES = (
    ("#per-device-train-batch-size input", "0", "Batch size"),
    ("#learning-rate input, #learning-rate textarea", "nan", "Learning rate"),
    ("#option-r input", "0", "Rank"),
)


def test_a_bad_value_is_one_sentence_on_the_card(app: App, browser: Browser) -> None:
    page = open_page(browser, app.url)
    tab(page, "Plan")
    expect(page.locator("#fit-card")).to_contain_text("It fits")
    for field, value, said in BAD_VALUES:
        control = page.locator(field).first
        before = control.input_value()
        control.fill(value)
        control.press("Tab")
        expect(page.locator("#fit-card")).to_contain_text(said)
        expect(page.locator("body")).not_to_contain_text("Traceback")
        control.fill(before)
        control.press("Tab")
        expect(page.locator("#fit-card")).to_contain_text("It fits")


def test_a_bad_upload_names_its_line(app: App, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "fine"}\n{"text": oops}\n')
    page = open_page(browser, app.url)
    tab(page, "Plan")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=re.compile("Upload")).click()
    chooser.value.set_files(file)
    expect(page.locator("body")).to_contain_text("line 2 of mine.jsonl")


def test_no_page_is_wider_than_the_screen(app: App, browser: Browser) -> None:
    page = open_page(browser, app.url)
    for name in ("Plan", "Data", "Train", "Try", "Ship", "Chains", "Compare", "History"):
        tab(page, name)
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 844})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.wait_for_timeout(150)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width, scheme)
