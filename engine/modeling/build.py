"""build(plan, device): the model as it will be trained. The estimator and the worker both call it.

On a real device the weights are loaded (safetensors only, never remote code). On "meta" the same model, the same
quantised layers and the same adapter are made without memory, for the estimator's dry run of the real step.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import checks, data
from engine.catalog import chat_templates, hub_lookups, model_files, model_sizes, models, prequantized
from engine.data import template_sandbox
from engine.data.values import classes_in
from engine.issues import Issue, PlanError
from engine.methods import METHODS, is_tied, optimizers, option_values, unfit
from engine.modeling import checkpoints, libraries
from engine.objectives import OBJECTIVES, task_of
from engine.plan import Plan
from engine.system import errors

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

STEPS_UNKNOWN = 1000  # any number does: it shapes AdaLoRA's schedule, and such a plan is only priced
# Fields of a config that change what a call returns, not the model; the trainers expect their defaults.
CALL_SETTINGS = ("return_dict", "output_hidden_states", "output_attentions", "use_cache")
MAX_PARAMS = 2e12  # the largest published models have 1e12 parameters; a config beyond twice that is a mistake


def device_here() -> str:
    """The device that a run on this machine uses: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def build(plan: Plan, device: str, *, config: PretrainedConfig | None = None) -> torch.nn.Module:
    """The base model with the plan's method applied: what should train requires gradients, nothing else does.

    Args:
        plan: a checked plan.
        device: "meta" for shapes alone, else where the weights go.
        config: replaces the model's own config (the estimator builds fewer layers with it).

    Raises:
        PlanError, or an error of the libraries that `faults.explain` puts into words.
    """
    config = config if config is not None else load_config(plan)
    _refuse_packed(plan, config, device)
    with _laid_to_config(plan):
        base = build_bare(plan, config) if device == "meta" else load_base(plan, device)
    if device == "meta":
        _quantize_shapes(base, plan)
    base.config.use_cache = False  # training never reads the cache
    base.requires_grad_(False)
    _refuse_unfit(plan, base)
    if plan.prepare_model_for_kbit_training and checks.quantization(plan) != "none":
        prepare_for_kbit(base)
    with laid_to_options(plan):
        model = METHODS[plan.method].apply(base, _options(plan))
    number_type = adapter_dtype(plan)
    if number_type is not None:
        _cast_trained(model, number_type)
    if plan.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": plan.use_reentrant})
        model.enable_input_require_grads()
    return model


