"""Known vulnerabilities of the installed packages, from PyPI's advisories. `python tests/audit.py`

Part of `make test`. A vulnerability that is not in IGNORED fails. Where no advisories can be had (no network, or a mirror
without them) it says so in one line and passes: a release is tested once where they can.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# By the advisory's id: why it does not matter here, and until when that is looked at again. None now.
IGNORED: dict[str, str] = {}
# An old release with an advisory of 2018 (PYSEC-2018-28). A source that knows nothing of it knows nothing at all: some
# mirrors answer every question with "not found", which pip-audit reports as packages that it skipped.
KNOWN_CASE = "requests==2.19.0"
SECONDS = 180


def audited(*arguments: str) -> list[dict[str, Any]]:
    """The packages as pip-audit reports them; none, if it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        return json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return []


def vulnerabilities(packages: list[dict[str, Any]]) -> list[str]:
    """One line for each that is not ignored."""
    return [
        f"{package['name']} {package['version']}: {found['id']} (fixed in {', '.join(found['fix_versions']) or 'no release'})"
        for package in packages
        for found in package.get("vulns", ())
        if not {found["id"], *found.get("aliases", ())} & set(IGNORED)
    ]


def main() -> int:
    """Returns 1 if there are vulnerabilities."""
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "requirements.txt"
        case.write_text(KNOWN_CASE + "\n")
        reachable = vulnerabilities(audited("--requirement", str(case), "--no-deps", "--disable-pip"))
    if not reachable:
        print("pip-audit: no advisories can be had here, so the packages were not checked for known vulnerabilities.")
        return 0
    packages = audited("--local")
    found = vulnerabilities(packages)
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    print("\n".join(found) or f"pip-audit: {len(packages) - len(skipped)} packages, no known vulnerability.")
    if skipped:
        print(f"pip-audit: without advisories: {', '.join(skipped)}.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
