"""Models of fake tensors: every weight has its shape, its number type and its true storage, and no numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def make_fake(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer by a fake tensor, in place; what was shared stays shared."""
    seen: dict[int, torch.Tensor] = {}
    for module in _modules(model):
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = _fake_parameter(module, name, parameter, mode, seen)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = _fake_once(buffer, mode, seen)


def _modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The model's modules, and those that PEFT (0.21) keeps outside of it: LLaMA-Adapters that are not in use now."""
    kept = getattr(getattr(model, "base_model", None), "_cached_adapters", {})
    all_of_them = [*model.modules(), *(part for parts in kept.values() for one in parts for part in one.modules())]
    return list(dict.fromkeys(all_of_them))


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


def held_by(parameter: torch.Tensor) -> list[torch.Tensor]:
    """A tensor's storage, and those of its scales where it is quantised."""
    if hasattr(parameter, "scales"):
        return [parameter, parameter.scales]
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return [parameter]
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.state2 is not None else []
    return [parameter, state.absmax, *nested]