def _laid_to_config(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Around what transformers makes of a config. Those of the catalogue are known to be sound: faults there are our own."""
    if models.is_known(plan.model):
        return contextlib.nullcontext()
    fix = "Check its values, or leave out those that you do not need."
    return errors.laid_to("model", "transformers can make no model of this config", fix)


def laid_to_options(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Around what PEFT makes of a plan's options. Where none differs from its default, faults are our own."""
    defaults = {option.name: option.default for option in METHODS[plan.method].options}
    changed = [name for name, value in plan.method_options.items() if value != defaults.get(name)]
    if not changed:
        return contextlib.nullcontext()
    field = changed[0] if len(changed) == 1 else "method_options"
    fix = f"Check {', '.join(changed[:5])}; leave out what you do not need."
    return errors.laid_to(field, "PEFT cannot use this here", fix)


def laid_to_step(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Around a training step: a model can be made of many values with which it cannot compute."""
    of_options = laid_to_options(plan)
    if models.is_known(plan.model) or not isinstance(of_options, contextlib.nullcontext):
        return of_options
    return errors.laid_to("model", "no training step can be computed with it", "Check the numbers in its config.")


def _refuse_packed(plan: Plan, config: PretrainedConfig, device: str) -> None:
    """What `checks` says of checkpoints that come in few bits, said of all; to load one takes its library."""
    stored = prequantized.of_config(config)
    issues = prequantized.check(
        plan, stored, goes_with_method=METHODS[plan.method].packed, quantization=checks.quantization(plan)
    )
    if issues:
        raise PlanError(issues)
    if device != "meta":
        prequantized.require(config)


def _refuse_unfit(plan: Plan, base: torch.nn.Module) -> None:
    """What `checks` says of models that it knows, said of all."""
    method = METHODS[plan.method]
    why = unfit(method, base.config.model_type, task_of(plan), tied=is_tied(base.config.get_text_config().to_dict()))
    if why:
        raise PlanError([Issue(field="method", message=f"{method.label} {why}", fix="Use LoRA, or another model.")])


def _options(plan: Plan) -> dict[str, Any]:
    """The method's options, and what follows from the plan where they leave it open."""
    options = option_values(plan)
    if "total_step" in options and not options["total_step"]:
        options["total_step"] = planned_steps(plan)
    if options.get("prompt_tuning_init") == "TEXT" and not options.get("tokenizer_name_or_path"):
        options["tokenizer_name_or_path"] = str(models.find(plan.model).folder or models.find(plan.model).id)
    return options


def planned_steps(plan: Plan) -> int:
    """About how many optimizer steps the run takes: exact without packing; `STEPS_UNKNOWN` for a plan without data."""
    if plan.max_steps > 0:
        return plan.max_steps
    rows = sum(data.scan(source).rows for source in plan.datasets) * (1 - plan.eval_fraction)
    per_epoch = math.ceil(math.ceil(rows / plan.per_device_train_batch_size) / plan.gradient_accumulation_steps)
    return math.ceil(per_epoch * plan.num_train_epochs) or STEPS_UNKNOWN


def prepare_for_kbit(base: torch.nn.Module) -> None:
    """What stays in half precision of a quantised model becomes fp32, as older trainers do it; checkpointing is left alone."""
    from peft import prepare_model_for_kbit_training

    prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)


def adapter_dtype(plan: Plan) -> torch.dtype | None:
    """The number type that the adapter is cast to; None leaves it as PEFT makes it (fp32) or as the model is (no adapter).

    TRL's trainers train adapters in bf16 on a quantised base (the QLoRA paper's choice), and so do runs of this program,
    but for those of other trainers that do without mixed precision.
    """
    import torch

    if METHODS[plan.method].whole_model:
        return None
    if plan.adapter_dtype == "auto":
        mixed = plan.precision != "fp32" or OBJECTIVES[plan.objective].trainer.startswith("trl.")
        return torch.bfloat16 if mixed and checks.quantization(plan) != "none" else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[plan.adapter_dtype]


def _cast_trained(model: torch.nn.Module, number_type: torch.dtype) -> None:
    """But for DoRA's lengths, as in TRL 1.16: their steps are smaller than what bf16 can tell apart."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(number_type)


# --- the base model -------------------------------------------------------------------------------------------------


def torch_dtype(plan: Plan) -> torch.dtype:
    """The number type of the plan's weights."""
    import torch

    if plan.master_weights:
        return torch.float32
    return compute_dtype(plan)


def compute_dtype(plan: Plan) -> torch.dtype:
    """The number type of the plan's arithmetic."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[plan.precision]


def attention(plan: Plan) -> str | None:
    """The attention kernel to ask for; None lets transformers take sdpa where the model has it, else its eager one."""
    return None if plan.attn_implementation == "sdpa" else plan.attn_implementation


def load_config(plan: Plan) -> PretrainedConfig:
    """The model's config: from the catalogue, its folder, the pasted text, or the hub."""
    from transformers import AutoConfig

    model = models.find(plan.model)
    if model.config is not None:
        values = {name: value for name, value in model.config.items() if name not in CALL_SETTINGS}
        with _laid_to_config(plan):
            config = AutoConfig.for_model(values.pop("model_type"), **values)
    else:
        _ask_whether_the_hub_is_there(model.id)
        _refuse_code_in_cache(model.id)
        config = AutoConfig.from_pretrained(model.id, trust_remote_code=False)
        _refuse_code_in_cache(model.id)  # what was fetched just now
    _refuse_absurd(config)
    writes = config.is_encoder_decoder and hasattr(config, "vocab_size")
    if writes and getattr(config, "decoder_start_token_id", None) is None:  # the table of models has sizes alone
        config.decoder_start_token_id = config.pad_token_id or 0
    _set_labels(config, plan)
    return config


def _set_labels(config: PretrainedConfig, plan: Plan) -> None:
    """Tell the config what the new head tells apart: the classes of the plan's data, or one number."""
    task = task_of(plan)
    if task.labels == "none":
        return
    names = labels_of(plan)
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    if task.auto_class == "AutoModelForSequenceClassification":
        config.problem_type = "regression" if task.labels == "one" else "single_label_classification"
    if getattr(config, "pad_token_id", None) is None:  # a decoder finds the last word of a row by it
        config.pad_token_id = getattr(config, "eos_token_id", None)


def labels_of(plan: Plan) -> tuple[str, ...]:
    """The names of the classes or tags in the plan's data, in order; two of them where a plan has no data yet."""
    task = task_of(plan)
    if task.labels == "one":
        return ("score",)
    if not plan.datasets:
        return ("0", "1")
    key = (task.labels, data.fingerprint(plan.datasets))
    if key not in _labels:
        _labels[key] = _read_labels(plan)
    return _labels[key]


_labels: dict[tuple[str, str], tuple[str, ...]] = {}  # by what is told apart and the fingerprint of the data


def _read_labels(plan: Plan) -> tuple[str, ...]:
    rows = data.load(plan.datasets)
    found = {name for row in rows for name in ([str(row["label"])] if "label" in row else classes_in(row))}
    return tuple(sorted(found, key=lambda name: (len(name), name) if name.isdigit() else (0, name)))


def _ask_whether_the_hub_is_there(model_id: str) -> None:
    """Fail within seconds where the hub would not give the model; what is in the cache needs no hub."""
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(model_id, "config.json"), str):
        return
    hub_lookups.refuse_if_refused("models", model_id, field="model")


