"""The dry run: one real training step of a plan, executed without memory, and everything that it allocates.

The model comes from the same `build(plan, ...)` as a real run's, on "meta"; its weights then become fake tensors
(shapes without numbers), and forward, the trainer's own loss, backward and the optimizer's step run for real under a
`Recorder`. A stack of like layers is recorded at a few layers and put together to its full depth (`splice.py`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig, PreTrainedModel

from engine import build
from engine.objectives import recipe, task_of
from engine.plan import Plan
from estimators.replay import Step
from estimators.splice import Depth, can_be_spliced, plan_depth
from estimators.trace import Alloc, Free, Place, Recorder, Ref, Segment, Work


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The batch of the step: `batch` rows of `length` tokens."""

    batch: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Before:
    """What a step does before its loss (GRPO writes its completions): `times` steps like this one."""

    name: str
    times: float
    step: Step


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What one step does and holds."""

    step: Step
    evaluation: Step  # one batch of an evaluation between two training steps
    before: tuple[Before, ...]
    total_params: int  # of the base model, as published counts are
    trainable_params: int
    adapter_params: int  # that the method added
    weight_bytes: int


def dry_run(plan: Plan, shape: Shape, *, on_gpu: bool = True, whole: bool = False) -> DryRun:
    """Run one training step of the plan on fake tensors.

    Args:
        plan: a checked plan.
        shape: the batch.
        on_gpu: as the kernels of a GPU would do it; else those of a CPU.
        whole: run every layer even where a few would do (the tests compare the two).
    """
    run = _stage(plan.to_json(), on_gpu, whole).run(shape)
    if run is None:
        run = _stage(plan.to_json(), on_gpu, True).run(shape)
    assert run is not None
    return run


@functools.lru_cache(maxsize=24)
def _stage(plan: str, on_gpu: bool, whole: bool) -> Stage:
    return Stage(Plan.from_json(plan), on_gpu=on_gpu, whole=whole)


class Stage:
    """A plan's model as fake tensors, ready for steps of any batch."""

    def __init__(self, plan: Plan, *, on_gpu: bool, whole: bool) -> None:
        self.plan, self.on_gpu, self.recipe = plan, on_gpu, recipe(plan)
        self.config = build.load_config(plan)
        self.total_params, kinds = _stack_of(_neutral(plan).to_json())
        self.depth = plan_depth(kinds)
        if whole or self.depth.extra == 0:
            self.depth = Depth(prefix=0, period=max(len(kinds), 1), probed=len(kinds), full=len(kinds))
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.held: dict[str, torch.nn.Module] = {}
        for other in self.recipe.held(plan):
            self.held[other.role] = build.build(other.plan, "meta").requires_grad_(False).eval()
            self.recipe.prepare(self.held[other.role], other.plan)
        self.model = build.build(plan, "meta", config=_shortened(self.config, self.depth))
        self.recipe.prepare(self.model, plan)
        parameters = full_parameters(self.model, self.depth)
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if self.depth.extra and _shared_counts(self.model):  # how many there are depends on the depth: count them on all layers
            parameters = list(build.build(plan, "meta", config=self.config).parameters())
            trainable = [parameter for parameter in parameters if parameter.requires_grad]
        self.params = sum(parameter.numel() for parameter in parameters)
        self.trainable_params = sum(parameter.numel() for parameter in trainable)
        embeddings = {id(m.weight) for m in self.model.modules() if isinstance(m, torch.nn.Embedding)}
        self.states, self.optimizer_step = _optimizer_step(plan, trainable, embeddings, on_gpu=on_gpu)
        for model in (self.model, *self.held.values()):
            make_fake(model, self.mode)

    def run(self, shape: Shape) -> DryRun | None:
        """The step with a batch of this shape; None if its layers turn out not to stand for one another."""
        training = self._train(shape)
        evaluation = self._without_gradients(lambda: self._loss(shape))
        before = self._before(shape)
        recorded = [training, evaluation, *(phase.step.segments for phase in before)]
        if self.depth.extra and not all(map(can_be_spliced, recorded)):
            return None
        for segments in recorded:
            _add_to_start(segments[0], self.states, "optimizer")
        parameters = full_parameters(self.model, self.depth)
        return DryRun(
            step=Step(segments=[*training, self.optimizer_step], depth=self.depth),
            evaluation=Step(segments=evaluation, depth=self.depth),
            before=before,
            total_params=self.total_params,
            trainable_params=self.trainable_params,
            adapter_params=self.params - self.total_params,
            weight_bytes=sum(t.numel() * t.element_size() for p in parameters for t in _held_by(p)),
        )

    def _batch(self, shape: Shape) -> dict[str, torch.Tensor]:
        return self.recipe.dry_batch(self.config, self.plan, shape.batch, shape.length)

    def _loss(self, shape: Shape) -> torch.Tensor:
        return self.recipe.dry_loss(self.model, self._batch(shape), self.plan, self.held)

    def _train(self, shape: Shape) -> list[Segment]:
        """Forward, loss and backward."""
        self.model.train()
        with self._recording() as recorder:
            with _autocast(self.plan):
                loss = self._loss(shape)
            loss.backward()
            recorder.mark((p.grad for p in self.model.parameters() if p.grad is not None), "gradients")
            del loss
        self.model.zero_grad(set_to_none=True)
        return recorder.segments

    def _without_gradients(self, work: Callable[[], Any]) -> list[Segment]:
        self.model.eval()
        with self._recording() as recorder, torch.no_grad(), _autocast(self.plan):
            work()
        return recorder.segments

    def _before(self, shape: Shape) -> tuple[Before, ...]:
        with self.mode:
            phases = list(self.recipe.phases(self.model, self._batch(shape), self.plan, self.held))
        return tuple(
            Before(name=phase.name, times=phase.times, step=Step(segments=self._without_gradients(phase.run), depth=self.depth))
            for phase in phases
        )

    @contextlib.contextmanager
    def _recording(self) -> Iterator[Recorder]:
        """A recorder at work, which knows what is there before the step begins and which layer is at work."""
        recorder = Recorder()
        _adopt_weights(self.model, self.held.values(), recorder)
        hooks = _watch_layers(self.model, recorder)
        try:
            with self.mode, _gpu_kernels(recorder, self.on_gpu), recorder:
                recorder.enter("forward")
                yield recorder
            recorder.close()
        finally:
            for hook in hooks:
                hook.remove()


