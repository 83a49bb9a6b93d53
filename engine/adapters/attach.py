"""How a method gets hold of a model: what is added, what is trained, what stays as it is.

The rows of METHODS name these functions. Each takes the frozen base model and the method's options and returns the
model in which just the right weights require gradients. On "meta" the same parameters are made without numbers
(`engine/adapters/meta_init.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.adapters import meta_init, patterns
from engine.adapters.peft_options import MEANT_FOR_PEFT_ITSELF, declared
from engine.catalog.tasks import TASKS, Task
from engine.issues import Issue, PlanError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

    Attach = Callable[[torch.nn.Module, Mapping[str, Any]], PeftModel]

HEADS_OF_PEFT = ("classifier", "score", "qa_outputs")  # trained and saved by PEFT itself where it knows the task (0.21)
EXPRESSION = patterns.EXPRESSION


# --- PEFT's methods -------------------------------------------------------------------------------------------------


def with_peft(peft_type: str, model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """Add one of PEFT's adapters. Options that are not of its config belong to the method's optimizer and are left out.

    Args:
        peft_type: PEFT's name of the method, in lower case.
        model: the base model, frozen.
        options: by their PEFT names.
    """
    from peft import get_peft_model

    patterns.refuse_slow(patterns.of_options(options), [name for name, _ in model.named_modules()])
    config = make_config(peft_type, model, options)
    if not meta_init.is_meta(model):
        return _remember_start(_ready(get_peft_model(model, config)))
    with meta_init.only(peft_type, config, model):
        adapted = get_peft_model(model, config)
    return _ready(meta_init.ask_no_numbers(adapted))


# Start values that move a part of each weight into the adapter: the weight that stays is another than before.
MOVES_WEIGHTS = ("pissa", "olora")


def _remember_start(model: PeftModel) -> PeftModel:
    """Keep the first values of an adapter that begins with a part of the weights (`save` subtracts them)."""
    from peft import get_peft_model_state_dict

    config = model.peft_config["default"]
    if str(getattr(config, "init_lora_weights", "")).startswith(MOVES_WEIGHTS):
        model.started_from = {name: value.detach().clone() for name, value in get_peft_model_state_dict(model).items()}
    return model


def save(model: PeftModel, folder: Path) -> None:
    """Write the adapter so that it goes with the base model as it is, whatever the adapter started from.

    PiSSA and OLoRA take a part B0 A0 out of each weight. What they learned is B A - B0 A0, a LoRA of twice the rank:
    that is what is written.
    """
    if not hasattr(model, "started_from"):
        model.save_pretrained(folder, selected_adapters=["default"])
        for beneath in getattr(model, "beneath", ()):
            save(beneath, folder / BENEATH)
        return
    import copy

    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    start = model.started_from
    now = get_peft_model_state_dict(model)
    both = {name: value.to(start[name].device) for name, value in now.items()}
    for name, value in both.items():
        if ".lora_A." in name:
            both[name] = torch.cat([value, start[name]], dim=0)  # [2 r, in]
        elif ".lora_B." in name:
            both[name] = torch.cat([value, -start[name]], dim=1)  # [out, 2 r]
    config = copy.deepcopy(model.peft_config["default"])
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2  # the scale stays what it was
    config.r, config.init_lora_weights, config.inference_mode = 2 * config.r, True, True
    config.save_pretrained(str(folder))
    save_file({name: value.contiguous().cpu() for name, value in both.items()}, folder / "adapter_model.safetensors")


def load(base: torch.nn.Module, folder: Path) -> PeftModel:
    """The base model with a saved adapter of any method, ready to answer."""
    from peft import PeftModel

    import engine.adapters.tuners  # noqa: F401 (makes this program's own adapters known to PEFT)

    if (folder / BENEATH).is_dir():
        first = load(base, folder / BENEATH)
        return _joined(first, _ready(PeftModel.from_pretrained(first.get_base_model(), folder, use_safetensors=True)))
    model = PeftModel.from_pretrained(base, folder, use_safetensors=True)
    casts_by_itself = model.active_peft_config.peft_type == "LORA"
    if getattr(base, "is_quantized", False) and not casts_by_itself:
        _answer_in_mixed_precision(base)
    return _ready(model)


def _answer_in_mixed_precision(base: torch.nn.Module) -> None:
    """Quantised layers are trained under autocast, and some of PEFT's adapters mix number types without it."""
    import torch

    base.forward = torch.autocast(base.device.type, dtype=torch.bfloat16)(base.forward)


