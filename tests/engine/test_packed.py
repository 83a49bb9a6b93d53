"""Checkpoints that come in 4 bits: recognised, priced as they are stored, and refused where their library is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import checks
from engine.catalog import prequantized
from engine.issues import PlanError
from engine.modeling import build
from engine.plan import DataSource, Plan
from estimators.simulate.dry_run import Shape, dry_run
from tests.engine import tiny

WIDTH, INNER, LAYERS, WORDS = 256, 512, 2, 1024
LLAMA = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": WORDS,
    "tie_word_embeddings": False,
}
STORED: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
}
MATRICES = [(WIDTH, WIDTH)] * 4 + [(WIDTH, INNER)] * 2 + [(INNER, WIDTH)]  # of one layer, [in, out]


def plan_of(kind: str, **changes: Any) -> Plan:
    return Plan(model={**LLAMA, "quantization_config": STORED[kind]}, max_length=64, gpu="L40S", **changes)


@pytest.mark.parametrize("kind", STORED)
def test_the_dry_run_holds_what_the_files_hold(kind: str) -> None:
    """Half a byte a weight, a zero of 4 bits and a scale of 16 for each group; GPTQ adds the order of the rows."""
    order = 4 if kind == "gptq" else 0
    linear = LAYERS * sum(a * b // 2 + (a // 128) * (b // 2 + 2 * b) + order * a for a, b in MATRICES)
    rest = 2 * (2 * WORDS * WIDTH + (2 * LAYERS + 1) * WIDTH)  # embeddings, output layer and norms in bf16
    adapter = 16 * LAYERS * sum(a + b for a, b in MATRICES)
    found = dry_run(plan_of(kind), Shape(batch=2, length=32))
    plain = dry_run(Plan(model=LLAMA, max_length=64, gpu="L40S"), Shape(batch=2, length=32))
    buffers = LAYERS * sum((a // 128) * (b // 2 + 2 * b) + order * a for a, b in MATRICES)
    assert found.trainable_params == plain.trainable_params == adapter
    assert found.total_params == plain.total_params
    assert found.weight_bytes + buffers == linear + rest + 4 * adapter


@pytest.mark.parametrize("kind", STORED)
def test_what_cannot_be_trained_beside_them_is_refused(kind: str) -> None:
    assert checks.check(plan_of(kind)) == []
    for changes, field in (({"method": "full"}, "method"), ({"method": "qlora", "quantization": "nf4"}, "quantization")):
        (issue,) = checks.check(plan_of(kind, **changes))
        assert issue.field == field
        assert kind.upper() in issue.message
    with pytest.raises(PlanError, match="cannot be trained"):
        build.build(plan_of(kind, method="houlsby"), "meta")


@pytest.mark.parametrize(("kind", "install"), [("gptq", "pip install optimum gptqmodel"), ("awq", "pip install gptqmodel")])
def test_without_its_library_a_start_names_the_line_that_installs_it(kind: str, install: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(tiny.causal_model()).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": STORED[kind]}), encoding="utf-8")
    plan = Plan(model=str(folder), max_length=48, datasets=(DataSource(path="demo/pirate"),))
    if prequantized.missing(prequantized.of_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))) == []:
        pytest.skip("the library is installed here")
    assert install in " ".join(issue.sentence() for issue in checks.check_start(plan))
    with pytest.raises(PlanError, match=install):
        build.build(plan, "cpu")


def test_other_configs_are_left_alone() -> None:
    assert prequantized.of_config(None) is None
    assert prequantized.of_config(LLAMA) is None
    assert prequantized.of_config({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}) is None