def _neutral(plan: Plan) -> Plan:
    """The plan without all that its bare model does not depend on."""
    return Plan(
        model=plan.model,
        objective=plan.objective,
        objective_options=plan.objective_options,
        attn_implementation=plan.attn_implementation,
        datasets=plan.datasets if task_of(plan).labels != "none" else (),
    )


@functools.lru_cache(maxsize=64)
def _stack_of(neutral_plan: str) -> tuple[int, tuple[Hashable, ...]]:
    """(parameters of the whole bare model, the kinds of its layers)."""
    plan = Plan.from_json(neutral_plan)
    bare = build.build_bare(plan, build.load_config(plan))
    return sum(parameter.numel() for parameter in bare.parameters()), tuple(layer_kinds(bare))


# --- the stack of layers --------------------------------------------------------------------------------------------


def find_stack(model: torch.nn.Module) -> tuple[str, torch.nn.ModuleList] | None:
    """The list of decoder layers (its name, itself): the longest ModuleList with as many layers as the config says."""
    config = getattr(model, "config", None)
    count = config.get_text_config().num_hidden_layers if config is not None else 0
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    return lists[0] if lists else None


def layer_kinds(model: PreTrainedModel) -> list[Hashable]:
    """What tells the layers of the stack apart: their class, their shapes, and their type of attention."""
    stack = find_stack(model)
    if stack is None:
        return []
    types = getattr(model.config.get_text_config(), "layer_types", None) or [""] * len(stack[1])
    return [
        (type(layer).__name__, layer_type, tuple((name, tuple(p.shape)) for name, p in layer.named_parameters()))
        for layer, layer_type in zip(stack[1], types, strict=True)
    ]


# Config fields that hold one value per layer, beside `layer_types`.
PER_LAYER_FIELDS = ("layer_types", "mlp_layer_types", "no_rope_layers", "block_types", "layers_block_type")


def _shortened(config: PretrainedConfig, depth: Depth) -> PretrainedConfig:
    """The config of the probe: fewer layers, each of the kind that it stands for."""
    if depth.extra == 0:
        return config
    short = copy.deepcopy(config)
    text = short.get_text_config()
    kept = [*range(depth.prefix + 2 * depth.period), *range(depth.prefix + 2 * depth.period + depth.extra, depth.full)]
    for name in PER_LAYER_FIELDS:
        values = getattr(text, name, None)
        if isinstance(values, list) and len(values) == depth.full:
            setattr(text, name, [values[layer] for layer in kept])
    text.num_hidden_layers = depth.probed
    return short


