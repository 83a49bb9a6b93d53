"""The dry run: one real training step of a plan, executed without memory, and everything that it allocates.

The model comes from the same `build(plan, ...)` as a real run's, on "meta"; its weights then become fake tensors
(shapes without numbers), and forward, the trainer's own loss, backward and the optimizer's step run for real under a
`Recorder`. A stack of like layers is recorded at a few layers and put together to its full depth (`splice.py`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig

from engine import checks
from engine.catalog import models
from engine.methods import METHODS
from engine.modeling import build
from engine.objectives import recipe, task_of
from engine.plan import Plan
from estimators.simulate import fsdp_init
from estimators.simulate import gpu_kernels as kernels_of_gpus
from estimators.simulate.fake_weights import held_by, make_fake
from estimators.simulate.interpolate import FEW_TOKENS, LONGEST, MANY_TOKENS, SHORTEST, Batches, Borders
from estimators.simulate.layers import (
    base_of,
    cut,
    find_stack,
    full_parameters,
    layer_kinds,
    shared_counts,
    shortened,
    tells_layers_apart,
)
from estimators.simulate.optimizer_step import optimizer_step
from estimators.simulate.recorded import Before, DryRun, Shape
from estimators.simulate.replay import Step
from estimators.simulate.splice import Depth, can_be_spliced, plan_depth
from estimators.simulate.trace import FUSED_4BIT_ROWS, Alloc, Recorder, Segment

STAGES, STAGES_PROBED = 8, 4  # plans whose models and whose probes are kept
TILE_ROWS = 4096  # of TRL's LM head (trl 1.16, `TOKEN_CHUNK_SIZE`)
# Config fields with a length beyond which a model does something else with a row.
WINDOW_FIELDS = ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")


def dry_run(plan: Plan, shape: Shape, *, on_gpu: bool = True, whole: bool = False) -> DryRun:
    """Run one training step of the plan on fake tensors.

    Args:
        plan: a checked plan.
        shape: the batch.
        on_gpu: as the kernels of a GPU would do it; else those of a CPU.
        whole: run every layer even where a few would do (the tests compare the two).
    """
    key = plan.to_json()
    known = _probed.get((key, on_gpu)) if not whole else None
    found = known.at(shape) if known is not None else None
    found = found or _stage(key, on_gpu, whole).run(shape) or _stage(key, on_gpu, True).run(shape)
    assert found is not None
    return found


def probe(plan: Plan, shape: Shape, *, on_gpu: bool = True) -> bool:
    """Record one more batch, so that `dry_run` can soon answer batches like `shape` at once. False if nothing is left."""
    key = (plan.to_json(), on_gpu)
    batches = _probed.pop(key, None) or _stage(*key, False).batches
    _probed[key] = batches  # the newest are kept
    while len(_probed) > STAGES_PROBED:
        del _probed[next(iter(_probed))]
    return batches.probe(shape)


_probed: dict[tuple[str, bool], Batches] = {}  # the probes of the plans that were last asked about


@functools.lru_cache(maxsize=STAGES)
def _stage(plan: str, on_gpu: bool, whole: bool) -> Stage:
    return Stage(Plan.from_json(plan), on_gpu=on_gpu, whole=whole)


class Stage:
    """A plan's model as fake tensors, ready for steps of any batch."""

    def __init__(self, plan: Plan, *, on_gpu: bool, whole: bool) -> None:
        self.plan, self.on_gpu, self.whole, self.recipe = plan, on_gpu, whole, recipe(plan)
        self.config = build.load_config(plan)
        self.total_params, kinds = _stack_of(_neutral(plan).to_json())
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.held: dict[str, torch.nn.Module] = {}
        for other in self.recipe.held(plan):
            self.held[other.role] = build.build(other.plan, "meta").requires_grad_(False).eval()
            self.recipe.prepare(self.held[other.role], other.plan)
        self.depth, self.model = self._built(kinds)
        self.recipe.prepare(self.model, plan)
        parameters = full_parameters(self.model, self.depth)
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if self.depth.extra and shared_counts(self.model):  # how many there are depends on the depth: count them on all layers
            parameters = list(build.build(plan, "meta", config=self.config).parameters())
            trainable = [parameter for parameter in parameters if parameter.requires_grad]
        self.params = sum(parameter.numel() for parameter in parameters)
        self.trainable_params = sum(parameter.numel() for parameter in trainable)
        embeddings = {id(m.weight) for m in self.model.modules() if isinstance(m, torch.nn.Embedding)}
        self.states, self.optimizer_step = optimizer_step(plan, trainable, embeddings, on_gpu=on_gpu)
        for model in (self.model, *self.held.values()):
            make_fake(model, self.mode)
        self.batches = Batches(_borders(plan, self.config), TILE_ROWS, self.run)

    def _built(self, kinds: Sequence[Hashable]) -> tuple[Depth, torch.nn.Module]:
        """The model on "meta" with as many layers as stand for all of them, of a bare model whose layers are of these kinds."""
        if not self.whole and not tells_layers_apart(self.plan):
            depth = plan_depth(kinds)
            return depth, build.build(self.plan, "meta", config=shortened(self.config, depth))
        model = build.build(self.plan, "meta", config=copy.deepcopy(self.config))
        if self.whole:
            return Depth(prefix=0, period=max(len(kinds), 1), probed=len(kinds), full=len(kinds)), model
        depth = plan_depth(layer_kinds(base_of(model)))
        cut(model, depth)
        return depth, model

    def run(self, shape: Shape) -> DryRun | None:
        """The step with a batch of this shape; None if its layers turn out not to stand for one another."""
        tiled_rows: list[int] = []
        training = self._train(shape, tiled_rows)
        before = self._before(shape)
        recorded = [training, *(phase.step.segments for phase in before)]
        if self.depth.extra and not all(map(can_be_spliced, recorded)):
            return None
        for segments in recorded:
            _add_to_start(segments[0], self.states, "optimizer")
        parameters = full_parameters(self.model, self.depth)
        return DryRun(
            step=Step(segments=[*training, self.optimizer_step], depth=self.depth),
            evaluate=lambda: self._evaluation(shape),
            before=before,
            tiled_rows=tuple(tiled_rows),
            total_params=self.total_params,
            trainable_params=self.trainable_params,
            adapter_params=self.params - self.total_params,
            weight_bytes=sum(t.nbytes for p in parameters for t in held_by(p)),
            units=fsdp_init.units(self.model, self.depth),
        )

    def _batch(self, shape: Shape) -> dict[str, torch.Tensor]:
        return self.recipe.dry_batch(self.config, self.plan, shape.batch, shape.length)

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.recipe.dry_loss(self.model, batch, self.plan, self.held)

    def _evaluation(self, shape: Shape) -> Step:
        segments = self._without_gradients(lambda: self._loss(self._batch(shape)))
        _add_to_start(segments[0], self.states, "optimizer")
        return Step(segments=segments, depth=self.depth)

    def _train(self, shape: Shape, tiled_rows: list[int]) -> list[Segment]:
        """Forward, loss and backward. Notes how many rows were worked on tile by tile."""
        self.model.train()
        with self._recording() as recorder, _few_tiles(recorder, tiled_rows, self.whole):
            batch = self._batch(shape)  # the Trainer holds it until the next one
            with _autocast(self.plan):
                loss = self._loss(batch)
            loss.backward()
            recorder.mark((p.grad for p in self.model.parameters() if p.grad is not None), "gradients")
            del loss
        self.model.zero_grad(set_to_none=True)
        return recorder.segments

    def _without_gradients(self, work: Callable[[], Any]) -> list[Segment]:
        self.model.eval()
        with self._recording() as recorder, _few_tiles(recorder, [], self.whole), torch.no_grad(), _autocast(self.plan):
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
            with (
                self.mode,
                _gpu_kernels(recorder, self.on_gpu),
                _inputs_kept(self.plan),
                _all_layers_kept(self.model),
                recorder,
            ):
                recorder.enter("forward")
                yield recorder
            recorder.close()
        finally:
            for hook in hooks:
                hook.remove()


