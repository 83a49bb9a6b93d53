"""What the checks let pass can be built and trained: methods on the tasks, models and quantisations that are hard for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from engine import checks
from engine.adapters import attach
from engine.catalog.tasks import TASKS
from engine.issues import PlanError
from engine.methods import METHODS, unfit
from engine.methods.row import PASTLESS_TYPES, TIED_TYPES
from engine.modeling import build
from engine.objectives import OBJECTIVES, recipe
from engine.plan import Plan
from tests import tiny_models

pytestmark = pytest.mark.usefixtures("quiet")

Folders = Callable[[str, str], Path]

YOLOS = tiny_models.FAMILIES["vit"].config | {"image_size": [16, 16], "num_detection_tokens": 4}
# What comes out stands for single words or boxes, or the head is made of several layers.
HARD = [("bert", "token_classification"), ("bart", "classification"), ("yolos", "object_detection")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The tiny model of a family with the head of an objective, on the disk."""

    def save(family: str, objective: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        settings = YOLOS if family == "yolos" else tiny_models.FAMILIES[family].config | {"num_labels": 2}
        config = transformers.AutoConfig.for_model(family, **settings)
        torch.manual_seed(0)
        task = TASKS[OBJECTIVES[objective].task]
        getattr(transformers, task.auto_class).from_config(config).save_pretrained(folder)
        return folder

    return functools.cache(save)


def planned(method: str, folder: Path, objective: str, **settings: Any) -> Plan:
    options = tiny_models.TINY_OPTIONS.get(method, {})
    chosen = {"model": str(folder), "objective": objective, "method": method, "method_options": options, "max_length": 32}
    return Plan(**chosen | settings)


def refused(method: str, family: str, objective: str) -> str:
    return unfit(METHODS[method], family, TASKS[OBJECTIVES[objective].task])


def known(model: Any) -> dict[str, Any]:
    """What is known of all parameters but the packed weights."""
    whole = {name: p for name, p in model.named_parameters() if not hasattr(p, "quant_type") and not hasattr(p, "SCB")}
    return {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in whole.items()}


def step(model: Any, plan: Plan) -> None:
    """One pass there and back, as the Trainer does it in bf16."""
    way = recipe(plan)
    way.prepare(model, plan)
    batch = way.dry_batch(model.config, plan, 2, 12)
    if "input_ids" in batch:
        batch["input_ids"][:, -1] = 2  # BART reads its answer at the end of a text
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = way.dry_loss(model.train(), batch, plan, {})
    loss.backward()
    assert any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("family", "objective", "method"), [(*hard, method) for hard in HARD for method in METHODS if not refused(method, *hard)]
)
def test_what_is_not_refused_is_built(family: str, objective: str, method: str, folders: Folders) -> None:
    plan = planned(method, folders(family, objective), objective)
    assert checks.check(plan) == []
    model = build.build(plan, "meta")
    heads = set(TASKS[OBJECTIVES[objective].task].head)
    inside = [name for name, p in model.named_parameters() if heads & set(name.split(".")) and p.requires_grad]
    assert inside, "the new head trains"
    if not METHODS[method].whole_model and method != "lora_bitfit":
        assert all("modules_to_save" in name for name in inside), "and has no adapter inside"


@pytest.mark.parametrize("method", [key for key in METHODS if not refused(key, "resnet", "image_classification")])
def test_batch_norms_in_half_precision_take_what_any_method_gives(method: str, folders: Folders) -> None:
    plan = planned(method, folders("resnet", "image_classification"), "image_classification", precision="bf16")
    step(build.build(plan, "cpu"), plan)


PACKED_HEADS = [("bert", "classification"), ("roberta", "classification"), ("t5", "classification"), *HARD[1:]]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize(("family", "objective"), PACKED_HEADS)
def test_a_new_head_beside_packed_weights_is_not_packed(family: str, objective: str, kind: str, folders: Folders) -> None:
    plan = planned("lora", folders(family, objective), objective, quantization=kind, precision="bf16")
    model = build.build(plan, "cpu")
    assert known(build.build(plan, "meta")) == known(model)
    assert any(hasattr(p, "quant_type") or hasattr(p, "SCB") for p in model.parameters())
    step(model, plan)


