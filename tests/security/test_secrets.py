"""A Hugging Face token is in the environment of the processes that need it, and nowhere else (T24). What is taken home
names neither a token nor a path of the computer that it was made on.

A token with a name of its own is set, and looked for in every file of the home folder, every argument of every process,
and every file that can be downloaded.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from peft import PeftModel

from engine import train
from engine.adapters import attach
from engine.data.demos import first_plan
from engine.export import downloads, merge
from engine.inference import worker
from engine.jobs import artifacts, runs
from engine.jobs.runs import Run
from engine.modeling import build, libraries
from engine.plan import Plan
from engine.system import errors, events, redaction
from engine.system.home import ASSETS
from estimators import __main__ as estimators
from tests.conftest import log_of
from tests.engine import tiny

CANARY = "hf_CANARYcanaryCANARYcanaryCANARYcanary"
NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run and its merge, by their own processes, with the canary in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("FITTINGROOM_HOME", str(home))
        for name in NAMES:
            patch.setenv(name, CANARY)
        begun = runs.start(first_plan().with_(max_steps=2, eval_fraction=0.0))
        seen: list[str] = []
        for _ in runs.follow(begun.id):
            seen += arguments()
        ended = runs.get(begun.id)
        assert ended is not None
        assert ended.state == "finished", log_of(ended)
        merge.start(ended.id)
        while (status := merge.status(ended)).state == "running":
            seen += arguments()
            time.sleep(0.5)
        # So short a run may leave the weights as good as they were, and its merge is refused then: it has run all the same.
        assert status.state in ("finished", "failed"), status.message
        assert "unexpected" not in status.message
        assert any("engine.train" in words for words in seen)
        assert not any(CANARY in words for words in seen)
        return ended, home


@pytest.fixture
def run(ran: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FITTINGROOM_HOME", str(ran[1]))
    return ran[0]


def arguments() -> list[str]:
    """The command lines of this process and of all that it started."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = []
    for process in family:
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def files_with(folder: Path, words: str) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and words.encode() in file.read_bytes()]


def test_no_file_of_the_home_has_the_token(run: Run) -> None:
    home = run.folder.parent.parent
    assert (home / "fittingroom.db").is_file()
    assert files_with(home, CANARY) == []


def test_no_download_has_the_token(run: Run) -> None:
    offered = downloads.artifacts(run)
    assert {artifact.name for artifact in offered} >= {"adapter"}
    for artifact in offered:
        _, chunks = downloads.zip_stream(downloads.files_of(run, artifact.name), "mine")
        with zipfile.ZipFile(io.BytesIO(b"".join(chunks))) as archive:
            assert not any(CANARY.encode() in archive.read(name) for name in archive.namelist())


def test_an_estimate_does_not_have_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    assert CANARY not in json.dumps(estimators.answer(first_plan().to_json()))


# --- what goes wrong ------------------------------------------------------------------------------------------------

