"""Tokenised data sets, kept on the disk: a second start with the same rows, tokenizer and settings tokenises nothing.

A kept set is named after all that it depends on, so that it is never out of date; the ones that were not used for
longest are removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.data import Row, row_id
from engine.home import home

if TYPE_CHECKING:
    import datasets

MOST_KEPT = 16  # sets (judgement): a handful of data sets with a few settings each
VERSION = 1


def name_of(rows: Sequence[Row], tokenizer: Any, settings: Mapping[str, Any]) -> str:
    """What names the tokenised rows: their content and order, the tokenizer with its chat template, and the settings."""
    import trl

    digest = hashlib.sha256()
    words = (tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.eos_token)
    digest.update(orjson.dumps([VERSION, trl.__version__, *words, sorted(settings.items())], default=str))
    for row in rows:
        digest.update(row_id(row).encode())
    return digest.hexdigest()[:24]


def kept(name: str) -> datasets.Dataset | None:
    """The tokenised rows of an earlier start, if they are still there."""
    import datasets

    folder = _folder() / name
    if not folder.is_dir():
        return None
    os.utime(folder)
    return datasets.load_from_disk(str(folder))


def keep(name: str, rows: datasets.Dataset) -> None:
    """Write tokenised rows, as one step, and remove what was not used for longest."""
    folder = _folder() / name
    if folder.is_dir():
        return
    partial = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=_folder()))
    rows.save_to_disk(str(partial))
    try:
        partial.rename(folder)
    except OSError:  # another start was faster
        shutil.rmtree(partial)
    oldest_first = sorted(_folder().iterdir(), key=lambda one: one.stat().st_mtime_ns)
    for one in oldest_first[:-MOST_KEPT]:
        shutil.rmtree(one, ignore_errors=True)


def _folder() -> Path:
    folder = home() / "cache" / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