def full_parameters(model: torch.nn.Module, depth: Depth) -> list[torch.nn.Parameter]:
    """The parameters of the full stack in their order: those of a probe's layer once for each layer that it stands for."""
    stack = find_stack(_base(model))
    by_layer = [list(layer.parameters()) for layer in stack[1]] if stack is not None else []
    in_layers = {id(parameter) for layer in by_layer for parameter in layer}
    own = list(model.parameters())
    first = next((place for place, parameter in enumerate(own) if id(parameter) in in_layers), len(own))
    of_all_layers = [parameter for layer in range(depth.full) for parameter in by_layer[depth.probe_layer(layer)]]
    shared = _shared_counts(model)
    of_each = [parameter for parameter in of_all_layers if id(parameter) not in shared]
    of_several = {id(parameter): parameter for parameter in of_all_layers if id(parameter) in shared}
    return [*own[:first], *of_several.values(), *of_each, *(p for p in own[first:] if id(p) not in in_layers)]


def _shared_counts(model: torch.nn.Module) -> dict[int, int]:
    """The parameters that several layers of the stack share (some methods' adapters): id -> how many layers."""
    stack = find_stack(_base(model))
    layers = list(stack[1]) if stack is not None else []
    counts = Counter(key for layer in layers for key in {id(parameter) for parameter in layer.parameters()})
    return {key: count for key, count in counts.items() if count > 1}


def _add_to_start(start: Segment, sizes: list[int], part: str) -> None:
    """Note storages that are there before the step begins."""
    for size in sizes:
        start.parts[start.allocations] = part
        start.events.append(Alloc(size))
        start.allocations += 1


def _base(model: torch.nn.Module) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


# --- fake tensors ---------------------------------------------------------------------------------------------------


def make_fake(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer by a fake tensor, in place; what was shared stays shared."""
    seen: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = _fake_parameter(module, name, parameter, mode, seen)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = _fake_once(buffer, mode, seen)


def _fake_parameter(
    module: torch.nn.Module, name: str, parameter: torch.nn.Parameter, mode: FakeTensorMode, seen: dict[int, torch.Tensor]
) -> torch.nn.Parameter:
    if id(parameter) not in seen:
        if type(parameter).__name__ == "Params4bit":
            seen[id(parameter)] = _packed(module, parameter, mode)
        elif type(parameter).__name__ == "Int8Params":
            seen[id(parameter)] = _in_int8(module, parameter, mode)
        else:
            fake = _fake_once(parameter.detach(), mode, {})
            seen[id(parameter)] = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
    return seen[id(parameter)]  # type: ignore[return-value]


def _fake_once(tensor: torch.Tensor, mode: FakeTensorMode, seen: dict[int, torch.Tensor]) -> torch.Tensor:
    if id(tensor) not in seen:
        with mode:
            seen[id(tensor)] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return seen[id(tensor)]


BLOCK = 64  # 4-bit weights per scale (bitsandbytes 0.50, `blocksize` of Params4bit)
NESTED_BLOCK = 256  # scales per scale of scales, with double quantisation (bitsandbytes, `quantize_4bit`)


def _packed(module: Any, parameter: torch.Tensor, mode: FakeTensorMode) -> torch.nn.Parameter:
    """A 4-bit weight as bitsandbytes stores it: [n/2, 1] bytes, with its scales in a `QuantState`."""
    from bitsandbytes.functional import QuantState

    count = parameter.numel()
    blocks = -(-count // BLOCK)
    nested = parameter.compress_statistics
    with mode:
        code = torch.empty(16)
        state2 = None
        if nested:
            state2 = QuantState(
                absmax=torch.empty(-(-blocks // NESTED_BLOCK)),
                code=torch.empty(256),
                blocksize=NESTED_BLOCK,
                dtype=torch.float32,
            )
        state = QuantState(
            absmax=torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32),
            shape=parameter.shape,
            code=code,
            blocksize=BLOCK,
            quant_type=parameter.quant_type,
            dtype=module.compute_dtype,
            offset=torch.empty(()) if nested else None,
            state2=state2,
        )
        packed = torch.nn.Parameter(torch.empty((count + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = state
    packed.bnb_quantized = True
    module.quant_state = state
    return packed


def _in_int8(module: Any, parameter: torch.Tensor, mode: FakeTensorMode) -> torch.nn.Parameter:
    """An int8 weight [out, in] as bitsandbytes keeps it, with one scale per row.

    Its columns of outliers, which depend on the data and are few, are left out (`threshold` 0).
    """
    with mode:
        weight = torch.nn.Parameter(torch.empty(parameter.shape, dtype=torch.int8), requires_grad=False)
        scales = torch.empty(parameter.shape[0])
    weight.CB = weight.SCB = None
    module.state.CB, module.state.SCB = weight.data, scales
    module.state.has_fp16_weights, module.state.threshold = False, 0.0
    weight.scales = scales
    return weight


def _adopt_weights(model: torch.nn.Module, held: Iterable[torch.nn.Module], recorder: Recorder) -> None:
    """Count what loaded models hold: parameters, the scales of quantised ones, buffers; each layer's at its place."""
    others = (tensor for other in held for tensor in (*other.parameters(), *other.buffers()))
    recorder.adopt((part for tensor in others for part in _held_by(tensor)), "weights")
    stack = find_stack(_base(model))
    layers = list(stack[1]) if stack is not None else []
    in_layers = {id(tensor) for layer in layers for tensor in (*layer.parameters(), *layer.buffers())}
    own = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in in_layers]
    recorder.adopt((part for tensor in own for part in _held_by(tensor)), "weights")
    for number, layer in enumerate(layers):
        recorder.enter("start", number)
        recorder.adopt((part for tensor in (*layer.parameters(), *layer.buffers()) for part in _held_by(tensor)), "weights")