QUOTED = (
    f"401 for https://huggingface.co/api/models/x with {{'authorization': 'Bearer {CANARY}'}}",
    f"Authorization: Bearer {CANARY}",
    f"https://user:{CANARY}@huggingface.co/x",
    f"token={CANARY}",
)


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_run_that_fails_with_the_token_in_its_message_keeps_it_to_itself(
    quoted: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries.load()
    folder = home / "runs" / ("a" * 32)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(first_plan().to_json())
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(sys, "stdout", log)

    def fail(*arguments: Any, **settings: Any) -> None:
        print(quoted)
        raise ConnectionAbortedError(quoted)

    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr(build, "load_processor", fail)
    monkeypatch.setattr(logging.getLogger("fittingroom"), "handlers", [logging.lastResort])  # pytest has put its own there
    assert train.main(folder) == 1
    assert events.since(folder)[0][-1]["kind"] == "failed"
    assert "ConnectionAbortedError" in log.getvalue(), "the log has the traceback"
    assert CANARY not in log.getvalue()
    assert files_with(home, CANARY) == []


def test_a_token_of_somebody_else_is_taken_out_too() -> None:
    """One that is not in this process's environment is known by its form."""
    other = "hf_" + "aB3" * 12
    assert other not in redaction.redact(f"x {other}, y")
    assert "secretsecret" not in redaction.redact('{"Authorization": "Bearer secretsecret"}')
    assert other not in errors.explain(RuntimeError(f"denied: {other}")).message


@pytest.mark.parametrize("text", ["hf_hub_download", "the bearer of the ring", "TOKENIZERS_PARALLELISM=false", "hf_quantizer"])
def test_what_is_no_token_stays(text: str) -> None:
    assert redaction.redact(text) == text


def test_a_log_line_in_pieces_and_a_logger_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(logging.getLogger("somebody"), "handlers", [logging.lastResort])
    redaction.redact_output()
    redaction.redact_output()
    logging.getLogger("somebody").error("with %s", CANARY)
    sys.stderr.writelines([f"{CANARY}\n", "next\n"])
    sys.stderr.flush()
    assert "next" in log.getvalue()
    assert CANARY not in log.getvalue()


def test_events_stay_json_whatever_is_taken_out_of_them(tmp_path: Path) -> None:
    log = events.EventLog(tmp_path)
    message = f'"Authorization": "Bearer {CANARY}\\", \'Bearer abcdefghijkl\'"'
    log.write("note", message=message)
    (event,) = events.since(tmp_path)[0]
    assert CANARY not in event["message"]
    assert redaction.REMOVED in event["message"]


def test_a_token_that_is_typed_as_a_model_reaches_no_database(home: Path) -> None:
    with pytest.raises(Exception, match="access token"):
        runs.start(first_plan().with_(model=CANARY))
    file = home / "fittingroom.db"
    if file.exists():
        with sqlite3.connect(file) as database:
            assert CANARY not in str(database.execute("SELECT plan FROM runs").fetchall())


# --- what is taken home ---------------------------------------------------------------------------------------------

TRAINED: dict[str, dict[str, Any]] = {
    "lora": {},
    "pissa": {},
    "full": {},
    "houlsby": {"reduction_factor": 4},
    "lora_prompt_tuning": {"num_virtual_tokens": 4},
    "prompt_tuning": {"num_virtual_tokens": 4, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "hello"},
    "lora_embeddings": {},
}


def saved(method: str, model: str, folder: Path) -> Path:
    """What the worker leaves behind of a plan, without a step."""
    plan: Plan = tiny.plan("sft", model, method=method, method_options=TRAINED[method], max_steps=1)
    (folder / "plan.json").write_text(plan.to_json())
    processor = build.load_processor(plan)
    trainer = train.make_trainer(plan, folder, build.build(plan, "cpu"), processor, tiny.rows("messages", 4), [])
    return train.save(trainer, processor, folder, plan)


def paths_in(folder: Path) -> list[tuple[str, str]]:
    """(file, folder of this computer that it names) of everything that can be downloaded."""
    local = {
        str(place)
        for place in (Path.home(), ASSETS.parent, Path(tempfile.gettempdir()), Path(sys.prefix), os.environ["FITTINGROOM_HOME"])
        if len(Path(place).parts) > 1
    }
    return [(Path(file).name, place) for place in local for file in files_with(folder, place)]


@pytest.mark.parametrize("method", TRAINED)
def test_what_is_taken_home_names_no_path_of_this_computer(method: str, tmp_path: Path) -> None:
    folder = saved(method, tiny.causal_model(), tmp_path)
    assert paths_in(folder) == []
    for file in folder.rglob("adapter_config.json"):
        assert json.loads(file.read_text())["base_model_name_or_path"].startswith("local model causal32")
        assert (file.parent / "README.md").read_text().count("local model causal32") == 1


@pytest.mark.parametrize("method", [method for method in TRAINED if method != "full"])
def test_the_adapter_is_loaded_all_the_same(method: str, tmp_path: Path) -> None:
    plan = tiny.plan("sft", tiny.causal_model(), method=method, method_options=TRAINED[method])
    folder = saved(method, tiny.causal_model(), tmp_path)
    loaded = attach.load(build.load_base(plan, "cpu"), folder)
    assert isinstance(loaded, PeftModel)


def test_downloads_of_the_demo_model_name_no_path(run: Run) -> None:
    offered = [path for name in downloads.LABELS for path in downloads.files_of(run, name)]
    assert offered
    assert [hit for folder in {path.parent for path in offered} for hit in paths_in(folder)] == []
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "demo model of Fitting Room (demo/llama)", "no id that a stranger could take"
    pair = worker.Pair(run.folder)
    assert pair.has_adapter


def test_a_stage_of_a_chain_is_named_after_the_model_that_the_chain_began_with(home: Path) -> None:
    first = runs.runs_folder() / ("b" * 32)
    first.mkdir()
    (first / "plan.json").write_text(first_plan().with_(model="Qwen/Qwen3-0.6B").to_json())
    merged = first / "merged"
    merged.mkdir()
    for name in ("config.json", "model.safetensors"):
        (merged / name).write_bytes((ASSETS / "demo_model" / name).read_bytes())
    assert artifacts.public_name(str(merged)) == "Qwen/Qwen3-0.6B, fine-tuned with Fitting Room"
    assert artifacts.public_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
