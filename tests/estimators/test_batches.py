"""A step worked out from probes is the step of the dry run, to the byte; what cannot be worked out is not answered."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plan import Plan
from estimators.simulate import replay
from estimators.simulate.dry_run import Stage
from estimators.simulate.interpolate import CHECKS, Batches, Borders, Span
from estimators.simulate.recorded import DryRun, Shape
from estimators.simulate.replay import Step
from estimators.simulate.splice import Depth
from estimators.simulate.trace import Alloc, Free, Place, Ref, Segment, Work

SMALL = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 256, "max_position_embeddings": 8192}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
LLAMA = {"model_type": "llama", "num_hidden_layers": 1, **SMALL, **HEADS}
GEMMA = {"model_type": "gemma2", "num_hidden_layers": 1, "sliding_window": 1000, **SMALL, **HEADS}
CASES = {  # plan, a batch that is asked for first
    "lora": (Plan(model=LLAMA, method="lora", precision="bf16", gpu="L40S"), Shape(batch=4, length=700)),
    "checkpointing": (
        Plan(model=GEMMA, method="full", gradient_checkpointing=True, precision="bf16", gpu="L40S"),
        Shape(batch=1, length=1500),
    ),
    "qlora": (Plan(model=LLAMA, method="qlora", precision="bf16", gpu="L40S"), Shape(batch=1, length=900)),
}


def probed(batches: Batches, near: Shape) -> int:
    """Probe all that batches like this one need. Returns how many were recorded."""
    zone = batches._borders.zone(near)
    for count in range(40):
        if zone in batches._zones and batches._zones[zone].next(near) is None:
            return count
        batches.probe(near)
    raise AssertionError("it never ends")


def seconds_of_work(works: Counter[Work]) -> Counter[tuple]:
    """The works that were done at all."""
    return Counter({work: count for work, count in works.items() if count})


@pytest.fixture(scope="module", params=CASES)
def stage(request: pytest.FixtureRequest) -> tuple[Stage, Shape]:
    plan, near = CASES[request.param]
    stage = Stage(plan, on_gpu=True, whole=False)
    assert stage.batches.at(near) is None
    assert probed(stage.batches, near) <= 20
    return stage, near


def test_a_worked_out_step_is_the_recorded_one(stage: tuple[Stage, Shape]) -> None:
    a_stage, near = stage
    chance = random.Random(str(near))
    for _ in range(2):
        several = near.batch > 1
        shape = Shape(batch=chance.randint(2, 40) if several else 1, length=chance.randint(1002 if not several else 16, 8190))
        found, recorded = a_stage.batches.at(shape), a_stage.run(shape)
        assert found is not None, shape
        assert recorded is not None
        for one, other in zip(found.steps, recorded.steps, strict=True):
            assert one.sizes.tolist() == other.sizes.tolist(), shape
            assert replay.peak(one) == replay.peak(other)
            assert replay.reserved(one) == replay.reserved(other)
            assert seconds_of_work(replay.works(one)) == seconds_of_work(replay.works(other))


def test_what_was_not_probed_is_not_answered(stage: tuple[Stage, Shape]) -> None:
    a_stage, near = stage
    assert a_stage.batches.at(Shape(batch=near.batch, length=100_000)) is None
    assert a_stage.batches.at(Shape(batch=1 if near.batch > 1 else 2, length=near.length)) is None


# --- what is no polynomial ------------------------------------------------------------------------------------------

PLACE = Place("forward")
NO_DEPTH = Depth(prefix=0, period=1, probed=0, full=0)


def recorded(size: Callable[[Shape], int], kind: Callable[[Shape], str] = lambda shape: "matmul") -> Callable[[Shape], DryRun]:
    """A model of one allocation and one operation."""

    def step(shape: Shape) -> Step:
        work = Work(kind(shape), "bf16", 2 * size(shape), size(shape))
        events = [Alloc(size(shape)), Free(Ref(PLACE, 0))]
        return Step(segments=[Segment(PLACE, events, {}, Counter([work]), 1, [(work, 1)])], depth=NO_DEPTH)

    def run(shape: Shape) -> DryRun:
        return DryRun(
            step=step(shape),
            evaluate=lambda: step(shape),
            before=(),
            total_params=1,
            trainable_params=1,
            adapter_params=0,
            weight_bytes=1,
        )

    return run


NEAR = Shape(batch=4, length=300)
EXPLAINED = {
    "polynomial": lambda shape: 7 + 3 * shape.batch * shape.length + shape.batch * shape.length**2,
    "rounded up": lambda shape: 4 * shape.batch * -(-shape.length // 32) * 32,
    "pairs of rows": lambda shape: shape.batch**2 + 12 * shape.length,
}
NOT_EXPLAINED = {
    "a third power": lambda shape: shape.batch**3,
    "rounded to something else": lambda shape: shape.batch * -(-shape.length // 100) * 100,
    "a jump": lambda shape: shape.length * (1 + (shape.length > 2000)),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_can_be_explained_is_answered(name: str) -> None:
    size = EXPLAINED[name]
    batches = Batches(Borders(), 4096, recorded(size))
    probed(batches, NEAR)
    for shape in (NEAR, Shape(batch=17, length=4001), Shape(batch=1000, length=64)):
        found = batches.at(shape)
        assert found is not None
        assert replay.peak(found.step).bytes == size(shape)


@pytest.mark.parametrize("name", NOT_EXPLAINED)
def test_what_cannot_be_explained_is_not_answered(name: str) -> None:
    batches = Batches(Borders(), 4096, recorded(NOT_EXPLAINED[name]))
    probed(batches, NEAR)
    assert batches.at(NEAR) is None


def test_steps_that_do_other_things_are_not_mixed() -> None:
    batches = Batches(Borders(), 4096, recorded(lambda shape: shape.length, lambda shape: "a" if shape.length < 99 else "b"))
    probed(batches, NEAR)
    assert batches.at(NEAR) is None


def test_a_window_parts_two_zones() -> None:
    def size(shape: Shape) -> int:
        return shape.batch * min(shape.length, 1000)

    batches = Batches(Borders(windows=(1000,)), 4096, recorded(size))
    for length in (300, 3000):
        shape = Shape(batch=4, length=length)
        probed(batches, shape)
        found = batches.at(shape)
        assert found is not None
        assert replay.peak(found.step).bytes == size(shape)
    assert batches.at(Shape(batch=4, length=1000)) is None, "too near to be sure"


def test_few_tokens_are_another_zone_where_weights_are_packed() -> None:
    borders = Borders(by_tokens=(160, 512))
    assert borders.zone(Shape(batch=2, length=64)) != borders.zone(Shape(batch=2, length=640))
    assert borders.zone(Shape(batch=2, length=160)) is None


def zones() -> Iterator[tuple[Borders, Shape]]:
    for borders in (Borders(), Borders(windows=(512,), by_tokens=(160, 512)), Borders(longest=512)):
        for shape in (Shape(batch=1, length=40), Shape(batch=3, length=400)):
            yield borders, shape


@pytest.mark.parametrize(("borders", "shape"), zones())
def test_candidates_belong_to_their_zone(borders: Borders, shape: Shape) -> None:
    zone = borders.zone(shape)
    assert zone is not None
    found = borders.candidates(zone)
    assert len(found) == len(set(found)) > 6 + CHECKS
    assert {borders.zone(one) for one in found} == {zone}


# --- exact fractions --------------------------------------------------------------------------------------------------

vectors = st.lists(st.lists(st.integers(-50, 50), min_size=4, max_size=4), min_size=1, max_size=6)


@given(vectors, st.lists(st.integers(-5, 5), min_size=6, max_size=6))
def test_a_mixture_of_vectors_is_found_again(rows: list[list[int]], amounts: list[int]) -> None:
    span = Span()
    kept = [row for row in rows if span.add(row)]
    mixed = [sum(amount * row[place] for amount, row in zip(amounts, rows, strict=False)) for place in range(4)]
    found = span.mixture(mixed)
    assert found is not None
    assert [sum((part * row[place] for part, row in zip(found, kept, strict=True)), Fraction(0)) for place in range(4)] == mixed


def test_what_is_no_mixture_is_not_found() -> None:
    span = Span()
    assert span.add([1, 0, 0])
    assert span.add([1, 1, 0])
    assert not span.add([5, 3, 0])
    assert span.mixture([0, 0, 1]) is None
