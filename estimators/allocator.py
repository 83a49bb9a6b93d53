"""A model of PyTorch's CUDA caching allocator: what it reserves for a sequence of allocations.

Tensors hold less than the allocator reserves: sizes are rounded, memory is taken from the driver in segments, and a free
block may be too small for the next tensor. Replaying the recorded allocations through the allocator's own rules gives
`torch.cuda.max_memory_reserved` instead of a factor for fragmentation.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (torch 2.13): sizes are rounded up to 512 bytes; requests of at
most 1 MiB come from 2 MiB segments, of less than 10 MiB from 20 MiB segments, larger ones from a segment of their own
rounded up to 2 MiB; the smallest free block that is large enough is taken, the lowest address first; a block is split if
the rest is worth keeping; neighbours that are both free are merged. What is reserved is never given back.

With `expandable_segments:True` each pool is one segment that grows at its end by pages of 2 or 20 MiB, and every rest is
split off: gaps between blocks remain, those between segments do not.

Small and large requests have a pool each, and neither sees the other, so each is replayed by itself. A step of a deep
model is tens of thousands of moves and a person waits for it: `Pool.replay` is one loop over plain numbers.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence

import numpy as np

MIB = 2**20
ROUND = 512
SMALL_LIMIT = 1 * MIB  # kSmallSize
SMALL_SEGMENT = 2 * MIB  # kSmallBuffer
LARGE_SEGMENT = 20 * MIB  # kLargeBuffer
OWN_SEGMENT = 10 * MIB  # kMinLargeAlloc: from here on a segment of its own
SEGMENT_ROUND = 2 * MIB  # kRoundLarge

ADDRESS_BITS = 40  # of a key of the list of free blocks: addresses in units of 512 bytes, below 2^40 of them


class Pool:
    """The free and the held blocks of one pool. Sizes and addresses are in units of 512 bytes."""

    def __init__(self, *, small: bool, expandable: bool = False) -> None:
        self.small = small
        self.expandable = expandable
        self.reserved = 0
        self._next_address = 0
        self._keys: list[int] = []  # the free blocks as size * 2^ADDRESS_BITS + address, sorted
        self._size_at: dict[int, int] = {}  # start of a free block -> its size
        self._start_of: dict[int, int] = {}  # end of a free block -> its start
        self._held: dict[int, tuple[int, int]] = {}  # name -> (address, size)

    def copy(self) -> Pool:
        """The same state, to go on from."""
        other = Pool(small=self.small, expandable=self.expandable)
        other.reserved, other._next_address, other._keys = self.reserved, self._next_address, list(self._keys)
        other._size_at, other._start_of, other._held = dict(self._size_at), dict(self._start_of), dict(self._held)
        return other

    def forget_names(self) -> None:
        """What is held now stays for good: its names are free for others."""
        self._held = {}

    @property
    def free(self) -> int:
        """Units that are reserved and not held."""
        return sum(self._size_at.values())

    def replay(self, names: Sequence[int], sizes: Sequence[int]) -> None:
        """Allocate `sizes` units for `names`, one after the other; a size of 0 frees what the name holds."""
        keys, size_at, start_of, held = self._keys, self._size_at, self._start_of, self._held
        find, insert = bisect.bisect_left, bisect.insort
        least_rest = 1 if self.small or self.expandable else SMALL_LIMIT // ROUND + 1  # that is split off
        mask = (1 << ADDRESS_BITS) - 1
        for name, size in zip(names, sizes, strict=True):
            if size:
                place = find(keys, size << ADDRESS_BITS)
                if place < len(keys):
                    key = keys.pop(place)
                    block, address = key >> ADDRESS_BITS, key & mask
                    del size_at[address], start_of[address + block]
                else:
                    block, address = self._new_segment(size)
                rest = block - size
                if rest < least_rest:
                    held[name] = address, block
                    continue
                held[name] = address, size
                start, end = address + size, address + block
            else:
                start, size = held.pop(name)
                end = start + size
                after = size_at.pop(end, 0)
                if after:
                    del keys[find(keys, after << ADDRESS_BITS | end)]
                    end += after
                before = start_of.pop(start, -1)
                if before >= 0:
                    del keys[find(keys, start - before << ADDRESS_BITS | before)]
                    start = before
                rest = end - start
            size_at[start], start_of[end] = rest, start
            insert(keys, rest << ADDRESS_BITS | start)

    def _new_segment(self, size: int) -> tuple[int, int]:
        """(units, address) of a block that is taken from the driver."""
        if self.expandable:
            return self._expand(size)
        wanted = size * ROUND
        if self.small:
            segment = SMALL_SEGMENT
        elif wanted < OWN_SEGMENT:
            segment = LARGE_SEGMENT
        else:
            segment = -(-wanted // SEGMENT_ROUND) * SEGMENT_ROUND
        units, address = segment // ROUND, self._next_address
        self._next_address += units + 1  # segments are no neighbours
        self.reserved += units
        return units, address

    def _expand(self, size: int) -> tuple[int, int]:
        """(units, address) of a block at the end of the one segment, which grows by whole pages: what is free there counts."""
        page = (SMALL_SEGMENT if self.small else LARGE_SEGMENT) // ROUND
        start = self._start_of.pop(self._next_address, self._next_address)
        if start < self._next_address:
            free = self._size_at.pop(start)
            del self._keys[bisect.bisect_left(self._keys, free << ADDRESS_BITS | start)]
        more = -(-(start + size - self._next_address) // page) * page
        self._next_address += more
        self.reserved += more
        return self._next_address - start, start


class CachingAllocator:
    """Both pools. `reserved` and `allocated` are bytes."""

    def __init__(self, pools: tuple[Pool, Pool] | None = None, *, expandable: bool = False) -> None:
        pools = pools or (Pool(small=True, expandable=expandable), Pool(small=False, expandable=expandable))
        self._small, self._large = pools

    def copy(self) -> CachingAllocator:
        """The same state, to go on from."""
        return CachingAllocator((self._small.copy(), self._large.copy()))

    @property
    def reserved(self) -> int:
        return (self._small.reserved + self._large.reserved) * ROUND

    @property
    def allocated(self) -> int:
        """With what a block has beyond its request."""
        return self.reserved - (self._small.free + self._large.free) * ROUND

    def forget_names(self) -> None:
        """What is held now stays for good: its names are free for others."""
        for pool in (self._small, self._large):
            pool.forget_names()

    def replay(self, names: np.ndarray, sizes: np.ndarray) -> None:
        """Allocate and free storages in this order.

        Args:
            names: int64 [moves], of the storages: each is allocated once, and may be freed later.
            sizes: int64 [moves]: bytes of an allocation (none take no memory), -1 for a free.
        """
        size_of = np.zeros(int(names.max(initial=-1)) + 1, dtype=np.int64)
        taken = sizes >= 0
        size_of[names[taken]] = sizes[taken]
        bytes_of_name = size_of[names]
        units = np.where(taken, -(-sizes // ROUND), 0)
        for pool, of_pool in (
            (self._small, (bytes_of_name > 0) & (bytes_of_name <= SMALL_LIMIT)),
            (self._large, bytes_of_name > SMALL_LIMIT),
        ):
            pool.replay(names[of_pool].tolist(), units[of_pool].tolist())


@functools.lru_cache(maxsize=16)
def _holding(sizes: bytes, expandable: bool) -> CachingAllocator:
    """An allocator that holds storages of these sizes (int64, as bytes) for good."""
    held = np.frombuffer(sizes, dtype=np.int64)
    allocator = CachingAllocator(expandable=expandable)
    allocator.replay(np.arange(len(held)), held)
    allocator.forget_names()
    return allocator


def most_reserved(steps: Sequence[tuple[np.ndarray, np.ndarray]], held: np.ndarray, *, expandable: bool = False) -> int:
    """The most bytes reserved while steps run one after the other.

    Args:
        steps: of each the names and the sizes of `CachingAllocator.replay`; what a step leaves behind (its gradients) is
            freed at its end.
        held: int64, the sizes that are there all the time (weights, optimizer states).
        expandable: with `expandable_segments:True`.
    """
    allocator = _holding(np.ascontiguousarray(held, dtype=np.int64).tobytes(), expandable).copy()
    for names, sizes in steps:
        left = np.setdiff1d(names[sizes >= 0], names[sizes < 0])
        allocator.replay(np.concatenate([names, left]), np.concatenate([sizes, np.full(len(left), -1)]))
    return allocator.reserved
