"""A whole run without the browser: `python -m engine run PLAN.json --merge`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.jobs import runs
from engine.plan import Plan


def engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments], capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.trains
def test_run_and_merge_print_where_the_result_is(short_plan: Plan, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(short_plan.to_json())
    done = engine("run", str(plan), "--merge")
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "model.safetensors").exists()
    assert "answers agree with base + adapter" in done.stderr
    assert "4/4" in done.stderr, "a progress bar that reaches its end"
    assert runs.all_runs()[0].state == "finished", "it is in the history of the page"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"max_lenth": 3}', "max_lenth: is not a field of the plan. Did you mean max_length?"),
        ('{"learning_rate": NaN}', "learning_rate: nan is not a finite number."),
        ('{"datasets": [{"path": "demo/piratte"}]}', "Did you mean demo/pirate?"),
        ("oops", "plan: is not valid JSON (line 1, column 1)."),
    ],
)
def test_a_bad_plan_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    done = engine("run", str(plan))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert runs.all_runs() == []


def test_a_missing_plan_is_one_sentence() -> None:
    done = engine("run", "no.json")
    assert done.returncode == 2
    assert done.stderr.strip() == "plan: no.json cannot be read (No such file or directory). Check the path."