@pytest.mark.parametrize("method", ["qlora", "loftq", "ia3", "vera", "lora_prefix_tuning"])
def test_packed_weights_are_trained_beside_without_mixed_precision_or_refused(method: str, folders: Folders) -> None:
    plan = planned(method, folders("bert", "classification"), "classification", quantization="nf4", precision="fp32")
    if METHODS[method].mixed_only:
        (issue,) = checks.check(plan)
        assert issue.field == "precision"
        return
    model = build.build(plan, "cpu").train()
    model(**tiny_models.batch_of("bert") | {"labels": torch.zeros(4, dtype=torch.int64)}).loss.backward()
    assert any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("family", "objective"), [("bert", "classification"), ("t5", "classification"), ("vit", "image_classification")]
)
def test_loftq_finds_each_weight_whatever_the_files_call_it(family: str, objective: str, folders: Folders) -> None:
    model = build.build(planned("loftq", folders(family, objective), objective, precision="bf16"), "cpu")
    layers = list(attach.quantized_layers(model))
    assert layers
    assert all(layer.lora_B["default"].weight.abs().sum() > 0 for _, layer in layers), "LoRA's own start is 0"


@pytest.mark.parametrize("kind", TIED_TYPES)
def test_models_whose_ends_are_one_matrix_are_known(kind: str) -> None:
    assert CONFIG_MAPPING[kind]().get_text_config().tie_word_embeddings


def test_tokens_of_such_a_model_are_not_trained_alone() -> None:
    options = {"token_indices": [5]}
    (issue,) = checks.check(Plan(model="openai-community/gpt2", method="trainable_tokens", method_options=options))
    assert "same ones" in issue.message
    assert checks.check(Plan(model="EleutherAI/pythia-70m", method="trainable_tokens", method_options=options)) == []


def test_the_lengths_of_dora_stay_as_exact_as_they_are(folders: Folders) -> None:
    plan = planned("dora", folders("bert", "classification"), "classification", quantization="nf4", precision="bf16")
    parameters = dict(build.build(plan, "meta").named_parameters())
    types = {part: {p.dtype for name, p in parameters.items() if part in name} for part in ("lora_A", "lora_magnitude_vector")}
    assert types == {"lora_A": {torch.bfloat16}, "lora_magnitude_vector": {torch.float32}}


@pytest.mark.parametrize("method", [key for key, row in METHODS.items() if not row.one_adapter])
def test_the_reference_is_a_second_model_only_where_there_is_no_adapter(method: str) -> None:
    """TRL keeps a second adapter else."""
    plan = Plan(objective="dpo", method=method, method_options=tiny_models.TINY_OPTIONS.get(method, {}), max_length=64)
    assert bool(recipe(plan).held(plan)) == METHODS[method].whole_model


@pytest.mark.parametrize(("method", "option"), [("c3a", "block_size"), ("vblora", "vector_length"), ("road", "group_size")])
def test_blocks_are_made_to_fit_the_layers_unless_someone_chose_them(method: str, option: str) -> None:
    plan = Plan(model="demo/seq2seq", objective="seq2seq", method=method, max_length=64)  # 96 wide
    width = build.build(plan, "meta").peft_config["default"].to_dict()[option]
    assert width >= attach.SMALLEST_BLOCK
    assert 96 % width == 0
    with pytest.raises(PlanError, match="does not divide the widths") as refused:
        build.build(plan.with_(method_options={option: 40}), "meta")
    assert refused.value.issues[0].field == option


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
# Encoders whose token vectors are narrower than their layers, or whose config has names of its own.
ODD_ENCODERS = {
    "albert": {"embedding_size": 16, **SIZES},
    "electra": {"embedding_size": 16, **SIZES},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
}


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning", "lora_prompt_tuning"])
@pytest.mark.parametrize("family", ODD_ENCODERS)
def test_soft_prompts_stand_before_odd_encoders_or_are_refused(family: str, method: str) -> None:
    sizes = {"vocab_size": 96, "max_position_embeddings": 64, "num_labels": 3, **ODD_ENCODERS[family]}
    plan = Plan(model={"model_type": family, **sizes}, objective="classification", method=method, gpu="L40S", max_length=32)
    refusals = checks.check(plan)
    assert bool(refusals) == (METHODS[method].keeps_past and family in PASTLESS_TYPES)
    if refusals:
        assert "past" in refusals[0].message
        return
    config = transformers.AutoConfig.for_model(family, **sizes)
    base = transformers.AutoModelForSequenceClassification.from_config(config).requires_grad_(False)
    model = METHODS[method].apply(base, tiny_models.options(method))
    model(**tiny_models.batch_of("bert")).loss.backward()
    assert any(parameter.grad is not None for parameter in model.prompt_encoder.parameters())


def test_adapters_between_blocks_need_such_blocks() -> None:
    (issue,) = checks.check(Plan(model="facebook/convnext-tiny-224", objective="image_classification", method="houlsby"))
    assert "built otherwise" in issue.message
