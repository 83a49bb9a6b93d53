"""What browsers make of the server, in Chromium: no other website frames it, calls it or reads it, not even with its cookies;
whoever has the token gets in and it stays in no address; and two visitors of a demo see their own data alone.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, expect

from engine.data.demos import first_plan
from engine.jobs import runs
from engine.system import visitors
from engine.system.home import visiting
from tests.security.browsing import Watched, new_page
from tests.security.served import Served, serve
from ui.web.access import Mode

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", params=list(Mode), ids=lambda mode: f"{mode} mode")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(request.param, tmp_path_factory.mktemp("home")) as one:
        yield one


def only(mode: Mode) -> pytest.MarkDecorator:
    """For a test about one mode alone."""
    return pytest.mark.parametrize("served", [mode], indirect=True, ids=[f"{mode} mode"])


def inside(browser: Browser, served: Served) -> Watched:
    """A browser that has the page open and its cookies, in token mode by the printed address."""
    path = f"/?token={served.access.token}" if served.access.mode is Mode.TOKEN else "/"
    watched = new_page(browser, served.url)
    watched.go(path)
    expect(watched.page.locator("#tabs")).to_be_visible()
    return watched


# --- other websites ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["127.0.0.1", "localhost"], ids=["another port", "another site"])
def elsewhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of another website; one of the same host gets the cookies of the server along with what it asks."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "index.html").write_text("<!doctype html><title>elsewhere</title><body></body>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://{request.param}:{running.server_port}"
        running.shutdown()


@pytest.fixture(scope="module")
def victim(browser: Browser, served: Served) -> Iterator[BrowserContext]:
    """A browser that has the cookies of the server."""
    context = inside(browser, served).page.context
    yield context
    context.close()


@pytest.fixture
def lured(victim: BrowserContext, elsewhere: str) -> Iterator[Page]:
    """A page of the other website in that browser."""
    page = victim.new_page()
    page.goto(elsewhere)
    yield page
    page.close()


def test_another_website_shows_the_page_in_no_frame(lured: Page, served: Served) -> None:
    paths = ("/", "/login", "/config", "/gradio_api/info")
    lured.evaluate(
        """addresses => { for (const address of addresses) {
            const frame = document.createElement('iframe'); frame.src = address; document.body.append(frame); } }""",
        [served.url + path for path in paths],
    )
    lured.wait_for_timeout(3000)
    frames = lured.main_frame.child_frames
    assert len(frames) == len(paths)
    assert [frame.url for frame in frames if frame.url.startswith(served.url) and frame.locator("body *").count()] == []
    assert sum(frame.locator("#tabs, #token, form, pre").count() for frame in frames) == 0


def test_a_form_of_another_website_is_refused(lured: Page, served: Served, elsewhere: str) -> None:
    fields = {"token": served.access.token, '{"fn_index": 0, "data": [], "session_hash": "a': '"}'}
    paths = ("/gradio_api/queue/join", "/gradio_api/call/stop", "/gradio_api/upload", "/login")
    for path, kind in itertools.product(paths, ("application/x-www-form-urlencoded", "text/plain")):
        lured.goto(elsewhere)
        with lured.expect_navigation() as sent:
            lured.evaluate(
                """([address, kind, fields]) => {
                    const form = document.createElement('form');
                    Object.assign(form, {action: address, method: 'post', enctype: kind});
                    for (const [name, value] of Object.entries(fields)) {
                        const field = document.createElement('input');
                        Object.assign(field, {name, value, type: 'hidden'});
                        form.append(field);
                    }
                    document.body.append(form);
                    form.submit();
                }""",
                [served.url + path, kind, fields],
            )
        assert sent.value is not None
        assert sent.value.status == 403, path
        assert "another website" in sent.value.text()


def test_another_website_reads_no_answer(lured: Page, served: Served) -> None:
    paths = ("/", "/config", "/gradio_api/queue/join", "/gradio_api/info")
    settings = ({}, {"credentials": "include"}, {"credentials": "include", "mode": "no-cors"})
    for path, method, setting in itertools.product(paths, ("GET", "POST"), settings):
        read = lured.evaluate(
            """async ([address, settings]) => {
                try { return await (await fetch(address, settings)).text(); } catch (error) { return ''; }
            }""",
            [served.url + path, {"method": method, **setting}],
        )
        assert read == "", (path, method, setting)


def test_another_website_loads_nothing_as_a_part_of_its_page(lured: Page, served: Served) -> None:
    """A script, a style sheet or an image needs no permission to be loaded from elsewhere, unless the server forbids it."""
    for element, address in (("script", "src"), ("img", "src"), ("link", "href")):
        came = lured.evaluate(
            """([element, address, url]) => new Promise(done => {
                const one = document.createElement(element);
                one.rel = 'stylesheet';
                one.onload = () => done(true);
                one.onerror = () => done(false);
                one[address] = url;
                document.head.append(one);
            })""",
            [element, address, f"{served.url}/{'theme.css' if element == 'link' else 'config'}"],
        )
        assert came is False, element


# --- what a browser keeps ---------------------------------------------------------------------------------------------


def test_no_script_can_read_a_cookie(browser: Browser, served: Served) -> None:
    watched = inside(browser, served)
    assert watched.page.evaluate("document.cookie") == ""
    cookies = watched.page.context.cookies()
    assert cookies
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Lax" for cookie in cookies)
    watched.page.context.close()


# --- the token --------------------------------------------------------------------------------------------------------


@only(Mode.TOKEN)
def test_the_login_page_lets_in_whoever_has_the_token(browser: Browser, served: Served) -> None:
    watched = new_page(browser, served.url)
    watched.go()
    page = watched.page
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(page.locator("#tabs")).to_have_count(0)
    page.get_by_label("Access token").fill("a wrong one")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("That is not the token")
    page.get_by_label("Access token").fill(served.access.token)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#tabs")).to_be_visible()
    expect(page.locator("#start-training")).to_be_visible()
    assert page.url == f"{served.url}/"
    page.reload()
    expect(page.locator("#tabs")).to_be_visible()
    watched.check()
    page.context.close()


@only(Mode.TOKEN)
def test_the_printed_address_leaves_the_token_nowhere_in_the_browser(browser: Browser, served: Served) -> None:
    watched = inside(browser, served)
    page = watched.page
    assert page.url == f"{served.url}/"
    kept = json.dumps(page.context.storage_state(indexed_db=True))
    assert served.access.token not in kept + page.content() + page.evaluate("document.referrer + JSON.stringify(history.state)")
    page.context.close()


@only(Mode.TOKEN)
def test_the_login_page_fits_every_screen(browser: Browser, served: Served) -> None:
    watched = new_page(browser, served.url)
    watched.go()
    for width in (1440, 390):
        watched.page.set_viewport_size({"width": width, "height": 844})
        for scheme in ("light", "dark"):
            watched.page.emulate_media(color_scheme=scheme)
            assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    watched.page.context.close()


# --- two visitors of a demo -------------------------------------------------------------------------------------------


def visitor_of(watched: Watched) -> str:
    """The name of a browser's home."""
    cookie = next(one["value"] for one in watched.page.context.cookies() if "session" in one["name"])
    return visitors.name_of(cookie.partition(".")[0])


