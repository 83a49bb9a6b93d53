"""What a run measures: an append-only `events.jsonl` in the run's folder, one JSON object per line.

The worker is its only writer, everybody may read. `since(run_folder, cursor)` gives what is new: the page's timer,
the command line and the JSON route all use it. A line that is not ended yet (the worker is writing, or died while
writing) is left for the next call.

Kinds: started, resumed, step, evaluated, saving, saved, note, finished, stopped, failed.

The writer keeps a little room back on the disk, so that a run that finds it full can still say so.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from engine.system.redaction import redact

EVENTS_FILE = "events.jsonl"
ENDINGS = ("finished", "stopped", "failed")
RESERVE = 64 * 1024  # bytes kept back on the disk: half to tell that it is full, half for the event that ends the run
DISK_FULL = "The disk is full. The run goes on; free some space before it ends, so that its result can be saved."

Event = dict[str, Any]


class EventLog:
    """The writer. One line is one `write` of the operating system, so a reader never sees half an event for long.

    A full disk does not end a run: what cannot be written waits in memory, the reader is told, and the next event that
    finds room brings the waiting ones along.
    """

    def __init__(self, run_folder: Path, file: str = EVENTS_FILE):
        self.path = run_folder / file
        self.reserve = self.path.with_suffix(".reserve")
        self.sequence = _cut_torn_tail(self.path)
        self.waiting: list[bytes] = []
        self.keeps_room = False

    def write(self, kind: str, **values: Any) -> None:
        """Append one event. Numbers that JSON does not have (NaN, infinity) are written as words, access tokens not at all.

        Raises `OSError` if not even the room that was kept back takes the event that ends the run.
        """
        event = {"seq": self.sequence, "time": time.time(), "kind": kind, **{k: _plain(v) for k, v in values.items()}}
        self.sequence += 1
        line = redact(json.dumps(event, ensure_ascii=False, allow_nan=False)) + "\n"
        self.waiting.append(line.encode("utf-8", errors="replace"))
        if kind in ENDINGS:
            self.reserve.unlink(missing_ok=True)
        elif not self.keeps_room:
            self.reserve.write_bytes(os.urandom(RESERVE))  # what a file system cannot compress away
            self.keeps_room = True
        if self._append_waiting():
            return
        if kind in ENDINGS:
            _append(self.path, self.waiting[-1])
        elif self.reserve.exists() and self.reserve.stat().st_size == RESERVE:  # the first event that found no room
            os.truncate(self.reserve, RESERVE // 2)
            self.write("note", message=DISK_FULL)

    def _append_waiting(self) -> bool:
        """Write all that waits; False if the disk has no room for it."""
        try:
            _append(self.path, b"".join(self.waiting))
        except OSError as error:
            if not is_disk_full(error):
                raise
            return False
        self.waiting.clear()
        return True


def is_disk_full(error: OSError) -> bool:
    """Whether the operating system said that a disk, or a user's share of it, has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _append(path: Path, lines: bytes) -> None:
    """Write all of it or nothing: half a line would spoil the next one. Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, lines) < len(lines):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def _cut_torn_tail(path: Path) -> int:
    """Remove an unfinished last line that a killed writer left; returns the number of whole lines."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) != len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return whole.count(b"\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "nan", "inf", "-inf"
    return value


def number(value: Any) -> float | None:
    """A measured value as a number: the words "nan" and "inf" become what they mean, an absent value stays None."""
    return None if value is None else float(value)


def since(run_folder: Path, cursor: int = 0, file: str = EVENTS_FILE) -> tuple[list[Event], int]:
    """The events after `cursor` (a byte offset; 0 is the start) and the cursor for the next call.

    A file that is shorter than the cursor was replaced: it is read from its start.
    """
    try:
        with open(run_folder / file, "rb") as stream:
            if cursor > os.fstat(stream.fileno()).st_size:
                cursor = 0
            stream.seek(cursor)
            fresh = stream.read()
    except FileNotFoundError:
        return [], 0
    whole = fresh[: fresh.rfind(b"\n") + 1]
    return [event for line in whole.splitlines() if (event := _read(line)) is not None], cursor + len(whole)


def _read(line: bytes) -> Event | None:
    """One event; a line that is damaged is passed over, so that one bad block does not hide a whole run."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def ending(run_folder: Path, file: str = EVENTS_FILE) -> Event | None:
    """The event that ended the run, or None while it has none: a run that was resumed has not ended yet."""
    decisive = [event for event in since(run_folder, file=file)[0] if event["kind"] in (*ENDINGS, "resumed")]
    return decisive[-1] if decisive and decisive[-1]["kind"] in ENDINGS else None
