"""FSDP's units are those that PEFT's own wrapping policy makes of the model, and a GPU keeps its shards of them."""

from __future__ import annotations

import os
from collections import Counter
from typing import ClassVar

import pytest
import torch
from peft.utils.other import fsdp_auto_wrap_policy
from torch.distributed.fsdp.wrap import _recursive_wrap

from engine.modeling import build
from engine.plan import Plan
from estimators.simulate import fsdp_init
from estimators.simulate.caching_allocator import MIB, CachingAllocator
from estimators.simulate.dry_run import Shape, dry_run
from estimators.simulate.splice import Depth

MODEL = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 4000,
    "max_position_embeddings": 256,
}
PLAN = Plan(model=MODEL, method="lora", method_options={"r": 32}, max_length=64, gpu="L40S")


class Wrapped(torch.nn.Module):
    """Stands where FSDP would: notes the bytes of the parameters that no inner unit has."""

    units: ClassVar[list[int]] = []

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        inner = [other for other in module.modules() if isinstance(other, Wrapped)]
        theirs = {id(parameter) for other in inner for parameter in other.parameters()}
        self.units.append(sum(parameter.nbytes for parameter in module.parameters() if id(parameter) not in theirs))


def test_the_units_are_those_of_pefts_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "FSDP_TRANSFORMER_CLS_TO_WRAP", "LlamaDecoderLayer")
    monkeypatch.setattr(Wrapped, "units", [])
    model = build.build(PLAN, "meta")
    ours = fsdp_init.units(model, Depth(prefix=0, period=6, probed=6, full=6))
    expected = Counter([sum(ours.outside.frozen)])
    for unit in ours.layers:
        expected.update([sum(unit.frozen), *unit.trained])
    whole, _ = _recursive_wrap(model, fsdp_auto_wrap_policy(model), Wrapped, set(), set())
    Wrapped(whole)
    assert Counter(Wrapped.units) == expected


def test_a_probe_has_the_units_of_the_whole_model() -> None:
    shape = Shape(batch=1, length=32)
    assert dry_run(PLAN, shape).units == dry_run(PLAN, shape, whole=True).units


@pytest.mark.parametrize("n", [2, 4])
def test_each_gpu_keeps_its_shards(n: int) -> None:
    units = dry_run(PLAN, Shape(batch=1, length=32)).units
    total = sum(unit.bytes for unit in (*units.layers, units.outside))
    loading = fsdp_init.wrapped(units, n, widened=1.0, offloaded=False)
    assert loading.left == pytest.approx(total / n, rel=0.001)
    allocator = CachingAllocator()
    allocator.replay(loading.names, loading.sizes)
    assert allocator.reserved > loading.left + units.outside.bytes, "the last unit was there whole"
    offloaded = fsdp_init.wrapped(units, n, widened=1.0, offloaded=True)
    assert offloaded.left == 0


def test_what_is_trained_is_kept_in_fp32_where_accelerate_does() -> None:
    units = dry_run(PLAN, Shape(batch=1, length=32)).units
    trained = sum(sum(unit.trained) for unit in units.layers)
    narrow, wide = (fsdp_init.wrapped(units, 2, widened=factor, offloaded=False).left for factor in (1.0, 2.0))
    assert wide - narrow == pytest.approx(trained / 2, rel=0.001)


def test_large_parameters_are_broadcast_in_buckets() -> None:
    """Buckets of 250 MiB or a little more, two of them at once, beside the copies."""
    unit = fsdp_init.Unit(frozen=(100 * MIB,) * 6, trained=(), scales=())
    loading = fsdp_init.wrapped(fsdp_init.Units(layers=(), outside=unit), 2, widened=1.0, offloaded=False)
    assert loading.left == 300 * MIB
    assert sorted(loading.sizes[loading.sizes > 0] // MIB) == [100] * 6 + [300] * 3 + [600]
