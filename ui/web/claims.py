"""Which session, event, upload and file belongs to which caller.

Gradio lets the browser choose its session's hash, answers to whoever knows it, and serves any file of its cache. The
border notes here who came first with an id, or whom a file was given to, and answers nobody else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Literal

Kind = Literal["session", "event", "upload", "file"]
REMEMBERED = 50_000  # about 10 MB; what was not seen for so long is forgotten, and then refused


class Claims:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._owners: OrderedDict[tuple[Kind, str], set[str]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, kind: Kind, name: str, caller: str) -> bool:
        """Claim a name that a caller has chosen. False if somebody else has it."""
        with self._lock:
            owners = self._owners.setdefault((kind, name), {caller})
            self._seen(kind, name)
            return caller in owners

    def give(self, kind: Kind, name: str, caller: str) -> None:
        """Note that a caller was given this; others who were given it keep it (two people may upload the same bytes)."""
        with self._lock:
            self._owners.setdefault((kind, name), set()).add(caller)
            self._seen(kind, name)

    def has(self, kind: Kind, name: str, caller: str) -> bool:
        """Whether the name belongs to the caller."""
        with self._lock:
            return caller in self._owners.get((kind, name), ())

    def _seen(self, kind: Kind, name: str) -> None:
        self._owners.move_to_end((kind, name))
        while len(self._owners) > REMEMBERED:
            self._owners.popitem(last=False)