def merge(model: PeftModel) -> torch.nn.Module:
    """The base model with the adapter added to its weights. Raises ValueError if numbers came out that are none.

    Heads that were trained in full take their place first: PEFT (0.21) expects each of them to be one layer.
    """
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.modules_to_save[module.active_adapters[0]])
    return model.merge_and_unload(safe_merge=True)


def make_config(peft_type: str, model: torch.nn.Module, options: Mapping[str, Any]) -> PeftConfig:
    """The PEFT config for this model: names as lists, the layers to adapt, the task, the parts that are made anew."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    known = {option.name: option for option in declared()[peft_type]}
    values = {name: value for name, value in options.items() if name in known and name not in MEANT_FOR_PEFT_ITSELF}
    for name, option in known.items():
        if option.knob.kind == "names" and name in values:
            values[name] = names(values[name])
    # null leaves an option to PEFT, but for those where it is a value that differs from the default; no mapping is one
    values = {name: value for name, value in values.items() if value is not None or known[name].default not in (None, {})}
    if "target_modules" in known and not values.get("target_modules"):
        values |= default_targets(peft_type, model)
    elif values.get("target_modules") == "all-linear":
        values["target_modules"] = all_layers(model)
    task = task_of(model)
    heads = _present(model, task.head)
    ours = [name for name in heads if task.peft_type is None or name not in HEADS_OF_PEFT]
    if "modules_to_save" in known and ours:
        values["modules_to_save"] = [*(values.get("modules_to_save") or []), *ours]
    if heads and values.get("target_modules") == "all-linear":  # the head is trained whole, which PEFT (0.21) seldom knows
        values["target_modules"] = body_layers(model)
    if "fan_in_fan_out" in known and _has_conv1d(model):
        values["fan_in_fan_out"] = True
    if peft_type in BLOCKS:
        values |= _fitting_block(peft_type, model, values)
    if peft_type in BEFORE_THE_WORDS:
        values["token_dim"] = model.get_input_embeddings().embedding_dim
    if "num_virtual_tokens" in known and model.config.model_type == "distilbert":  # it has names of its own for its sizes
        values |= {"num_layers": model.config.n_layers, "num_attention_heads": model.config.n_heads}
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type.upper())]
    return config_class(task_type=task.peft_type, **_with_configs(config_class, values))


def _with_configs(config_class: type[PeftConfig], values: dict[str, Any]) -> dict[str, Any]:
    """The values, with each object that stands for a config of PEFT's own made that config. (PEFT 0.21 does so for most.)"""
    hints = typing.get_type_hints(config_class)
    made = dict(values)
    for name, value in values.items():
        nested = next((part for part in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(part)), None)
        if nested is not None and isinstance(value, Mapping):
            made[name] = nested(**value)
    return made


# Soft prompts that are as wide as the token vectors: PEFT (0.21) takes the width of the layers, which ALBERT's are not.
BEFORE_THE_WORDS = ("prompt_tuning", "p_tuning", "multitask_prompt_tuning")
# Methods that cut each layer into blocks, and the option that says how wide those are.
BLOCKS = {"c3a": "block_size", "vblora": "vector_length", "road": "group_size"}
SMALLEST_BLOCK = 8  # judgement: below, there are more blocks than the method has any use for


def _fitting_block(peft_type: str, model: torch.nn.Module, values: Mapping[str, Any]) -> dict[str, int]:
    """PEFT's default, made smaller until it divides the widths of all layers that are adapted.

    Raises:
        PlanError: a block that someone chose does not divide them, or none above `SMALLEST_BLOCK` does.
    """
    name = BLOCKS[peft_type]
    default = next(option.default for option in declared()[peft_type] if option.name == name)
    wanted = int(values.get(name, default))
    widths = _adapted_widths(peft_type, model, values.get("target_modules"))
    fits = math.gcd(wanted, *widths)
    if fits == wanted or (wanted == default and fits >= SMALLEST_BLOCK):
        return {name: fits}
    largest = math.gcd(*widths)
    fix = f"Use {largest} or a divisor of it." if largest >= SMALLEST_BLOCK else "Choose other layers, or LoRA."
    raise _issue(name, f"{wanted} does not divide the widths of the adapted layers ({', '.join(map(str, widths))}).", fix)


