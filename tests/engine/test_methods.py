"""Every method on tiny models of every family: what trains, what stays, what is saved, what can be merged."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from assets import build_method_options
from engine import checks
from engine.adapters import attach
from engine.adapters.peft_options import declared
from engine.catalog.tasks import Task
from engine.methods import LEFT_OUT, METHODS, Method, unfit
from engine.plan import Plan
from tests import tiny_models

STEPS = 5
# On one fixed batch, with steps as large as a tiny random model needs to move at all.
RATE = 1e-2
# One method of each kind; the other families are shown with these alone where a step is not enough.
GROUPS = ("full", "bitfit", "ln_tuning", "lora", "oft", "fourierft", "ia3", "houlsby", "prompt_tuning", "prefix_tuning")


pytestmark = pytest.mark.usefixtures("quiet")


def applied(method: str, family: str, device: str = "cpu") -> Any:
    """The family's tiny model with the method, without dropout so that a step can be repeated."""
    base = tiny_models.make(family, device=device)
    return METHODS[method].apply(base, tiny_models.options(method)).eval()


@functools.cache
def kind_of(family: str) -> tuple[str, Task]:
    model = tiny_models.make(family, device="meta")
    return model.config.model_type, attach.task_of(model)


def goes_with(method: Method, family: str) -> bool:
    return not unfit(method, *kind_of(family))


def loss_of(model: Any, family: str) -> torch.Tensor:
    return model(**tiny_models.batch_of(family)).loss


def train(model: Any, family: str, steps: int = STEPS) -> list[float]:
    """The losses before each step, and after the last."""
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=RATE)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, family)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, loss_of(model, family).item()]


def logits_of(model: Any, family: str) -> torch.Tensor:
    batch = tiny_models.batch_of(family)
    if tiny_models.FAMILIES[family].inputs != "seq2seq":  # a decoder of its own starts from the labels
        batch.pop("labels", None)
    with torch.no_grad():
        output = model(**batch)
    logits = output.logits if "logits" in output else output.logits_per_text
    rows = tiny_models.batch_of(family)["input_ids"].shape[1] if family in tiny_models.DECODERS else None
    return logits if rows is None else logits[:, -rows:]  # without the places of virtual tokens


