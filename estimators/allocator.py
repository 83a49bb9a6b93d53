"""A model of PyTorch's CUDA caching allocator: what it reserves for a sequence of allocations.

Tensors hold less than the allocator reserves: sizes are rounded, memory is taken from the driver in segments, and a free
block may be too small for the next tensor. Replaying the recorded allocations through the allocator's own rules gives
`torch.cuda.max_memory_reserved` instead of a factor for fragmentation.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (torch 2.13): sizes are rounded up to 512 bytes; requests of at
most 1 MiB come from 2 MiB segments, of less than 10 MiB from 20 MiB segments, larger ones from a segment of their own
rounded up to 2 MiB; the smallest free block that is large enough is taken, the lowest address first; a block is split if
the rest is worth keeping; neighbours that are both free are merged.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

MIB = 2**20
ROUND = 512
SMALL_LIMIT = 1 * MIB  # kSmallSize
SMALL_SEGMENT = 2 * MIB  # kSmallBuffer
LARGE_SEGMENT = 20 * MIB  # kLargeBuffer
OWN_SEGMENT = 10 * MIB  # kMinLargeAlloc: from here on a segment of its own
SEGMENT_ROUND = 2 * MIB  # kRoundLarge


@dataclass(slots=True, eq=False)
class Block:
    """A piece of a segment, with its neighbours in it."""

    address: int
    size: int
    free: bool
    small: bool
    before: Block | None = None
    after: Block | None = None


class CachingAllocator:
    """The allocator's state. `reserved` and `allocated` are bytes now, `most_reserved` the most so far."""

    def __init__(self) -> None:
        self.reserved = self.allocated = self.most_reserved = 0
        self._next_address = 0
        self._held: dict[Hashable, Block] = {}
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # by pool: (size, address), sorted
        self._at: dict[int, Block] = {}  # free blocks by address

    def allocate(self, name: Hashable, size: int) -> None:
        """Take memory for a storage. A storage of no bytes takes none."""
        if size <= 0:
            return
        size = -(-size // ROUND) * ROUND
        small = size <= SMALL_LIMIT
        block = self._best_fit(size, small) or self._new_segment(size, small)
        self._split(block, size)
        block.free = False
        self._held[name] = block
        self.allocated += block.size

    def free(self, name: Hashable) -> None:
        """Give a storage's memory back to the allocator, which keeps it."""
        block = self._held.pop(name, None)
        if block is None:
            return
        self.allocated -= block.size
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._take_out(neighbour)
                block = _merged(*sorted((block, neighbour), key=lambda one: one.address))
        self._put_in(block)

    def _best_fit(self, size: int, small: bool) -> Block | None:
        pool = self._free[small]
        place = bisect.bisect_left(pool, (size, -1))
        if place == len(pool):
            return None
        block = self._at[pool[place][1]]
        self._take_out(block)
        return block

    def _new_segment(self, size: int, small: bool) -> Block:
        if small:
            segment = SMALL_SEGMENT
        elif size < OWN_SEGMENT:
            segment = LARGE_SEGMENT
        else:
            segment = -(-size // SEGMENT_ROUND) * SEGMENT_ROUND
        block = Block(self._next_address, segment, free=False, small=small)
        self._next_address += segment + SEGMENT_ROUND  # segments are no neighbours
        self.reserved += segment
        self.most_reserved = max(self.most_reserved, self.reserved)
        return block

    def _split(self, block: Block, size: int) -> None:
        """Keep the rest of a block, if it is worth keeping: 512 bytes in the small pool, over 1 MiB in the large one."""
        rest = block.size - size
        if rest < ROUND or (not block.small and rest <= SMALL_LIMIT):
            return
        remainder = Block(block.address + size, rest, free=True, small=block.small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = remainder
        block.after, block.size = remainder, size
        self._put_in(remainder)

    def _put_in(self, block: Block) -> None:
        bisect.insort(self._free[block.small], (block.size, block.address))
        self._at[block.address] = block

    def _take_out(self, block: Block) -> None:
        pool = self._free[block.small]
        del pool[bisect.bisect_left(pool, (block.size, block.address))]
        del self._at[block.address]


def _merged(low: Block, high: Block) -> Block:
    """Two free neighbours as one block."""
    low.size += high.size
    low.after = high.after
    if high.after is not None:
        high.after.before = low
    return low


def most_reserved(steps: Iterable[Iterable[tuple[Hashable, int]]], held: Iterable[int]) -> int:
    """The most bytes reserved while steps run one after the other.

    Args:
        steps: each a sequence of (storage, bytes), bytes above 0 for an allocation and -1 for a free; what a step leaves
            behind (its gradients) is freed at its end.
        held: the sizes that are there all the time (weights, optimizer states).
    """
    allocator = CachingAllocator()
    for number, size in enumerate(held):
        allocator.allocate(("held", number), size)
    for step in steps:
        left: dict[Hashable, None] = {}
        for name, size in step:
            if size < 0:
                allocator.free(name)
                left.pop(name, None)
            else:
                allocator.allocate(name, size)
                left[name] = None
        for name in left:
            allocator.free(name)
    return allocator.most_reserved
