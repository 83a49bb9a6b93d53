"""A run goes on only from a checkpoint that it wrote itself, and whose every byte is as it was written (T2).

`rng_state.pth`, `optimizer.pt` and `scheduler.pt` are opened by `torch.load`; `training_args.bin` is a pickle that nothing
reads. So a manifest with the sha256 of each file is compared before anything is opened: what is damaged, missing or
foreign is named, and the checkpoint before it is taken where there is one.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import train
from engine.issues import PlanError
from engine.modeling import checkpoints, libraries
from engine.modeling.checkpoints import MANIFEST, TRAINER_FOLDER
from engine.plan import Plan
from engine.system import events
from tests.engine import tiny

STEPS = 6


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that wrote checkpoints after steps 2 and 4 (and one after 1, which is gone), then died."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("FITTINGROOM_HOME", str(home))
        libraries.load()
        folder = home / "runs" / ("a" * 32)
        folder.mkdir(parents=True)
        plan: Plan = tiny.plan("sft", tiny.causal_model(), max_steps=STEPS)
        rows = home / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows("messages", 16)))
        plan = plan.with_(datasets=(plan_source(rows),), eval_fraction=0.0)
        (folder / "plan.json").write_text(plan.to_json())

        made = train.make_checkpoints

        def often(*arguments: Any) -> Any:
            """The worker's own callback, with a clock that says now and then that a checkpoint is due; it dies at step 5."""
            callback = made(*arguments)
            own = callback.on_step_end

            def on_step_end(args: Any, state: Any, control: Any, **rest: Any) -> None:
                callback.apart = 0.0 if state.global_step in (1, 2, 4) else 1e9
                if state.global_step == 5:
                    raise KeyboardInterrupt
                own(args, state, control, **rest)

            callback.on_step_end = on_step_end
            return callback

        patch.setattr(train, "make_checkpoints", often)
        train.main(folder)
        return folder


def plan_source(rows: Path) -> Any:
    from engine.plan import DataSource

    return DataSource(path=str(rows))


