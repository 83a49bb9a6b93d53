"""Adapters without numbers: on "meta" a method has the parameters and does the work that it has and does on weights.

Some start values are computed from the weights, and some layers look at a number before they go on. Neither can be
done with shapes alone, so here other start values of the same shapes take their place (`only`), and the layers get a
plausible answer when they ask (`ask_no_numbers`). The estimator's dry run needs nothing else to be told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

# These look things up in tables that they fill while they are made, so the tables must be real; the weights are moved.
REAL_TABLES = ("boft", "unilora", "fourierft", "waveft", "shira", "frod", "c3a", "vblora", "supertuning")
# Their layers look at numbers: a random one (loha, lokr), the task's (poly), a sparse matrix's places, an infinity.
ASK_FOR_NUMBERS = ("loha", "lokr", "vblora", "poly", "waveft", "shira", "frod")


def is_meta(model: torch.nn.Module) -> bool:
    """Whether the model has shapes only."""
    return next(model.parameters()).is_meta


@contextlib.contextmanager
def only(peft_type: str, config: PeftConfig, model: torch.nn.Module) -> Iterator[None]:
    """Within it PEFT makes this adapter on "meta" with the shapes that it has on real weights."""
    import torch

    _start_without_numbers(config, model)
    with contextlib.ExitStack() as stack:
        if peft_type == "frod":
            stack.enter_context(_frod_shapes())
        if peft_type == "shira":
            stack.enter_context(_shira_shapes())
        if getattr(config, "use_dora", False):
            stack.enter_context(_dora_shapes())
        stack.enter_context(_in_order() if peft_type in REAL_TABLES else torch.device("meta"))
        yield


def _start_without_numbers(config: Any, model: torch.nn.Module) -> None:
    """Choose start values that need no weights and no text, and no more layers than a shortened probe has."""
    if hasattr(config, "prompt_tuning_init"):
        config.prompt_tuning_init = "RANDOM"
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True
    if hasattr(config, "adapter_layers"):
        config.adapter_layers = min(config.adapter_layers, model.config.get_text_config().num_hidden_layers)


def _in_order() -> Any:
    """Within it, what is drawn at random comes in its order: shuffling the places of a large weight takes seconds."""
    import torch
    from torch.overrides import TorchFunctionMode

    class InOrder(TorchFunctionMode):
        def __torch_function__(self, function: Any, kinds: Any, inputs: tuple = (), settings: Any = None) -> Any:
            if function is torch.randperm:
                return torch.arange(inputs[0])
            return function(*inputs, **(settings or {}))

    return InOrder()


@contextlib.contextmanager
def _replaced(owner: Any, **functions: Any) -> Iterator[None]:
    """Put other functions in place of a class's or a module's own, for a while."""
    kept = {name: owner.__dict__[name] for name in functions}
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(owner, name, function)


@contextlib.contextmanager
def _frod_shapes() -> Iterator[None]:
    """FRoD decomposes all weights of a kind together; its shapes follow from theirs. One number stands for each matrix."""
    import torch
    from peft.tuners.frod import layer, model
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    def projections(self: Any, config: Any, adapter_name: str) -> None:
        config = self._prepare_adapter_config(config, self.get_model_config(self.model))
        config = _maybe_include_all_linear_layers(config, self.model)
        if not hasattr(self, "frod_V"):
            self.frod_V, self.frod_s_indices, self.frod_s_size = (torch.nn.ModuleDict() for _ in range(3))
        for key, module in self.model.named_modules():
            category = model._category_from_key(key)
            if self._check_target_module_exists(config, key) and category not in self.frod_V:
                add_category(self, config, adapter_name, category, module)

    def add_category(self: Any, config: Any, adapter_name: str, category: str, module: Any) -> None:
        width = module.in_features if hasattr(module, "in_features") else module.weight.shape[0]
        count = max(1, int(width * width * config.sparse_rate))
        values = {
            "frod_V": torch.zeros((), dtype=module.weight.dtype).expand(width, width),
            "frod_s_indices": torch.zeros(2, count, dtype=torch.long),
            "frod_s_size": torch.tensor([width, width]),
        }
        for name, value in values.items():
            getattr(self, name)[category] = model.BufferDict({}, persistent=config.save_projection)
            getattr(self, name)[category][adapter_name] = value

    def u_and_lambda(self: Any, v: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(()).expand(weight.shape), torch.zeros(weight.shape[1])

    with (
        _replaced(model.FrodModel, _init_frod_projections=projections),
        _replaced(layer.FrodLayer, _calculate_frod_u_and_lambda=u_and_lambda),
    ):
        yield


@contextlib.contextmanager
def _shira_shapes() -> Iterator[None]:
    """SHiRA finds the places of its mask's ones; on "meta" the first places stand for them."""
    import torch
    from peft.tuners.shira.layer import ShiraLayer

    update = ShiraLayer.update_layer

    def update_layer(self: Any, adapter_name: str, mask: Any, r: int, config: Any, **rest: Any) -> None:
        update(self, adapter_name, None, r, config, **rest)
        places = torch.arange(self.shira_weight[adapter_name].shape[0], dtype=torch.int)
        self.shira_indices[adapter_name] = torch.stack([places // self.in_features, places % self.in_features])

    with _replaced(ShiraLayer, update_layer=update_layer):
        yield


@contextlib.contextmanager
def _dora_shapes() -> Iterator[None]:
    """DoRA starts from the lengths of the weights, unpacked where they are quantised."""
    import torch
    from peft.tuners.lora import dora

    unpack = dora.dequantize_module_weight

    def unpacked(module: Any) -> torch.Tensor:
        if type(module).__name__ not in ("Linear4bit", "Linear8bitLt"):
            return unpack(module)
        return torch.empty(module.out_features, module.in_features, device="meta")

    with _replaced(dora, dequantize_module_weight=unpacked):
        yield


# --- layers that look at numbers ------------------------------------------------------------------------------------


def ask_no_numbers(model: PeftModel) -> PeftModel:
    """Let the adapted layers of a model without numbers take their usual way. In place; also when they are recomputed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if model.peft_type.value.lower() in ASK_FOR_NUMBERS:
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                number = module.in_features if model.peft_type == "FROD" else 0
                module.forward = _answered(module.forward, number)
    return model


def _answered(forward: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The layer's forward, in which a question for a number is answered as it usually is while training."""

    def answered(*inputs: Any, **settings: Any) -> Any:
        with _usual_answers(number):
            return forward(*inputs, **settings)

    return answered


def _usual_answers(number: int) -> Any:
    """A mode in which `number` is what a tensor says that it holds: the first task, or the width of FRoD's matrix."""
    import torch
    from torch.overrides import TorchFunctionMode

    def dense(indices: torch.Tensor, values: torch.Tensor, size: Any) -> torch.Tensor:
        return torch.zeros(size, dtype=values.dtype).index_put(tuple(indices.long()), values)

    def unfiltered(tensor: torch.Tensor, index: Any) -> torch.Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        masks = [isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts]
        return tensor[tuple(slice(None) if mask else part for mask, part in zip(masks, parts, strict=True))]

    answers: dict[Any, Callable[..., Any]] = {
        torch.Tensor.any: lambda tensor: False,  # no infinity among the weights
        torch.Tensor.all: lambda tensor: True,  # a distribution's arguments are valid
        torch._is_all_true: lambda tensor: True,
        torch.Tensor.item: lambda tensor: number,
        torch.Tensor.coalesce: lambda tensor: tensor,
        torch.Tensor.to_dense: lambda tensor: tensor,
        torch.Tensor._nnz: lambda tensor: 1,
        torch.sparse_coo_tensor: dense,
        torch.sparse.mm: torch.matmul,
        torch.Tensor.__getitem__: unfiltered,
    }

    class UsualAnswers(TorchFunctionMode):
        def __torch_function__(self, function: Any, kinds: Any, inputs: tuple = (), settings: Any = None) -> Any:
            if function is torch.rand and inputs == (1,):
                return 1.0  # the layer is not dropped
            return answers.get(function, function)(*inputs, **(settings or {}))

    return UsualAnswers()
