"""Chains: each stage takes the last one's result, earlier rows come back, and what was forgotten is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from engine import checks, data
from engine.adapters import attach
from engine.issues import PlanError
from engine.jobs import runs, series
from engine.jobs.runs import Run
from engine.modeling import build
from engine.objectives import OBJECTIVES
from engine.pipelines import chain_runs, chains, forgetting
from engine.pipelines.chain_runs import ChainRun
from engine.plan import Plan
from engine.system import events, workers
from engine.train import make_trainer
from tests.conftest import log_of
from tests.engine import tiny

DEMO_CHAINS = sorted((Path(__file__).parents[2] / "assets" / "demo_chains").glob("*.json"))
FACTS, VOICES = [{"path": "demo/facts"}], [{"path": "demo/voices"}]
TOPICS = {"model": "demo/encoder", "objective": "classification", "datasets": [{"path": "demo/topics"}]}


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


def test_osf_leaves_what_the_stage_before_has_learned_alone(tmp_path: Path) -> None:
    """The strongest directions of the first result stay as they are while the second stage learns."""
    stage = {"method": "osf", "max_steps": 8, "learning_rate": 3e-3, "precision": "fp32", "warmup_ratio": 0.0, "max_length": 48}
    made = chain({**stage, "model": tiny.causal_model(), "datasets": FACTS}, {**stage, "datasets": [{"path": "demo/pirate"}]})
    name = "model.layers.0.mlp.up_proj.weight"  # a square one is kept by its complement, this one by its directions
    rows = tiny.rows("messages", 24)
    results: dict[int, str] = {}
    weights = []
    for number, own in enumerate((rows[:16], rows[16:])):
        plan, folder = chains.resolve(made, number, results), tmp_path / str(number)
        trainer = make_trainer(plan, folder, build.build(plan, "cpu"), build.load_processor(plan), own, own[:4])
        trainer.args.eval_strategy, trainer.args.eval_on_start = "no", False
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before
        attach.save(trainer.model, folder / "adapter")
        merged = attach.load(build.load_base(plan, "cpu"), folder / "adapter").merge_and_unload()
        merged.save_pretrained(folder / "merged")
        build.load_processor(plan).save_pretrained(folder / "merged")
        results[number] = str(folder / "merged")
        weights.append(merged.state_dict()[name])
    left, _, right = weights[0].svd()
    kept = min(weights[0].shape) // 2
    change = weights[1] - weights[0]
    assert change.norm() > 0.01
    assert (left[:, :kept].T @ change @ right[:, :kept]).norm() < 0.02 * change.norm(), "a full fine-tune: about 0.4"


@pytest.mark.parametrize(
    ("stages", "asked"),
    [
        ([{"datasets": FACTS}, {"datasets": VOICES, "objective": "dpo"}], ["A probe", "stage 1"]),
        ([TOPICS, TOPICS], ["stage 1", "stage 2"]),
        ([TOPICS, TOPICS | {"datasets": [{"path": "demo/thumbs"}]}], []),
        ([TOPICS, TOPICS | {"objective": "masked_lm", "datasets": [{"path": "demo/velmora_text"}]}], []),
        ([TOPICS, {"model": "demo/llama", "datasets": FACTS}], ["A probe", "stage 2"]),
    ],
    ids=["texts", "the same classes", "other classes", "another head", "another kind"],
)
def test_a_result_is_asked_about_what_it_can_read(stages: list[dict[str, Any]], asked: list[str]) -> None:
    found = forgetting.probes(chain(*stages, probe=["demo/general"]), 1)
    assert [title.partition(":")[0] for title in found] == asked


def test_models_that_do_not_write_text_are_asked_about_their_own_rows(tmp_path: Path) -> None:
    """An encoder that has learned to mark names is asked how well it marks those of the stage before."""
    names = TOPICS | {"objective": "token_classification", "datasets": [{"path": "demo/names"}], "max_length": 48}
    learning = {
        "method": "full",
        "max_steps": 10,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 32,
        "precision": "fp32",
    }
    made = chain(names, names | learning)
    plan = made.stages[1].plan
    rows = data.load(plan.datasets, OBJECTIVES[plan.objective].shapes)
    trainer = make_trainer(plan, tmp_path, build.build(plan, "cpu"), build.load_processor(plan), rows, [])
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    asked = forgetting.probes(made, 1)
    report = [forgetting.look(plan.with_(model=model), asked, name=model) for model in (plan.model, str(tmp_path / "model"))]
    assert all(losses[1] < 0.8 * losses[0] for losses in forgetting.lines(report).values())


@pytest.mark.trains
def test_a_run_that_begins_between_the_look_and_the_start_is_waited_for(short_plan: Plan) -> None:
    """The machine looks free, another page starts a run, the start is refused: the series waits and tries again."""
    begun: list[Run] = []
    waited_for: list[Run] = []

    def start() -> Run:
        if begun and not runs.active_runs():
            return begun[0]
        begun.append(runs.start(short_plan.with_(max_steps=1)))  # another page was faster
        return runs.start(short_plan)

    started = series.start_when_free(start, waits=waited_for.append, stopped=lambda: False)
    assert started is not None
    assert [run.id for run in waited_for] == [begun[0].id]
    assert (runs.get(begun[0].id) or missing()).state == "finished"
    assert series.start_when_free(start, waits=waited_for.append, stopped=lambda: True) is None
    bad = short_plan.with_(learning_rate=-1.0)
    with pytest.raises(PlanError, match="learning_rate"):
        series.start_when_free(lambda: runs.start(bad), waits=waited_for.append, stopped=lambda: False)


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
    log = (chain.folder / series.LOG_FILE).read_text()[-2000:]
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
