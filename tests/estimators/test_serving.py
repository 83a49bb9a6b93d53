"""The process that the page asks: answers in order, and work in advance while nobody asks (which ends, or these tests hang)."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator

import pytest

from estimators import __main__ as program
from estimators.__main__ import serve


def test_answers_come_in_order_and_it_ends_with_its_input(capsys: pytest.CaptureFixture[str]) -> None:
    serve(io.StringIO('{"modle": "demo/llama"}\n\n{"method": "loraa"}\n{\n'))
    replies = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in reply for reply in replies] == [True, True, True]
    assert "modle" in replies[0]["error"]
    assert "loraa" in replies[1]["error"]


class Lines(io.StringIO):
    """Input whose second line comes only when `come` is set."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.come = threading.Event()
        self._lines = [first, second, ""]

    def readline(self, size: int | None = -1) -> str:
        if len(self._lines) == 2:
            self.come.wait(60)
        return self._lines.pop(0) if self._lines else ""


def test_it_works_in_advance_until_the_next_question(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines('{"first": 1}\n', '{"second": 2}\n')
    done: list[str] = []

    def in_advance(line: str) -> Iterator[None]:
        for number in range(10**9):
            done.append(line)
            if number == 2:
                lines.come.set()
            yield

    monkeypatch.setattr(program, "answer", json.loads)
    monkeypatch.setattr(program, "_in_advance", in_advance)
    monkeypatch.setattr(program, "SECONDS_UNTIL_IDLE", 0.01)
    serve(lines)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"first": 1}, {"second": 2}]
    assert done[:3] == 3 * ['{"first": 1}\n'], "while nobody asked, it worked"


def test_a_longer_pause_ends_with_the_next_question(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines('{"first": 1}\n', '{"second": 2}\n')

    def in_advance(line: str) -> Iterator[float]:
        lines.come.set()
        yield 600.0
        raise AssertionError("the pause was not waited for")

    monkeypatch.setattr(program, "answer", json.loads)
    monkeypatch.setattr(program, "_in_advance", in_advance)
    monkeypatch.setattr(program, "SECONDS_UNTIL_IDLE", 0.01)
    serve(lines)
    assert len(capsys.readouterr().out.splitlines()) == 2
