"""Bad input: each mistake is a named field, one plain sentence and a remedy, told before anything costs time or memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine import checks
from engine.catalog import model_sizes
from engine.catalog.models import catalogue
from engine.plan import Plan
from estimators.__main__ import answer
from estimators.estimator import estimate

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
ABSURD = [
    {"hidden_size": 10**9},
    {"num_hidden_layers": 10**9},
    {"vocab_size": 10**12},
    {"hidden_size": 0},
    {"hidden_size": -64},
    {"num_hidden_layers": True},
    {"hidden_size": "64"},
    {"intermediate_size": 1e30},
]


def issue_of(plan: dict) -> dict:
    """The one issue of a plan's answer."""
    reply = answer(json.dumps(plan))
    assert len(reply["issues"]) == 1, reply
    (issue,) = reply["issues"]
    assert issue["message"].endswith(".")
    assert issue["fix"].endswith((".", "?"))
    assert "Traceback" not in reply["error"]
    return issue


@pytest.mark.parametrize(
    ("plan", "field", "words"),
    [
        ({"model": "no-such-owner/no-such-model"}, "model", "hub"),
        ({"model": "Not a model!"}, "model", "is not a model id"),
        ({"model": {"hidden_size": 64}}, "model", "no model_type"),
        ({"model": {"model_type": "no_such_type"}}, "model", "transformers does not know"),
        ({"model": {"model_type": 5}}, "model", "no model_type"),
        ({"model": SMALL, "method_options": {"r": 65}}, "r", "above the width"),
        ({"model": SMALL, "method_options": {"r": 0}}, "r", "out of range"),
        ({"model": SMALL, "gpu": "T4", "precision": "bf16"}, "precision", "has no bf16"),
    ],
)
def test_a_mistake_names_its_field(plan: dict, field: str, words: str) -> None:
    issue = issue_of({"gpu": "L40S", "precision": "bf16", **plan})
    assert issue["field"] == field
    assert words in issue["message"]


def test_four_bits_need_linear_layers() -> None:
    plan = Plan(model="microsoft/resnet-50", method="qlora", quantization="nf4", gpu="L40S", objective="image_classification")
    issues = {issue.field: issue for issue in checks.check(plan)}
    assert "none but its head" in issues["quantization"].message
    assert issues["quantization"].fix


@pytest.mark.parametrize("targets", [["q_prj"], "nothing_like_it", ["mlp.up"]])
def test_target_modules_that_match_nothing_name_those_that_exist(targets: object) -> None:
    issue = issue_of({"model": SMALL, "gpu": "L40S", "method_options": {"target_modules": targets}})
    assert issue["field"] == "target_modules"
    for name in ("q_proj", "v_proj", "down_proj"):
        assert name in issue["fix"]
    assert ("Did you mean q_proj?" in issue["fix"]) is (targets == ["q_prj"])


@pytest.mark.parametrize("sizes", ABSURD)
def test_absurd_sizes_are_refused(sizes: dict) -> None:
    issue = issue_of({"model": {**SMALL, **sizes}, "gpu": "L40S"})
    assert issue["field"] == "model"
    assert next(iter(sizes)) in issue["message"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_absurd_sizes_cost_no_memory(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"model": {**SMALL, "num_hidden_layers": 10**9, "hidden_size": 10**9}}), encoding="utf-8")
    script = (
        "import pathlib, re, sys\n"
        "from estimators.__main__ import main\n"
        f"code = main([{str(plan)!r}])\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "print(code, 'torch' in sys.modules, peak)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    code, has_torch, kilobytes = done.stdout.split()
    assert (code, has_torch) == ("2", "False")
    assert "no size that a model has" in done.stderr
    assert int(kilobytes) < 300_000


def test_every_model_of_the_catalogue_has_believable_sizes() -> None:
    for model in catalogue().values():
        assert model_sizes.check(model.config or {}) == [], model.id


def test_sizes_within_a_config_are_looked_at() -> None:
    inside = {"model_type": "llava", "text_config": SMALL, "vision_config": {"hidden_size": 10**9}}
    assert model_sizes.check(inside)
    assert model_sizes.width(inside) == 64
    assert model_sizes.check({"num_key_value_heads": [4, 4, 8]}) == []


@pytest.mark.parametrize("model_type", model_sizes.WITHOUT_PLAIN_LINEAR_LAYERS)
def test_models_without_plain_linear_layers_have_none(model_type: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    config = AutoConfig.for_model(model_type)
    auto = AutoModelForSequenceClassification if hasattr(config, "vocab_size") else AutoModelForImageClassification
    with torch.device("meta"):
        model = auto.from_config(config)
    assert sum(type(module) is torch.nn.Linear for module in model.modules()) <= 1, "the head"


def test_4_bits_that_do_not_reach_the_experts_are_said() -> None:
    """transformers 5 keeps all experts in one tensor, which bitsandbytes leaves as it is: so does the estimate."""
    experts = {
        "model_type": "mixtral",
        "num_local_experts": 4,
        "num_key_value_heads": 2,
        **{k: v for k, v in SMALL.items() if k != "model_type"},
    }
    plan = Plan(model=experts, method="qlora", gpu="L40S", method_options={"target_modules": ["q_proj"]})
    [warning] = checks.check(plan)
    assert (warning.field, warning.severity) == ("quantization", "warning")
    assert "experts" in warning.message
    in_16_bits = estimate(plan.with_(method="lora"))
    assert estimate(plan).memory.weights > 0.5 * in_16_bits.memory.weights
    assert checks.check(plan.with_(method="lora")) == []


def test_sizes_that_differ_from_stage_to_stage_are_sizes() -> None:
    """Swin and SegFormer have a number of heads for each stage."""
    found = estimate(Plan(model="microsoft/swin-tiny-patch4-window7-224", objective="image_classification", gpu="L40S"))
    assert found.total_params > 28_000_000


def test_a_rank_that_fits_the_matrices_is_fine() -> None:
    assert checks.check(Plan(model=SMALL, method_options={"r": 64}, gpu="L40S")) == []


@pytest.mark.parametrize(
    ("model", "objective", "said"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "sft", "is no model for Instruction tuning"),
        ("facebook/dinov2-small", "sentence_embeddings", "is no model for Sentence embeddings"),
        ("Salesforce/blip2-opt-2.7b", "captioning", "cannot be planned here yet"),
    ],
)
def test_models_that_an_objective_cannot_train_are_refused(model: str, objective: str, said: str) -> None:
    issue = issue_of({"model": model, "objective": objective, "gpu": "L40S", "max_length": 64})
    assert (issue["field"], said in issue["message"]) == ("model", True)
    assert issue["fix"].startswith("Choose")


@pytest.mark.parametrize("model", ["google-t5/t5-small", "facebook/nllb-200-distilled-600M"])
def test_what_a_table_of_sizes_does_not_say_is_filled_in(model: str) -> None:
    """Which token a decoder begins with; and a layer that is left out by chance is there."""
    assert estimate(Plan(model=model, objective="seq2seq", gpu="L40S", max_length=64)).fits == "yes"


def test_vision_language_models_that_can_be_read_as_text_can_be() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert set(checks.TEXT_ALONE) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize("method", ["dora", "frod"])
def test_methods_that_look_at_the_weights_have_a_reference_too(method: str) -> None:
    """DPO adds a copy of the adapter, which a dry run makes from weights without numbers as well."""
    assert estimate(Plan(model=SMALL, method=method, objective="dpo", gpu="L40S", max_length=32)).fits == "yes"
