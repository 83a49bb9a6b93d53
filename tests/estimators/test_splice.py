"""A deep model's step, put together from a shallow one, is the step of the deep model, allocation by allocation."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from engine.plan import Plan
from estimators.simulate import replay
from estimators.simulate.dry_run import Shape, dry_run
from estimators.simulate.replay import Step
from estimators.simulate.splice import Depth, full_order, full_refs, plan_depth
from estimators.simulate.trace import Alloc, Ref

SMALL = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 256}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}

LOCAL_AND_GLOBAL = ["sliding_attention", "sliding_attention", "full_attention"] * 5

FAMILIES = {
    "llama": {"model_type": "llama", "num_hidden_layers": 7, **SMALL, **HEADS},
    "llama, tied": {"model_type": "llama", "num_hidden_layers": 6, "tie_word_embeddings": True, **SMALL, **HEADS},
    "qwen3": {"model_type": "qwen3", "num_hidden_layers": 6, **SMALL, **HEADS},
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 15, "layer_types": LOCAL_AND_GLOBAL, **SMALL, **HEADS},
    "gemma2": {"model_type": "gemma2", "num_hidden_layers": 10, **SMALL, **HEADS},
    "phi3": {"model_type": "phi3", "num_hidden_layers": 6, "pad_token_id": 0, **SMALL, **HEADS},
    "gpt2": {"model_type": "gpt2", "n_layer": 6, "n_embd": 64, "n_head": 4, "vocab_size": 512, "n_positions": 256},
    "gpt-neox": {"model_type": "gpt_neox", "num_hidden_layers": 6, "num_attention_heads": 4, **SMALL},
    "mixtral": {"model_type": "mixtral", "num_hidden_layers": 6, "num_local_experts": 4, **SMALL, **HEADS},
}

WAYS = {
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "checkpointing": {"method": "lora", "gradient_checkpointing": True},
    "qlora": {"method": "qlora"},
}


def plan_for(family: str, way: str) -> Plan:
    return Plan(model=FAMILIES[family], precision="bf16", gpu="L40S", **WAYS[way])


def everything_that_happens(step: Step) -> list[tuple[str, int]]:
    """The step as a list of (alloc or free, bytes) at full depth. What is freed at one moment has no order."""
    sizes: dict[Ref, int] = {}
    happened: list[tuple[str, int]] = []
    for place, segment in full_order(step.segments, step.depth):
        index = 0
        for event in segment.events:
            if isinstance(event, Alloc):
                sizes[Ref(place, index)] = event.size
                index += 1
                happened.append(("alloc", event.size))
            else:
                happened += [("free", sizes.pop(ref)) for ref in full_refs(place, segment, event, step.depth)]
    moments = itertools.groupby((one for one in happened if one[1]), key=lambda one: one[0])  # no bytes: nothing happens
    return [one for kind, ones in moments for one in (sorted(ones) if kind == "free" else ones)]


# Each family, by turns with all its weights and with an adapter; all ways on a uniform and on a mixed stack.
CASES = [(family, way) for family in ("llama", "gemma3") for way in WAYS] + [
    (family, ("full", "lora")[number % 2]) for number, family in enumerate(FAMILIES) if family not in ("llama", "gemma3")
]


@pytest.mark.parametrize(("family", "way"), CASES)
def test_spliced_is_whole(family: str, way: str) -> None:
    plan = plan_for(family, way)
    spliced, whole = (dry_run(plan, Shape(batch=2, length=40), whole=whole) for whole in (False, True))
    assert whole.step.depth.extra == 0
    assert spliced.step.depth.extra > 0, "the probe is shallower than the model"
    assert everything_that_happens(spliced.step) == everything_that_happens(whole.step)
    assert everything_that_happens(spliced.evaluation) == everything_that_happens(whole.evaluation)
    assert replay.peak(spliced.step) == replay.peak(whole.step)
    assert replay.works(spliced.step) == replay.works(whole.step)
    assert (spliced.trainable_params, spliced.total_params) == (whole.trainable_params, whole.total_params)
    assert spliced.weight_bytes == whole.weight_bytes


def test_three_tiles_of_the_head_stand_for_all() -> None:
    """9 tiles of rows, each with 5 chunks of words: what lies between the first and the last is recorded once."""
    model = {**FAMILIES["llama"], "num_hidden_layers": 1, "vocab_size": 36_000, "max_position_embeddings": 4096}
    plan = Plan(model=model, method="full", precision="bf16", gpu="L40S")
    few, whole = (dry_run(plan, Shape(batch=9, length=4000), whole=whole) for whole in (False, True))
    assert few.tiled_rows == (9 * 3999,) * 2, "forwards and backwards"
    assert everything_that_happens(few.step) == everything_that_happens(whole.step)
    assert replay.works(few.step) == replay.works(whole.step)
    assert replay.works(few.evaluation) == replay.works(whole.evaluation)
    assert replay.reserved(few.step) == replay.reserved(whole.step)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("aaaaaaaaaa", Depth(prefix=0, period=1, probed=4, full=10)),
        ("aabaabaabaabaabaab", Depth(prefix=0, period=3, probed=6, full=18)),
        ("dddmmmmmmmmmm", Depth(prefix=3, period=1, probed=7, full=13)),
        ("abcdefgh", Depth(prefix=0, period=8, probed=8, full=8)),
        ("aaa", Depth(prefix=0, period=3, probed=3, full=3)),
        ("aaaab" * 8, Depth(prefix=0, period=5, probed=10, full=40)),
    ],
)
def test_the_shallowest_probe_is_chosen(kinds: str, expected: Depth) -> None:
    assert plan_depth(kinds) == expected


@pytest.mark.parametrize("kinds", ["a" * 30, "aab" * 9 + "a", "xy" + "ab" * 10])
def test_a_layer_is_stood_for_by_one_of_its_kind_with_the_same_neighbours(kinds: str) -> None:
    depth = plan_depth(kinds)
    probe = [kinds[layer] for layer in depth.kept]
    assert len(probe) == depth.probed < len(kinds)
    for layer, kind in enumerate(kinds):
        assert probe[depth.probe_layer(layer)] == kind
    assert Counter(depth.probe_layer(layer) for layer in range(depth.full)).total() == len(kinds)
