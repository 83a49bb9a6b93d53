"""The model of the caching allocator, on cases whose outcome follows from the allocator's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators.allocator import MIB, CachingAllocator, most_reserved


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB + 1, 12 * MIB),
    ],
)
def test_a_first_request_takes_its_segment(size: int, segment: int) -> None:
    allocator = CachingAllocator()
    allocator.allocate("a", size)
    assert allocator.reserved == segment
    assert allocator.allocated >= size


def test_small_requests_share_a_segment() -> None:
    allocator = CachingAllocator()
    for name in range(4096):
        allocator.allocate(name, 512)
    assert allocator.reserved == allocator.allocated == 2 * MIB
    allocator.allocate("one more", 1)
    assert allocator.reserved == 4 * MIB


def test_freed_memory_is_used_again_and_neighbours_are_merged() -> None:
    allocator = CachingAllocator()
    allocator.allocate("a", 8 * MIB)
    allocator.allocate("b", 8 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.free("a")
    allocator.free("b")
    allocator.allocate("both", 9 * MIB + MIB // 2)
    allocator.allocate("rest", 9 * MIB)
    assert allocator.reserved == 20 * MIB


def test_a_gap_that_is_too_small_costs_a_new_segment() -> None:
    allocator = CachingAllocator()
    allocator.allocate("a", 100 * MIB)
    allocator.free("a")
    allocator.allocate("b", 60 * MIB)
    allocator.allocate("c", 60 * MIB)
    assert allocator.reserved == 160 * MIB


def test_batches_of_other_lengths_cost_fragmentation() -> None:
    def step(size: int) -> list[tuple[str, int]]:
        names = [f"layer {layer}" for layer in range(20)]
        return [(name, size) for name in names] + [(name, -1) for name in names]

    same = most_reserved([step(50 * MIB)] * 3, held=[])
    varied = most_reserved([step(30 * MIB), step(50 * MIB), step(30 * MIB), step(50 * MIB)], held=[])
    assert same == 1000 * MIB
    assert varied > same


sizes = st.integers(min_value=1, max_value=64 * MIB)


@given(st.lists(st.tuples(st.integers(0, 20), sizes), max_size=60))
def test_what_is_reserved_always_holds_what_is_allocated(moves: list[tuple[int, int]]) -> None:
    allocator = CachingAllocator()
    held: dict[int, int] = {}
    for name, size in moves:
        if name in held:
            allocator.free(name)
            del held[name]
        else:
            allocator.allocate(name, size)
            held[name] = size
        assert sum(held.values()) <= allocator.allocated <= allocator.reserved <= allocator.most_reserved
    for name in held:
        allocator.free(name)
    assert allocator.allocated == 0
    assert sum(size for pool in allocator._free.values() for size, _ in pool) == allocator.reserved
