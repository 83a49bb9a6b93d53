"""Every row of METHODS once through the real worker's recipe: two steps, and a result.

All in this process, so that the libraries are imported once; what a process of its own adds is shown by `test_runs.py`.
"""

from __future__ import annotations

import functools
import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from engine import train
from engine.methods import METHODS
from engine.modeling import build
from engine.plan import DataSource, Plan
from engine.system import events
from engine.system.events import EventLog
from tests import tiny_models
from tests.engine import tiny

BIASED = "bitfit"  # in a method's name: it needs a model with biases
UNTIED = ("trainable_tokens",)  # needs a model whose two ends are apart


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True, scope="module")
def known_objects() -> Iterator[None]:
    """The Trainer collects garbage after each run; what the libraries made while they were imported is none."""
    gc.freeze()
    yield
    gc.unfreeze()


@functools.cache
def model_for(method: str) -> str:
    """A tiny model with the demo model's tokenizer that the method goes with."""
    if BIASED not in method and method not in UNTIED:
        return tiny.causal_model()
    tokenizer = build.load_tokenizer(Plan())
    changes = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "tie_word_embeddings": False}
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **changes,
    )  # fmt: skip
    where = tiny.folder() / "biased"
    transformers.Qwen2ForCausalLM(config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return str(where)


@functools.cache
def data_file() -> Path:
    file = tiny.folder() / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in tiny.rows("messages", 8)), encoding="utf-8")
    return file


@pytest.mark.parametrize("method", METHODS)
def test_the_worker_trains_and_saves_it(method: str, tmp_path: Path) -> None:
    options = tiny_models.TINY_OPTIONS.get(method, {})
    settings = {"method": method, "method_options": options, "max_steps": 2, "eval_fraction": 0.0}
    plan = tiny.plan("sft", model_for(method), datasets=(DataSource(path=str(data_file())),), **settings)
    (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")

    train.train(tmp_path, EventLog(tmp_path), train.Stop())

    told = {event["kind"]: event for event in events.since(tmp_path)[0]}
    assert told["finished"]["step"] == 2
    assert told["step"]["grad_norm"] > 0
    assert told["started"]["trainable_params"] > 0
    where = tmp_path / told["saved"]["folder"]
    assert where.name == ("model" if METHODS[method].whole_model else "adapter")
    assert told["saved"]["bytes"] == sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