def _adapted_widths(peft_type: str, model: torch.nn.Module, targets: Any) -> list[int]:
    """The numbers of inputs and outputs of the linear layers that would be adapted, each once."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType

    mapping = getattr(PEFT_TYPE_TO_TUNER_MAPPING[PeftType(peft_type.upper())], "target_module_mapping", None) or {}
    chosen = targets or mapping.get(model.config.model_type) or "all-linear"
    layers = dict(model.named_modules())
    last = output_layer(model)
    found = [layers[name] for name in body_layers(model) if layers[name] is not last and _is_chosen(name, chosen)]
    sides = (
        (layer.in_features, layer.out_features) if hasattr(layer, "in_features") else layer.weight.shape for layer in found
    )
    return sorted({width for pair in sides for width in pair})


def _is_chosen(name: str, chosen: Any) -> bool:
    """Whether PEFT would adapt a layer of this name: of all linear ones, of a list, or by a regular expression."""
    if isinstance(chosen, str):
        return chosen == "all-linear" or re.fullmatch(chosen, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in chosen)


def names(value: Any) -> Any:
    """Module names as PEFT takes them: a list, the word all-linear, or one regular expression."""
    if not isinstance(value, str):
        return None if value is None else list(value)
    if value == "all-linear" or EXPRESSION.search(value):
        return value
    return [name.strip() for name in value.split(",") if name.strip()]


def task_of(model: torch.nn.Module) -> Task:
    """The row of TASKS that a model belongs to, by the name of its class."""
    name = type(model).__name__
    if name.endswith("ForConditionalGeneration"):
        return TASKS["seq2seq" if model.config.is_encoder_decoder else "image-text-to-text"]
    if hasattr(model.config, "text_config") and hasattr(model.config, "vision_config"):
        return TASKS["image-text-contrastive"]
    if "DoubleHeads" in name or name.endswith("LMHeadModel"):
        return TASKS["causal-lm"]
    rows = (row for row in TASKS.values() if row.auto_class.startswith("AutoModelFor"))
    two_towers = hasattr(model.config, "text_config") and hasattr(model.config, "vision_config")
    otherwise = TASKS["image-text-contrastive" if two_towers else "sentence-embedding"]
    return next((row for row in rows if name.endswith(row.auto_class.removeprefix("AutoModel"))), otherwise)


def default_targets(peft_type: str, model: torch.nn.Module) -> dict[str, Any]:
    """Which layers to adapt where the plan names none: PEFT's choice for this kind of model, else all linear layers.

    Norm tuning takes the norms; a model of convolutions has those adapted. PEFT's choice counts only while the model
    has layers of such names: some of transformers' models have been renamed since.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING, PeftType

    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(peft_type.upper()))
    mapping = getattr(tuner, "target_module_mapping", None)
    if peft_type == "ia3":
        mapping = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    if not mapping:
        return {}
    chosen = mapping.get(model.config.model_type, ())
    if isinstance(chosen, str):
        return {}
    found = [module for name, module in model.named_modules() if chosen and name.endswith(tuple(chosen))]
    if peft_type == "ln_tuning":
        return {} if found and all(is_norm(module) for module in found) else {"target_modules": norm_names(model)}
    if found:
        return {}
    targets: dict[str, Any] = {"target_modules": all_layers(model)}
    return targets | ({"feedforward_modules": []} if peft_type == "ia3" else {})


def all_layers(model: torch.nn.Module) -> Any:
    """The word all-linear, or in a model of convolutions the names of those."""
    import torch

    head = task_of(model).head
    body = [(name, module) for name, module in model.named_modules() if not name.startswith(head)]
    if any(type(module).__name__ in ROUTERS for _, module in body):
        return body_layers(model)
    if any(isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D" for _, module in body):
        return "all-linear"
    return [name for name, module in body if isinstance(module, torch.nn.Conv2d)]


ROUTERS = ("Llama4Router", "PhimoeTopKRouter")  # transformers' linear layers that give out two things: no adapter expects that
BOX = 4  # numbers: the layer that gives out a box is narrower than any adapter of it


def body_layers(model: torch.nn.Module) -> list[str]:
    """The names of all linear layers but those of a new head, a router, and the layer that gives out boxes."""
    import torch

    head = set(task_of(model).head)
    linear = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D") and type(module).__name__ not in ROUTERS
    }
    return [
        name for name, module in linear.items() if not head & set(name.split(".")) and getattr(module, "out_features", 0) != BOX
    ]


