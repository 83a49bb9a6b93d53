"""A model of PyTorch's CUDA caching allocator: what it reserves for a sequence of allocations.

Tensors hold less than the allocator reserves: sizes are rounded, memory is taken from the driver in segments, and a free
block may be too small for the next tensor. Replaying the recorded allocations through the allocator's own rules gives
`torch.cuda.max_memory_reserved` instead of a factor for fragmentation.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (torch 2.13): sizes are rounded up to 512 bytes; requests of at
most 1 MiB come from 2 MiB segments, of less than 10 MiB from 20 MiB segments, larger ones from a segment of their own
rounded up to 2 MiB; the smallest free block that is large enough is taken, the lowest address first; a block is split if
the rest is worth keeping; neighbours that are both free are merged. What is reserved is given back only where the driver
has no more: then all segments that are wholly free are, and the request is made once more (`release_cached_blocks`).

With `expandable_segments:True` each pool is one segment that grows at its end by pages of 2 or 20 MiB, and every rest is
split off: gaps between blocks remain, those between segments do not.

Small and large requests have a pool each, and neither sees the other, so each is replayed by itself. A step of a deep
model is tens of thousands of moves and a person waits for it: the loop over them is compiled (numba), on first use.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from engine.system import home

if not os.access(Path(__file__).parent, os.W_OK):  # numba keeps what it compiled beside the source, or fails
    numba.config.CACHE_DIR = numba.config.CACHE_DIR or str(home.home() / "compiled")

MIB = 2**20
ROUND = 512
SMALL_LIMIT = 1 * MIB  # kSmallSize
SMALL_SEGMENT = 2 * MIB  # kSmallBuffer
LARGE_SEGMENT = 20 * MIB  # kLargeBuffer
OWN_SEGMENT = 10 * MIB  # kMinLargeAlloc: from here on a segment of its own
SEGMENT_ROUND = 2 * MIB  # kRoundLarge

START, SIZE, BEFORE, AFTER, FREE = range(5)  # of a block: units, units, its neighbours in the segment or -1, 0 or 1
# Of a pool's totals: TAIL is the last block of one that grows, UNUSED the first of those that became part of others; MOST is
# the most that was ever reserved, LIMIT what the driver has (or -1).
RESERVED, NEXT_ADDRESS, BLOCKS, CHUNKS, TAIL, UNUSED, MOST, LIMIT = range(8)
UNITS, ADDRESS, BLOCK = range(3)  # of an entry in the list of free blocks, by which it is sorted; and which block it is
CHUNK = 32  # entries of a piece of that list: it is sorted piece by piece, so that a move shifts few of thousands
Lists = tuple[np.ndarray, np.ndarray, np.ndarray]  # the free blocks in chunks, the lengths of the chunks, their order


_inlined = numba.njit(cache=True, inline="always")  # a call costs as much as what these small functions do


class Pool:
    """The free and the held blocks of one pool. Sizes and addresses are in units of 512 bytes."""

    def __init__(self, *, small: bool, expandable: bool = False) -> None:
        self.small = small
        self.expandable = expandable
        self._totals = np.array([0, 0, 0, 0, -1, -1, 0, -1], dtype=np.int64)
        self._blocks = np.zeros((0, 5), dtype=np.int64)
        self._free = np.zeros((0, 3, CHUNK), dtype=np.int64)  # the list of free blocks, in chunks
        self._lengths = np.zeros(0, dtype=np.int64)  # of the chunks
        self._order = np.zeros(0, dtype=np.int64)  # the chunks in use from the smallest blocks to the largest, then the others
        self._block_of = np.zeros(0, dtype=np.int64)  # by name

    def copy(self) -> Pool:
        """The same state, to go on from."""
        other = Pool(small=self.small, expandable=self.expandable)
        for name in ("_totals", "_blocks", "_free", "_lengths", "_order", "_block_of"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def forget_names(self) -> None:
        """What is held now stays for good: its names are free for others."""
        self._block_of = np.zeros(0, dtype=np.int64)

    @property
    def reserved(self) -> int:
        """Units that were taken from the driver."""
        return int(self._totals[RESERVED])

    @property
    def most(self) -> int:
        """The most units that were reserved at once."""
        return int(self._totals[MOST])

    def limit(self, units: int) -> None:
        """From so many units on, what is cached is given back before more is taken."""
        self._totals[LIMIT] = units

    @property
    def free(self) -> int:
        """Units that are reserved and not held."""
        blocks = self._blocks[: self._totals[BLOCKS]]
        return int(blocks[blocks[:, FREE] == 1, SIZE].sum())

    def replay(self, names: np.ndarray, sizes: np.ndarray) -> None:
        """Allocate `sizes` units for `names`, one after the other; a size of 0 frees what the name holds."""
        most = int(self._totals[BLOCKS]) + 2 * int(np.count_nonzero(sizes))  # blocks: an allocation makes two at most
        chunks = 2 * most // CHUNK + 2  # each is half full at least, but the last one
        self._blocks, self._block_of = _widened(self._blocks, most), _widened(self._block_of, int(names.max(initial=-1)) + 1)
        self._free, self._lengths = _widened(self._free, chunks), _widened(self._lengths, chunks)
        self._order = np.append(self._order, np.arange(len(self._order), len(self._free)))
        lists = (self._free, self._lengths, self._order)
        _replay(names, sizes, self._blocks, lists, self._block_of, self._totals, self.small, self.expandable)


def _widened(array: np.ndarray, length: int) -> np.ndarray:
    """The array with at least so many rows."""
    if len(array) >= length:
        return array
    wider = np.zeros((length, *array.shape[1:]), dtype=np.int64)  # what is never touched takes no memory
    wider[: len(array)] = array
    return wider


@numba.njit(cache=True, nogil=True)
def _replay(
    names: np.ndarray,
    sizes: np.ndarray,
    blocks: np.ndarray,
    lists: Lists,
    block_of: np.ndarray,
    totals: np.ndarray,
    small: bool,
    expandable: bool,
) -> None:
    """The moves of `Pool.replay`, on its arrays."""
    least_rest = 1 if small or expandable else SMALL_LIMIT // ROUND + 1  # that is split off
    for move in range(len(names)):
        name, size = names[move], sizes[move]
        if size:
            block = _take_best(size, blocks, lists, totals)
            if block < 0:
                if expandable:
                    block = _expand(size, blocks, lists, totals, small)
                else:
                    block = _new_segment(size, blocks, lists, totals, small)
            if blocks[block, SIZE] - size >= least_rest:
                _split(block, size, blocks, lists, totals)
            block_of[name] = block
        else:
            block = block_of[name]
            after = blocks[block, AFTER]
            if after >= 0 and blocks[after, FREE]:
                _take(after, blocks, lists, totals)
                _merge(block, after, blocks, totals)
            before = blocks[block, BEFORE]
            if before >= 0 and blocks[before, FREE]:
                _take(before, blocks, lists, totals)
                _merge(before, block, blocks, totals)
                block = before
            _give(block, blocks, lists, totals)


# --- the list of free blocks ------------------------------------------------------------------------------------------


@_inlined
def _find(size: int, start: int, lists: Lists, totals: np.ndarray) -> tuple[int, int]:
    """(the place of a chunk in the order, the place in it) of the first entry that does not come before these two."""
    free, lengths, order = lists
    low, high = 0, totals[CHUNKS]
    while low < high:
        middle = (low + high) // 2
        if _before(free, order[middle], lengths[order[middle]] - 1, size, start):
            low = middle + 1
        else:
            high = middle
    if low == totals[CHUNKS]:
        return low, 0
    chunk = order[low]
    first, behind = 0, lengths[chunk]
    while first < behind:
        middle = (first + behind) // 2
        if _before(free, chunk, middle, size, start):
            first = middle + 1
        else:
            behind = middle
    return low, first


@_inlined
def _before(free: np.ndarray, chunk: int, place: int, size: int, start: int) -> bool:
    """Whether an entry is smaller than `size`, or as large and lower than `start`."""
    units = free[chunk, UNITS, place]
    return units < size or (units == size and free[chunk, ADDRESS, place] < start)


@_inlined
def _take_best(size: int, blocks: np.ndarray, lists: Lists, totals: np.ndarray) -> int:
    """The smallest free block that is large enough, no longer free; -1 if there is none."""
    at, place = _find(size, 0, lists, totals)
    if at == totals[CHUNKS]:
        return -1
    block = lists[0][lists[2][at], BLOCK, place]
    _remove(at, place, lists, totals)
    blocks[block, FREE] = 0
    return block


@_inlined
def _take(block: int, blocks: np.ndarray, lists: Lists, totals: np.ndarray) -> None:
    """This block is no longer free."""
    at, place = _find(blocks[block, SIZE], blocks[block, START], lists, totals)
    _remove(at, place, lists, totals)
    blocks[block, FREE] = 0


@_inlined
def _remove(at: int, place: int, lists: Lists, totals: np.ndarray) -> None:
    """Take an entry off its chunk, and a chunk that is empty out of use."""
    free, lengths, order = lists
    chunk = order[at]
    lengths[chunk] -= 1
    for index in range(place, lengths[chunk]):
        for column in range(3):
            free[chunk, column, index] = free[chunk, column, index + 1]
    if lengths[chunk] == 0:
        totals[CHUNKS] -= 1
        for index in range(at, totals[CHUNKS]):
            order[index] = order[index + 1]
        order[totals[CHUNKS]] = chunk


@_inlined
def _give(block: int, blocks: np.ndarray, lists: Lists, totals: np.ndarray) -> None:
    """This block is free from now on."""
    free, lengths, order = lists
    size, start = blocks[block, SIZE], blocks[block, START]
    at, place = _find(size, start, lists, totals)
    if at == totals[CHUNKS]:  # behind all others
        if at == 0:
            totals[CHUNKS] = 1
        at = totals[CHUNKS] - 1
        place = lengths[order[at]]
    chunk = order[at]
    if lengths[chunk] == CHUNK:
        other = _halve(at, lists, totals)
        if place > CHUNK // 2:
            chunk, place = other, place - CHUNK // 2
    for index in range(lengths[chunk], place, -1):
        for column in range(3):
            free[chunk, column, index] = free[chunk, column, index - 1]
    free[chunk, UNITS, place], free[chunk, ADDRESS, place], free[chunk, BLOCK, place] = size, start, block
    lengths[chunk] += 1
    blocks[block, FREE] = 1


@numba.njit(cache=True)
def _halve(at: int, lists: Lists, totals: np.ndarray) -> int:
    """Move the second half of a full chunk into one of its own, the next in the order. Returns that chunk."""
    free, lengths, order = lists
    chunk, other = order[at], order[totals[CHUNKS]]
    for index in range(totals[CHUNKS], at + 1, -1):
        order[index] = order[index - 1]
    order[at + 1] = other
    totals[CHUNKS] += 1
    half = CHUNK // 2
    for index in range(half):
        for column in range(3):
            free[other, column, index] = free[chunk, column, half + index]
    lengths[chunk] = lengths[other] = half
    return other


# --- blocks -----------------------------------------------------------------------------------------------------------


@_inlined
def _merge(left: int, right: int, blocks: np.ndarray, totals: np.ndarray) -> None:
    """Make two neighbours one block, the left one."""
    after = blocks[right, AFTER]
    blocks[left, SIZE] += blocks[right, SIZE]
    blocks[left, AFTER] = after
    if after >= 0:
        blocks[after, BEFORE] = left
    if totals[TAIL] == right:
        totals[TAIL] = left
    blocks[right, FREE], blocks[right, AFTER] = 0, totals[UNUSED]
    totals[UNUSED] = right


@_inlined
def _split(block: int, size: int, blocks: np.ndarray, lists: Lists, totals: np.ndarray) -> None:
    """Leave a block `size` units, and free what is behind them."""
    rest = _new_block(blocks[block, START] + size, blocks[block, SIZE] - size, block, blocks, totals)
    after = blocks[block, AFTER]
    blocks[block, SIZE], blocks[block, AFTER], blocks[rest, AFTER] = size, rest, after
    if after >= 0:
        blocks[after, BEFORE] = rest
    if totals[TAIL] == block:
        totals[TAIL] = rest
    _give(rest, blocks, lists, totals)


@_inlined
def _new_block(start: int, size: int, before: int, blocks: np.ndarray, totals: np.ndarray) -> int:
    """A held block, the last one of its segment."""
    block = totals[UNUSED]
    if block >= 0:
        totals[UNUSED] = blocks[block, AFTER]
    else:
        block = totals[BLOCKS]
        totals[BLOCKS] += 1
    blocks[block, START], blocks[block, SIZE] = start, size
    blocks[block, BEFORE], blocks[block, AFTER], blocks[block, FREE] = before, -1, 0
    return block


@numba.njit(cache=True)
def _new_segment(size: int, blocks: np.ndarray, lists: Lists, totals: np.ndarray, small: bool) -> int:
    """A block that is taken from the driver."""
    wanted = size * ROUND
    if small:
        segment = SMALL_SEGMENT
    elif wanted < OWN_SEGMENT:
        segment = LARGE_SEGMENT
    else:
        segment = -(-wanted // SEGMENT_ROUND) * SEGMENT_ROUND
    units, address = segment // ROUND, totals[NEXT_ADDRESS]
    if 0 <= totals[LIMIT] < totals[RESERVED] + units:
        _give_back(blocks, lists, totals)
    totals[NEXT_ADDRESS] += units
    totals[RESERVED] += units
    totals[MOST] = max(totals[MOST], totals[RESERVED])
    return _new_block(address, units, -1, blocks, totals)


@numba.njit(cache=True)
def _give_back(blocks: np.ndarray, lists: Lists, totals: np.ndarray) -> None:
    """Return every segment that is one free block to the driver."""
    free, lengths, order = lists
    for at in range(totals[CHUNKS] - 1, -1, -1):
        for place in range(lengths[order[at]] - 1, -1, -1):
            block = free[order[at], BLOCK, place]
            if blocks[block, BEFORE] < 0 and blocks[block, AFTER] < 0:
                last = lengths[order[at]] == 1  # its chunk goes out of use with it
                totals[RESERVED] -= blocks[block, SIZE]
                _remove(at, place, lists, totals)
                blocks[block, FREE], blocks[block, AFTER] = 0, totals[UNUSED]
                totals[UNUSED] = block
                if last:
                    break


@numba.njit(cache=True)
def _expand(size: int, blocks: np.ndarray, lists: Lists, totals: np.ndarray, small: bool) -> int:
    """A block at the end of the one segment, which grows by whole pages: what is free there counts."""
    page = (SMALL_SEGMENT if small else LARGE_SEGMENT) // ROUND
    tail = totals[TAIL]
    has = 0
    if tail >= 0 and blocks[tail, FREE]:
        has = blocks[tail, SIZE]
        _take(tail, blocks, lists, totals)
    more = -(-(size - has) // page) * page
    if has:
        blocks[tail, SIZE] += more
    else:
        block = _new_block(totals[NEXT_ADDRESS], more, tail, blocks, totals)
        if tail >= 0:
            blocks[tail, AFTER] = block
        totals[TAIL] = block
    totals[NEXT_ADDRESS] += more
    totals[RESERVED] += more
    totals[MOST] = max(totals[MOST], totals[RESERVED])
    return totals[TAIL]


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
    def most_reserved(self) -> int:
        return (self._small.most + self._large.most) * ROUND

    @property
    def allocated(self) -> int:
        """With what a block has beyond its request."""
        return self.reserved - (self._small.free + self._large.free) * ROUND

    def forget_names(self) -> None:
        """What is held now stays for good: its names are free for others."""
        for pool in (self._small, self._large):
            pool.forget_names()

    def replay(self, names: np.ndarray, sizes: np.ndarray, *, limit: int | None = None) -> None:
        """Allocate and free storages in this order.

        Args:
            names: int64 [moves], of the storages: each is allocated once, and may be freed later.
            sizes: int64 [moves]: bytes of an allocation (none take no memory), -1 for a free.
            limit: bytes that the driver has: beyond them, what is cached is given back before more is taken. What the small
                requests take is no longer there for the large.
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
            if limit is not None and pool is self._large:
                pool.limit(max(0, limit // ROUND - self._small.reserved))
            pool.replay(names[of_pool], units[of_pool])


def compile() -> None:
    """Compile the loop over the moves, if no earlier process has: some seconds, once after an installation."""
    CachingAllocator().replay(np.array([0, 0]), np.array([1, -1]))


Moves = tuple[np.ndarray, np.ndarray]  # the names and the sizes of `CachingAllocator.replay`


class Late(NamedTuple):
    """Storages that are made within the steps and then stay: before this move of this step; int64, their sizes."""

    step: int
    move: int
    sizes: np.ndarray


@functools.lru_cache(maxsize=16)
def _holding(sizes: bytes, expandable: bool, first: tuple[bytes, bytes] | None) -> CachingAllocator:
    """An allocator that holds storages of these sizes (int64, as bytes) for good, after these first moves."""
    allocator = CachingAllocator(expandable=expandable)
    if first is not None:
        allocator.replay(*(np.frombuffer(values, dtype=np.int64) for values in first))
        allocator.forget_names()
    held = np.frombuffer(sizes, dtype=np.int64)
    allocator.replay(np.arange(len(held)), held)
    allocator.forget_names()
    return allocator


def _as_bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype=np.int64).tobytes()


def most_reserved(
    steps: Sequence[Moves],
    held: np.ndarray,
    *,
    expandable: bool = False,
    limit: int | None = None,
    first: Moves | None = None,
    late: Late | None = None,
) -> int:
    """The most bytes reserved while steps run one after the other.

    Args:
        steps: of each, what it allocates and frees; what it leaves behind (its gradients) is freed at its end.
        held: int64, the sizes that are there all the time (weights, optimizer states).
        expandable: with `expandable_segments:True`, which knows no limit here.
        limit: bytes that the driver has. More than that is what they cannot do without.
        first: what happens before; what it leaves is there all the time, too.
        late: what is made on the way.
    """
    before = (_as_bytes(first[0]), _as_bytes(first[1])) if first is not None else None
    allocator = _holding(_as_bytes(held), expandable, before).copy()
    for number, (names, sizes) in enumerate(steps):
        count = int(names.max(initial=-1)) + 1
        lives = np.zeros(count, dtype=bool)
        lives[names[sizes >= 0]] = True
        lives[names[sizes < 0]] = False
        left = np.flatnonzero(lives)
        if late is not None and late.step == number:
            at = np.full(len(late.sizes), late.move)
            names, sizes = np.insert(names, at, count + np.arange(len(at))), np.insert(sizes, at, late.sizes)
        allocator.replay(np.concatenate([names, left]), np.concatenate([sizes, np.full(len(left), -1)]), limit=limit)
    return allocator.most_reserved
