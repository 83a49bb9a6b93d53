"""Following one training step, storage by storage: what is allocated when, by which part, and what is computed.

A `Recorder` is a dispatch mode: while it is active, every tensor operation passes through it. It notes each new
storage and, through a weak reference, the moment in which it is freed; and for each operation its class, FLOPs and
bytes. The step is cut into segments (`Segment`): the forward and backward pass of each layer, the loss, the optimizer.
Segments of equal layers are equal, and that is what `splice.py` builds on.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Place(NamedTuple):
    """Which segment of the step: ("forward", 3) is layer 3's forward pass; the layer is None outside of the stack."""

    phase: str  # start | forward | loss | backward | optimizer
    layer: int | None = None
    visit: int = 0  # a place that the step comes back to is another segment each time


class Ref(NamedTuple):
    """One allocation: the n-th of its segment."""

    place: Place
    index: int


class Alloc(NamedTuple):
    size: int  # bytes


class Free(NamedTuple):
    ref: Ref


class Work(NamedTuple):
    """One operation's cost, the same for all operations that equal it."""

    kind: str  # matmul | attention | other
    dtype: str  # of its largest input or output: bf16, fp32, ...
    flops: int
    bytes: int  # read and written


@dataclass
class Segment:
    """What happens in one place of the step, in order."""

    place: Place
    events: list[Alloc | Free] = field(default_factory=list)
    parts: dict[int, str] = field(default_factory=dict)  # allocation index -> part, where it is not the segment's own
    works: Counter[Work] = field(default_factory=Counter)
    allocations: int = 0


_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int8: "int8", torch.uint8: "int8"}


class Recorder(TorchDispatchMode):
    """Records the storages and operations of what runs inside of it, segment by segment."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[Segment] = []
        self._here = self._open(Place("start"))
        self._live: dict[int, Ref] = {}  # storage -> its allocation

    # --- where we are ------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        return self._here.place

    def enter(self, phase: str, layer: int | None = None) -> None:
        """From now on, what happens belongs to this place."""
        if self._here.place[:2] != (phase, layer):
            self._here = self._open(Place(phase, layer))

    def close(self) -> list[Segment]:
        """The finished record: what is freed from now on belongs to nobody's step."""
        self._here = Segment(Place("after"))
        return self.segments

    def _open(self, place: Place) -> Segment:
        visits = sum(segment.place[:2] == place[:2] for segment in self.segments)
        segment = Segment(place._replace(visit=visits))
        self.segments.append(segment)
        return segment

    # --- storages ----------------------------------------------------------------------------------------------------

    def adopt(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Count tensors that were there before (weights, buffers) as allocated here."""
        for tensor in tensors:
            self._see(tensor, part)

    def mark(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Say which part some allocations belong to, wherever in the step they were made (gradients, optimizer states)."""
        by_place = {segment.place: segment for segment in self.segments}
        for tensor in tensors:
            ref = self._live.get(tensor.untyped_storage()._cdata)
            if ref is not None:
                by_place[ref.place].parts[ref.index] = part

    def _see(self, tensor: torch.Tensor, part: str | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        here = self._here
        ref = Ref(here.place, here.allocations)
        here.allocations += 1
        here.events.append(Alloc(storage.nbytes()))
        if part is not None:
            here.parts[ref.index] = part
        self._live[key] = ref
        weakref.finalize(storage, self._freed, key).atexit = False

    def _freed(self, key: int) -> None:
        ref = self._live.pop(key, None)
        if ref is not None:
            self._here.events.append(Free(ref))

    def count(self, kind: str, like: torch.Tensor, *, flops: int, touched: Iterable[torch.Tensor]) -> None:
        """Note an operation that allocates nothing and that no dispatch shows (a kernel working in place)."""
        moved = sum(tensor.numel() * tensor.element_size() for tensor in touched)
        self._here.works[Work(kind, _DTYPES.get(like.dtype, "fp32"), flops, moved)] += 1

    # --- operations --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in _tensors(result)]
        inputs = [leaf for leaf in _tensors((args, kwargs))]
        for output in outputs:
            self._see(output)
        if not func.is_view and func.namespace != "prim" and func.overloadpacket not in _NO_WORK:
            self._here.works[_work(func, args, kwargs, result, inputs, outputs)] += 1
            if str(func.overloadpacket) == FUSED_4BIT:
                self._here.works[_unpacking(args)] += 1
        return result


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


# Operations that reserve memory or give it another shape, and compute nothing.
_NO_WORK = frozenset(
    {
        torch.ops.aten.detach,
        torch.ops.aten.empty,
        torch.ops.aten.empty_like,
        torch.ops.aten.empty_strided,
        torch.ops.aten.new_empty,
        torch.ops.aten._unsafe_view,
        torch.ops.aten.lift_fresh,
        torch.ops.aten._local_scalar_dense,
    }
)


# bitsandbytes' product with a 4-bit weight is one operation: beyond a few tokens it unpacks the weight into the number
# type of the input first and multiplies then (bitsandbytes 0.50, `gemm_4bit`), so it is counted as those two.
FUSED_4BIT = "bitsandbytes.gemm_4bit"


def _unpacking(args: tuple) -> Work:
    """Reading a packed weight [out, in] and writing it unpacked."""
    inputs, packed, (out_features, in_features), *_ = args
    unpacked = out_features * in_features * inputs.element_size()
    return Work("other", "int8", 0, packed.numel() + unpacked)


def _flops(func: Any, args: tuple, kwargs: dict, result: Any) -> int | None:
    """Floating point operations of a matrix product, convolution or attention; None of anything else."""
    if str(func.overloadpacket) == FUSED_4BIT:
        return 2 * args[0].numel() * args[2][0]
    counted = flop_registry.get(func.overloadpacket)
    return int(counted(*args, **kwargs, out_val=result)) if counted is not None else None


def _work(func: Any, args: tuple, kwargs: dict, result: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> Work:
    flops = _flops(func, args, kwargs, result)
    moved = sum(tensor.numel() * tensor.element_size() for tensor in [*inputs, *outputs])
    floating = [tensor for tensor in (*inputs, *outputs) if tensor.is_floating_point()]
    largest = max(floating or inputs or outputs, key=lambda tensor: tensor.numel(), default=None)
    dtype = _DTYPES.get(largest.dtype, "fp32") if largest is not None else "fp32"
    kind = "other" if flops is None else "attention" if "attention" in func.overloadpacket.__name__ else "matmul"
    return Work(kind, dtype, flops or 0, moved)