def norm_names(model: torch.nn.Module) -> list[str]:
    """The names of all norms that have weights: their last parts, or in full where another layer is called the same."""
    own = [name for name, module in model.named_modules() if is_norm(module)]
    short = {name.rsplit(".", 1)[-1] for name in own}
    same = [name for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in short and not is_norm(module)]
    return own if same else sorted(short)


def is_norm(module: torch.nn.Module) -> bool:
    """Whether it normalises and has a weight of its own: LayerNorm, BatchNorm, any model's RMSNorm."""
    return "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None


def _present(model: torch.nn.Module, wanted: tuple[str, ...]) -> list[str]:
    """Those of the names that the model has; of a list of modules (a head per decoder layer) the names of its members."""
    import torch

    own = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules()}
    found: list[str] = []
    for name in wanted:
        several = len(own[name]) if isinstance(own.get(name), torch.nn.ModuleList) else 0
        found += [f"{name}.{place}" for place in range(several)] or ([name] if name in own else [])
    return found


def quantized_layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    """The adapted layers whose weights are stored in 4 bits, by their names in the base model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module.get_base_layer().weight, "quant_state"):
            yield name, module


def _has_conv1d(model: torch.nn.Module) -> bool:
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


def _ready(model: PeftModel) -> PeftModel:
    """What PEFT leaves to the caller: the number of the task, and a `forward` that follows the base model's."""
    if model.peft_type == "POLY":  # one data set is one task
        model.register_forward_pre_hook(_first_task, with_kwargs=True)
        generate = model.generate
        model.generate = lambda *inputs, **settings: generate(**_first_task(model, inputs, settings)[1])
    if model.peft_type == "MULTITASK_PROMPT_TUNING":
        get_prompt = model.get_prompt
        model.get_prompt = lambda batch_size, **more: get_prompt(batch_size, **more | {"task_ids": _zeros(batch_size, model)})
    if model.peft_type == "ADALORA":
        model.load_adapter = functools.partial(_load_adalora, model)
        for name, parameter in model.named_parameters():
            if "ranknum" in name:  # the rank in use is a count that lies among the parameters
                parameter.requires_grad_(False)
    if model.peft_type == "ADAPTION_PROMPT":  # it keeps the `forward` of its first moment; TRL replaces it later
        model.base_model.forward = model.base_model.model.__call__
    _keep_number_types(model)
    if model.peft_type in ADD_IN_PLACE:
        _let_add_in_place(model)
    return model


def _keep_number_types(model: PeftModel) -> None:
    """Give norms in half precision what they take, numbers of their own type; some of PEFT's adapters answer in fp32 (0.21).

    On a GPU autocast does this for layer norms, and no one does it for batch norms (torch 2.13).
    """
    import torch

    for module in model.modules():
        batch_norm = isinstance(module, torch.nn.BatchNorm2d)
        if not batch_norm and not isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
            continue
        weight = module.weight
        if weight is not None and weight.dtype != torch.float32 and (batch_norm or weight.device.type == "cpu"):
            module.register_forward_pre_hook(_in_own_type)


def _in_own_type(norm: torch.nn.Module, inputs: tuple) -> tuple:
    return inputs[0].to(norm.weight.dtype), *inputs[1:]


ADD_IN_PLACE = ("GRALORA", "POLY", "C3A")  # PEFT's types (0.21) that add to what a layer gives out where it lies


def _let_add_in_place(model: PeftModel) -> None:
    """Let what a 4-bit layer with a bias gives out be added to in place: autograd refuses it on bitsandbytes' own (0.50)."""
    for module in model.modules():
        if hasattr(getattr(module, "weight", None), "quant_type") and module.bias is not None:
            module.register_forward_hook(lambda layer, inputs, output: output.clone())


