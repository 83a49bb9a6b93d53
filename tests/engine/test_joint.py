"""Several adapters in one model by name: each does its own task best, and the base is as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from engine import data
from engine.adapters import attach
from engine.data import holdout
from engine.inference import several_adapters
from engine.inference.several_adapters import BASE, Adapters, Said
from engine.issues import PlanError
from engine.jobs.runs import Run
from engine.modeling import build
from engine.plan import DataSource, Plan
from engine.train import make_trainer
from tests.engine import tiny


def run_of(plan: Plan, number: int, state: str = "finished") -> Run:
    run = Run(
        id=f"{number:032x}", name=f"task {number}", created=float(number), plan_json=plan.to_json(), state=state,
        pid=None, pid_started=None, reason="",
    )  # fmt: skip
    run.folder.mkdir(exist_ok=True)
    return run


def plan_of(folder: Path, word: str, **changes: object) -> Plan:
    """Chats that are answered with one word, whatever is asked."""
    file = folder / f"{word}.jsonl"
    chats = [
        {"messages": [{"role": "user", "content": tiny.sentence(n, 4)}, {"role": "assistant", "content": f"{word} {word}"}]}
        for n in range(24)
    ]
    file.write_text("\n".join(json.dumps(chat) for chat in chats))
    settings = {"datasets": (DataSource(path=str(file)),), "learning_rate": 1e-2, "max_steps": 12, "eval_fraction": 0.2}
    return tiny.plan("sft", tiny.causal_model(), **settings | changes)


def trained(plan: Plan, number: int, folder: Path) -> Run:
    run = run_of(plan, number)
    torch.manual_seed(0)
    train, _ = holdout.split(plan, data.load(plan.datasets))
    trainer = make_trainer(plan, folder / str(number), build.build(plan, "cpu"), build.load_processor(plan), train, [])
    trainer.train()
    attach.save(trainer.model, run.folder / "adapter")
    return run


def test_each_adapter_does_its_own_task_best(tmp_path: Path) -> None:
    chosen = [trained(plan_of(tmp_path, word), number, tmp_path) for number, word in enumerate(("blue", "king"), start=1)]
    assert all(several_adapters.can_be_joined(run) for run in chosen)
    adapters = Adapters(chosen)
    ids = [run.id for run in chosen]
    losses = {(said.name, said.task): said.value for said in several_adapters.replies(adapters, {"runs": ids})}
    assert len(losses) == 6
    for mine, other in (ids, ids[::-1]):
        assert losses[mine, mine] < losses[BASE, mine] - 0.2
        assert losses[mine, mine] < losses[other, mine] - 0.2
    alone = build.load_base(chosen[0].plan, "cpu").eval()
    with adapters.answering(BASE), torch.no_grad():
        ids_in = torch.arange(8)[None]
        assert torch.equal(adapters.model(input_ids=ids_in).logits, alone(input_ids=ids_in).logits), "the base is as it was"
    said = list(several_adapters.replies(adapters, {"runs": ids, "prompt": "the cat", "max_new_tokens": 4}))
    assert [one.name for one in said] == [BASE, *ids]
    assert "blue" in str(said[1].value)
    assert "king" in str(said[2].value)
    assert said[0] == Said(name=BASE, task="", value=said[0].value)


@pytest.mark.parametrize("method", ["loha", "ia3", "prompt_tuning", "houlsby"])
def test_adapters_of_other_methods_answer_as_they_do_alone(method: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "blue", method=method)
    ids, chosen, alone = torch.arange(8)[None], [], []
    for number in (1, 2):
        run, model = run_of(plan, number), build.build(plan, "cpu").eval()
        torch.manual_seed(number)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.5 * torch.randn_like(parameter)
        attach.save(model, run.folder / "adapter")
        chosen.append(run)
        with torch.no_grad():
            alone.append(model(input_ids=ids).logits)
    assert not torch.allclose(*alone, atol=1e-2)
    adapters = Adapters(chosen)
    for run, expected in zip(chosen, alone, strict=True):
        with adapters.answering(run.id), torch.no_grad():
            assert torch.allclose(adapters.model(input_ids=ids).logits, expected, atol=1e-5)


@pytest.mark.parametrize("method", several_adapters.ALONE)
def test_a_method_of_which_a_model_holds_one_adapter_says_so(method: str, tmp_path: Path) -> None:
    chosen = [run_of(plan_of(tmp_path, "blue", method=method), number) for number in (1, 2)]
    several_adapters.check(chosen[:1])
    with pytest.raises(PlanError, match="one model holds one adapter of"):
        several_adapters.check(chosen)


def test_a_loss_on_no_token_is_no_number(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "blue", max_length=8)
    run = run_of(plan, 3)
    attach.save(build.build(plan, "cpu"), run.folder / "adapter")
    assert math.isnan(several_adapters.loss(Adapters([run]), plan.with_(max_length=2)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"method": "dora"}, "One model takes the adapters of one method"), ({"precision": "bf16"}, "have different bases")],
)
def test_what_does_not_go_together_is_one_sentence(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    chosen = [run_of(plan_of(tmp_path, "blue"), 1), run_of(plan_of(tmp_path, "king", **changes), 2)]
    with pytest.raises(PlanError, match=said):
        several_adapters.check(chosen)
    assert not several_adapters.can_be_joined(chosen[0]), "there is no adapter"
    with pytest.raises(PlanError, match="0 adapters are chosen"):
        several_adapters.check([])
