"""Merging: the merged model answers like base + adapter, is loadable by anybody, and a bad merge is not handed out."""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from engine.data.demos import DEMOS, first_plan
from engine.export import downloads, merge
from engine.export.merge import MergeStatus
from engine.issues import PlanError
from engine.jobs import runs
from engine.jobs.runs import Run
from engine.plan import Plan
from engine.system import events
from tests.conftest import log_of, run_to_its_end


def merged(run: Run) -> MergeStatus:
    """Merge and wait."""
    merge.start(run.id)
    deadline = time.monotonic() + 120
    while (status := merge.status(run)).state == "running" and time.monotonic() < deadline:
        time.sleep(0.2)
    return status


@pytest.mark.trains
def test_the_merged_model_is_proven_and_can_be_taken_home(pirate_run: Run, tmp_path: Path) -> None:
    status = merged(pirate_run)
    assert status.state == "finished", status.message
    report = status.report
    assert report is not None
    assert report["agree"] == report["prompts"] == merge.PROOF_PROMPTS
    assert report["max_logit_difference"] <= 1e-3
    assert report["weights_changed"] == report["weights"] == 28

    artifact = downloads.artifacts(pirate_run)[0]
    assert artifact.name == "merged"
    size, chunks = downloads.zip_stream(downloads.find(pirate_run.id, "merged") or [], "inside")
    packed = b"".join(chunks)
    assert len(packed) == size
    zipfile.ZipFile(io.BytesIO(packed)).extractall(tmp_path)

    folder = tmp_path / "inside"
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 1e6
    assert AutoTokenizer.from_pretrained(folder).chat_template
    ask = pipeline("text-generation", model=str(folder))
    prompt = DEMOS["pirate"].example_prompts[0]
    answer = ask([{"role": "user", "content": prompt}])[0]["generated_text"][-1]["content"]
    assert "arr" in answer.lower() or "matey" in answer.lower() or "ye" in answer.lower()


@pytest.mark.trains
def test_a_qlora_adapter_is_merged_into_the_weights_it_was_trained_on(short_plan: Plan) -> None:
    run = run_to_its_end(short_plan.with_(method="qlora", max_steps=20))
    assert run.state == "finished", log_of(run)
    status = merged(run)
    assert status.state == "finished", status.message
    assert status.report is not None
    assert "nf4 weights unpacked" in status.report["base"]
    config = (run.folder / "merged" / "config.json").read_text()
    assert "quantization_config" not in config


@pytest.mark.trains
def test_a_merge_that_changes_the_answers_is_refused(pirate_run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pirate_run.folder, folder, ignore=shutil.ignore_patterns("merged", "merge.*"))

    def forgets_the_adapter(plan: Plan, pair: object, adapter: Path) -> tuple:
        return pair.tuned.unload(), 28, 28  # type: ignore[attr-defined]

    monkeypatch.setattr(merge, "add_to_weights", forgets_the_adapter)
    assert merge.main(folder) == 1
    last = events.since(folder, file=merge.EVENTS_FILE)[0][-1]
    assert "does not answer like base + adapter" in last["message"]
    assert not (folder / "merged").exists()


def test_there_is_nothing_to_merge_without_an_adapter() -> None:
    with pytest.raises(PlanError, match="no adapter"):
        merge.start("0" * 32)


def test_an_interrupted_merge_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    run = Run(id="a" * 32, name="", created=0, plan_json="", state="finished", pid=None, pid_started=None, reason="")
    run.folder.mkdir(parents=True)
    assert merge.status(run).state == "none"
    events.EventLog(run.folder, merge.EVENTS_FILE).write("progress", fraction=0.5, message="Writing the merged model.")
    status = merge.status(run)
    assert (status.state, "interrupted" in status.message) == ("failed", True)


@pytest.mark.parametrize(
    ("run_id", "name"),
    [("../../etc", "merged"), ("a" * 32, "merged"), ("a" * 32, "../plan.json"), ("", ""), ("A" * 32, "adapter")],
)
def test_a_download_link_names_an_artifact_of_a_run_or_nothing(run_id: str, name: str) -> None:
    assert downloads.find(run_id, name) is None


@pytest.mark.trains
def test_a_planted_link_is_not_served(pirate_run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("canary")
    link = pirate_run.folder / "adapter" / "link.txt"
    link.symlink_to(secret)
    try:
        assert link not in (downloads.find(pirate_run.id, "adapter") or [])
    finally:
        link.unlink()


def test_runs_and_first_plan_agree_on_what_is_merged() -> None:
    assert runs.default_name(first_plan())
