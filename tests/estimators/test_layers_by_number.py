"""Methods that treat layers by their number, or hang on how many there are: a probe of few layers says what the model would."""

from __future__ import annotations

from typing import Any

import pytest

from engine.methods import METHODS
from engine.modeling import build
from engine.plan import Plan
from estimators.simulate import replay
from estimators.simulate.dry_run import Shape, Stage, dry_run
from tests.estimators.test_splice import everything_that_happens

DEEP = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "vocab_size": 600,
    "max_position_embeddings": 256,
}
PLAN = Plan(model=DEEP, gpu="L40S", precision="bf16", max_length=64)

# (method, its options, layers of the probe)
BY_NUMBER = [
    ("freeze", {"num_layers": 1}, 5),
    ("freeze", {"num_layers": 3}, 7),
    ("freeze", {"num_layers": 7}, 6),
    ("freeze", {"name_pattern": r"layers\.(7|8)\."}, 6),
    ("lora", {"target_modules": r".*layers\.[0-3]\..*(q|v)_proj"}, 8),
    ("lora", {"target_modules": ["q_proj"], "layers_to_transform": [7, 8]}, 6),
    ("lora", {"target_modules": ["3.self_attn.q_proj"]}, 8),
    ("adaption_prompt", {"adapter_layers": 4}, 8),
]


@pytest.mark.parametrize(("method", "options", "probed"), BY_NUMBER)
def test_some_layers_alone(method: str, options: dict[str, Any], probed: int) -> None:
    plan = PLAN.with_(method=method, method_options=options)
    spliced, whole = (dry_run(plan, Shape(batch=2, length=40), whole=whole) for whole in (False, True))
    assert spliced.step.depth.probed == probed < 9
    assert everything_that_happens(spliced.step) == everything_that_happens(whole.step)
    assert replay.works(spliced.step) == replay.works(whole.step)
    assert (spliced.trainable_params, spliced.weight_bytes) == (whole.trainable_params, whole.weight_bytes)


@pytest.mark.parametrize("method", [key for key in METHODS if "bitfit" not in key])  # this model has no biases
def test_a_probe_has_the_parameters_of_the_model(method: str) -> None:
    plan = PLAN.with_(method=method)
    stage = Stage(plan, on_gpu=True, whole=False)
    real = list(build.build(plan, "meta").parameters())
    assert stage.depth.extra > 0
    assert stage.trainable_params == sum(parameter.numel() for parameter in real if parameter.requires_grad)
    assert stage.params == sum(parameter.numel() for parameter in real)


@pytest.mark.parametrize(
    ("method", "tokens", "model", "published"),
    [
        ("prefix_tuning", 20, "bigscience/bloom-560m", (983_040, 560_197_632)),
        ("prefix_tuning", 30, "bigscience/bloom-560m", (1_474_560, 560_689_152)),
        ("prefix_tuning", 20, "openai-community/gpt2-large", (1_843_200, 775_873_280)),
    ],
)
def test_prefixes_of_all_layers_are_counted(method: str, tokens: int, model: str, published: tuple[int, int]) -> None:
    """What PEFT's documents print: https://github.com/huggingface/peft/blob/main/docs/source"""
    plan = Plan(model=model, method=method, method_options={"num_virtual_tokens": tokens}, gpu="L40S", max_length=64)
    run = dry_run(plan, Shape(batch=1, length=16))
    assert (run.trainable_params, run.total_params + run.adapter_params) == published
