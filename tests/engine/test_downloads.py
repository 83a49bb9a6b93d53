"""What is taken home: the files of an artifact, both adapters of a pair, and nothing that a link points to."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from engine.adapters.attach import BENEATH
from engine.export import downloads
from engine.jobs.runs import Run


def test_both_adapters_of_a_pair_are_in_the_zip_and_links_are_not(tmp_path: Path) -> None:
    run = Run(id="0" * 32, name="", created=0.0, plan_json="{}", state="finished", pid=None, pid_started=None, reason="")
    inner = run.folder / "adapter" / BENEATH
    inner.mkdir(parents=True)
    (inner.parent / "adapter_config.json").write_text("outer")
    (inner / "adapter_config.json").write_text("inner")
    (tmp_path / "secret").write_text("secret")
    (inner / "link").symlink_to(tmp_path / "secret")
    (inner / "deeper").mkdir()
    (inner / "deeper" / "file").write_text("not an artifact")
    size, chunks = downloads.zip_stream(downloads.files_of(run, "adapter"), "mine")
    content = b"".join(chunks)
    assert len(content) == size
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    assert found == {"mine/adapter_config.json": "outer", f"mine/{BENEATH}/adapter_config.json": "inner"}
