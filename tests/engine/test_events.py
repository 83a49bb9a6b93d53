"""The event log: append-only, whole lines, read by cursor."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

from engine.system import events
from engine.system.events import EventLog


def test_since_gives_only_what_is_new(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("step", step=1)
    first, cursor = events.since(tmp_path)
    log.write("step", step=2)
    second, cursor = events.since(tmp_path, cursor)
    assert [event["step"] for event in first + second] == [1, 2]
    assert events.since(tmp_path, cursor) == ([], cursor)


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert events.since(tmp_path, 100) == ([], 0)


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path) -> None:
    EventLog(tmp_path).write("step", step=1)
    file = tmp_path / events.EVENTS_FILE
    with open(file, "ab") as stream:
        stream.write(b'{"seq": 1, "kind": "st')
    seen, cursor = events.since(tmp_path)
    assert len(seen) == 1
    with open(file, "ab") as stream:
        stream.write(b'ep", "step": 2}\n')
    assert events.since(tmp_path, cursor)[0][0]["step"] == 2


def test_a_damaged_line_hides_nothing_else(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("step", step=1)
    with open(tmp_path / events.EVENTS_FILE, "ab") as stream:
        stream.write(b"\x00\x00\n")
    log.write("step", step=2)
    assert [event["step"] for event in events.since(tmp_path)[0]] == [1, 2]


def test_numbers_that_json_does_not_have_come_back(tmp_path: Path) -> None:
    EventLog(tmp_path).write("step", loss=math.nan, grad_norm=math.inf, eval_loss=None)
    event = events.since(tmp_path)[0][0]
    assert math.isnan(events.number(event["loss"]) or 0.0)
    assert events.number(event["grad_norm"]) == math.inf
    assert events.number(event["eval_loss"]) is None


def _write_for_ever(folder: Path) -> None:
    log = EventLog(folder)
    while True:
        log.write("step", text="x" * 2000)


def test_a_killed_writer_leaves_a_log_that_the_next_one_continues(tmp_path: Path) -> None:
    for _ in range(5):
        writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(tmp_path,))
        writer.start()
        while not (tmp_path / events.EVENTS_FILE).exists():
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
    log = EventLog(tmp_path)
    log.write("finished")
    seen, _ = events.since(tmp_path)
    assert seen[-1]["kind"] == "finished"
    assert [event["seq"] for event in seen] == list(range(len(seen)))
