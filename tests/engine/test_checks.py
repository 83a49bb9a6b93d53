"""Bad values get one sentence that names the field and the remedy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import checks
from engine.catalog import hardware
from engine.checks import check, check_start
from engine.data.demos import first_plan
from engine.plan import FIELDS, DataSource, Plan


def fields_of(plan: Plan) -> list[str]:
    return [issue.field for issue in check(plan)]


def test_the_first_plan_is_sound() -> None:
    assert check_start(first_plan()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("per_device_train_batch_size", 0),
        ("per_device_train_batch_size", 2.5),
        ("per_device_train_batch_size", "8"),
        ("per_device_train_batch_size", True),
        ("learning_rate", math.nan),
        ("learning_rate", "nan"),
        ("learning_rate", 0),
        ("learning_rate", -1e-4),
        ("learning_rate", math.inf),
        ("num_train_epochs", 0),
        ("max_length", 3),
        ("packing", "yes"),
        ("optim", "adamw"),
        ("precision", "bf32"),
        ("quantization", "int4"),
        ("method", "lorra"),
        ("objective", "stf"),
        ("gpu", "RTX 9999"),
        ("model", "demo/nothing"),
        ("model", ""),
        ("model", "../../etc/passwd"),
        ("model", "http://169.254.169.254/"),
        ("datasets", (DataSource(path="demo/nothing"),)),
        ("datasets", (DataSource(path="https://example.org/x.jsonl"),)),
        ("datasets", (DataSource(path="/etc/*"),)),
        ("datasets", (DataSource(path="upload/../../x"),)),
        ("datasets", (DataSource(path="/no/such/file.jsonl"),)),
    ],
)
def test_a_bad_value_names_its_field_and_a_remedy(field: str, value: object) -> None:
    issues = check(first_plan().with_(**{field: value}))
    assert [issue.field for issue in issues] == [field]
    assert issues[0].message.endswith(".")
    assert issues[0].fix.endswith((".", "?"))


def test_misspelt_choice_names_the_nearest() -> None:
    assert "adamw_torch" in check(first_plan().with_(optim="adam_torch"))[0].fix


def test_unknown_method_option_names_the_nearest() -> None:
    issue = check(first_plan().with_(method_options={"lora_alfa": 8}))[0]
    assert (issue.field, issue.fix) == ("lora_alfa", "Did you mean lora_alpha?")


def test_option_values_are_checked_too() -> None:
    assert fields_of(first_plan().with_(method_options={"r": 0})) == ["r"]


def test_full_fine_tuning_refuses_quantised_weights() -> None:
    assert fields_of(first_plan().with_(method="full", quantization="nf4")) == ["quantization"]


def test_longer_than_the_model_can_read() -> None:
    assert fields_of(first_plan().with_(max_length=4096)) == ["max_length"]


def test_a_card_without_bf16() -> None:
    assert fields_of(first_plan().with_(gpu="T4", precision="bf16")) == ["precision"]


def test_another_gpu_can_be_planned_for_but_not_started_on() -> None:
    plan = first_plan().with_(gpu="L40S")
    assert check(plan) == []
    assert [issue.field for issue in check_start(plan)] == ["gpu"]


def test_a_full_disk_is_told_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "free_bytes", lambda folder: 1000)
    assert [issue.field for issue in check_start(first_plan())] == ["disk"]


def test_paths_are_refused_where_the_server_has_visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "hello"}\n')
    plan = first_plan().with_(datasets=(DataSource(path=str(file)),))
    assert check(plan) == []
    monkeypatch.setenv("FITTINGROOM_LOCAL_PATHS", "0")
    assert fields_of(plan) == ["datasets"]
    assert fields_of(first_plan().with_(model=str(tmp_path))) == ["model"]


def test_every_gpu_of_the_table_can_be_planned_for() -> None:
    for name, gpu in hardware.gpus().items():
        assert gpu.memory > 2**30, name


@given(
    st.sampled_from(sorted(FIELDS)),
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=2),
)
def test_no_value_of_any_field_makes_the_checks_fail(field: str, value: object) -> None:
    if field in ("datasets", "version"):
        return  # read and refused by Plan.from_dict
    for issue in check(first_plan().with_(**{field: value})):
        assert issue.field
        assert issue.message


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"method": "bitfit"}, "method", "biases"),
        ({"method": "loha", "model": "openai-community/gpt2"}, "method", "Conv1D"),
        ({"method": "adaption_prompt", "model": "Qwen/Qwen3-0.6B"}, "method", "is made for llama"),
        ({"method": "prefix_tuning", "gradient_checkpointing": True}, "gradient_checkpointing", "Prefix tuning"),
        ({"method": "prompt_tuning", "packing": True}, "packing", "several rows"),
        ({"method": "trainable_tokens"}, "token_indices", "empty"),
        ({"method": "oft", "method_options": {"r": 8, "oft_block_size": 32}}, "r", "two ways"),
        ({"method": "lora", "method_options": {"init_lora_weights": "eva"}}, "init_lora_weights", "more than the weights"),
        ({"method": "pissa", "method_options": {"use_dora": True}}, "use_dora", "saved as LoRA"),
        ({"method": "osf", "quantization": "nf4"}, "quantization", "unpacked"),
        ({"method": "full", "quantization": "nf4"}, "quantization", "cannot be trained"),
        ({"method": "prompt_tuning", "method_options": {"prompt_tuning_init": "TEXT"}}, "prompt_tuning_init_text", "empty"),
        ({"method": "lora_plus", "optim": "sgd"}, "optim", "optimizer of its own"),
    ],
)
def test_a_method_says_what_it_does_not_go_with(change: dict, field: str, words: str) -> None:
    (issue,) = check(Plan(max_length=64).with_(**change))
    assert issue.field == field
    assert words in issue.message


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("vblora", {"r": 4, "num_vectors": 90, "topk": 2, "save_only_topk_weights": False}),
        ("oft", {"r": 32, "use_cayley_neumann": True}),
        ("lora", {"peft_type": "LORA", "task_type": "CAUSAL_LM", "layers_to_transform": [0], "target_modules": None}),
    ],
)
def test_any_field_of_the_peft_config_is_an_option(method: str, options: dict) -> None:
    assert check(Plan(method=method, method_options=options, max_length=64)) == []
