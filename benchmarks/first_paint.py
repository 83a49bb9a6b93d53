"""How long `python app.py` takes to a usable page on a warm machine. `python benchmarks/first_paint.py`

Starts the app a few times with a fresh data folder; the page is usable when the Start button can be seen in Chromium.
Prints seconds to the first answer, to the usable page, and to the first estimate.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
TIMES = 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(browser: object, home: str) -> tuple[float, float, float]:
    """(first answer, usable page, first estimate) in seconds after the start of the process."""
    port = free_port()
    began = time.monotonic()
    environment = os.environ | {"PORT": str(port), "FITTINGROOM_HOME": home}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}", timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.02)
        answered = time.monotonic() - began
        page = browser.new_page()  # type: ignore[attr-defined]
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector("#start-training")
        usable = time.monotonic() - began
        page.get_by_text("It fits").first.wait_for()
        return answered, usable, time.monotonic() - began
    finally:
        app.send_signal(signal.SIGINT)
        app.wait(timeout=20)


def main() -> None:
    path = shutil.which("chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        for _ in range(TIMES):
            answered, usable, estimated = measure(browser, home)
            print(f"first answer {answered:.1f} s   usable page {usable:.1f} s   first estimate {estimated:.1f} s")
        browser.close()


if __name__ == "__main__":
    main()
