"""The Chains tab: a draft is built from plans, priced stage by stage and as a whole, and a chain at work is told in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from engine.data.demos import DEMO_CHAINS, DEMOS, first_plan
from engine.issues import Issue, PlanError
from engine.pipelines import chain_runs, chains
from engine.pipelines.chain_runs import ChainRun
from engine.pipelines.chains import Progress
from engine.system.events import EventLog
from estimators.advice.chains import summed, whole
from estimators.estimate import Estimate, Memory, Range
from ui.tabs import chain_builder, chain_tab
from ui.views import charts, formats

SFT, DPO, REWARD = first_plan(), DEMOS["voices"].plan(), DEMOS["voices"].plan().with_(objective="reward")
RLHF = DEMOS["asks"].plan()


def draft(*plans: Any) -> chains.Chain:
    made = chain_builder.EMPTY
    for plan in plans:
        made = chain_builder.added(made, plan)
    return made


def estimate(memory: int, seconds: float | None, fits: str, cost: float | None = None) -> Estimate:
    def spread(value: float | None) -> Range | None:
        return None if value is None else Range(low=0.5 * value, likely=value, high=2 * value)

    parts = dict.fromkeys(("weights", "gradients", "optimizer", "activations", "loss", "fragments", "overhead", "allocated"), 0)
    return Estimate(
        trainable_params=1, total_params=2, memory=Memory(**parts, peak=memory, low=0, high=memory, capacity=100), fits=fits,
        steps=1, tokens=1, step_seconds=None, tokens_per_second=None, total_seconds=spread(seconds), cost=spread(cost),
        host_memory=0, disk=0, phases={}, device="GPU",
    )  # fmt: skip


def test_the_plan_is_added_as_a_stage_that_goes_on() -> None:
    made = draft(SFT, DPO, DEMOS["topics"].plan())
    assert [stage.goes_on for stage in made.stages] == [False, True, False], "the encoder is a model of its own"
    assert chain_builder.checked(made).stages == made.stages
    assert "model" not in chains.to_dict(made)["stages"][1]
    with pytest.raises(PlanError, match="there are 8 already"):
        draft(*[SFT] * 9)


def test_a_stage_can_start_elsewhere_and_take_its_reward_from_a_stage() -> None:
    made = chain_builder.with_other(draft(SFT, REWARD, RLHF), 2, "@2")
    made = chain_builder.started_from(made, 1, "@1")
    made = chain_builder.replayed(made, 2, 0.5)
    resolved = chains.resolve(chain_builder.checked(made), 2, {0: "/one", 1: "/two"})
    assert (resolved.model, resolved.objective_options["reward_model"]) == ("/one", "/two")
    assert (made.stages[1].plan.model, made.stages[2].replay) == ("@1", 0.5)


def test_removing_a_stage_moves_what_refers_to_the_others() -> None:
    made = chain_builder.with_other(draft(SFT, REWARD, RLHF), 2, "@2")
    assert chain_builder.without(made, 0).stages[1].plan.objective_options["reward_model"] == "@1"
    gone = chain_builder.without(made, 1)
    assert gone.stages[1].plan.objective_options["reward_model"] == ""
    problems = chains.check(chain_builder.checked(gone))
    assert formats.issue(problems[0]).startswith("Stage 2, Reward model: is empty")


def test_a_stage_that_leaves_no_model_is_refused_before_the_first_one_runs() -> None:
    made = draft(SFT.with_(method="prompt_tuning"), SFT)
    with pytest.raises(PlanError, match=r"stages\[1\].method: .* a stage must leave one model"):
        chain_runs.start(made)
    assert chain_runs.all_chains() == []


def test_the_whole_is_the_largest_memory_and_the_sums() -> None:
    found = whole([estimate(10, 60.0, "yes", 1.0), estimate(90, 30.0, "tight", 2.0)])
    assert (found.memory, found.largest, found.fits) == (90, 2, "tight")
    assert found.total_seconds == Range(low=45, likely=90, high=180)
    assert found.cost == Range(low=1.5, likely=3, high=6)
    assert summed([Range(low=1, likely=1, high=1), None]) is None
    assert "stage 2" in chain_builder.total_of([estimate(10, 60.0, "yes"), estimate(90, None, "yes")])


@pytest.mark.parametrize("key", DEMO_CHAINS)
def test_a_ready_made_chain_can_be_looked_at_and_written_again(key: str) -> None:
    made = chain_builder.demo_chain(key)
    assert chains.from_dict(chains.to_dict(made)) == made
    assert chains.check(made) == []
    assert made.probe, "it tells what was forgotten"


def test_a_chain_that_was_cut_off_says_so_and_keeps_what_it_did() -> None:
    made = draft(SFT, DPO)
    chain = chain_runs.ChainRun(
        id="0" * 32, name="<b>mine</b>", created=0.0, chain=made, state="interrupted", message="Resume it."
    )
    told = chain_tab.head(chain)
    assert "&lt;b&gt;mine" in told
    assert "<b>mine" not in told
    assert "Resume it." in told
    assert told.count("to come") == 2


def test_the_state_is_what_the_folder_says() -> None:
    folder = chain_runs.folder_of("a" * 32)
    folder.mkdir()
    (folder / chain_runs.CHAIN_FILE).write_text(
        '{"name": "n", "created": 1.0, "chain": {"stages": [{"objective": "sft"}, {"objective": "dpo"}]}}'
    )
    log = EventLog(folder)
    log.write("stage", number=0, run="r0")
    log.write("result", number=0, run="r0", model="/somewhere")
    log.write("looked", row={"when": "before", "probe": 1.0})
    log.write("looked", row={"when": "stage 1", "probe": 1.5})
    log.write("stage", number=1, run="r1")
    chain = chain_runs.get("a" * 32)
    assert chain is not None
    assert (chain.state, chain.stage, chain.run_id) == ("interrupted", 1, "r1")
    looked = ({"when": "before", "probe": 1.0}, {"when": "stage 1", "probe": 1.5})
    assert chain.progress == Progress(runs={0: "r0", 1: "r1"}, results={0: "/somewhere"}, report=looked)
    assert "probe: the loss rose from 1.000 to 1.500, by more than 10%" in chain_tab.verdict(chain)
    assert "No loss rose" in chain_tab.verdict(with_limit(chain, 0.6))
    log.write("failed", message="It was too much.")
    failed = chain_runs.get("a" * 32)
    assert failed is not None
    assert (failed.state, failed.message) == ("failed", "It was too much.")
    assert "1 of 2 finished: SFT, then DPO" in chain_tab.history()
    with pytest.raises(PlanError):
        chain_runs.folder_of("../etc")


def with_limit(chain: ChainRun, limit: float) -> ChainRun:
    return dataclasses.replace(chain, chain=dataclasses.replace(chain.chain, limit=limit))


def test_the_report_is_drawn_with_a_line_for_each_probe_and_the_limit() -> None:
    report = [{"when": "before", "probe": 0.1, "facts": 6.0}, {"when": "stage 1", "probe": 0.2, "facts": 0.5}]
    chart = charts.forgetting(report, 0.1)
    assert [list(trace.y) for trace in chart.data] == [[0.1, 0.2], [6.0, 0.5]]
    assert len({trace.marker.symbol for trace in chart.data}) == 2, "told apart without colour"
    assert chart.layout.shapes[0].y0 == pytest.approx(0.11)
    assert charts.forgetting((), 0.1).layout.annotations


def test_an_issue_of_a_stage_names_the_stage_and_the_field() -> None:
    issue = Issue(field="stages[3].max_length", message="is out of range.", fix="Use at least 8.")
    assert formats.issue(issue) == "Stage 3, Longest sequence: is out of range. Use at least 8."
