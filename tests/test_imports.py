"""Architecture as tests: who may import whom, and what the web process must not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "engine": {"engine"},
    "estimators": {"engine", "estimators"},
    "ui": {"engine", "estimators", "ui"},
}
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate")


def imports_of(file: Path) -> set[str]:
    """The top-level packages that a file names in its import statements, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_look_one_way(package: str) -> None:
    ours = {*MAY_IMPORT, "app", "tests"}
    for file in (ROOT / package).glob("**/*.py"):
        assert imports_of(file) & ours <= MAY_IMPORT[package], file.name


def test_the_page_is_built_without_torch() -> None:
    script = (
        "import sys, app\n"
        "from engine.inference.client import Answers\n"
        "from estimators.service.client import Estimator\n"
        "from ui.page import build_page\n"
        "build_page(Estimator(), Answers())\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_broad_excepts_stand_at_the_borders_only() -> None:
    borders = {"faults.py", "border.py"}
    for package in MAY_IMPORT:
        for file in (ROOT / package).glob("**/*.py"):
            text = file.read_text(encoding="utf-8")
            assert "except Exception" not in text or file.name in borders, file.name
            assert "except:" not in text, file.name