def _borders(plan: Plan, config: PretrainedConfig) -> Borders:
    """Where the steps of a plan begin to do other things."""
    text = config.get_text_config()
    read = models.find(plan.model).context_length or getattr(text, "max_position_embeddings", None) or LONGEST
    windows = {getattr(text, name, None) for name in WINDOW_FIELDS}
    inside = sorted(window for window in windows if isinstance(window, int) and SHORTEST < window < read)
    return Borders(longest=max(read, SHORTEST), windows=tuple(inside), by_tokens=_few_and_many(plan))


def _few_and_many(plan: Plan) -> tuple[int, int] | None:
    """Tokens of a batch that 4-bit kernels surely take as few or as many; None where it makes no difference."""
    if checks.quantization(plan) == "none":
        return None
    one_row_a_token = plan.objective in ("sft", "dapt") and not METHODS[plan.method].virtual
    return (FUSED_4BIT_ROWS, FUSED_4BIT_ROWS + 1) if one_row_a_token else (FEW_TOKENS, MANY_TOKENS)


def _neutral(plan: Plan) -> Plan:
    """The plan without all that its bare model does not depend on."""
    return Plan(
        model=plan.model,
        objective=plan.objective,
        objective_options=plan.objective_options,
        attn_implementation=plan.attn_implementation,
        datasets=plan.datasets if task_of(plan).shaped_by_data else (),
    )


