"""Write the tables of the README and the docs from the code: `python -m docs.generate [--check]`

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; `--check` fails if one is out of date.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from engine.catalog.tasks import TASKS
from engine.data.demos import DEMOS
from engine.data.formats import FORMATS, NAMES, SHAPES
from engine.methods import LEFT_OUT, METHODS, NOT_OFFERED, Method
from engine.objectives import OBJECTIVES
from engine.objectives.rewards import REWARDS
from engine.plan import FIELDS
from ui.web.policy import ROUTES

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("plan", "methods", "objectives", "data", "security")))
METHOD_RESULTS = ROOT / "assets" / "method_results.json"
DEMO_RESULTS = ROOT / "assets" / "demo_results.json"
ACCURACY = ROOT / "docs" / "accuracy.md"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def methods() -> str:
    """The families of methods, each with its rows by name."""
    groups: dict[str, list[str]] = {}
    for row in METHODS.values():
        groups.setdefault(row.group, []).append(f"[{row.label}]({row.paper})")
    return table(("Family", "Methods"), [(group, ", ".join(names)) for group, names in groups.items()])


def all_methods() -> str:
    """Every method, family by family: what it is, when to take it, what it costs."""
    parts: list[str] = []
    for group in dict.fromkeys(row.group for row in METHODS.values()):
        rows = [_method_cells(row) for row in METHODS.values() if row.group == group]
        head = ("Method", "What it does", "When", "When not", "Trained", "Merged", "Bits", "Learning rate")
        parts.append(f"### {group}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _method_cells(row: Method) -> tuple[str, ...]:
    merged = "is the model" if row.whole_model else "yes" if row.mergeable else f"no: {row.inference}"
    return (
        f"[{row.label}]({row.paper}) (`{row.key}`)",
        row.sentence,
        row.use_when[0].upper() + row.use_when[1:],
        row.avoid_when,
        row.share,
        merged,
        ", ".join(f"`{kind}`" for kind in row.quantizations),
        f"{row.learning_rate:g} ({row.learning_rate_source})",
    )


def routes() -> str:
    """Every route that the server answers, and what a caller needs for it."""
    rows = [(f"{', '.join(row.methods)} `{row.path}`", str(row.need), row.what) for row in ROUTES]
    return table(("Route", "Needs", "What it is"), rows)


def left_out() -> str:
    """PEFT's methods without a row and what else is not offered, and why."""
    rows = [(f"PEFT's `{key}`", f"{why}.") for key, why in LEFT_OUT.items()]
    return table(("Method", "Why it has no row"), [*rows, *((name, f"{why}.") for name, why in NOT_OFFERED.items())])


def accuracy() -> str:
    """What `benchmarks/accuracy.py` printed last of all runs whose settings are known."""
    lines = ACCURACY.read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"- (memory|step time): (.*), mean .* \((\d+) rows\)", line) for line in lines]
    memory, time = [f"{one[1]}, {one[2]} ({one[3]} runs)" for one in found if one][:2]
    return (
        "On the published runs of the Hugging Face stack whose settings are known, row by row in "
        f"[docs/accuracy.md](docs/accuracy.md): {memory}; {time}."
    )


def method_results() -> str:
    """The demo set learned by many methods, as `benchmarks/methods.py` measured it; the best first."""
    if not METHOD_RESULTS.is_file():
        return "Not measured yet: run `python benchmarks/methods.py`."
    found = sorted(json.loads(METHOD_RESULTS.read_text(encoding="utf-8")), key=lambda row: -row["success"])
    rows = [
        (
            METHODS[row["method"]].label,
            f"{row['success']:.0%}",
            f"{row['trainable_params']:,}",
            f"{row['seconds']:.0f} s",
            f"{row['bytes'] / 1e6:.2f} MB",
        )
        for row in found
    ]
    return table(("Method", "Held-out success", "Trained parameters", "Time", "Size of the result"), rows)


def objectives() -> str:
    rows = [(f"**{row.label}** (`{row.key}`)", row.sentence, f"`{row.trainer}`") for row in OBJECTIVES.values()]
    return table(("Objective", "What it does", "Runs on"), rows)


def all_objectives() -> str:
    """Every objective: what its rows are, which models it trains, what runs it and by which figure it is judged."""
    head = ("Objective", "What it does", "Rows", "Models", "Runs on", "Held-out figure")
    rows = [
        (
            f"[{row.label}]({row.paper}) (`{row.key}`)",
            row.sentence,
            ", ".join(f"`{shape}`" for shape in row.shapes),
            TASKS[row.task].label,
            f"`{row.trainer}`",
            row.metric.name,
        )
        for row in OBJECTIVES.values()
    ]
    return table(head, rows)


def objective_options() -> str:
    """The options of each objective, by the names of its trainer's config."""
    parts = []
    for row in OBJECTIVES.values():
        cells = [(f"`{one.name}`", f"`{one.default!r}`", f"{one.knob.help}{_limits(one.knob)}") for one in row.options]
        if cells:
            parts.append(f"### {row.label} (`{row.key}`)\n\n{table(('Option', 'Default', 'Meaning'), cells)}")
    return "\n\n".join(parts)


def rewards() -> str:
    """What GRPO and RLOO can reward by name."""
    rows = [(f"`{name}`", (reward.__doc__ or "").splitlines()[0]) for name, reward in REWARDS.items()]
    return table(("Reward", "What it gives"), rows)


def demo_results() -> str:
    """What the demo runs reached on held-out rows, as `benchmarks/demos.py` measured it."""
    if not DEMO_RESULTS.is_file():
        return "Not measured yet: run `python benchmarks/demos.py`."
    rows = [
        (
            row["title"],
            f"`{row['objective']}`",
            f"{row['metric']}: {row['before']:.3g} → {row['after']:.3g}",
            f"{row['right_before']:.0%} → {row['right_after']:.0%}" if "right_after" in row else "",
        )
        for row in json.loads(DEMO_RESULTS.read_text(encoding="utf-8"))
    ]
    return table(("Demo", "Objective", "Held-out figure", "Right answers to held-out questions"), rows)


def formats() -> str:
    """Every format of rows: an example as people write it, and what it becomes."""
    takers = {shape: [f"`{one.key}`" for one in OBJECTIVES.values() if shape in one.shapes] for shape in SHAPES}
    rows = [
        (
            row.label,
            f"`{json.dumps(row.example, ensure_ascii=False).replace('|', '&#124;')}`",
            f"`{row.becomes}`: {', '.join(SHAPES[row.becomes])}",
            ", ".join(takers[row.becomes]),
        )
        for row in FORMATS.values()
    ]
    return table(("Rows", "For instance", "Become", "For the objectives"), rows)


def column_names() -> str:
    """The names that a column goes by."""
    rows = [(f"`{names[0]}`", ", ".join(f"`{name}`" for name in names[1:])) for names in NAMES.values() if len(names) > 1]
    return table(("Column", "Also read from"), list(dict.fromkeys(rows)))


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
        for file in [path] if path.is_file() else sorted((*path.glob("*.py"), *path.glob("*/__init__.py"))):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            name = str(file.relative_to(ROOT))
            lines.append(f"{name:<36}{text.splitlines()[0] if text else ''}")
    return "\n".join([*lines, "```"])


PARTS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "all_methods": all_methods,
    "left_out": left_out,
    "routes": routes,
    "accuracy": accuracy,
    "method_results": method_results,
    "objectives": objectives,
    "all_objectives": all_objectives,
    "objective_options": objective_options,
    "rewards": rewards,
    "demo_results": demo_results,
    "demos": demos,
    "formats": formats,
    "column_names": column_names,
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
