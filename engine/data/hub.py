"""Data sets of the Hugging Face hub: fetched once, row by row, into a file of ours. No code of a data set is ever run.

A set is named owner/name, with its config and split (`DataSource.config`, `DataSource.split`).
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import orjson

from engine.catalog import hub_lookups
from engine.data import sandbox, sources
from engine.issues import Issue, PlanError
from engine.plan import DataSource
from engine.system.home import write_atomically

MOST_ROWS = 1_000_000  # that are fetched, in the order of the set; judgement: as many as are checked in half a minute
MOST_BYTES = 4 * 2**30


def fetch(source: DataSource) -> None:
    """Get a hub set onto this computer, if it is one and is not here yet. Raises `PlanError` in one sentence.

    Its files are a stranger's: they are parsed in a process with limits.
    """
    if sources.is_hub(source) and not sources.hub_copy(source).is_file():
        sandbox.fetch({"source": dataclasses.asdict(source)}, name=source.path.strip())


def fetch_here(source: DataSource) -> None:
    """Fetch a hub set in this process. Raises `PlanError`."""
    copy = sources.hub_copy(source)
    partial = copy.with_suffix(f".{os.getpid()}.partial")
    try:
        _refuse_if_refused(source)
        with open(partial, "wb") as file:
            for row in _stream(source):
                file.write(orjson.dumps(row, default=_plain) + b"\n")
                if file.tell() > MOST_BYTES:
                    break
        write_atomically(copy.with_suffix(".name"), _title(source))
        partial.rename(copy)
    finally:
        partial.unlink(missing_ok=True)


def _title(source: DataSource) -> str:
    parts = [part for part in (source.config, source.split) if part]
    return f"{source.path.strip()} ({', '.join(parts)})"


def _refuse_if_refused(source: DataSource) -> None:
    try:
        hub_lookups.refuse_if_refused("datasets", source.path.strip(), field="datasets", named=source.path.strip())
    except ConnectionError:
        message = "is on the hub, and the hub cannot be reached."
        raise PlanError([_issue(source, message, "Check the network, or upload the file.")]) from None


def _stream(source: DataSource) -> Any:
    """The rows of the set, one after the other."""
    import datasets
    import httpx
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows = datasets.load_dataset(source.path.strip(), source.config or None, split=source.split, streaming=True)
        yield from rows.take(MOST_ROWS)
    except (OSError, ValueError, RuntimeError, DatasetsError, HfHubHTTPError, httpx.HTTPError) as error:
        raise PlanError([_explained(source, error)]) from error


def _explained(source: DataSource, error: Exception) -> Issue:
    """The answers of the hub, and what the library says of configs, splits and scripts."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    text, names = str(error), re.search(r"\['.*'\]", str(error))
    known = f": it has {names[0][1:-1].replace(chr(39), '')}" if names else ""
    if "GatedRepoError" in kinds or "gated" in text:  # asked first: it subclasses RepositoryNotFoundError
        return _issue(source, *hub_lookups.GATED)
    if {"RepositoryNotFoundError", "DatasetNotFoundError"} & kinds:
        message, fix = hub_lookups.ABSENT
        return _issue(source, message, fix.format(pages=hub_lookups.PAGES["datasets"]))
    if {"LocalEntryNotFoundError", "FileNotFoundError"} & kinds:  # its words name a folder of this computer
        return _issue(source, *hub_lookups.BROKEN)
    if "scripts are no longer supported" in text:
        return _issue(source, "uses a loading script, which is never run here.", "Choose a set that is made of data files.")
    if "Config name" in text or "BuilderConfig" in text:
        return _issue(source, f"needs the name of a config{known}.", "Name one of them.")
    if "Unknown split" in text or "Bad split" in text:
        return _issue(source, f"has no split {source.split!r}{known}.", "Name one of them.")
    first_line = (text.strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
    return _issue(source, f"could not be fetched ({first_line}).", "Try again, or download it yourself and upload the file.")


def _issue(source: DataSource, message: str, fix: str) -> Issue:
    return Issue(field="datasets", message=f"{source.path.strip()} {message}", fix=fix)


def _plain(value: Any) -> Any:
    """Values that JSON lacks: dates and the like as text."""
    return str(value)
