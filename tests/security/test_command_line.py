"""The command line answers any file and any word in plain sentences on stderr and a code other than 0; never with a traceback.

`python -m estimators`, with and without `--json`, and `python -m engine run | compare | resume`, given what is no plan,
no text, no file, or a plan with values that nobody would write by hand. Nothing is started and nothing is written.

    pytest tests/security/test_command_line.py --fuzz 500    more mutated plans and chains
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import __main__ as engine_cli
from engine.jobs import runs
from engine.system.home import home
from estimators import __main__ as estimators_cli
from tests.security import mutations

ROUNDS = 150
LONGEST = 6000  # characters of all sentences together

BAD_FILES: dict[str, bytes] = {
    "not UTF-8": b'\xff\xfe{"model": "demo/llama"}',
    "latin-1": b'{"gpu": "caf\xe9"}',
    "empty": b"",
    "binary": bytes(range(256)) * 20,
    "YAML": b"!!python/object/apply:os.system ['true']\n",
    "a list": b"[]",
    "a word": b'"x"',
    "null": b"null",
    "deep": b"[" * 100_000,
    "deep in a field": b'{"model": ' + b'{"a": ' * 100 + b"1" + b"}" * 101,
    "3 MB": b'{"gpu": "' + b"x" * 3 * 10**6 + b'"}',
    "an integer of 400 digits": b'{"seed": ' + b"9" * 400 + b"}",
    "an integer of 5,000 digits": b'{"max_steps": ' + b"9" * 5000 + b"}",
    "1e999": b'{"learning_rate": 1e999}',
    "NaN": b'{"learning_rate": NaN}',
    "an integer as options": b'{"method_options": 5}',
    "an object in columns": b'{"datasets": [{"path": "demo/pirate", "columns": {"a": {"b": 1}}}]}',
    "an over-long data path": b'{"datasets": [{"path": "/' + b"a" * 5000 + b'.jsonl"}]}',
    "an over-long name in a data path": b'{"datasets": [{"path": "/' + b"a" * 400 + b'.jsonl"}]}',
    "an over-long model path": b'{"model": "/' + b"a" * 5000 + b'"}',
    "an over-long name in a model path": b'{"model": "./' + b"a" * 400 + b'"}',
    "the home of nobody as data": b'{"datasets": [{"path": "~nobody-at-all/x.jsonl"}]}',
    "the home of nobody as model": b'{"model": "~nobody-at-all/x"}',
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a NUL": b'{"model": "a\\u0000b"}',
    "100,000 unknown keys": json.dumps({f"key{number}": 1 for number in range(99_000)}).encode(),
    "10,000 data sets": json.dumps({"datasets": [{"path": "demo/pirate"}] * 10_000}).encode(),
    "weight times rows": b'{"datasets": [{"path": "demo/pirate", "weight": 10000}]}',
    "a chain of nothing": b'{"stages": []}',
    "a chain of words": b'{"stages": ["x", 5, null]}',
    "a chain's limit": b'{"stages": [{"objective": "sft"}], "limit": ' + b"9" * 400 + b"}",
    "a chain's probe": b'{"stages": [{"objective": "sft"}], "probe": [5]}',
    "a chain's reference": '{"stages": [{"model": "@²"}]}'.encode(),
    "a chain's objective": b'{"stages": [{"objective": ["sft"]}]}',
    "a chain's replay": b'{"stages": [{"objective": "sft", "replay": "x"}]}',
    "a chain of 1,000": json.dumps({"stages": [{"objective": "sft"}] * 1000}).encode(),
}


def answer(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says of arguments that it cannot take. Any exception but an exit fails the test."""
    try:
        code: Any = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    assert code in (1, 2), (code, said)
    assert said.err.strip()
    assert said.out == "", "no result"
    assert "Traceback" not in said.err
    assert "unexpected fault" not in said.err
    assert len(said.err) < LONGEST
    assert runs.all_runs() == []
    return said.err


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_plan_is_said_in_sentences(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(BAD_FILES[kind])
    for main, arguments in (
        (estimators_cli.main, [str(file)]),
        (estimators_cli.main, [str(file), "--json"]),
        (engine_cli.main, ["run", str(file)]),
        (engine_cli.main, ["compare", str(file), "lora,full"]),
    ):
        answer(main, arguments, capsys)


@pytest.mark.parametrize(
    "path", [".", "/", "no/such/file.json", "~nobody-at-all/x", "x" * 5000, "a\0b", "/dev/null", "/dev/zero"]
)
def test_a_path_that_is_no_file_is_said(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for main, arguments in ((estimators_cli.main, [path]), (engine_cli.main, ["run", path])):
        assert answer(main, arguments, capsys).startswith("plan: ")


@pytest.mark.parametrize(
    "run", ["", "x", "../../etc", "/etc/passwd", "a\0b", "x" * 10**5, "'; DROP TABLE runs; --", "\udcff", "💥", "-1"]
)
def test_a_run_that_does_not_exist_is_said(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run" in answer(engine_cli.main, ["resume", "--", run], capsys)


@pytest.mark.parametrize(
    "methods", ["", ",", "lora", "lora,lora", "x,y", "lora,../x", "a\0b,lora", "m" * 10**5 + ",lora", "\udcff,lora"]
)
def test_methods_that_cannot_be_compared_are_said(methods: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_text('{"datasets": [{"path": "demo/pirate"}]}', encoding="utf-8")
    assert "methods" in answer(engine_cli.main, ["compare", str(file), methods], capsys)
    assert not list((home() / "comparisons").glob("*"))


def test_a_real_process_says_the_same_and_ends_with_2(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(BAD_FILES["an integer of 5,000 digits"])
    for module, *arguments in (("estimators", str(file)), ("engine", "run", str(file))):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 2
        assert done.stderr.strip() == "max_steps: is a whole number of more than 64 bits. Write another value."


def test_lines_of_any_bytes_are_answered_one_by_one(tmp_path: Path) -> None:
    lines = [content.replace(b"\n", b" ").replace(b"\r", b" ") for content in BAD_FILES.values()]
    lines = [line for line in lines if line.strip()] + [b"[" * 10**7]
    done = subprocess.run(
        [sys.executable, "-m", "estimators", "--jsonl"],
        input=b"\n".join(lines) + b"\n", capture_output=True, timeout=300, check=False,
        env=os.environ | {"FITTINGROOM_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    assert all("error" in answer and "unexpected fault" not in answer["error"] for answer in answers)


def test_mutated_plans_and_chains_are_said_in_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading and the checks of `engine run`; a plan that passes them is not started."""
    monkeypatch.setattr(runs, "start", _not_started)
    monkeypatch.setattr(engine_cli, "run_chain", _not_started)
    longer = int(request.config.getoption("--fuzz"))
    file = tmp_path / "plan.json"
    for seed in range(10_000, 10_000 + (longer or ROUNDS)):
        file.write_bytes(_written(seed))
        answer(engine_cli.main, ["run", str(file)], capsys)


def _not_started(plan: Any, *rest: Any, **values: Any) -> None:
    from engine import checks
    from engine.issues import Issue, PlanError
    from engine.pipelines import chains
    from engine.plan import Plan

    found = checks.check_start(plan) if isinstance(plan, Plan) else chains.check(plan)
    raise PlanError(found or [Issue(field="run", message="is not started here.", fix="")])


def _written(seed: int) -> bytes:
    """A mutated plan, or a chain with it, as bytes; now and then with some of them changed."""
    rng = random.Random(seed)
    values: Any = mutations.plan(seed)
    if rng.random() < 0.3:
        values = {"stages": [{"objective": "sft"}, values], rng.choice(("limit", "probe", "replay", "x")): mutations.value(rng)}
    sys.set_int_max_str_digits(0)  # of this test alone: the program reads such a file under Python's own limit
    try:
        content = bytearray(json.dumps(values).encode())
    finally:
        sys.set_int_max_str_digits(4300)
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)
