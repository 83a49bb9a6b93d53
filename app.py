"""Fitting Room: see whether a fine-tune fits before you train it, then train it, and take it home.

    python app.py                    http://127.0.0.1:7860
    HOST=0.0.0.0 PORT=8000 python app.py      for others too: the printed address carries an access token

On a Hugging Face Space (SPACE_ID is set) it is a public demo, in which each visitor sees their own data alone.
Builds the page and launches it; everything else is in ui/, estimators/ and engine/.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import webbrowser

from ui.web import janitor, policy, server
from ui.web.access import Access, Mode
from ui.web.server import Address, StartError


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
    from engine import runs
    from engine.answers import Answers
    from estimators.client import Estimator
    from ui.page import CSS_PATHS, HEAD, build_page, theme

    estimator, answers = Estimator(), Answers()
    estimator.warm_up()
    runs.settle_all()
    stop = threading.Event()
    threading.Thread(target=janitor.keep_house, args=(stop, server.cache_folder()), daemon=True).start()

    site = server.make_site(address, access)
    if mcp:
        site.mount_tools(estimator, address)
    site.mount(
        build_page(estimator, answers, demo=access.mode is Mode.DEMO), address, theme=theme(), css_paths=CSS_PATHS, head=HEAD
    )

    def opened() -> None:
        print(f"Fitting Room is open at {address.opened_at(access)}  (Ctrl-C closes it; runs go on)", flush=True)
        if access.mode is Mode.TOKEN:
            print("Whoever has that address has your data: give it only to people you trust.", flush=True)
        if access.mode is Mode.DEMO:
            print("It is a public demo: each visitor sees their own data alone, which is erased after an hour.", flush=True)
        if mcp:
            print(f"Its MCP tools are at {address.url}{policy.TOOLS_PATH}/gradio_api/mcp", flush=True)
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
    options = read_options(arguments)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = str(server.cache_folder())
    try:
        server.refuse_open_switches()
        address = server.choose_address(options.host, options.port)
        lock = server.claim_home(address)
        access = server.choose_mode(address)
    except StartError as error:
        print(error, file=sys.stderr)
        return 3
    if address.port != options.port:
        print(f"Port {options.port} is in use, so this is on {address.port}.", file=sys.stderr)
    with lock:
        serve(address, access, open_browser=options.open, mcp=options.mcp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
