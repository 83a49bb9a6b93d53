"""What FSDP has allocated and freed when a model is on its GPUs: it leaves gaps that the training's tensors must fit into.

FSDP takes the model from the computer's memory unit by unit, the innermost first. A unit's parameters are copied to the
GPU, broadcast in buckets, put together as one flat parameter, and cut: only the GPU's shard stays
(`_init_param_handle_from_module` of torch/distributed/fsdp/_init_utils.py, `shard` of _flat_param.py). Under PEFT's
`fsdp_auto_wrap_policy` each layer is a unit, each trained module in it one of its own, and the rest of the model the last.

    found = units(model, depth)                      # by the dry run
    loading = wrapped(found, n, ...)                 # the moves of one GPU's allocator
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from estimators.simulate.fake_weights import held_by
from estimators.simulate.layers import base_of, find_stack
from estimators.simulate.splice import Depth

BUCKET = 250 * 2**20  # PARAM_BROADCAST_BUCKET_SIZE of torch/distributed/fsdp/_init_utils.py
IN_FLIGHT = 2  # buckets that are broadcast at once (kMaxInFlight of torch/csrc/distributed/c10d/comm.cpp)


@dataclass(frozen=True)
class Unit:
    """One layer, or what is in none. Bytes of each of its parameters, and of the scales of those that are quantised.

    The scales are in no parameter, so FSDP knows nothing of them: every GPU has them all, offloaded or not.
    """

    frozen: tuple[int, ...]
    trained: tuple[int, ...]
    scales: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """All that FSDP splits."""
        return sum(self.frozen) + sum(self.trained)


@dataclass(frozen=True)
class Units:
    """A model as FSDP splits it: its layers at full depth, and the rest."""

    layers: tuple[Unit, ...]
    outside: Unit

    @property
    def scales(self) -> int:
        """Bytes of all scales."""
        return sum(sum(unit.scales) for unit in (*self.layers, self.outside))

    @property
    def frozen(self) -> bool:
        """Whether layers are frozen: then what is trained in them is in units of its own."""
        return any(unit.frozen for unit in self.layers)

    @property
    def count(self) -> int:
        """How many units FSDP gathers one by one; the outermost stays."""
        return len(self.layers) + (sum(len(unit.trained) for unit in self.layers) if self.frozen else 0)


NO_UNITS = Units(layers=(), outside=Unit((), (), ()))


@dataclass(frozen=True, eq=False)
class Loading:
    """The moves of an allocator while a model is loaded, as `CachingAllocator.replay` takes them, and the bytes that stay."""

    names: np.ndarray
    sizes: np.ndarray
    left: int


def units(model: torch.nn.Module, depth: Depth) -> Units:
    """The units of the full stack, of a probe that stands for it. Parameters that several layers share count once, outside."""
    stack = find_stack(base_of(model))
    of_layers = [_unit(layer.parameters(), set()) for layer in stack[1]] if stack is not None else []
    inside = {id(parameter) for layer in stack[1] for parameter in layer.parameters()} if stack is not None else set()
    layers = tuple(of_layers[depth.probe_layer(layer)] for layer in range(depth.full)) if of_layers else ()
    return Units(layers=layers, outside=_unit(model.parameters(), inside))


def _unit(parameters: Iterable[torch.nn.Parameter], others: set[int]) -> Unit:
    own = [parameter for parameter in parameters if id(parameter) not in others]
    return Unit(
        frozen=tuple(parameter.nbytes for parameter in own if not parameter.requires_grad),
        trained=tuple(parameter.nbytes for parameter in own if parameter.requires_grad),
        scales=tuple(scale.nbytes for parameter in own for scale in held_by(parameter)[1:]),
    )


@functools.lru_cache(maxsize=16)
def wrapped(found: Units, n: int, *, widened: float, offloaded: bool) -> Loading:
    """What one of n GPUs allocates and frees until the last unit is wrapped.

    Args:
        found: the model's units.
        n: GPUs.
        widened: how many times larger what is trained is kept than it was loaded (accelerate turns it into fp32).
        offloaded: whether the shards go back to the computer's memory.
    """
    moves = _Moves()
    for unit in (*found.layers, found.outside):
        trained = [round(size * widened) for size in unit.trained]
        for size in unit.scales:
            moves.take(size)
        if found.frozen:
            for size in trained:
                moves.wrap([size], n, offloaded)
        moves.wrap([*unit.frozen, *([] if found.frozen else trained)], n, offloaded)
    return moves.done()


class _Moves:
    """Allocations and frees, in order."""

    def __init__(self) -> None:
        self._names: list[int] = []
        self._sizes: list[int] = []
        self._held: dict[int, int] = {}

    def take(self, size: int) -> int:
        """Allocate; returns the storage's name."""
        name = len(self._names)
        self._names.append(name)
        self._sizes.append(size)
        self._held[name] = size
        return name

    def free(self, names: Iterable[int]) -> None:
        for name in names:
            self._names.append(name)
            self._sizes.append(-1)
            del self._held[name]

    def wrap(self, sizes: list[int], n: int, offloaded: bool) -> None:
        """One unit: copied, broadcast, put together, cut."""
        if not sizes:
            return
        copies = [self.take(size) for size in sizes]
        waiting: list[int] = []
        for bucket in _buckets(sizes):
            waiting.append(self.take(bucket))
            if len(waiting) == IN_FLIGHT:
                self.free([waiting.pop(0)])
        self.free(waiting)
        flat = self.take(sum(sizes))
        self.free(copies)
        shard = self.take(-(-sum(sizes) // n))
        self.free([flat])
        if offloaded:
            self.free([shard])

    def done(self) -> Loading:
        """All of them."""
        names, sizes = (np.array(values, dtype=np.int64) for values in (self._names, self._sizes))
        return Loading(names, sizes, sum(self._held.values()))


def _buckets(sizes: list[int]) -> list[int]:
    """Bytes of each broadcast: tensors are put together until there is enough for one."""
    found, filled = [], 0
    for size in sizes:
        filled += size
        if filled >= BUCKET:
            found.append(filled)
            filled = 0
    return [*found, filled] if filled else found
