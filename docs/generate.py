"""Write the tables of the README and the docs from the code: `python -m docs.generate [--check]`

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; `--check` fails if one is out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

from engine.demos import DEMOS
from engine.methods import METHODS
from engine.objectives import OBJECTIVES
from engine.plan import FIELDS

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "README.md", ROOT / "docs" / "plan.md")
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def methods() -> str:
    rows = [
        (
            f"[{row.label}]({row.paper}) (`{row.key}`)",
            row.sentence,
            row.use_when[0].upper() + row.use_when[1:],
            f"{row.learning_rate:g}",
        )
        for row in METHODS.values()
    ]
    return table(("Method", "What it does", "When to use it", "Learning rate"), rows)


def objectives() -> str:
    rows = [(f"**{row.label}** (`{row.key}`)", row.sentence, f"TRL's `{row.trainer}`") for row in OBJECTIVES.values()]
    return table(("Objective", "What it does", "Runs on"), rows)


def demos() -> str:
    return table(("Demo set", "What it shows"), [(f"`{demo.path}`", demo.sentence) for demo in DEMOS.values()])


def fields() -> str:
    from engine.plan import Plan

    defaults = Plan().to_dict()
    rows = [(f"`{name}`", f"`{defaults[name]!r}`", f"{knob.help}{_limits(knob)}") for name, knob in FIELDS.items()]
    return table(("Field", "Default", "Meaning"), rows)


def _limits(knob: object) -> str:
    if knob.choices:  # type: ignore[attr-defined]
        return f" One of {', '.join(f'`{choice}`' for choice in knob.choices)}."  # type: ignore[attr-defined]
    return ""


def files() -> str:
    """The tree of the code, each file with the first line of its docstring."""
    lines = ["```"]
    for package in ("app.py", "ui", "estimators", "engine"):
        path = ROOT / package
        for file in [path] if path.is_file() else sorted(path.glob("*.py")):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            name = str(file.relative_to(ROOT))
            lines.append(f"{name:<28}{text.splitlines()[0] if text else ''}")
    return "\n".join([*lines, "```"])


PARTS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "objectives": objectives,
    "demos": demos,
    "fields": fields,
    "files": files,
}


def renewed(text: str) -> str:
    """The text with every generated part written anew."""
    return PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Write, or with --check only compare. Returns 1 if a file was out of date."""
    stale = [file for file in FILES if renewed(file.read_text(encoding="utf-8")) != file.read_text(encoding="utf-8")]
    if "--check" in arguments:
        for file in stale:
            print(f"{file.name} is out of date: run `make docs`.", file=sys.stderr)
        return int(bool(stale))
    for file in stale:
        file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
