"""The README says what the code does."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from docs import generate
from engine.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", generate.FILES, ids=lambda file: file.name)
def test_generated_tables_match_the_code(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert generate.renewed(text) == text, "run `make docs`"


def test_every_method_is_in_the_docs() -> None:
    methods = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for key in METHODS:
        assert f"`{key}`" in methods
    assert "docs/methods.md" in README


def test_the_space_front_matter_agrees_with_the_pins() -> None:
    front = README.split("---")[1]
    pins = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert f"sdk_version: {pins['gradio']}" in front
    assert "sdk: gradio" in front
    assert "app_file: app.py" in front
    assert "license: apache-2.0" in front
    assert pins["torch"] == "2.13.0"


def test_links_and_commands_of_the_readme_are_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for verb in ("run", "test"):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_screenshot_is_a_real_one() -> None:
    picture = (ROOT / "assets" / "pictures" / "plan.png").read_bytes()
    width, height = struct.unpack(">II", picture[16:24])
    assert width >= 1200
    assert height >= 700
