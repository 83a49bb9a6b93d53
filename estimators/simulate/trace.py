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
from torch._subclasses.fake_tensor import FakeTensor
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
    log: list[tuple[Work, int]] = field(default_factory=list)  # the works in their order, and how often each was done there

    @property
    def most_held(self) -> int:
        """The most bytes of its own allocations that it holds at one moment."""
        sizes, now, most = [], 0, 0
        for event in self.events:
            if isinstance(event, Alloc):
                sizes.append(event.size)
                now += event.size
                most = max(most, now)
            elif event.ref.place == self.place:
                now -= sizes[event.ref.index]
        return most


_DEVICE = torch.ops.prim.device.default
_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int8: "int8", torch.uint8: "int8"}


class Recorder(TorchDispatchMode):
    """Records the storages and operations of what runs inside of it, segment by segment."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[Segment] = []
        self.times = 1  # of how many equal rounds of a loop what happens now is one
        self._here = self._open(Place("start"))
        self._live: dict[int, Ref] = {}  # storage -> its allocation
        self._watches: list[weakref.finalize] = []

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
        for watch in self._watches:
            watch.detach()
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
        for storage in (storage for tensor in tensors for storage in _storages(tensor)):
            ref = self._see_storage(storage)
            if ref is not None:
                self._here.parts[ref.index] = part

    def mark(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Say which part some allocations belong to, wherever in the step they were made (gradients, optimizer states)."""
        by_place = {segment.place: segment for segment in self.segments}
        for storage in (storage for tensor in tensors for storage in _storages(tensor)):
            ref = self._live.get(storage._cdata)
            if ref is not None:
                by_place[ref.place].parts[ref.index] = part

    def _see(self, tensor: torch.Tensor) -> None:
        for storage in _storages(tensor):
            self._see_storage(storage)

    def _see_storage(self, storage: torch.UntypedStorage) -> Ref | None:
        """Note a storage that is new, and the moment in which it is freed; None if it is known."""
        key = storage._cdata
        if key in self._live:
            return None
        ref = self._live[key] = self._allocate(storage.nbytes())
        watch = weakref.finalize(storage, self._freed, key)
        watch.atexit = False
        self._watches.append(watch)
        return ref

    def _allocate(self, size: int) -> Ref:
        here = self._here
        ref = Ref(here.place, here.allocations)
        here.allocations += 1
        here.events.append(Alloc(size))
        return ref

    def _freed(self, key: int) -> None:
        ref = self._live.pop(key, None)
        if ref is not None:
            self._here.events.append(Free(ref))

    def count(self, kind: str, like: torch.Tensor, *, flops: int, touched: Iterable[torch.Tensor]) -> None:
        """Note an operation that allocates nothing and that no dispatch shows (a kernel working in place)."""
        moved = sum(tensor.numel() * tensor.element_size() for tensor in touched)
        self._note(Work(kind, _DTYPES.get(like.dtype, "fp32"), flops, moved))

    def _note(self, work: Work) -> None:
        self._here.works[work] += self.times
        self._here.log.append((work, self.times))

    # --- operations --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):  # asked more often than all else, so answered at once
            return args[0].fake_device
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace == "prim":  # other questions about a tensor (its layout)
            return result
        outputs = [leaf for leaf in _tensors(result)]
        inputs = [leaf for leaf in _tensors((args, kwargs))]
        buffers = [self._allocate(size) for size in _hidden_buffers(func, args, outputs)]
        for output in outputs:
            self._see(output)
        self._here.events.extend(Free(buffer) for buffer in buffers)
        if not func.is_view and func.overloadpacket not in _NO_WORK:
            self._note(_work(func, args, kwargs, result, inputs, outputs))
            if str(func.overloadpacket) == FUSED_4BIT:
                self._note(_unpacking(args))
        return result


def _storages(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """Where a tensor's numbers are: a sparse one has its places and its values."""
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices().untyped_storage(), tensor._values().untyped_storage()]
    if tensor.layout != torch.strided:
        return [part.untyped_storage() for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values())]
    return [tensor.untyped_storage()]


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


# With at most this many rows of input a fused kernel unpacks the weight in registers; the exact number depends on the GPU
# and the shape and lies between 5 and 1536 (bitsandbytes 0.50, `_gemm_4bit_use_custom_cuda`).
FUSED_4BIT_ROWS = 320
INT8_PRODUCT = "bitsandbytes.int8_scaled_mm"