def _refuse_code_in_cache(model_id: str) -> None:
    """Refuse a repository of the hub whose JSON files, as far as they were fetched, ask for code.

    The models of the catalogue are of types that transformers has itself: what some of them name beside it is not needed.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model_id, "config.json")
    if not isinstance(found, str) or model_id in models.catalogue():
        return
    files = (file for file in Path(found).parent.iterdir() if model_files.is_read_json(file.name))
    issues = [issue for file in sorted(files) for issue in model_files.check_json(file)]
    if issues:
        raise PlanError(issues)


def _refuse_absurd(config: PretrainedConfig) -> None:
    """Refuse sizes that no model has, before anything is built from them."""
    text = config.get_text_config()
    names = ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "intermediate_size")
    sizes = {name: getattr(text, name) for name in names if getattr(text, name, None) is not None}
    wrong = [name for name, size in sizes.items() if not model_sizes.is_size(name, size)]
    if not wrong:
        hidden, layers, vocabulary = (max(size) if isinstance(size := sizes.get(name, 0), list) else size for name in names[:3])
        wrong = ["hidden_size"] if max(12 * layers * hidden**2, vocabulary * hidden) > MAX_PARAMS else []
    if wrong:
        message = f"the config's {' and '.join(wrong)} is no size that a model has."
        raise PlanError([Issue(field="model", message=message, fix="Check the numbers in the config.")])
    heads, shared = sizes.get("num_attention_heads"), vars(text).get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and (shared <= 0 or heads % shared):
        message = f"the config's {heads} attention heads cannot share {shared} heads of keys and values."
        fix = "Make num_attention_heads a multiple of num_key_value_heads."
        raise PlanError([Issue(field="model", message=message, fix=fix)])


def weights_location(plan: Plan) -> str:
    """What `from_pretrained` is given: the model's folder or its hub id. A pasted config has neither."""
    model = models.find(plan.model)
    if model.folder is None and model.id.startswith("config:"):
        raise PlanError(
            [
                Issue(
                    field="model",
                    message="a pasted config has no weights.",
                    fix="Plan with it, and start with a model id or folder.",
                )
            ]
        )
    return str(model.folder or model.id)