def _load_adalora(model: PeftModel, folder: str | Path, adapter_name: str, **settings: Any) -> None:
    """Go on with a saved AdaLoRA. Its file has the ranks in use alone; they go back to their places among all of them.

    The others start from 0 again. PEFT (0.21) by itself would refuse a file whose ranks are fewer than the model's.
    """
    import torch
    from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    pattern = PeftConfig.from_pretrained(str(folder)).rank_pattern or {}
    saved, now = load_peft_weights(str(folder)), get_peft_model_state_dict(model, adapter_name=adapter_name)
    in_use = {name.rpartition(".lora_E")[0]: torch.tensor(flags) for name, flags in pattern.items()}
    for name, value in saved.items():
        mask = next((mask for layer, mask in in_use.items() if f"{layer}.lora_" in name), None)
        if mask is not None and value.shape != now[name].shape:
            across = ".lora_B" in name  # [out, rank]; A and E are [rank, ...]
            whole = now[name].new_zeros(now[name].shape)
            whole[(slice(None), mask) if across else mask] = value.to(whole.device)
            saved[name] = whole
    set_peft_model_state_dict(model, saved, adapter_name=adapter_name)
    model.peft_config[adapter_name].rank_pattern = pattern


def _zeros(size: int, model: torch.nn.Module) -> torch.Tensor:
    """The number of the first task for each row: int64 [size]."""
    import torch

    return torch.zeros(size, dtype=torch.long, device=model.device)


