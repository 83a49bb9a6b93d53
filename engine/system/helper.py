"""Helper processes: they end when the process that started them ends, however that was, and stay within a memory limit.

    helper = start("estimators", "--jsonl", log=file)      in the process that needs it
    python -m engine.system.helper LIFELINE MEMORY MODULE ...     what `start` runs; not for people

The starting process keeps the writing end of a pipe, the lifeline, and never writes. The kernel closes it when that process
is gone, also after SIGKILL or `os._exit`; then the helper ends. A prctl(PR_SET_PDEATHSIG) would do the same on Linux, but
it follows the thread that forked, and the page starts helpers from threads that come and go.
"""

from __future__ import annotations

import contextlib
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from engine.system.home import PRIVATE_UMASK
from engine.system.workers import CODE_FOLDER, environment

NO_LIMIT = 0
F_SETSIG = 10  # fcntl.h of Linux; Python's fcntl module lacks the name


@dataclass(frozen=True, kw_only=True)
class Helper:
    """A started helper; whoever started it ends it."""

    process: subprocess.Popen[str]
    lifeline: BinaryIO

    def end(self) -> None:
        """End the process now. A second call changes nothing."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        self.lifeline.close()


def start(module: str, *arguments: str, log: Path | None = None, memory: int = NO_LIMIT) -> Helper:
    """Start `python -m module arguments...` with pipes for its input and output. Raises `OSError`.

    Args:
        log: where its errors are written; nowhere, if None.
        memory: bytes of private memory beyond which the helper's own allocations fail (RLIMIT_DATA).
    """
    with open(log or os.devnull, "ab") as errors:
        text = {"text": True, "encoding": "utf-8", "errors": "replace"}
        process, lifeline = popen(module, *arguments, memory=memory, stderr=errors, env=environment(), **text)
    return Helper(process=process, lifeline=lifeline)


def popen(module: str, *arguments: str, memory: int = NO_LIMIT, **settings: Any) -> tuple[subprocess.Popen[Any], BinaryIO]:
    """(the process, its lifeline) of `python -m module arguments...` with pipes; `settings` go to `Popen`. Raises `OSError`."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.system.helper", str(reading), str(memory), module, *arguments],
            cwd=CODE_FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[reading],
            umask=PRIVATE_UMASK,
            **settings,
        )
    except OSError:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return process, os.fdopen(writing, "wb")


# --- in the helper --------------------------------------------------------------------------------------------------


def end_with(lifeline: int) -> None:
    """End this process as soon as the other end of the pipe is closed.

    On Linux the kernel sends SIGKILL by itself, so a helper that is busy in C code ends too (a regular expression that
    backtracks holds the GIL for minutes). A thread that waits for the end of the pipe does it elsewhere.
    """
    os.set_inheritable(lifeline, False)
    threading.Thread(target=_wait_for_the_end, args=(lifeline,), daemon=True).start()
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _wait_for_the_end(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os._exit(1)


def limit_memory(most: int) -> None:
    """Let allocations beyond `most` bytes fail with a MemoryError. Only Linux keeps to it."""
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set from outside already
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main(arguments: list[str]) -> Any:
    """Become the module, tied to the process that started this one."""
    end_with(int(arguments[0]))
    if memory := int(arguments[1]):
        limit_memory(memory)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the server ends its helpers
    sys.argv = arguments[2:]
    return runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
