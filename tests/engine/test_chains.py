"""Chains: each stage takes the last one's result, earlier rows come back, and what was forgotten is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from engine import chain_runs, chains, checks, events, forgetting, runs, workers
from engine.chain_runs import ChainRun
from engine.plan import PlanError
from tests.conftest import log_of
from tests.engine import tiny

DEMO_CHAINS = sorted((Path(__file__).parents[2] / "assets" / "demo_chains").glob("*.json"))
FACTS, VOICES = [{"path": "demo/facts"}], [{"path": "demo/voices"}]


def chain(*stages: dict[str, Any], **more: Any) -> chains.Chain:
    return chains.from_dict({"stages": list(stages), **more})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stages": []}, "stages: has no stage."),
        ({"stages": [{}], "probes": []}, "Did you mean probe?"),
        ({"stages": [{"objectiv": "sft"}]}, "stages[1].objectiv: is not a field of the plan. Did you mean objective?"),
        ({"stages": [{"model": "@1"}]}, "stages[1].model: @1 is no earlier stage."),
        ({"stages": [{}, {"objective": "rlhf", "objective_options": {"reward_model": "@2"}}]}, "Use @1 to @1."),
        ({"stages": [{}, {"replay": -1}]}, "stages[2].replay: -1 is not a share."),
        ({"stages": [{}], "limit": "much"}, "limit: 'much' is not a share."),
    ],
)
def test_a_bad_chain_is_one_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        chains.from_dict(values)
    assert said in str(caught.value)


def test_a_stage_goes_on_from_the_last_result_of_its_kind() -> None:
    made = chain(
        {"model": "demo/llama", "objective": "sft"},
        {"objective": "reward", "datasets": VOICES},
        {"objective": "rlhf", "objective_options": {"reward_model": "@2"}},
    )
    last = chains.resolve(made, 2, {0: "/one", 1: "/two"})
    assert last.model == "/one", "the reward model is of another kind"
    assert last.objective_options["reward_model"] == "/two"
    assert chains.resolve(made, 1, {0: "/one"}).model == "demo/llama"


def test_replay_weighs_earlier_rows() -> None:
    made = chain({"datasets": FACTS}, {"datasets": [{"path": "demo/pirate"}], "replay": 0.5}, {"datasets": VOICES, "replay": 1})
    sources = chains.with_replay(made, 1)
    from engine import data

    rows = {source.path: data.scan(source).rows for source in sources}
    assert rows["demo/facts"] * sources[1].weight == pytest.approx(0.5 * rows["demo/pirate"])
    assert len(chains.with_replay(made, 0)) == 1
    read_first = {"objective": "dapt", "datasets": [{"path": "demo/velmora_text"}]}
    assert len(chains.with_replay(chain(read_first, {"datasets": FACTS, "replay": 1}), 1)) == 1, "rows of another shape"


@pytest.mark.parametrize("file", DEMO_CHAINS, ids=lambda file: file.stem)
def test_every_stage_of_a_demo_chain_can_be_priced_and_started(file: Path) -> None:
    made = chains.from_json(file.read_text())
    for plan in chains.plans_to_price(made):
        assert [issue for issue in checks.check(plan) if issue.severity == "error"] == []


def test_the_chain_of_the_docs_can_be_started() -> None:
    text = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
    example = text[text.index('    {"stages"') : text.index("The forgetting report is")]
    assert chains.check(chains.from_json(example)) == []


def test_a_loss_that_rose_is_a_warning() -> None:
    report = [{"when": "before", "probe": 1.0, "calm": 1.0}, {"when": "stage 1", "probe": 1.3, "calm": 1.05}]
    assert len(forgetting.warnings(report, limit=0.1)) == 1
    assert "probe: the loss rose from 1.000 to 1.300" in forgetting.warnings(report, limit=0.1)[0]
    assert forgetting.warnings(report, limit=0.5) == []


@pytest.mark.trains
def test_rlhf_as_a_chain_that_is_cut_off_stopped_and_resumed(tmp_path: Path) -> None:
    """Instruction tuning, a reward model, and a policy that earns more of it; no finished stage is ever run twice."""
    common = {"precision": "fp32", "max_length": 64, "warmup_ratio": 0.0, "per_device_train_batch_size": 16}
    pairs, prompts = tmp_path / "pairs.jsonl", tmp_path / "prompts.jsonl"
    pairs.write_text("\n".join(json.dumps(row) for row in long_and_short(48)))
    prompts.write_text("\n".join(json.dumps({"prompt": row["prompt"]}) for row in long_and_short(32)))
    made = chain(
        common | {"model": tiny.causal_model(), "datasets": FACTS, "max_steps": 3, "learning_rate": 5e-3},
        common
        | {"model": "@1", "objective": "reward", "method": "full", "datasets": [{"path": str(pairs)}]}
        | {"max_steps": 20, "learning_rate": 3e-3, "eval_fraction": 0.2},
        common
        | {"objective": "rlhf", "method": "full", "datasets": [{"path": str(prompts)}], "max_steps": 10, "learning_rate": 5e-3}
        | {"eval_fraction": 0.25}
        | {"objective_options": {"reward_model": "@2", "num_generations": 4, "max_completion_length": 8, "beta": 0.0}},
        probe=["demo/general"],
    )
    begun = chain_runs.start(made, name="mine")
    with pytest.raises(PlanError, match="is still running"):
        chain_runs.start(made)

    # The conductor dies: the stage that it had begun trains on, and is taken over.
    first = wait_for(begun.id, lambda now: 0 in now.progress.runs).progress.runs[0]
    conductor_of(begun.id).kill()
    wait_for(begun.id, lambda now: now.state == "interrupted")
    assert runs.is_alive(runs.get(first) or missing())
    chain_runs.resume(begun.id)
    second = wait_for(begun.id, lambda now: 1 in now.progress.runs)
    assert second.progress.runs[0] == first, "the first stage was not run again"

    # It is stopped in its second stage, which then is run again; the first is not.
    chain_runs.stop(begun.id)
    stopped = wait_for(begun.id, lambda now: not now.is_active)
    assert stopped.state == "stopped", log_of_chain(stopped)
    assert (runs.get(second.progress.runs[1]) or missing()).state != "finished"
    chain_runs.resume(begun.id)
    ended = wait_for(begun.id, lambda now: not now.is_active)

    assert ended.state == "finished", log_of_chain(ended)
    assert [found.id for found in chain_runs.all_chains()] == [begun.id]
    assert (ended.progress.runs[0], ended.name) == (first, "mine")
    assert [Path(model).name for model in ended.progress.results.values()] == ["merged", "model", "model"]
    accuracy, reward = (chains.last_figure(runs.get(ended.progress.runs[number]) or missing()) for number in (1, 2))
    assert accuracy is not None
    assert accuracy[2] > 0.8
    assert reward is not None
    assert reward[2] > reward[1], "the policy earns more of the reward model's score"
    assert [row["when"] for row in ended.progress.report] == ["before", "stage 1", "stage 3"]
    assert all(loss > 0 for row in ended.progress.report for name, loss in row.items() if name != "when")


def wait_for(chain_id: str, is_so: Callable[[ChainRun], bool]) -> ChainRun:
    """The chain as soon as it is so; fails where it never becomes so."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        now = chain_runs.get(chain_id)
        assert now is not None
        if is_so(now):
            return now
        assert now.state not in ("failed", "finished"), log_of_chain(now)
        time.sleep(0.1)
    raise AssertionError(f"it never came to that\n{log_of_chain(now)}")


def conductor_of(chain_id: str) -> psutil.Process:
    """The conducting process of a chain."""
    begun = [event for event in events.since(chain_runs.folder_of(chain_id))[0] if event["kind"] == "started"][-1]
    return workers.find(begun["pid"], begun["pid_started"]) or missing()


def log_of_chain(chain: ChainRun) -> str:
    """What the chain and its last stage say, for the message of a failed assertion."""
    run = runs.get(chain.run_id) if chain.run_id else None
    log = (chain.folder / chain_runs.LOG_FILE).read_text()[-2000:]
    return f"{chain.state}: {chain.message}\n{log}\n{log_of(run) if run else ''}"


def missing() -> NoReturn:
    raise AssertionError("it should be there")


def long_and_short(count: int) -> list[dict[str, Any]]:
    """Pairs in which the answer of blue words is preferred to the one of red words."""
    return [
        {
            "prompt": [{"role": "user", "content": tiny.sentence(number, 4)}],
            "chosen": [{"role": "assistant", "content": f"{'blue ' * (3 + number % 3)}sea"}],
            "rejected": [{"role": "assistant", "content": f"{'red ' * (3 + number % 4)}king"}],
        }
        for number in range(count)
    ]
