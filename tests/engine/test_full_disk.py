"""A disk that is really full, in mid-run: a small file system of its own, filled to the last byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTES = 100  # a run is refused with less than 64 MB free
FITTINGROOM = Path(__file__).resolve().parent.parent.parent

# Run inside the small file system. `rescue` makes room again when the run waits for it; `give_up` stops the run instead.
STORY = """
import json, sys
from engine.jobs import runs
from engine.system import events
from engine.data.demos import first_plan
from engine.system.home import home

ballast = home() / "ballast"
run = runs.start(first_plan().with_(max_steps=int(sys.argv[2]), eval_fraction=0.0))
told = []
for event in runs.follow(run.id):
    if event["kind"] == "step" and event["step"] == 2:
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError as error:
                told.append(str(error))
    if event["kind"] == "note":
        told.append(event["message"])
    if event["kind"] == "note" and "saved by itself" in event["message"]:
        assert runs.get(run.id).state == "running", "the lifecycle can be read on a full disk"
        if sys.argv[1] == "rescue":
            ballast.unlink()
        else:
            runs.stop(run.id)
ended = runs.get(run.id)
seen = events.since(run.folder)[0]
print(json.dumps({
    "state": ended.state,
    "reason": ended.reason,
    "told": told,
    "steps": [event["step"] for event in seen if event["kind"] == "step"],
    "numbers": [event["seq"] for event in seen],
    "saved": (run.folder / "adapter" / "adapter_model.safetensors").exists(),
}))
"""


def story(folder: Path, ending: str, steps: int) -> dict:
    """Tell the story in a file system of a few megabytes, which only its own process sees."""
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={MEGABYTES}m none {folder}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("no file system of its own can be made here (Linux, user namespaces)")
    environment = os.environ | {"FITTINGROOM_HOME": str(folder), "PYTHONPATH": str(FITTINGROOM)}
    command = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'{mount} && exec "$0" -c "$1" "$2" "$3"',
        sys.executable,
        STORY,
        ending,
        str(steps),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.trains
def test_a_run_outlives_a_full_disk(tmp_path: Path) -> None:
    told = story(tmp_path / "disk", "rescue", 24)  # more events than fit into one block of the disk
    assert "No space left" in told["told"][1]
    assert "The run goes on; free some space" in told["told"][2]
    assert (told["state"], told["saved"]) == ("finished", True)
    assert told["steps"] == list(range(1, 25)), "no measurement is lost"
    assert told["numbers"] == list(range(len(told["numbers"])))


@pytest.mark.trains
def test_a_run_that_no_room_is_made_for_says_so(tmp_path: Path) -> None:
    told = story(tmp_path / "disk", "give_up", 6)
    assert (told["state"], told["saved"]) == ("failed", False)
    assert told["reason"] == "disk: the disk is full. Free some space (old runs, for instance) and start again."
    assert told["steps"] == [1, 2, 3, 4, 5, 6]
