"""Other objectives through the worker's own process: its events, its figure before and after, and what it leaves behind."""

from __future__ import annotations

import pytest

from engine import events, merge
from engine.answer import Pair, reply_to
from engine.demos import DEMOS
from engine.objectives import OBJECTIVES
from tests.conftest import log_of, run_to_its_end

# Demo -> (most steps, what is left behind, a prompt for Try or None where an image would have to be shown).
CASES = {
    "topics": (20, "adapter", "What does a baker do?"),
    "voices": (6, "adapter", "What colour is the sky?"),
    "captions": (6, "model", None),
}


@pytest.mark.trains
@pytest.mark.parametrize("key", CASES)
def test_the_worker_trains_other_objectives(key: str) -> None:
    steps, left, prompt = CASES[key]
    plan = DEMOS[key].plan().with_(max_steps=steps, precision="fp32", warmup_ratio=0.0)
    run = run_to_its_end(plan)
    assert run.state == "finished", log_of(run)
    seen, _ = events.since(run.folder)
    metric = OBJECTIVES[plan.objective].metric
    evaluated = [event for event in seen if event["kind"] == "evaluated"]
    assert {event["metric"] for event in evaluated} == {metric.name}
    first, last = evaluated[0]["value"], evaluated[-1]["value"]
    assert (last > first) is metric.higher_is_better
    assert evaluated[-1]["step"] == steps
    assert all(event["samples_per_second"] > 0 for event in seen if event["kind"] == "step")
    assert (run.folder / left).is_dir()
    assert not (run.folder / "adapter" / "ref").exists(), "the reference is no result"
    if prompt is not None:
        reply = list(reply_to(Pair(run.folder), {"prompt": prompt, "max_new_tokens": 8}))[-1]
        assert reply["done"]
        assert reply["base"]
        assert reply["tuned"]


@pytest.mark.parametrize("key", ["pirate", "voices", "thumbs", "prompts", "velmora_text"])
def test_the_merge_asks_what_the_rows_ask(key: str) -> None:
    """The proof of a merge needs prompts, whatever the shape of the rows is."""
    prompts = merge.proof_prompts(DEMOS[key].plan())
    assert len(prompts) == merge.PROOF_PROMPTS
    assert all(isinstance(prompt, str) and prompt for prompt in prompts)