@functools.lru_cache(maxsize=64)
def _stack_of(neutral_plan: str) -> tuple[int, tuple[Hashable, ...]]:
    """(parameters of the whole bare model, the kinds of its layers)."""
    plan = Plan.from_json(neutral_plan)
    bare = build.build_bare(plan, build.load_config(plan))
    return sum(parameter.numel() for parameter in bare.parameters()), tuple(layer_kinds(bare))


# --- the step -------------------------------------------------------------------------------------------------------


def _add_to_start(start: Segment, sizes: list[int], part: str) -> None:
    """Note storages that are there before the step begins."""
    for size in sizes:
        start.parts[start.allocations] = part
        start.events.append(Alloc(size))
        start.allocations += 1


def _adopt_weights(model: torch.nn.Module, held: Iterable[torch.nn.Module], recorder: Recorder) -> None:
    """Count what loaded models hold: parameters, the scales of quantised ones, buffers; each layer's at its place."""
    others = (tensor for other in held for tensor in (*other.parameters(), *other.buffers()))
    recorder.adopt((part for tensor in others for part in held_by(tensor)), "weights")
    stack = find_stack(base_of(model))
    layers = list(stack[1]) if stack is not None else []
    in_layers = {id(tensor) for layer in layers for tensor in (*layer.parameters(), *layer.buffers())}
    own = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in in_layers]
    recorder.adopt((part for tensor in own for part in held_by(tensor)), "weights")
    for number, layer in enumerate(layers):
        recorder.enter("start", number)
        recorder.adopt((part for tensor in (*layer.parameters(), *layer.buffers()) for part in held_by(tensor)), "weights")


def _autocast(plan: Plan) -> Any:
    """Mixed precision as the Trainer turns it on for bf16 and fp16."""
    if plan.precision == "fp32" or not plan.autocast:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=build.compute_dtype(plan))


def _watch_layers(model: torch.nn.Module, recorder: Recorder) -> list[RemovableHandle]:
    """Tell the recorder which layer is at work, in both directions. Returns the hooks."""
    stack = find_stack(base_of(model))
    if stack is None:
        return []
    last, hooks = len(stack[1]) - 1, []
    after = "forward" if getattr(base_of(model).config, "decoder_start_token_id", None) is not None else "loss"
    for number, layer in enumerate(stack[1]):
        hooks.append(layer.register_forward_pre_hook(_entering(recorder, number)))
        hooks.append(layer.register_forward_hook(_leaving(recorder, number, after if number == last else None)))
    if after == "forward":  # the layers are the encoder's: the loss comes after the decoder
        hooks.append(base_of(model).get_decoder().register_forward_hook(_after_decoder(recorder)))
    return hooks


def _entering(recorder: Recorder, number: int) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, inputs: tuple) -> None:
        if recorder.place.phase != "backward":  # where checkpointing computes it again on the way back
            recorder.enter("forward", number)

    return hook


def _after_decoder(recorder: Recorder) -> Callable[..., None]:
    def hook(decoder: torch.nn.Module, inputs: tuple, output: Any) -> None:
        if recorder.place.phase != "backward":
            recorder.enter("loss")

    return hook


