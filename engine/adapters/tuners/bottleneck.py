"""Bottleneck adapters as a PEFT tuner: small layers h + W_up f(W_down h) behind the attention and the feed-forward block.

Houlsby et al. (https://arxiv.org/abs/1902.00751) put one behind each of the two blocks of every layer, Pfeiffer et al.
(https://arxiv.org/abs/2005.00247) one behind the feed-forward block alone. Both stand before the residual sum, on what
the block's last projection gives out; so the tuner wraps that projection. W_up starts at 0: the model starts unchanged.

Importing this module registers the method with PEFT: saving, loading, switching off and several adapters at once are
PEFT's own code. Being non-linear, such an adapter cannot be merged into weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _get_in_out_features
from peft.utils import PeftType, register_peft_method
from transformers.activations import ACT2FN

NAME = "bottleneck"

# The last projection of each block, by the names that transformers' models give it.
_OF_ATTENTION = (
    r"(.*\.)?(self_attn|attn|attention|self_attention|self_attn_layer|SelfAttention|EncDecAttention|encoder_attn|crossattention)"
    r"\.(o_proj|out_proj|c_proj|dense|output\.dense|o|Wo|out_lin)"
)
_OF_FEED_FORWARD = (
    r"(.*\.)?(mlp|ffn|feed_forward|DenseReluDense|block_sparse_moe)"
    r"\.(down_proj|c_proj|dense_4h_to_h|wo|Wo|fc2|lin2|output_dense|dense2)"
    r"|(.*\.)?layers?\.\d+\.(fc2|output\.dense)"
)
PLACES = {"houlsby": f"{_OF_ATTENTION}|{_OF_FEED_FORWARD}", "pfeiffer": _OF_FEED_FORWARD}


def _make_known(name: str) -> None:
    """Add a method to PEFT's enumeration of methods, which is closed to others."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member


_make_known(NAME.upper())


@dataclass
class BottleneckConfig(PeftConfig):
    """Where the adapters stand and how wide they are."""

    placement: str = field(default="houlsby", metadata={"help": "houlsby: behind both blocks; pfeiffer: behind the second."})
    reduction_factor: int = field(default=16, metadata={"help": "How many times narrower than the layer the adapter is."})
    non_linearity: str = field(default="gelu", metadata={"help": "The function between the two matrices: gelu, relu, silu."})
    bottleneck_dropout: float = field(default=0.0, metadata={"help": "The share of the adapter's inputs that is dropped."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "The projections that get an adapter behind them. Empty: found by the placement."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Projections that get none."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Only these layers, by number."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "The name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules that are trained in full as well."})
    init_weights: bool = field(default=True, metadata={"help": "Start unchanged; false starts from random adapters."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME.upper())
        if self.placement not in PLACES:
            raise ValueError(f"placement must be one of {', '.join(PLACES)}")
        if self.target_modules is None:
            self.target_modules = PLACES[self.placement]
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)


class BottleneckLayer(torch.nn.Module, BaseTunerLayer):
    """A projection with adapters behind it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_act", "bottleneck_dropout")

    def __init__(self, base_layer: torch.nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        self.bottleneck_down = torch.nn.ModuleDict()
        self.bottleneck_up = torch.nn.ModuleDict()
        self.bottleneck_act = torch.nn.ModuleDict()
        self.bottleneck_dropout = torch.nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add one adapter: [out_features -> out_features / reduction_factor -> out_features]."""
        width = max(1, self.out_features // config.reduction_factor)
        down = torch.nn.Linear(self.out_features, width)
        up = torch.nn.Linear(width, self.out_features)
        torch.nn.init.normal_(down.weight, std=0.02)  # the width of BERT's own start values
        torch.nn.init.zeros_(down.bias)
        if config.init_weights:
            torch.nn.init.zeros_(up.weight)
            torch.nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.bottleneck_act[adapter_name] = ACT2FN[config.non_linearity]
        self.bottleneck_dropout[adapter_name] = torch.nn.Dropout(config.bottleneck_dropout)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                inner = self.bottleneck_dropout[name](result.to(down.weight.dtype))
                result = result + up(self.bottleneck_act[name](down(inner))).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError("A bottleneck adapter is not linear, so it cannot be merged into the weights.")

    def unmerge(self) -> None:
        """There is nothing to take back: it never is merged."""


class BottleneckModel(BaseTuner):
    """PEFT's side of the method: it puts a `BottleneckLayer` in the place of each target."""

    prefix: str = f"{NAME}_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}  # the placement's expression finds the layers

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: torch.nn.Module,
        target_name: str,
        parent: torch.nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:  # one more adapter beside the first is not trained by itself
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError("A bottleneck adapter is not linear, so it cannot be merged into the weights.")


register_peft_method(name=NAME, config_cls=BottleneckConfig, model_cls=BottleneckModel)
