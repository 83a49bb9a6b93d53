"""Other objectives through the worker's own process: its events, its figure before and after, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.data import examples
from engine.data.demos import DEMOS
from engine.data.pictures import Box
from engine.export import merge
from engine.inference.worker import Pair, reply_to
from engine.issues import PlanError
from engine.objectives import OBJECTIVES
from engine.system import events
from tests.conftest import log_of, run_to_its_end

# Demo -> (most steps, what is left behind, a prompt for Try or None where an image is shown).
CASES = {
    "topics": (20, "adapter", "What does a baker do?"),
    "voices": (6, "adapter", "What colour is the sky?"),
    "captions": (6, "model", None),
    "boxes": (12, "adapter", None),
}


@pytest.mark.trains
@pytest.mark.parametrize("key", CASES)
def test_the_worker_trains_other_objectives(key: str, tmp_path: Path) -> None:
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
    asked = {"prompt": prompt or "", "max_new_tokens": 8}
    if prompt is None:
        examples.of(plan)[0].image.save(tmp_path / "held_out.png")
        asked["image"] = str(tmp_path / "held_out.png")
    pair = Pair(run.folder)
    reply = list(reply_to(pair, asked))[-1]
    assert reply["done"]
    assert reply["base"]
    assert reply["tuned"]
    if key == "boxes":
        boxes = [Box(**box) for box in reply["tuned_boxes"]]
        assert {box.label for box in boxes} <= {"circle", "cross", "square", "triangle"}
        assert all(0.5 <= box.share <= 1 and 0 < box.width < 1 for box in boxes)
    if "image" in asked:
        (tmp_path / "broken.png").write_bytes(b"no image")
        for image, said in ((None, "image: is not chosen"), (str(tmp_path / "broken.png"), "image: cannot be read")):
            with pytest.raises(PlanError, match=said):
                list(reply_to(pair, asked | {"image": image}))


@pytest.mark.parametrize("key", ["pirate", "voices", "thumbs", "prompts", "velmora_text"])
def test_the_merge_asks_what_the_rows_ask(key: str) -> None:
    """The proof of a merge needs prompts, whatever the shape of the rows is."""
    prompts = merge.proof_prompts(DEMOS[key].plan())
    assert len(prompts) == merge.PROOF_PROMPTS
    assert all(isinstance(prompt, str) and prompt for prompt in prompts)