def _held_by(parameter: torch.Tensor) -> list[torch.Tensor]:
    """A tensor's storage, and those of its scales where it is quantised."""
    if hasattr(parameter, "scales"):
        return [parameter, parameter.scales]
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return [parameter]
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.state2 is not None else []
    return [parameter, state.absmax, *nested]


# --- the step -------------------------------------------------------------------------------------------------------


def _autocast(plan: Plan) -> Any:
    """Mixed precision as the Trainer turns it on for bf16 and fp16."""
    if plan.precision == "fp32" or not plan.autocast:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=build.compute_dtype(plan))


def _watch_layers(model: torch.nn.Module, recorder: Recorder) -> list[RemovableHandle]:
    """Tell the recorder which layer is at work, in both directions. Returns the hooks."""
    stack = find_stack(_base(model))
    if stack is None:
        return []
    last, hooks = len(stack[1]) - 1, []
    for number, layer in enumerate(stack[1]):
        hooks.append(layer.register_forward_pre_hook(_entering(recorder, number)))
        hooks.append(layer.register_forward_hook(_leaving(recorder, number, last)))
    return hooks


def _entering(recorder: Recorder, number: int) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, inputs: tuple) -> None:
        if recorder.place.phase != "backward":  # where checkpointing computes it again on the way back
            recorder.enter("forward", number)

    return hook


def _leaving(recorder: Recorder, number: int, last: int) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, inputs: tuple, output: Any) -> None:
        if recorder.place.phase == "backward":
            return
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: recorder.enter("backward", number))
        if number == last:
            recorder.enter("loss")

    return hook


@contextlib.contextmanager
def _gpu_kernels(recorder: Recorder, active: bool) -> Iterator[None]:
    """Take the ways that libraries keep for GPUs, on fake tensors that say that they are on a processor.

    TRL's fused LM head works in place on a GPU (Triton, cuBLAS with fp32 output) and through copies on a CPU: while active,
    the places where the two differ only count their work, as the GPU's kernels allocate nothing. bitsandbytes multiplies
    int8 weights as such on a GPU, and unpacks them first on a CPU.
    """
    from bitsandbytes.autograd import _functions as products
    from trl.kernels import chunked_logprob as kernels

    def matmul_in_place(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        recorder.count("matmul", a, flops=2 * a.shape[0] * a.shape[1] * b.shape[1], touched=(total, total, a, b))

    def fold_tile(tile: torch.Tensor, *rest: Any, **settings: Any) -> None:
        recorder.count("other", tile, flops=0, touched=(tile, tile))

    if not active:
        yield
        return
    with contextlib.ExitStack() as swapped:
        for module, name, stand_in in (
            (kernels, "_forward_tile", fold_tile),
            (kernels, "_backward_tile", fold_tile),
            (kernels, "_addmm_fp32", matmul_in_place),
            (products, "MatMul8bitFp", products.MatMul8bitLt),
        ):
            swapped.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, stand_in)
        yield


# --- the optimizer --------------------------------------------------------------------------------------------------

PAGED_FROM = 100_000  # elements: larger states of a paged optimizer lie in host memory (bitsandbytes 0.50, `get_state_buffer`)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What an optimizer needs to know of a parameter: tensors that agree in it cost it the same."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    embedding: bool  # the Trainer keeps the states of embeddings in 32 bits where the others have 8