def load_base(plan: Plan, device: str) -> PreTrainedModel:
    """The pretrained model with its weights, quantised as the plan says."""
    import transformers

    libraries.load()
    task = task_of(plan)
    if plan.expandable_segments and device == "cuda":
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    transformers.set_seed(plan.seed)  # weights that the files lack are drawn alike by the worker, Try and the merge
    model = getattr(transformers, task.auto_class).from_pretrained(
        weights_location(plan),
        config=load_config(plan) if task.labels != "none" else None,
        ignore_mismatched_sizes=task.labels != "none",  # a head for other labels is made anew
        dtype=torch_dtype(plan),
        attn_implementation=attention(plan),
        quantization_config=quantization_config(plan),
        device_map={"": device},
        use_safetensors=True,
        trust_remote_code=False,
    )
    _keep_4bit_layout(model)
    return model


def _keep_4bit_layout(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place when a processor with AVX512-BF16 evaluates.

    Its backward pass reads the repacked weights wrongly (seen with 0.50.2: after the first evaluation a QLoRA run on such
    a processor learns next to nothing), so the layout that training needs is kept.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(plan: Plan) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with its own chat template or the one that the plan names."""
    from transformers import AutoTokenizer

    template_sandbox.guard()
    tokenizer = AutoTokenizer.from_pretrained(weights_location(plan), trust_remote_code=False)
    return chat_templates.of_plan(tokenizer, plan)


def load_processor(plan: Plan) -> Any:
    """What prepares the inputs of the plan's task: the tokenizer, the image processor, or both in one.

    Image processors are those that work on PIL images: they need no torchvision.
    """
    import transformers
    from transformers.utils import is_torchvision_available

    task = task_of(plan)
    if not task.reads_images:
        return load_tokenizer(plan)
    template_sandbox.guard()
    where = weights_location(plan)
    if task.processor == "AutoProcessor" and not is_torchvision_available():
        from engine.modeling import image_processors

        config = load_config(plan)
        if image_processors.has_grid(config):  # the processors of such models read videos too, and need torchvision for them
            return image_processors.ImageAndText.from_pretrained(where, config)
    return getattr(transformers, task.processor).from_pretrained(where, backend="pil", trust_remote_code=False)


def quantization_config(plan: Plan) -> Any:
    """bitsandbytes' settings for the plan, or None.

    A head that is made anew is trained, so it stays as it is: transformers (5.23) by itself leaves the last layer aside only
    where that has no bias.
    """
    from transformers import BitsAndBytesConfig

    kind = checks.quantization(plan)
    heads = list(task_of(plan).head) or None
    if kind == "none":
        return None
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=heads)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=heads,  # of 4 bits too, whatever its name says
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=plan.double_quantization,
        bnb_4bit_compute_dtype=compute_dtype(plan),
    )


def build_bare(plan: Plan, config: PretrainedConfig) -> PreTrainedModel:
    """The base model on "meta", before quantisation and method: right shapes and number types, no numbers."""
    import torch
    import transformers

    with torch.device("meta"):
        return getattr(transformers, task_of(plan).auto_class).from_config(
            config, dtype=torch_dtype(plan), attn_implementation=attention(plan), trust_remote_code=False
        )


def _quantize_shapes(model: PreTrainedModel, plan: Plan) -> None:
    """On "meta": put bitsandbytes' layers where transformers would put them while it loads a quantised model."""
    import torch
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    settings = quantization_config(plan)
    stored = prequantized.of_config(model.config)
    if stored is not None:
        prequantized.replace_linear_layers(model, stored)
    if settings is None:
        return
    aside = HfQuantizer.get_modules_to_not_convert(model, settings.llm_int8_skip_modules, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, aside, settings)
    replaced = (module for module in model.modules() if hasattr(module, "source_cls"))
    for module in replaced:
        if module.bias is not None:  # of the type that loading gives it
            module.bias = torch.nn.Parameter(module.bias.to(torch_dtype(plan)), requires_grad=False)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = settings.load_in_4bit, settings.load_in_8bit
    model.is_quantized = True
    model.requires_grad_(False)
    _keep_4bit_layout(model)


# --- the loss -------------------------------------------------------------------------------------------------------


def add_sft_loss(model: torch.nn.Module) -> None:
    """Give the model the LM head that TRL's SFTTrainer trains with: log-probabilities in tiles, never all logits."""
    from trl.trainer.utils import add_fused_lm_head

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))