@pytest.fixture
def run_folder(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "home" / "runs" / ("a" * 32)))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that `torch.load` was called with."""
    seen: list[str] = []
    load = torch.load

    def spy(file: Any, *arguments: Any, **settings: Any) -> Any:
        seen.append(str(file))
        return load(file, *arguments, **settings)

    monkeypatch.setattr(torch, "load", spy)
    return seen


def checkpoint(run_folder: Path, step: int = 4) -> Path:
    return run_folder / TRAINER_FOLDER / f"checkpoint-{step}"


def poison(file: Path, canary: Path) -> None:
    """A pickle of the same size as the file, so that only its content gives it away."""
    content = pickle.dumps(Canary(canary))
    file.write_bytes(content.ljust(file.stat().st_size if file.exists() else 0, b"\0"))


def notes(run_folder: Path) -> list[str]:
    return [event["message"] for event in events.since(run_folder)[0] if event["kind"] == "note"]


def last(run_folder: Path) -> dict[str, Any]:
    return events.since(run_folder)[0][-1]


def test_two_checkpoints_are_kept_and_sealed(interrupted: Path) -> None:
    assert sorted(path.name for path in (interrupted / TRAINER_FOLDER).glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    for step in (2, 4):
        manifest = json.loads((checkpoint(interrupted, step) / MANIFEST).read_text())
        assert {"rng_state.pth", "optimizer.pt", "scheduler.pt", "trainer_state.json"} < set(manifest["files"])
        assert (manifest["run"], manifest["step"]) == ("a" * 32, step)


def test_the_trainers_settings_are_not_kept_as_a_pickle(interrupted: Path) -> None:
    assert not list(interrupted.glob("**/training_args.bin"))


def test_a_checkpoint_in_order_is_gone_on_from(run_folder: Path, opened: list[str]) -> None:
    assert train.main(run_folder) == 0
    assert last(run_folder)["kind"] == "finished"
    assert [event["step"] for event in events.since(run_folder)[0] if event["kind"] == "resumed"] == [4]
    assert any("checkpoint-4" in file for file in opened), "the spy sees what is opened"


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_a_poisoned_file_is_refused_before_anything_is_opened(
    name: str, run_folder: Path, opened: list[str], tmp_path: Path
) -> None:
    for step in (2, 4):
        poison(checkpoint(run_folder, step) / name, tmp_path / "canary")
    assert train.main(run_folder) == 1
    assert name in last(run_folder)["message"]
    assert "unexpected" not in last(run_folder)["message"]
    assert opened == []
    assert not (tmp_path / "canary").exists()


def test_the_checkpoint_before_a_damaged_one_is_taken(run_folder: Path, opened: list[str], tmp_path: Path) -> None:
    poison(checkpoint(run_folder) / "rng_state.pth", tmp_path / "canary")
    assert train.main(run_folder) == 0
    assert any("checkpoint-4 is not used: rng_state.pth" in note for note in notes(run_folder))
    assert [event["step"] for event in events.since(run_folder)[0] if event["kind"] == "resumed"] == [2]
    assert not any("checkpoint-4" in file for file in opened)
    assert last(run_folder)["kind"] == "finished"
    assert not (tmp_path / "canary").exists()


def zero_a_page(folder: Path) -> str:
    file = folder / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-256:] = bytes(256)
    content[-1] ^= 1
    file.write_bytes(content)
    return file.name


def truncate(folder: Path) -> str:
    file = folder / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-100])
    return file.name


def remove(folder: Path) -> str:
    (folder / "scheduler.pt").unlink()
    return "scheduler.pt"


def add(folder: Path) -> str:
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    return "adapter_model.bin"


def add_in_a_folder(folder: Path) -> str:
    (folder / "deeper").mkdir()
    (folder / "deeper" / "value_head.bin").write_bytes(b"pickle")
    return "value_head.bin"


def link(folder: Path) -> str:
    content = shutil.copy(folder / "rng_state.pth", folder.parent.parent / "elsewhere")
    (folder / "rng_state.pth").unlink()
    (folder / "rng_state.pth").symlink_to(content)
    return "rng_state.pth"


def without_manifest(folder: Path) -> str:
    (folder / MANIFEST).unlink()
    return MANIFEST


def damaged_manifest(folder: Path) -> str:
    (folder / MANIFEST).write_text('{"run": 1, "step": 4, "files": {"x": []}}')
    return MANIFEST


def deep_manifest(folder: Path) -> str:
    (folder / MANIFEST).write_text("[" * 100_000)
    return MANIFEST


def of_another_run(folder: Path) -> str:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"run": "b" * 32}))
    return "another run"


def of_another_step(folder: Path) -> str:
    shutil.copytree(folder, folder.with_name("checkpoint-9"))
    return "another run or step"


DAMAGES = (
    zero_a_page, truncate, remove, add, add_in_a_folder, link, without_manifest, damaged_manifest, deep_manifest,
    of_another_run, of_another_step,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_missing_or_foreign_is_named(damage: Callable[[Path], str], run_folder: Path) -> None:
    named = damage(checkpoint(run_folder))
    found, problems = checkpoints.verified(run_folder)
    assert found is not None
    assert found.name in ("checkpoint-2", "checkpoint-4")
    assert len(problems) == 1
    assert named in problems[0]
    left = (run_folder / TRAINER_FOLDER).glob("checkpoint-*")
    assert max(left, key=checkpoints.step_of) == found, "the trainer writes others in their place"


@pytest.mark.parametrize("damage", DAMAGES[:-1], ids=lambda damage: damage.__name__)
def test_where_none_is_left_the_run_does_not_go_on(damage: Callable[[Path], str], run_folder: Path) -> None:
    for step in (2, 4):
        named = damage(checkpoint(run_folder, step))
    with pytest.raises(PlanError, match="cannot go on") as caught:
        checkpoints.verified(run_folder)
    assert named in str(caught.value)


def test_a_run_without_checkpoints_begins_at_its_start(tmp_path: Path) -> None:
    assert checkpoints.verified(tmp_path) == (None, ())
    assert checkpoints.newest(tmp_path) is None


def test_resume_is_not_offered_from_one_that_is_not_whole(run_folder: Path) -> None:
    assert checkpoints.newest(run_folder) == checkpoint(run_folder)
    truncate(checkpoint(run_folder))
    assert checkpoints.newest(run_folder) == checkpoint(run_folder, 2)
    without_manifest(checkpoint(run_folder, 2))
    assert checkpoints.newest(run_folder) is None