def wake_up(model: Any) -> None:
    """Move every trained number a little, so that an adapter that starts from nothing does something."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=draw)


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_options_are_those_of_the_installed_peft() -> None:
    import json

    written = json.loads(build_method_options.FILE.read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(build_method_options.all_options()))


def test_every_method_of_peft_has_a_row_or_a_reason() -> None:
    own = {"bottleneck"}
    assert set(declared()) - own == (set(METHODS) & set(declared())) | set(LEFT_OUT)
    assert not set(METHODS) & set(LEFT_OUT)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.key)
def test_a_row_tells_a_person_what_they_need(method: Method) -> None:
    assert method.sentence.endswith(".")
    assert method.use_when.endswith(".")
    assert method.avoid_when.endswith(".")
    assert method.share
    assert method.inference
    assert method.group
    assert re.match(r"https?://", method.paper)
    assert 0 < method.learning_rate <= 0.3
    assert "http" in method.learning_rate_source or "judgement" in method.learning_rate_source
    assert set(method.quantizations) <= {"none", "int8", "nf4", "fp4"}
    assert method.quantization in method.quantizations
    common = [option for option in method.options if option.knob.group == "common"]
    assert len(common) <= 4
    assert not (method.mergeable and method.whole_model)


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_are_sound_and_unknown_options_are_named(method: str) -> None:
    needed = {"trainable_tokens": {"token_indices": [5]}}.get(method, {})
    # One with biases, one whose ends are apart; the demo model is neither.
    model = {
        "bitfit": {"model_type": "bert"},
        "lora_bitfit": {"model_type": "bert"},
        "trainable_tokens": {"model_type": "gpt_neox"},
    }.get(method, "demo/llama")
    plan = Plan(model=model, method=method, method_options=needed, quantization=METHODS[method].quantization, max_length=64)
    everything = {option.name: option.default for option in METHODS[method].options} | needed
    assert checks.check(plan) == []
    assert checks.check(plan.with_(method_options=everything)) == []
    (issue,) = checks.check(plan.with_(method_options={**needed, "no_such_optoin": 1}))
    assert issue.field == "no_such_optoin"


# --- every method on every family -----------------------------------------------------------------------------------


def pairs(methods: Iterable[str], families: Iterable[str]) -> list[tuple[str, str]]:
    """The methods with the families that they go with; the checks refuse the others, with the reason."""
    return [(method, family) for method in methods for family in families if goes_with(METHODS[method], family)]


@pytest.mark.parametrize(("method", "family"), pairs(METHODS, tiny_models.FAMILIES))
def test_only_what_should_train_gets_gradients(method: str, family: str) -> None:
    model = applied(method, family)
    loss_of(model, family).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved
    assert moved <= trained
    unused = "vision" if family == "llava" else "nothing"  # what lies behind the features that the text is given
    assert all(unused in name for name in trained - moved)


@pytest.mark.parametrize(
    ("method", "family"), [*pairs(METHODS, ["gpt2", "bert", "vit"]), *pairs(GROUPS, ["llama", "t5", "clip"])]
)
def test_shapes_are_those_of_the_real_model(method: str, family: str) -> None:
    real, shapes = (
        {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in applied(method, family, device).named_parameters()}
        for device in ("cpu", "meta")
    )
    assert shapes == real


LLAMA_METHODS = [key for key, method in METHODS.items() if "bitfit" not in key]
PAIRS = [*pairs(LLAMA_METHODS, ["llama"]), *pairs(GROUPS, [family for family in tiny_models.FAMILIES if family != "llama"])]


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_it_learns_and_the_frozen_weights_stay_bit_for_bit(method: str, family: str) -> None:
    model = applied(method, family)
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters() if not parameter.requires_grad}
    losses = train(model, family)
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())
    assert losses[-1] < losses[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """What a model with trained numbers answered, and the model that was loaded from what was saved of it."""

    expected: torch.Tensor
    again: Any


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Kept]:
    @functools.cache
    def save_and_load(method: str, family: str) -> Kept:
        folder = tmp_path_factory.mktemp("saved")
        model = applied(method, family)
        wake_up(model)
        expected = logits_of(model, family)
        if METHODS[method].whole_model:
            model.save_pretrained(folder)
            return Kept(expected=expected, again=type(model).from_pretrained(folder).eval())
        attach.save(model, folder)
        return Kept(expected=expected, again=attach.load(tiny_models.make(family), folder).eval())

    return save_and_load


@functools.cache
def base_logits(family: str) -> torch.Tensor:
    return logits_of(tiny_models.make(family).eval(), family)


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_what_is_saved_answers_the_same(method: str, family: str, kept: Callable[[str, str], Kept]) -> None:
    found = kept(method, family)
    assert torch.allclose(logits_of(found.again, family), found.expected, atol=1e-4)


ADAPTERS = [(method, family) for method, family in PAIRS if not METHODS[method].whole_model]


@pytest.mark.parametrize(("method", "family"), ADAPTERS)
def test_switched_off_the_base_answers(method: str, family: str, kept: Callable[[str, str], Kept]) -> None:
    again, base = kept(method, family).again, base_logits(family)
    assert not torch.allclose(logits_of(again, family), base, atol=1e-5)
    if kind_of(family)[1].head:  # the new head is trained in full and stays
        return
    with again.disable_adapter():
        off = logits_of(again, family)
    assert torch.allclose(off, base, atol=1e-5)


@pytest.mark.parametrize(("method", "family"), [pair for pair in ADAPTERS if METHODS[pair[0]].mergeable])
def test_merged_answers_like_the_adapter(method: str, family: str) -> None:
    model = applied(method, family)
    wake_up(model)
    expected = logits_of(model, family)
    merged = attach.merge(model).eval()
    assert torch.allclose(logits_of(merged, family), expected, atol=1e-3)
