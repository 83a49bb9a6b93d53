"""The model of the caching allocator, on cases whose outcome follows from the allocator's rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators.simulate.caching_allocator import MIB, CachingAllocator, Late, most_reserved

Moves = list[tuple[int, int]]  # (name, bytes, or -1 to free)


def after(moves: Moves, limit: int | None = None) -> CachingAllocator:
    """An allocator that has made these moves, where the driver has so much."""
    allocator = CachingAllocator()
    allocator.replay(*arrays(moves), limit=limit)
    return allocator


def arrays(moves: Moves) -> tuple[np.ndarray, np.ndarray]:
    names, sizes = np.array(moves, dtype=np.int64).reshape(-1, 2).T
    return names, sizes


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
    allocator = after([(0, size)])
    assert allocator.reserved == segment
    assert allocator.allocated >= size


def test_small_requests_share_a_segment() -> None:
    full = [(name, 512) for name in range(4096)]
    assert after(full).reserved == after(full).allocated == 2 * MIB
    assert after([*full, (5000, 1)]).reserved == 4 * MIB


def test_freed_memory_is_used_again_and_neighbours_are_merged() -> None:
    two = [(0, 8 * MIB), (1, 8 * MIB)]
    assert after(two).reserved == 20 * MIB
    assert after([*two, (0, -1), (1, -1), (2, 9 * MIB + MIB // 2), (3, 9 * MIB)]).reserved == 20 * MIB


def test_a_gap_that_is_too_small_costs_a_new_segment() -> None:
    assert after([(0, 100 * MIB), (0, -1), (1, 60 * MIB), (2, 60 * MIB)]).reserved == 160 * MIB


def test_an_allocator_without_more_memory_gives_back_what_is_wholly_free() -> None:
    """`release_cached_blocks`: 100 free MiB go back to make room for 150; those beside 1 held MiB cannot."""
    moves = [(0, 100 * MIB), (0, -1), (1, 150 * MIB)]
    assert after(moves).most_reserved == 250 * MIB
    assert after(moves, 200 * MIB).most_reserved == 150 * MIB
    split = [(0, 100 * MIB), (0, -1), (1, 20 * MIB), (2, 150 * MIB)]
    assert after(split, 200 * MIB).most_reserved == 250 * MIB, "it cannot do without"


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    made = [(name, size * MIB) for name, size in enumerate((40, 12, 30))]
    freed = [(name, -1) for name in range(3)]
    again = [(3, 29 * MIB), (4, 11 * MIB), (5, 39 * MIB)]
    assert after([*made, *freed, *again]).reserved == 82 * MIB


@pytest.mark.parametrize("gib", [1, 8, 40, 700, 9000])
def test_blocks_of_any_size_are_used_again(gib: int) -> None:
    size = gib * 1024 * MIB
    assert after([(0, size), (0, -1), (1, size // 2), (2, size // 2)]).reserved == size
    assert after([(0, size), (1, 20 * MIB), (0, -1), (1, -1), (2, size), (3, 20 * MIB)]).reserved == size + 20 * MIB


def test_a_rest_of_at_most_1_mib_stays_with_its_large_block() -> None:
    kept = [(0, 20 * MIB), (0, -1), (1, 19 * MIB)]
    assert after(kept).allocated == 20 * MIB
    assert after([*kept, (1, -1), (2, 19 * MIB - 512)]).allocated == 19 * MIB - 512


def test_batches_of_other_lengths_cost_fragmentation() -> None:
    def step(size: int) -> tuple[np.ndarray, np.ndarray]:
        return arrays([(name, size) for name in range(20)] + [(name, -1) for name in range(20)])

    nothing = np.array([], dtype=np.int64)
    same = most_reserved([step(50 * MIB)] * 3, nothing)
    varied = most_reserved([step(30 * MIB), step(50 * MIB), step(30 * MIB), step(50 * MIB)], nothing)
    assert same == 1000 * MIB
    assert varied > same


sizes = st.integers(min_value=1, max_value=64 * MIB)


@given(st.lists(st.tuples(st.integers(0, 20), sizes), max_size=60), st.none() | st.integers(0, 400 * MIB))
def test_what_is_reserved_always_holds_what_is_allocated(wishes: list[tuple[int, int]], limit: int | None) -> None:
    moves: Moves = []
    held: dict[int, tuple[int, int]] = {}  # slot -> (name, bytes)
    for name, (slot, size) in enumerate(wishes):
        if slot in held:
            moves.append((held.pop(slot)[0], -1))
        else:
            moves.append((name, size))
            held[slot] = name, size
        allocator = after(moves, limit)
        assert sum(size for _, size in held.values()) <= allocator.allocated <= allocator.reserved <= allocator.most_reserved
    moves += [(name, -1) for name, _ in held.values()]
    assert after(moves, limit).allocated == 0
    if limit is not None and after(moves).reserved <= limit:
        assert after(moves, limit).reserved == after(moves).reserved, "nothing is given back without need"


def test_what_a_step_leaves_behind_is_freed_before_the_next() -> None:
    leaving = arrays([(0, 50 * MIB)])
    assert most_reserved([leaving, leaving], np.array([30 * MIB, 0])) == 80 * MIB


def test_what_the_first_step_leaves_behind_is_in_the_way_of_the_next() -> None:
    """Optimizer states find room in the gap of the first batch's 100 MiB, so the second batch needs new memory."""
    step = arrays([(0, 100 * MIB), (0, -1), (1, 20 * MIB), (1, -1)])
    states = np.array([60 * MIB])
    assert most_reserved([step, step], states) == 160 * MIB, "made before"
    assert most_reserved([step, step], states[:0], late=Late(step=0, move=2, sizes=states)) == 200 * MIB


def test_what_happened_before_leaves_gaps() -> None:
    step = arrays([(0, 100 * MIB), (0, -1)])
    loading = arrays([(0, 150 * MIB), (1, 30 * MIB), (0, -1)])
    assert most_reserved([step], np.array([], dtype=np.int64), first=loading) == 180 * MIB
