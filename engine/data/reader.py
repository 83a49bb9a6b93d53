"""The process that reads a stranger's file (`python -m engine.data.reader`): JSON lines in, JSON lines out, see `sandbox.py`.

Nothing here catches everything: a fault ends the process, and the asker says so in one sentence.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.data import hub, images, limits, pictures, previews, scanning
from engine.data.formats import Recognition
from engine.issues import PlanError
from engine.plan import DataSource
from engine.system.errors import disk_is_full, explain, in_plain_words

WORN = 400 * 2**20  # bytes of memory at the peak: a reader that took so much is not used again


def _scan(request: Mapping[str, Any]) -> Any:
    return dataclasses.asdict(scanning.read_through(Path(request["file"]), request["name"], _recognition(request)))


def _preview(request: Mapping[str, Any]) -> Any:
    return previews.preview(Path(request["file"]), _recognition(request), request["most"]).to_dict()


def _unpack(request: Mapping[str, Any]) -> Any:
    images.unpack(Path(request["archive"]), Path(request["target"]))
    return None


def _picture(request: Mapping[str, Any]) -> Any:
    return dataclasses.asdict(pictures.picture(request["image"]))


def _fetch(request: Mapping[str, Any]) -> Any:
    with in_plain_words():
        hub.fetch_here(DataSource(**request["source"]))


WORKS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "scan": _scan,
    "preview": _preview,
    "unpack": _unpack,
    "picture": _picture,
    "fetch": _fetch,
}


def _recognition(request: Mapping[str, Any]) -> Recognition:
    return Recognition(mapping=request["mapping"], accepts=tuple(request["accepts"]))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to one request: its result, the issues that a person reads, or the limit that was reached."""
    try:
        limits.check_libraries()
        return {"result": WORKS[request["work"]](request)}
    except PlanError as error:
        return {"issues": [vars(issue) for issue in error.issues]}
    except pictures.BadRow as error:
        return {"issues": [vars(explain(error))]}
    except MemoryError:
        return {"limit": "memory"}
    except OSError as error:
        if not disk_is_full(error):
            raise
        return {"issues": [vars(explain(error))]}


def main(memory: int, written: int) -> None:
    """Answer until the asker goes away, within so many bytes of memory, and of a file that is written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    _limit(memory, written)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(request["seconds"])
        replies.write(json.dumps({**answer(request), "worn": _peak() > WORN}).encode() + b"\n")
        replies.flush()


def _limit(memory: int, written: int) -> None:
    """Memory, the size of written files, and no core dumps. Where the system has no such limits, the asker watches."""
    if sys.platform == "win32":
        return
    import resource

    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: int) -> None:
    """CPU time of this request; what earlier ones took is added, as the system counts from the start of the process."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))


def _peak() -> int:
    """Bytes of memory at the most so far; 0 where the system does not say. (`ru_maxrss` counts the parent's too.)"""
    if sys.platform != "linux":
        return 0
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
