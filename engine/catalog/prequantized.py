"""Checkpoints that come in few bits already: GPTQ and AWQ, by the `quantization_config` of their config.json.

LoRA can be trained beside such weights where their library is installed. What they need is known without it: on "meta"
each linear layer becomes a stand-in that holds what the real one stores, and unpacks it for each product.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.issues import Issue, PlanError

if TYPE_CHECKING:
    import torch

    from engine.plan import Plan

# quant_method -> (module, package) that transformers (5.23, quantizers/quantizer_gptq.py and quantizer_awq.py) asks for.
NEEDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "gptq": (("optimum", "optimum"), ("gptqmodel", "gptqmodel")),
    "awq": (("gptqmodel", "gptqmodel"),),
}
WORD = 32  # bits of the integers that hold the weights


@dataclass(frozen=True, kw_only=True)
class Packed:
    """How a checkpoint's linear layers are stored."""

    method: str  # gptq | awq
    bits: int
    group_size: int  # weights of a column that share a scale; -1: the whole column
    left_out: tuple[str, ...] = ()  # names of layers that are stored as they are

    @property
    def label(self) -> str:
        """As people write it: "GPTQ, 4 bits"."""
        return f"{self.method.upper()}, {self.bits} bits"


def of_config(config: Any) -> Packed | None:
    """How a model's config (a mapping, or transformers' object) says that its weights are stored; None: in no such way."""
    if config is None:
        return None
    stored = config.get("quantization_config") if isinstance(config, Mapping) else getattr(config, "quantization_config", None)
    values = stored if isinstance(stored, Mapping) or stored is None else stored.to_dict()
    if values is None or str(values.get("quant_method", "")).lower() not in NEEDS:
        return None
    return Packed(
        method=str(values["quant_method"]).lower(),
        bits=int(values.get("bits", values.get("w_bit", 4))),
        group_size=int(values.get("group_size", values.get("q_group_size", 128))),
        left_out=tuple(values.get("modules_to_not_convert") or ()),
    )


def check(plan: Plan, packed: Packed | None, *, goes_with_method: bool, quantization: str) -> list[Issue]:
    """What a plan cannot do with such a checkpoint."""
    if packed is None:
        return []
    if quantization != "none":
        message = f"{quantization} would pack weights that are packed already ({packed.label})."
        return [Issue(field="quantization", message=message, fix="Use none, with the method LoRA.")]
    if not goes_with_method:
        message = f"{plan.method} cannot be trained on weights that are stored in {packed.label}."
        return [Issue(field="method", message=message, fix="Use LoRA, or a checkpoint that is not quantised.")]
    return []


def missing(packed: Packed | None) -> list[Issue]:
    """What must be installed before such a checkpoint can be loaded."""
    absent = [
        package for module, package in (NEEDS[packed.method] if packed else ()) if importlib.util.find_spec(module) is None
    ]
    if packed is None or not absent:
        return []
    message = f"its weights are stored in {packed.label}, and what reads them is not installed."
    return [Issue(field="model", message=message, fix=f"Install it with `pip install {' '.join(absent)}`.")]


def require(config: Any) -> None:
    """Refuse to load what cannot be read. Raises `PlanError` with the line that installs it."""
    issues = missing(of_config(config))
    if issues:
        raise PlanError(issues)


# --- shapes ---------------------------------------------------------------------------------------------------------


def replace_linear_layers(model: Any, packed: Packed) -> None:
    """On "meta": put stand-ins where the library would put its packed layers, the output layer and those left out aside."""
    import torch
    from transformers.quantizers.base import get_keys_to_not_convert

    aside = (*get_keys_to_not_convert(model), *packed.left_out)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and not any(part in name for part in aside):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _stand_in()(module, packed))
    model.is_quantized = True


@functools.cache
def _stand_in() -> type[torch.nn.Linear]:
    """The class, made when torch is there: a Linear, so that PEFT adapts it, with packed weights [in * bits / 32, out]."""
    import torch

    class PackedLinear(torch.nn.Linear):
        """What a GPTQ or AWQ layer holds: `weight` in words, a zero and a scale for each group, and GPTQ's order of rows."""

        def __init__(self, layer: torch.nn.Linear, packed: Packed) -> None:
            super().__init__(0, 0, bias=False, device="meta")
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.bias = layer.bias
            groups = 1 if packed.group_size <= 0 else -(-self.in_features // packed.group_size)
            words = torch.empty(self.in_features * packed.bits // WORD, self.out_features, dtype=torch.int32, device="meta")
            self.weight = torch.nn.Parameter(words, requires_grad=False)
            zeros = torch.empty(groups, self.out_features * packed.bits // WORD, dtype=torch.int32, device="meta")
            self.register_buffer("qzeros", zeros)
            self.register_buffer("scales", torch.empty(groups, self.out_features, dtype=torch.float16, device="meta"))
            if packed.method == "gptq":
                self.register_buffer("g_idx", torch.empty(self.in_features, dtype=torch.int32, device="meta"))

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            product = UnpackAndMultiply.apply(input, self.weight, self.in_features)
            return product if self.bias is None else product + self.bias

    class UnpackAndMultiply(torch.autograd.Function):
        """x [..., in] @ W [in, out]: W is unpacked for the product, and again for its gradient, as gptqmodel's kernels do.

        They keep the packed weight between the two (gptqmodel/nn_modules/triton_utils/dequant.py).
        """

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, words: torch.Tensor, width: int) -> torch.Tensor:
            ctx.save_for_backward(words)
            ctx.width = width
            return x @ _unpacked(x, words, width)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            (words,) = ctx.saved_tensors
            return gradient @ _unpacked(gradient, words, ctx.width).t(), None, None

    return PackedLinear


def _unpacked(like: torch.Tensor, words: torch.Tensor, width: int) -> torch.Tensor:
    """Room for the weight [in, out] in the number type of `like`: one kernel fills it from the words."""
    return words.new_zeros(width, words.shape[1], dtype=like.dtype)