def _first_task(model: torch.nn.Module, inputs: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    if kwargs.get("task_ids") is not None:
        return inputs, kwargs
    ids = kwargs.get("input_ids")
    first = ids if ids is not None else (inputs[0] if inputs else kwargs["inputs_embeds"])  # [batch, ...]
    return inputs, kwargs | {"task_ids": _zeros(first.shape[0], model)}


def with_bottlenecks(model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """Houlsby's or Pfeiffer's adapters, by the option `placement`."""
    import engine.adapters.tuners  # noqa: F401 (makes them known to PEFT)

    return with_peft("bottleneck", model, options)


# --- two at once ----------------------------------------------------------------------------------------------------

BENEATH = "beneath"  # the folder of the first adapter inside that of the second, an ordinary PEFT adapter by itself


def with_pair(first: Attach, second: Attach, model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """Two methods in one model: layers that are adapted (`first`), and a soft prompt before them (`second`)."""
    beneath = first(model, options)
    trained = [parameter for parameter in beneath.parameters() if parameter.requires_grad]
    above = second(beneath.get_base_model(), options)
    for parameter in trained:  # PEFT freezes all that a soft prompt stands before
        parameter.requires_grad_(True)
    return _joined(beneath, above)


def _joined(beneath: PeftModel, above: PeftModel) -> PeftModel:
    """The outer model, which switches off, saves and loads the inner one with itself."""
    kind = type(above)

    class Joined(kind):  # type: ignore[misc, valid-type]
        """PEFT and the Trainer ask the model itself for these three (peft 0.21, transformers 5.23)."""

        @contextlib.contextmanager
        def disable_adapter(self) -> Iterator[None]:
            with super().disable_adapter(), beneath.disable_adapter():
                yield

        def save_pretrained(self, save_directory: str | Path, **settings: Any) -> None:
            super().save_pretrained(save_directory, **settings)
            beneath.save_pretrained(str(Path(save_directory) / BENEATH))

        def load_adapter(self, model_id: str | Path, adapter_name: str, **settings: Any) -> Any:
            """Go on with both. The Trainer takes the inner folder for one more adapter, and names that one."""
            folder = Path(model_id).parent if Path(model_id).name == BENEATH else Path(model_id)
            both = settings | {"is_trainable": True}
            beneath.load_adapter(str(folder / BENEATH), "default", **both)
            return super().load_adapter(str(folder), "default", **both)

    Joined.__name__ = Joined.__qualname__ = kind.__name__
    above.__class__ = Joined
    above.beneath = (beneath,)  # in a tuple: a module would list all its weights a second time
    return above


# --- LoRA's kin -----------------------------------------------------------------------------------------------------


def with_lora_fa(model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """LoRA whose first matrix stays as it was drawn: only the second one is trained."""
    adapted = with_peft("lora", model, options)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    return adapted


def with_lora_and_biases(model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """LoRA, and every bias of the model."""
    _require_biases(model)
    return with_peft("lora", model, options)


def with_lora_and_embeddings(model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """LoRA, and the embeddings and the output layer in full; tied ones stay tied."""
    ends = [name for name in (_name_of(model, model.get_input_embeddings()), _name_of(model, output_layer(model))) if name]
    kept = {"modules_to_save": [*(names(options.get("modules_to_save")) or []), *ends]}
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    return with_peft("lora", model, {**options, **kept, "ensure_weight_tying": tied})


def output_layer(model: torch.nn.Module) -> torch.nn.Module | None:
    """The layer that turns hidden states into logits over the vocabulary, where there is one."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _name_of(model: torch.nn.Module, wanted: torch.nn.Module | None) -> str | None:
    return next((name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module is wanted), None)


# --- parts of the model itself --------------------------------------------------------------------------------------


def train_everything(model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
    """Full fine-tuning."""
    model.requires_grad_(True)
    return model


def train_last_layers(model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
    """Train the last `num_layers` layers, or the parameters that match `name_pattern`; embeddings and head as asked for."""
    pattern = options.get("name_pattern")
    if pattern:
        _train_matching(model, str(pattern))
    else:
        stacks = layer_stacks(model)
        count = int(options["num_layers"])
        if not stacks or count > len(stacks[0]):
            depth = len(stacks[0]) if stacks else 0
            raise _issue(
                "num_layers", f"is {count}, and this model has {depth} layers.", "Use fewer layers, or a name pattern."
            )
        for layers in stacks:
            for layer in layers[len(layers) - count :]:
                layer.requires_grad_(True)
    if options.get("train_embeddings"):
        model.get_input_embeddings().requires_grad_(True)
    if options.get("train_head"):
        _train_head(model)
    return model


def _train_matching(model: torch.nn.Module, pattern: str) -> None:
    try:
        expression = re.compile(pattern)
    except re.error:
        raise _issue("name_pattern", f"{pattern!r} is not a regular expression.", r"Write one like layers\.(30|31)\.") from None
    matching = [parameter for name, parameter in model.named_parameters() if expression.search(name)]
    if not matching:
        raise _issue("name_pattern", f"{pattern!r} matches no parameter of this model.", "Use a part of a parameter's name.")
    for parameter in matching:
        parameter.requires_grad_(True)


def layer_stacks(model: torch.nn.Module) -> list[torch.nn.ModuleList]:
    """The lists of like layers, the longest first; an encoder-decoder has two. Lists inside of layers do not count."""
    import torch

    found: list[tuple[str, torch.nn.ModuleList]] = []
    for name, module in model.named_modules():
        if "vision" in name and task_of(model).key == "image-text-to-text":
            continue  # the part that writes is what is fine-tuned
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, torch.nn.ModuleList) and len(module) > 0 and not inside:
            found.append((name, module))
    longest = max((len(layers) for _, layers in found), default=0)
    return sorted((layers for _, layers in found if len(layers) > longest // 2), key=len, reverse=True)


def train_head_only(model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
    """Feature extraction: the body stays as it is, the head is trained."""
    if not _train_head(model):
        raise _issue("method", "this model has no head of its own to train.", "Choose another method, LoRA for instance.")
    return model


def _train_head(model: torch.nn.Module) -> int:
    """Let the head train: the new parts of the task, else the output layer. Returns how many parameters that are."""
    heads = [module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in task_of(model).head]
    last = output_layer(model)
    parts = heads or ([last] if last is not None else [])
    for part in parts:
        part.requires_grad_(True)
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def train_biases(model: torch.nn.Module, options: Mapping[str, Any]) -> torch.nn.Module:
    """BitFit: every bias, and the head of a new task."""
    _require_biases(model)
    for name, parameter in model.named_parameters():
        if _is_bias(name):
            parameter.requires_grad_(True)
    if task_of(model).head:
        _train_head(model)
    return model


def _is_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1].endswith("bias")


def _require_biases(model: torch.nn.Module) -> None:
    if not any(_is_bias(name) for name, _ in model.named_parameters()):
        raise _issue(
            "method",
            "this model has no biases to train.",
            "Choose norm tuning (ln_tuning): it trains as few numbers, and this model has norms.",
        )


def train_norms(model: torch.nn.Module, options: Mapping[str, Any]) -> PeftModel:
    """Norm tuning: PEFT keeps a trained copy of each norm."""
    return with_peft("ln_tuning", model, options)


def _issue(field: str, message: str, fix: str) -> PlanError:
    return PlanError([Issue(field=field, message=message, fix=fix)])
