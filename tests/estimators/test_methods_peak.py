"""The dry run against reality: what one real step allocates on the CPU, for every method and on every family of models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import Trainer

from engine.catalog.tasks import TASKS
from engine.methods import METHODS, unfit
from engine.modeling import build
from engine.objectives import OBJECTIVES, recipe
from engine.plan import Plan
from estimators.simulate import replay
from estimators.simulate.dry_run import Shape, dry_run
from estimators.simulate.trace import Recorder
from tests import tiny_models

pytestmark = pytest.mark.usefixtures("quiet")

# What the model of a family is trained for, by what a batch of it holds.
OBJECTIVE_OF = {
    "text": "sft",
    "classified": "classification",
    "seq2seq": "seq2seq",
    "image": "image_classification",
    "pairs": "clip",
    "image-text": "captioning",
}
# One method of each kind: all weights, beside them, on packed ones, between layers, before the text, before every layer.
KINDS = ("full", "lora", "qlora", "ia3", "houlsby", "prompt_tuning", "prefix_tuning")


def objective_of(family: str) -> str:
    return OBJECTIVE_OF[tiny_models.FAMILIES[family].inputs]


def goes_with(method: str, family: str) -> bool:
    task = TASKS[OBJECTIVES[objective_of(family)].task]
    packs_nothing = method == "qlora" and family == "resnet"
    return not packs_nothing and not unfit(METHODS[method], tiny_models.FAMILIES[family].model_type, task)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The tiny model of every family, on the disk."""
    where = tmp_path_factory.mktemp("families")
    for family in tiny_models.FAMILIES:
        tiny_models.make(family).save_pretrained(where / family)
    tiny_models.make("gpt2", tie_word_embeddings=False).save_pretrained(where / "untied")
    return {folder.name: folder for folder in where.iterdir()}


def really_allocated(plan: Plan, shape: Shape) -> tuple[int, int]:
    """(peak bytes, trainable parameters) of one real step on the CPU, every storage followed while it really runs."""
    way = recipe(plan)
    model = build.build(plan, "cpu").train()
    way.prepare(model, plan)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = way.dry_batch(model.config, plan, shape.batch, shape.length)
    if "attention_mask" in batch:
        batch["attention_mask"][0, -1] = 0  # rows of one length need no mask, and models then make none
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(build.training_arguments(plan, Path("unused")))
    optimizer = optimizer_class(trainable, **settings)
    recorder = Recorder()
    recorder.adopt([*model.parameters(), *model.buffers(), *batch.values()], "weights")
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            recorder.adopt([state.absmax, state.offset, state.state2.absmax, state.state2.code], "weights")
    with recorder:
        for _ in range(2):  # the second step finds the optimizer's states in place
            way.dry_loss(model, dict(batch), plan, {}).backward()
            optimizer.step()
            optimizer.zero_grad()
    return recorder.segments[0].most_held, sum(parameter.numel() for parameter in trainable)


def agree(plan: Plan, shape: Shape) -> None:
    predicted = dry_run(plan, shape, on_gpu=False)
    peak, trainable = really_allocated(plan, shape)
    assert predicted.trainable_params == trainable
    assert replay.peak(predicted.step).bytes == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_predicted_peak_is_what_a_real_step_allocates(method: str, folders: Mapping[str, Path]) -> None:
    """With the loss of TRL's trainer, on the demo model where it has what the method trains."""
    plan = Plan(method=method, method_options=tiny_models.TINY_OPTIONS.get(method, {}), precision="fp32", max_length=64)
    if "bitfit" in method or method == "trainable_tokens":  # the demo model has no biases, and one matrix for both its ends
        plan = plan.with_(model=str(folders["untied"]))
    agree(plan, Shape(batch=2, length=48))


@pytest.mark.parametrize(
    ("family", "method"), [(family, method) for family in tiny_models.FAMILIES for method in KINDS if goes_with(method, family)]
)
def test_it_is_so_on_every_family(family: str, method: str, folders: Mapping[str, Path]) -> None:
    """With the loss of all logits: TRL's takes room of a fixed size that would hide a tiny model."""
    plan = Plan(
        model=str(folders[family]),
        objective=objective_of(family),
        method=method,
        method_options=tiny_models.TINY_OPTIONS.get(method, {}),
        precision="fp32",
        loss="full",
        max_length=48,
    )
    agree(plan, Shape(batch=4, length=40))
