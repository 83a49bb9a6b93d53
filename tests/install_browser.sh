#!/bin/sh
# A browser for the browser tests: the one that is there, else Debian's chromium, else Playwright's own.
# Usage: sh tests/install_browser.sh .venv/bin
set -u
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if command -v apt-get >/dev/null 2>&1; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    if $sudo apt-get update -qq && $sudo apt-get install -y -qq chromium >/dev/null; then exit 0; fi
fi
"$1/python" -m playwright install chromium