def _leaving(recorder: Recorder, number: int, then: str | None) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, inputs: tuple, output: Any) -> None:
        if recorder.place.phase == "backward":
            return
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: recorder.enter("backward", number))
        if then is not None:
            recorder.enter(then)

    return hook


@contextlib.contextmanager
def _few_tiles(recorder: Recorder, tiled_rows: list[int], whole: bool) -> Iterator[None]:
    """Let TRL's LM head work on three tiles of rows, however many there are: the first, one of the middle, the last.

    The tiles of the middle are alike and leave nothing behind, so one of them is recorded as many times as there are. Where
    there are fewer, the others are empty: so the steps of all batches have the same operations. The vocabulary, which each of
    them goes through in chunks, is cut short alike. `tiled_rows` gets the rows of each such product; `whole` changes nothing.
    """
    from trl.kernels import chunked_logprob as kernels

    def tiles(start: int, stop: int, step: int) -> Iterable[int]:
        every = range(start, stop, step)
        if whole:
            return every
        return of_rows(every) if step == kernels.TOKEN_CHUNK_SIZE else of_words(every)

    def of_rows(every: range) -> Iterator[int]:
        tiled_rows.append(every.stop)
        for first, times in ((0, 1), (1, max(len(every) - 2, 0)), (len(every) - 1, int(len(every) > 1))):
            recorder.times = times
            yield every[first] if times else every.stop
        recorder.times = 1

    def of_words(every: range) -> Iterator[int]:
        for number, start in enumerate(every):
            if number == 1 and len(every) > 3:
                times = recorder.times
                recorder.times = times * (len(every) - 2)
                yield start
                recorder.times = times
            elif len(every) <= 3 or number in (0, len(every) - 1):
                yield start

    kernels.range = tiles  # type: ignore[attr-defined]  # found before the built-in one
    try:
        yield
    finally:
        del kernels.range  # type: ignore[attr-defined]


@contextlib.contextmanager
def _gpu_kernels(recorder: Recorder, active: bool) -> Iterator[None]:
    """Take the ways that libraries keep for GPUs, on fake tensors that say that they are on a processor.

    TRL's fused LM head works in place on a GPU (Triton, cuBLAS with fp32 output) and through copies on a CPU: while active,
    the places where the two differ only count their work, as the GPU's kernels allocate nothing. bitsandbytes multiplies
    int8 weights as such on a GPU, and unpacks them first on a CPU.
    """
    from bitsandbytes.autograd import _functions as products
    from transformers import masking_utils
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
            (torch.nn.functional, "scaled_dot_product_attention", kernels_of_gpus.attention),
            (torch.nn.functional, "dropout", kernels_of_gpus.dropout),
            (masking_utils, "find_packed_sequence_indices", kernels_of_gpus.no_packed_rows),
        ):
            swapped.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, stand_in)
        yield


class _NoLayerLeftOut(TorchFunctionMode):
    """Some models leave out layers by chance while they train (`layerdrop`): each layer draws a number, which is high here."""

    def __torch_function__(self, function: Any, kinds: Any, inputs: tuple = (), settings: Any = None) -> Any:
        if function is torch.rand and inputs == ([],):
            return 1.0
        return function(*inputs, **(settings or {}))


def _all_layers_kept(model: torch.nn.Module) -> Any:
    """The mode above where a model asks for it: it costs a little time for each operation."""
    return _NoLayerLeftOut() if any(hasattr(module, "layerdrop") for module in model.modules()) else contextlib.nullcontext()


@contextlib.contextmanager
def _inputs_kept(plan: Plan) -> Iterator[None]:
    """bitsandbytes before 0.43.2: a 4-bit product holds its input as long as the graph lives.

    Its first pass under checkpointing, which was the re-entrant kind then, made no graph, and so kept nothing.
    """
    from bitsandbytes.autograd import _functions as products

    class Keeping(products.MatMul4Bit):
        @staticmethod
        def forward(ctx: Any, inputs: torch.Tensor, *rest: Any) -> torch.Tensor:
            ctx.inputs = inputs
            return products_now.forward(ctx, inputs, *rest)

    products_now = products.MatMul4Bit
    if not plan.keep_quantized_inputs or plan.gradient_checkpointing:
        yield
        return
    products.MatMul4Bit = Keeping
    try:
        yield
    finally:
        products.MatMul4Bit = products_now
