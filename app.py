"""Fitting Room: see whether a fine-tune fits before you train it, then train it, and take it home.

    python app.py                              http://127.0.0.1:7860, for the person at this computer
    HOST=0.0.0.0 PORT=8000 python app.py       for others too: the printed address carries an access token

On a Hugging Face Space (SPACE_ID is set) it is a public demo, in which each visitor sees their own data alone.
Builds the page and launches it; everything else is in ui/, estimators/ and engine/.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import webbrowser
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ui.web.access import Access
    from ui.web.server import Address

SECONDS_TO_CLOSE = 2.0  # after the last answer


def close_quietly() -> None:
    """End without a traceback on Ctrl-C, SIGTERM and a closed terminal, from the first import to the last line.

    While uvicorn answers it has handlers of its own, and raises the signal again when it has closed everything. Whatever
    the end is, the helper processes end with this one (`engine/system/helper.py`); runs go on.
    """

    def close(number: int, frame: FrameType | None) -> None:
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, lambda number, frame: os._exit(128 + number))  # asked twice: at once
        hurry = threading.Timer(SECONDS_TO_CLOSE, os._exit, [0])  # a handler that is still at work keeps nobody waiting
        hurry.daemon = True
        hurry.start()
        sys.exit(0)

    signal.signal(signal.SIGINT, close)
    signal.signal(signal.SIGTERM, close)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        signal.signal(signal.SIGHUP, lambda number, frame: signal.raise_signal(signal.SIGTERM))


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    on_a_space = "SPACE_ID" in os.environ
    parser = argparse.ArgumentParser(prog="app.py", description="Plan and run fine-tunes in the browser.")
    parser.add_argument("--host", default=os.environ.get("HOST") or ("0.0.0.0" if on_a_space else "127.0.0.1"))
    parser.add_argument("--port", type=_port, default=os.environ.get("PORT") or "7860")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--mcp", action="store_true", help="serve the planner's read-only questions as MCP tools as well")
    return parser.parse_args(arguments)


def _port(words: str) -> int:
    if not words.isdigit() or not 1 <= int(words) <= 65535:
        raise argparse.ArgumentTypeError(f"{words!r} is no port. Set PORT (or --port) to a number from 1 to 65535.")
    return int(words)


def serve(address: Address, access: Access, *, open_browser: bool, mcp: bool = False) -> None:
    """Build the page and answer until Ctrl-C. Runs go on without the server; it finds them again."""
    from engine.data import sandbox
    from engine.inference.client import Answers
    from engine.jobs import runs
    from engine.pipelines import trash
    from estimators.service.client import Estimator
    from ui.page import CSS_PATHS, HEAD, build_page, theme
    from ui.web import janitor, server
    from ui.web.access import Mode

    estimator, answers = Estimator(), Answers()
    estimator.warm_up()
    threading.Thread(target=sandbox.warm, daemon=True).start()
    trash.finish()
    runs.settle_all()
    stop = threading.Event()
    threading.Thread(target=janitor.keep_house, args=(stop, server.cache_folder()), daemon=True).start()

    site = server.make_site(address, access)
    if mcp:
        site.mount_tools(estimator, address, access)
    page = build_page(estimator, answers, demo=access.mode is Mode.DEMO)
    site.mount(page, address, theme=theme(), css_paths=CSS_PATHS, head=HEAD)

    def opened() -> None:
        print(f"Fitting Room is open at {address.opened_at(access)}  (Ctrl-C closes it; runs go on)", flush=True)
        for line in server.notes(address, access, mcp=mcp):
            print(line, flush=True)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address.opened_at(access),), daemon=True).start()

    try:
        server.answer(site.app, address, opened)
    finally:
        stop.set()
        estimator.close()
        answers.close()


def main(arguments: list[str] | None = None) -> int:
    """Start the server; what keeps it from starting is one sentence on stderr."""
    from engine.system import redaction
    from engine.system.home import PRIVATE_UMASK
    from ui.web import server, switches

    options = read_options(arguments)
    os.umask(PRIVATE_UMASK)
    redaction.redact_output()
    try:
        switches.close()
        address = server.choose_address(options.host, options.port)
        lock = server.claim_home(address)
        access = server.choose_mode(address)
    except server.StartError as error:
        print(error, file=sys.stderr)
        return 3
    os.environ["GRADIO_TEMP_DIR"] = str(server.cache_folder())
    if address.port != options.port:
        print(f"Port {options.port} is in use, so this is on {address.port}.", file=sys.stderr)
    with lock:
        serve(address, access, open_browser=options.open, mcp=options.mcp)
    return 0


if __name__ == "__main__":
    close_quietly()
    sys.exit(main())
