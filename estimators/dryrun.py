"""The dry run: one real training step of a plan, executed without memory, and everything that it allocates.

The model comes from the same `build(plan, ...)` as a real run's, on "meta"; its weights then become fake tensors
(shapes without numbers), and forward, the trainer's own loss, backward and the optimizer's step run for real under a
`Recorder`. A stack of like layers is recorded at a few layers and put together to its full depth (`splice.py`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig, PreTrainedModel

from engine import build
from engine.plan import Plan
from estimators.replay import Step
from estimators.splice import Depth, can_be_spliced, plan_depth
from estimators.trace import Alloc, Recorder, Segment


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The batch of the step: `batch` rows of `length` tokens, `trained` of them with a label."""

    batch: int
    length: int


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What one step does and holds."""

    step: Step
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
    config = build.load_config(plan)
    bare = build.build_bare(plan, config)
    total_params = sum(parameter.numel() for parameter in bare.parameters())
    kinds = layer_kinds(bare)
    depth = plan_depth(kinds)
    if whole or depth.extra == 0:
        depth = Depth(prefix=0, period=max(len(kinds), 1), probed=len(kinds), full=len(kinds))
    segments, model = _record(plan, _shortened(config, depth), shape, on_gpu=on_gpu)
    if depth.extra and not can_be_spliced(segments):
        depth = Depth(prefix=0, period=len(kinds), probed=len(kinds), full=len(kinds))
        segments, model = _record(plan, config, shape, on_gpu=on_gpu)
    parameters = full_parameters(model, depth)
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    states, optimizer_step = _record_optimizer(plan, trainable, on_gpu=on_gpu)
    _add_to_start(segments[0], states, "optimizer")
    segments = [*segments, optimizer_step]
    trainable_params = sum(parameter.numel() for parameter in trainable)
    added = 0 if plan.method == "full" else trainable_params
    return DryRun(
        step=Step(segments=segments, depth=depth),
        total_params=total_params,
        trainable_params=trainable_params,
        adapter_params=added,
        weight_bytes=sum(t.numel() * t.element_size() for p in parameters for t in _held_by(p)),
    )


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
    return own[:first] + of_all_layers + [parameter for parameter in own[first:] if id(parameter) not in in_layers]


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


def _adopt_weights(model: torch.nn.Module, recorder: Recorder) -> None:
    """Count what a loaded model holds: parameters, the scales of quantised ones, buffers; each layer's at its place."""
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
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return [parameter]
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.state2 is not None else []
    return [parameter, state.absmax, *nested]


# --- the step -------------------------------------------------------------------------------------------------------


def _record(plan: Plan, config: PretrainedConfig, shape: Shape, *, on_gpu: bool) -> tuple[list[Segment], torch.nn.Module]:
    """Record forward, loss and backward of one step."""
    model = build.build(plan, "meta", config=config).train()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    make_fake(model, mode)
    recorder = Recorder()
    _adopt_weights(model, recorder)
    _watch_layers(model, recorder)
    loss_of = build.full_loss if plan.loss == "full" else build.sft_loss
    if plan.loss == "chunked":
        build.add_sft_loss(model)
    with mode, _gpu_kernels(recorder, on_gpu), recorder:
        recorder.enter("forward")
        with _autocast(plan):
            loss = loss_of(model, make_batch(shape))
        loss.backward()
        recorder.mark((p.grad for p in model.parameters() if p.grad is not None), "gradients")
    return recorder.close(), model


def make_batch(shape: Shape) -> dict[str, torch.Tensor]:
    """A batch as TRL's collator makes it: input_ids, attention_mask and labels, each int64 [batch, length]."""
    size = (shape.batch, shape.length)
    names = ("input_ids", "attention_mask", "labels")
    return {name: torch.ones(size, dtype=torch.int64) for name in names}


def _autocast(plan: Plan) -> Any:
    """Mixed precision as the Trainer turns it on for bf16 and fp16."""
    if plan.precision == "fp32" or not plan.autocast:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=build.compute_dtype(plan))


def _watch_layers(model: torch.nn.Module, recorder: Recorder) -> None:
    """Tell the recorder which layer is at work, in both directions."""
    stack = find_stack(_base(model))
    if stack is None:
        return
    last = len(stack[1]) - 1
    for number, layer in enumerate(stack[1]):
        layer.register_forward_pre_hook(_entering(recorder, number))
        layer.register_forward_hook(_leaving(recorder, number, last))


def _entering(recorder: Recorder, number: int) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, inputs: tuple) -> None:
        if recorder.place.phase == "forward":  # not when checkpointing computes it again on the way back
            recorder.enter("forward", number)

    return hook


def _leaving(recorder: Recorder, number: int, last: int) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, inputs: tuple, output: Any) -> None:
        if recorder.place.phase != "forward":
            return
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: recorder.enter("backward", number))
        if number == last:
            recorder.enter("loss")

    return hook


@contextlib.contextmanager
def _gpu_kernels(recorder: Recorder, active: bool) -> Iterator[None]:
    """TRL's fused LM head works in place on a GPU (Triton, cuBLAS with fp32 output) and through copies on a CPU.

    While active, the places where the two differ only count their work, as the GPU's kernels allocate nothing.
    """
    from trl.kernels import chunked_logprob as kernels

    def matmul_in_place(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        recorder.count("matmul", a, flops=2 * a.shape[0] * a.shape[1] * b.shape[1], touched=(total, total, a, b))

    def fold_tile(tile: torch.Tensor, *rest: Any, **settings: Any) -> None:
        recorder.count("other", tile, flops=0, touched=(tile, tile))

    if not active:
        yield
        return
    kept = kernels._forward_tile, kernels._backward_tile, kernels._addmm_fp32
    kernels._forward_tile, kernels._backward_tile, kernels._addmm_fp32 = fold_tile, fold_tile, matmul_in_place
    try:
        yield
    finally:
        kernels._forward_tile, kernels._backward_tile, kernels._addmm_fp32 = kept


def _record_optimizer(plan: Plan, trainable: list[torch.nn.Parameter], *, on_gpu: bool) -> tuple[list[int], Segment]:
    """(sizes of the states that the optimizer keeps between steps, its second step): the first one makes the states."""
    from transformers import Trainer

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        parameters = [torch.nn.Parameter(torch.empty(p.shape, dtype=p.dtype)) for p in trainable]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
    recorder = Recorder()
    recorder.adopt((tensor for p in parameters for tensor in (p, p.grad)), "weights")
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(build.training_arguments(plan, Path("unused")))
    if on_gpu and plan.optim == "adamw_torch":
        settings = {**settings, "foreach": True}  # torch's own choice on a GPU; it costs temporaries
    with mode, recorder:
        optimizer = optimizer_class(parameters, **settings)
        optimizer.step()
        kept = [tensor for state in optimizer.state.values() for tensor in state.values() if isinstance(tensor, torch.Tensor)]
        states = [tensor.untyped_storage().nbytes() for tensor in kept]
        recorder.enter("optimizer")
        optimizer.step()
    return states, recorder.close()[-1]
