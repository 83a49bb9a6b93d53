"""Architecture as tests: who may import whom, and what the web process must not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The rooms of each package in the order in which they stand on each other: one may import only those before it.
ROOMS = {
    "engine": (
        *("issues", "json_input", "system", "catalog", "plan", "adapters", "methods", "objectives", "data", "checks"),
        *("modeling", "recipes", "jobs", "train", "inference", "export", "pipelines", "__main__"),
    ),
    "estimators": (
        *("estimate", "simulate", "memory", "distributed", "timing", "tokens", "estimator", "advice", "service", "__main__"),
    ),
    "ui": ("views", "web", "plan", "tabs", "page"),
}
PACKAGES = list(ROOMS)
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate")


def files() -> Iterator[tuple[str, str, Path]]:
    """(package, room, file) of every module but the packages' own `__init__`."""
    for package in ROOMS:
        for file in sorted((ROOT / package).glob("**/*.py")):
            inside = file.relative_to(ROOT / package).with_suffix("").parts
            if inside != ("__init__",):
                yield package, inside[0], file


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """(package, room) of every import of ours in a file, wherever it stands; those for type checkers alone are none."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package in ROOMS or package in ("app", "tests"):
                yield package, rest.partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_look_one_way(package: str) -> None:
    before = set(PACKAGES[: PACKAGES.index(package) + 1])
    for owner, _, file in files():
        if owner == package:
            assert {name for name, _ in imported(file)} <= before, file


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_look_one_way(package: str) -> None:
    """A room imports only rooms before it, so there is no circle of them; each folder and file has a place in the order."""
    order = {room: place for place, room in enumerate(ROOMS[package])}
    for owner, room, file in files():
        if owner != package:
            continue
        assert room in order, f"{file} is in a room without a place in ROOMS"
        for other, target in imported(file):
            if other == package and target:
                assert order.get(target, -1) <= order[room], f"{file} imports {package}.{target}, which stands above it"


def test_every_room_says_what_is_in_it() -> None:
    for package in ROOMS:
        for init in (ROOT / package).glob("*/__init__.py"):
            docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
            assert docstring, init
            assert "mport" in docstring, f"{init} does not say what it may import"


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
    borders = {ROOT / "engine/system/errors.py", ROOT / "ui/web/handlers.py"}
    for _, _, file in files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = "everything" if node.type is None else ast.unparse(node.type)
                broad = {"everything", "Exception", "BaseException"} & {part.strip("() ") for part in caught.split(",")}
                raises_again = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
                assert not broad or file in borders or raises_again, f"{file} catches {caught}"