def _optimizer_step(
    plan: Plan, trainable: list[torch.nn.Parameter], embeddings: set[int], *, on_gpu: bool
) -> tuple[list[int], Segment]:
    """(sizes of the states that the optimizer keeps on the device between steps, one of its later steps).

    Each distinct tensor is stepped by itself. An optimizer that takes all tensors at once (`foreach`) holds its temporaries
    for all of them together, another one for one tensor at a time: two tensors at once show which it is.

    Args:
        trainable: the parameters of the full stack.
        embeddings: the ids of those that are embeddings.
    """
    kinds = [Tensor(shape=tuple(p.shape), dtype=p.dtype, embedding=id(p) in embeddings) for p in trainable]
    counts = Counter(kinds)
    steps = {kind: _step_one(plan.optim, kind, on_gpu) for kind in counts}
    segment = Segment(Place("optimizer"))
    for kind, count in counts.items():
        segment.works.update({work: each * count for work, each in steps[kind].works.items()})
    temporaries = [steps[kind].temporary for kind in kinds]
    if kinds and _takes_all_at_once(plan.optim, max(kinds, key=lambda kind: steps[kind].temporary), on_gpu):
        segment.events = [Alloc(size) for size in temporaries]
    else:
        segment.events = [Alloc(max(temporaries, default=0))]
    segment.allocations = len(segment.events)
    segment.events += [Free(Ref(segment.place, index)) for index in range(segment.allocations)]
    return [size for kind in kinds for size in steps[kind].states], segment


@dataclass(frozen=True, kw_only=True)
class TensorStep:
    """One optimizer step of one tensor: bytes of the states that stay, bytes of the temporaries at their highest, the work."""

    states: tuple[int, ...]
    temporary: int
    works: Counter[Work]


@functools.lru_cache(maxsize=4096)
def _step_one(optim: str, kind: Tensor, on_gpu: bool) -> TensorStep:
    states, segment = _record_optimizer(optim, (kind,), on_gpu=on_gpu)
    return TensorStep(states=tuple(states), temporary=_highest(segment), works=segment.works)


@functools.lru_cache(maxsize=4096)
def _takes_all_at_once(optim: str, kind: Tensor, on_gpu: bool) -> bool:
    one, two = (_highest(_record_optimizer(optim, (kind,) * count, on_gpu=on_gpu)[1]) for count in (1, 2))
    return two > 1.5 * one


def _highest(segment: Segment) -> int:
    """The most bytes that a segment holds of its own allocations."""
    sizes, now, most = [], 0, 0
    for event in segment.events:
        if isinstance(event, Alloc):
            sizes.append(event.size)
            now += event.size
            most = max(most, now)
        elif event.ref.place == segment.place:
            now -= sizes[event.ref.index]
    return most


def _record_optimizer(optim: str, kinds: tuple[Tensor, ...], *, on_gpu: bool) -> tuple[list[int], Segment]:
    """(sizes of the states on the device, the second step): the first one makes the states."""
    from transformers import Trainer

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        parameters = [torch.nn.Parameter(torch.empty(kind.shape, dtype=kind.dtype)) for kind in kinds]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
    recorder = Recorder()
    recorder.adopt((tensor for p in parameters for tensor in (p, p.grad)), "weights")
    arguments = build.training_arguments(Plan(optim=optim), Path("unused"))
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if on_gpu and optim == "adamw_torch":
        settings = {**settings, "foreach": True}  # torch's own choice on a GPU; it costs temporaries
    optimizer = optimizer_class(parameters, **settings)
    wide = [parameter for parameter, kind in zip(parameters, kinds, strict=True) if kind.embedding]
    with mode, _states_in_32_bits(optimizer, wide), recorder:
        optimizer.step()
        kept = [tensor for state in optimizer.state.values() for tensor in state.values() if isinstance(tensor, torch.Tensor)]
        if on_gpu and getattr(optimizer, "is_paged", False):
            kept = [tensor for tensor in kept if tensor.numel() < PAGED_FROM]
        states = [tensor.untyped_storage().nbytes() for tensor in kept]
        recorder.enter("optimizer")
        optimizer.step()
    return states, recorder.close()[-1]


@contextlib.contextmanager
def _states_in_32_bits(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """What the Trainer asks of bitsandbytes for embeddings (`Trainer.create_optimizer`), taken back at the end."""
    if not parameters or not hasattr(optimizer, "mng"):
        yield
        return
    for parameter in parameters:
        optimizer.mng.override_config(parameter, "optim_bits", 32)
    try:
        yield
    finally:
        for parameter in parameters:
            optimizer.mng.pid2config.pop(id(parameter), None)