def sft_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """SFTTrainer's loss of one batch: the mean negative log-likelihood of the labelled tokens (a test compares the two).

    Args:
        batch: input_ids, attention_mask and labels, each int64 [batch, tokens]; -100 marks a token without a label.
    """
    outputs = model(**batch, use_cache=False, fused_lm_head=True)
    return -outputs.log_probs.sum() / outputs.label_mask.sum().clamp(min=1)


def full_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor], *, keep_outputs: bool = False) -> torch.Tensor:
    """The loss of a plain Trainer: the model's own, from all logits [batch, tokens, vocabulary] in fp32."""
    outputs = model(**batch, use_cache=False)
    return _keeping(outputs.loss, outputs.logits) if keep_outputs else outputs.loss


def shifted_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor], *, keep_outputs: bool = False) -> torch.Tensor:
    """The loss of transformers before 4.46: the logits in fp32, a copy of all but the last of each row, and its loss.

    The same number as `full_loss`, with one more copy of the logits (`LlamaForCausalLM.forward` of transformers 4.38,
    https://github.com/huggingface/transformers/blob/v4.38.0/src/transformers/models/llama/modeling_llama.py).
    """
    import torch

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits.float()
    shifted = logits[..., :-1, :].contiguous()
    labels = batch["labels"][..., 1:].contiguous()
    loss = torch.nn.functional.cross_entropy(shifted.view(-1, shifted.shape[-1]), labels.view(-1))
    return _keeping(loss, logits) if keep_outputs else loss


def _keeping(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The loss, which holds the logits for as long as it lives: so does a loop that has them in a variable."""
    loss.logits = logits.detach()
    return loss


# --- the trainer's settings -----------------------------------------------------------------------------------------


def training_arguments(
    plan: Plan, output_dir: Path, config_class: type[TrainingArguments] | None = None, **changes: Any
) -> TrainingArguments:
    """The plan as the config of its trainer: the worker trains with it, the estimator takes the optimizer from it.

    Args:
        plan: a checked plan.
        output_dir: where the trainer may write.
        config_class: TrainingArguments itself, or the config of one of TRL's trainers.
        changes: settings of that class that the plan's own fields do not say.
    """
    from transformers import TrainingArguments

    on_cpu = device_here() == "cpu"
    settings: dict[str, Any] = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "per_device_eval_batch_size": plan.per_device_train_batch_size,  # TRL's 8 could need more than the training does
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "num_train_epochs": plan.num_train_epochs,
        "max_steps": plan.max_steps,
        "learning_rate": learning_rate(plan),
        "lr_scheduler_type": plan.lr_scheduler_type,
        "warmup_steps": plan.warmup_ratio,  # transformers 5: a value below 1 is a share of the steps
        "weight_decay": plan.weight_decay,
        "max_grad_norm": plan.max_grad_norm,
        "optim": plan.optim,
        **optimizers.arguments(plan),
        "bf16": plan.precision == "bf16" and plan.autocast,
        "fp16": plan.precision == "fp16" and plan.autocast,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": plan.use_reentrant} if plan.gradient_checkpointing else None,
        "seed": plan.seed,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the default turns a NaN loss into 0.0 (transformers)
        "save_strategy": "no",  # the worker asks for checkpoints by the clock (`train.make_checkpoints`)
        "save_total_limit": checkpoints.KEPT,
        "report_to": "none",
        "disable_tqdm": True,
        "prediction_loss_only": True,
    }
    return (config_class or TrainingArguments)(**settings | changes)


def make_optimizer(plan: Plan, model: torch.nn.Module) -> torch.optim.Optimizer | None:
    """The optimizer of a method that has one of its own (LoRA+, LoRA-FA, AdaLoRA); None: the Trainer makes the plan's."""
    return optimizers.make(plan, model, learning_rate(plan))


def learning_rate(plan: Plan) -> float:
    """The peak learning rate: the plan's, else the objective's share of what was measured or recommended for the method."""
    if plan.learning_rate is not None:
        return plan.learning_rate
    rate = models.find(plan.model).learning_rates.get(plan.method, METHODS[plan.method].learning_rate)
    return rate * OBJECTIVES[plan.objective].rate_scale