def ended_run(name: str) -> None:
    """A run of the current visitor, which has ended."""
    runs.all_runs()  # makes the lifecycle file
    row = ("1" * 32, name, time.time(), first_plan().to_json(), "stopped")
    with sqlite3.connect(runs.home() / "fittingroom.db") as database:
        database.execute("INSERT INTO runs (id, name, created, plan, state) VALUES (?, ?, ?, ?, ?)", row)


@only(Mode.DEMO)
def test_a_visitor_reads_first_what_becomes_of_their_data(browser: Browser, served: Served) -> None:
    watched = inside(browser, served)
    notice = watched.page.locator("#demo-notice")
    for width in (1440, 390):
        watched.page.set_viewport_size({"width": width, "height": 844})
        for scheme in ("light", "dark"):
            watched.page.emulate_media(color_scheme=scheme)
            expect(notice).to_be_visible()
            expect(notice).to_contain_text("This is a public demo")
            watched.page.wait_for_timeout(150)
            assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
            box = notice.locator(".note").bounding_box()
            others = [watched.page.locator(place).bounding_box() for place in ("#header .logo", "#tabs > .tab-wrapper")]
            assert box is not None
            for other in others:  # nothing lies on it
                assert other is not None
                assert other["y"] + other["height"] <= box["y"] or other["y"] >= box["y"] + box["height"], (width, other, box)
    watched.page.context.close()


@only(Mode.DEMO)
def test_two_browsers_see_their_own_uploads_and_runs_alone_also_after_a_reload(browser: Browser, served: Served) -> None:
    mine, other = inside(browser, served), inside(browser, served)
    row = {"messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]}
    file = FilePayload(name="canary.jsonl", mimeType="application/jsonl", buffer=(json.dumps(row) + "\n").encode() * 20)
    mine.page.locator("#upload").locator("xpath=..").locator("input[type=file]").first.set_input_files(file)
    mine.shows("#dataset", "canary.jsonl")
    with visiting(visitor_of(mine)):
        ended_run("the canary run")
    for watched, has in ((mine, True), (other, False)):
        watched.page.reload()
        expect(watched.page.locator("#tabs")).to_be_visible()
        watched.page.wait_for_timeout(8000)  # the lists are drawn anew when the page has loaded, and its tab is opened
        listed = {"#dataset": ("Plan", "canary.jsonl"), "#run": ("Train", "the canary run")}
        for place, (tab, name) in listed.items():
            watched.tab(tab)
            watched.page.locator(f"{place} input").click()
            if has:
                expect(watched.page.get_by_role("option").filter(has_text=name)).to_have_count(1)
            options = watched.page.get_by_role("option").all_text_contents()
            assert any(name in option for option in options) is has, place
            watched.page.locator(f"{place} input").blur()  # the open list would lie over the tabs
        watched.tab("History")
        expect(watched.page.locator("#history")).to_contain_text("the canary run" if has else "No runs yet")
    for watched in (mine, other):
        watched.check()
        watched.page.context.close()
