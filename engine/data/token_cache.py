"""Tokenised data sets, kept on the disk: a second start with the same rows, tokenizer and settings tokenises nothing.

    trainer(make, train, held_out, tokenizer, settings)     for TRL's trainers, which tokenise when they are made
    features(rows, to_features, tokenizer, settings)        for transformers' trainers, which are given tokens

A kept set is named after all that it depends on, so that it is never out of date; the ones that were not used for
longest are removed. Trainers that tokenise batch by batch (GRPO, RLOO, both distillations, sentence embeddings, and all
that look at images) have nothing to keep.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.data import Row, as_dataset, row_id
from engine.system.home import home

if TYPE_CHECKING:
    import datasets
    from transformers import Trainer

MOST_KEPT = 16  # sets (judgement): a handful of data sets with a few settings each
LOOKED_AT = 100  # rows, of which the shortest is the one that a trainer is made with (judgement)
VERSION = 2

# --- what recipes call ----------------------------------------------------------------------------------------------


def trainer(
    make: Callable[[datasets.Dataset, datasets.Dataset | None], Trainer],
    train: list[Row],
    held_out: list[Row],
    tokenizer: Any,
    settings: Mapping[str, Any],
) -> Trainer:
    """The trainer that `make` gives, with the rows as an earlier start has tokenised them; else it does, and they are kept.

    Args:
        make: called with (training rows, held-out rows or None); the trainer tokenises what it is given.
        settings: all that decides what the tokens are, beside the rows and the tokenizer.
    """
    parts = [rows for rows in (train, held_out) if rows]
    names = [name_of(rows, tokenizer, settings) for rows in parts]
    ready = [kept(name) for name in names]
    known = None not in ready
    # A trainer looks at a row to see how it is written: a short one, which no limit of length leaves out.
    given = [as_dataset([min(rows[:LOOKED_AT], key=lambda row: len(repr(row)))] if known else rows) for rows in parts]
    made = make(given[0], given[1] if held_out else None)
    if known:
        made.train_dataset, made.eval_dataset = ready[0], ready[1] if held_out else None
        return made
    for name, rows in zip(names, (made.train_dataset, made.eval_dataset), strict=False):
        keep(name, rows)
    return made


def features(
    rows: list[Row], to_features: Callable[[Row], Row], tokenizer: Any, settings: Mapping[str, Any]
) -> datasets.Dataset:
    """The rows as `to_features` makes them the model's inputs, or as it did at an earlier start."""
    name = name_of(rows, tokenizer, settings)
    ready = kept(name)
    if ready is None:
        ready = as_dataset([to_features(row) for row in rows])
        keep(name, ready)
    return ready


# --- what is on the disk --------------------------------------------------------------------------------------------


def name_of(rows: Sequence[Row], tokenizer: Any, settings: Mapping[str, Any]) -> str:
    """What names the tokenised rows: their content and order, the tokenizer with its chat template, and the settings."""
    import transformers
    import trl

    digest = hashlib.sha256()
    depends_on = [VERSION, trl.__version__, transformers.__version__, *_words_of(tokenizer), sorted(settings.items())]
    digest.update(orjson.dumps(depends_on, default=str))
    for row in rows:
        digest.update(row_id(row).encode())
    return digest.hexdigest()[:24]


def _words_of(tokenizer: Any) -> tuple[Any, ...]:
    """What a tokenizer knows, whatever it was asked last: its limits of then are among what it writes of itself."""
    if not tokenizer.is_fast:
        return type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.chat_template, tokenizer.eos_token
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.eos_token


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
