"""Chromium on a server of `served.py`, which notes whatever a page does that no page of ours may do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.security.payloads import ELSEWHERE, PAYLOADS

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",  # nothing else is reached
]
SECONDS = 60  # that a page is waited for, on a busy machine
expect.set_options(timeout=SECONDS * 1000)

# What only a payload could have put there: handlers, links that run, and elements that load or change something.
_PLANTED = """elsewhere => [...document.querySelectorAll('*')].filter(element => {
    const said = [...element.attributes].map(one => [one.name, one.value.trim()]);
    if (said.some(([name]) => /^on/i.test(name))) return true;
    if (said.some(([name, value]) => /^((xlink:)?href|src|data|action|formaction|content|srcdoc)$/i.test(name)
        && (value.includes(elsewhere) || value.includes('__pwned') || /^javascript:/i.test(value)))) return true;
    return /^(script|style)$/i.test(element.tagName) && /^.{0,40}(__pwned|elsewhere|alert.1)/.test(element.textContent);
}).map(element => element.outerHTML.slice(0, 200))"""
# Everything that a person can read below an element: its text, and what is in its fields.
_READ = """element => [element.textContent, ...[element, ...element.querySelectorAll('input, textarea')]
    .map(one => one.value || '')].join('\\n')"""
_SHOWS = f"""([place, said]) => {{
    const found = document.querySelector(place);
    return found && ({_READ})(found).includes(said);
}}"""


class Watched:
    """A page, and all that happened on it that should not."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.seen: list[str] = []
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("framenavigated", self._moved)
        self.page.on("popup", lambda other: self.seen.append(f"a window: {other.url}"))
        self.page.on("console", self._console)

    def _dialog(self, dialog: Any) -> None:
        self.seen.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self.seen.append(f"a request: {request.url}")

    def _moved(self, frame: Any) -> None:
        if not frame.url.startswith((f"{self.url}/", "about:")):
            self.seen.append(f"another page: {frame.url}")

    def _console(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.seen.append(f"the policy had to step in: {message.text}")

    def check(self) -> None:
        """Fail if anything ran, was asked for, or was put into the page."""
        assert self.page.evaluate("window.__pwned") is None
        planted = self.page.evaluate(_PLANTED, ELSEWHERE)
        assert not planted, planted
        assert not self.seen, self.seen

    def reads(self, place: str) -> str:
        """What a person reads at a place of the page."""
        return str(self.page.locator(place).first.evaluate(_READ))

    def shows(self, place: str, said: str) -> None:
        """Wait until a place of the page shows these words, as they are."""
        self.page.wait_for_function(_SHOWS, arg=[place, said])

    def go(self, path: str = "/") -> None:
        """Open an address of the server. A page that is left while it still writes its own address stops that: once more."""
        try:
            self.page.goto(self.url + path)
        except Error as error:
            if "ERR_ABORTED" not in error.message:
                raise
            self.page.goto(self.url + path)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium where it is installed, else Playwright's own."""
    path = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def new_context(browser: Browser, *, policy: bool = True) -> BrowserContext:
    """A browser of its own: without cookies, without a cache.

    Args:
        policy: False takes the Content-Security-Policy away, so that nothing but what the page itself does protects it.
    """
    return browser.new_context(bypass_csp=not policy, viewport={"width": 1440, "height": 1000})


def new_page(browser: Browser, url: str, *, policy: bool = True) -> Watched:
    """An empty page in a browser of its own."""
    return Watched(new_context(browser, policy=policy), url)


def missing(read: str) -> list[str]:
    """The payloads that are not told as they are."""
    return [payload for payload in PAYLOADS if payload not in read]