def _hidden_buffers(func: Any, args: tuple, outputs: list[torch.Tensor]) -> list[int]:
    """Bytes of the buffers that a fused operation's GPU kernel takes and gives back, which no dispatch shows.

    A 4-bit product: its scales and the unpacked weight (bitsandbytes 0.50, `_dequant_linear_fallback`). An int8 product: the
    int32 sums before they are scaled (`int8_scaled_mm`).
    """
    name = str(func.overloadpacket)
    if name == FUSED_4BIT:
        inputs, packed, (out_features, in_features), scales, block, *_ = args
        if inputs.numel() // in_features <= FUSED_4BIT_ROWS:
            return []
        blocks = -(-2 * packed.numel() // block)
        scales_in_two_steps = [4 * blocks, 4 * blocks] if blocks != scales.numel() else []
        return [*scales_in_two_steps, out_features * in_features * inputs.element_size()]
    if name == INT8_PRODUCT:
        return [4 * outputs[0].numel()]
    return []


def _unpacking(args: tuple) -> Work:
    """Reading a packed weight [out, in] and writing it unpacked."""
    inputs, packed, (out_features, in_features), *_ = args
    unpacked = out_features * in_features * inputs.element_size()
    return Work("other", "int8", 0, packed.numel() + unpacked)


def _flops(func: Any, args: tuple, kwargs: dict, result: Any) -> int | None:
    """Floating point operations of a matrix product, convolution or attention; None of anything else."""
    if str(func.overloadpacket) == FUSED_4BIT:
        return 2 * args[0].numel() * args[2][0]
    if str(func.overloadpacket) == INT8_PRODUCT:
        return 2 * args[0].numel() * args[1].shape[0]
    counted = flop_registry.get(func.overloadpacket)
    if counted is None:
        return None
    flops = int(counted(*args, **kwargs, out_val=result))
    return flops // 2 if _is_causal(func, args, kwargs) else flops


def _is_causal(func: Any, args: tuple, kwargs: dict) -> bool:
    """Whether an attention kernel is told to skip what lies ahead: it then computes half of the products."""
    names = [argument.name for argument in func._schema.arguments]
    if "is_causal" not in names:
        return False
    place = names.index("is_causal")
    return bool(args[place] if place < len(args) else kwargs.get("is_causal", False))


def _bytes(tensor: torch.Tensor) -> int:
    """What a kernel reads or writes of a tensor; one that was only expanded is no larger than what is stored."""
    size = tensor.numel() * tensor.element_size()
    return min(size, tensor.untyped_storage().nbytes()) if tensor.layout == torch.strided else size


# Operations that read only as much of their first input as they write: the table of an embedding is not gone through.
_PICKING = frozenset(
    {
        torch.ops.aten.embedding,
        torch.ops.aten.gather,
        torch.ops.aten.index,
        torch.ops.aten.index_select,
        torch.ops.aten.nll_loss_forward,
    }
)


# Operations that write their first input without having read it.
_OVERWRITING = frozenset(
    {
        torch.ops.aten.copy_,
        torch.ops.aten.fill_,
        torch.ops.aten.zero_,
        torch.ops.aten._foreach_copy_,
        torch.ops.aten._foreach_zero_,
    }
)


def _work(func: Any, args: tuple, kwargs: dict, result: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> Work:
    flops = _flops(func, args, kwargs, result)
    written = outputs or _changed(func, args, kwargs)
    moved = sum(_bytes(tensor) for tensor in [*_read(func, inputs, written), *written])
    floating = [tensor for tensor in (*inputs, *outputs) if tensor.is_floating_point()]
    largest = max(floating or inputs or outputs, key=lambda tensor: tensor.numel(), default=None)
    dtype = _DTYPES.get(largest.dtype, "fp32") if largest is not None else "fp32"
    name = func.overloadpacket.__name__
    kind = "other" if flops is None else "attention" if "attention" in name else "matmul"
    return Work(kind, dtype, flops or 0, moved)


def _changed(func: Any, args: tuple, kwargs: dict) -> list[torch.Tensor]:
    """What an operation that returns nothing writes into: an optimizer's kernels work in place."""
    values = [
        (argument, args[place] if place < len(args) else kwargs.get(argument.name))
        for place, argument in enumerate(func._schema.arguments)
    ]
    return [
        leaf for argument, value in values if argument.alias_info and argument.alias_info.is_write for leaf in _tensors(value)
    ]


def _read(func: Any, inputs: list[torch.Tensor], written: list[torch.Tensor]) -> list[torch.Tensor]:
    """What an operation reads: each tensor once, however often it is named."""
    if func.overloadpacket in _PICKING:
        return [*inputs[1:], *written]
    kept = {id(tensor): tensor for tensor in inputs}
    if func.overloadpacket in _OVERWRITING:
        return [tensor for key, tensor in kept.items() if all(tensor is not other for other in written)]
    return list(kept.values())
