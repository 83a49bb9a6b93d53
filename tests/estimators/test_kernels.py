"""The stand-ins for a GPU's kernels compute what torch computes, and keep what a GPU keeps."""

from __future__ import annotations

import pytest
import torch

from engine.plan import Plan
from estimators.simulate import gpu_kernels, replay
from estimators.simulate.dry_run import Shape, dry_run


def kept_by(work: torch.nn.Module | object, x: torch.Tensor) -> int:
    """Bytes that the graph of `work(x)` keeps for the backward pass."""
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work(x)
    return sum(sizes)


def test_dropout_keeps_a_byte_for_each_number() -> None:
    x = torch.ones(64, 256, requires_grad=True)
    assert kept_by(lambda x: gpu_kernels.dropout(x, 0.1), x) == x.numel()
    assert kept_by(lambda x: torch.nn.functional.dropout(x, 0.1), x) > x.numel(), "a processor keeps the noise as numbers"


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_dropout_is_that_of_torch(p: float) -> None:
    x = torch.ones(200, 200, requires_grad=True)
    found = gpu_kernels.dropout(x, p)
    left = found[found != 0]
    assert torch.all(left == 1 / (1 - p) if p < 1 else left)
    assert 1 - len(left) / x.numel() == pytest.approx(p, abs=0.02)
    found.sum().backward()
    assert torch.equal(x.grad != 0, found != 0)
    assert torch.equal(gpu_kernels.dropout(x, 0.5, training=False), x)
    changed = torch.ones(100)
    assert gpu_kernels.dropout(changed, 0.5, inplace=True) is changed


def test_the_dropout_of_an_adapter_costs_a_byte_for_each_number_of_its_input() -> None:
    """The changed input is kept instead of the input; beside it, the mask."""
    model = {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "vocab_size": 128,
        "max_position_embeddings": 1024,
    }
    options = {"r": 8, "target_modules": ["q_proj"]}
    plan = Plan(model=model, method="lora", adapter_dtype="bf16", method_options=options)
    without, with_it = (
        replay.peak(dry_run(plan.with_(method_options={**options, "lora_dropout": p}), Shape(batch=4, length=512)).step)
        for p in (0.0, 0.1)
    )
    numbers = 12 * 4 * 512 * 512
    assert (with_it.parts["activations"] - without.parts["activations"]) / numbers == pytest.approx(1.0, abs=0.15)
