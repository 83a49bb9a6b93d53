"""An upload is a regular file of rows that somebody can use, kept under a name that nobody can guess; else nothing is kept.

No link is followed on the way in or out, no name of a stranger becomes a path, the disk keeps room for runs, and what is
left over in the web server's cache is removed: at once after an upload, later what was broken off.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from engine import data
from engine.data import limits, sources
from engine.issues import PlanError
from engine.plan import DataSource
from engine.system import cache_files
from engine.system.home import uploads_folder

ROW = json.dumps({"text": "a"}) + "\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's cache folder."""
    folder = tmp_path / "gradio"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def uploaded(cache: Path, content: str | bytes = ROW, name: str = "rows.jsonl") -> Path:
    """A file where Gradio puts an upload: in a folder named after its hash."""
    file = cache / "0123abcd" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def kept() -> list[str]:
    return sorted(file.name for file in uploads_folder().rglob("*"))


# --- what is taken --------------------------------------------------------------------------------------------------


def test_the_id_of_an_upload_cannot_be_guessed_and_old_ids_are_still_read(cache: Path) -> None:
    stored = [data.store_upload(uploaded(cache)) for _ in range(3)]
    assert all(re.fullmatch(r"upload/[0-9a-f]{32}", source.path) for source in stored)  # 128 random bits
    assert len({source.path for source in stored}) == 3
    (uploads_folder() / "0123456789abcdef.jsonl").write_text(ROW)
    assert data.load((DataSource(path="upload/0123456789abcdef"),)) == [{"text": "a"}]


@pytest.mark.parametrize(
    "path", ["upload/../x", "upload/" + "a" * 31, "upload/" + "A" * 32, "upload/" + "a" * 32 + "/x", "upload/"]
)
def test_no_other_words_name_an_upload(path: str) -> None:
    with pytest.raises(PlanError):
        data.locate(DataSource(path=path))


@pytest.mark.parametrize("kind", ["link", "link to the folder", "link to the cache", "pipe", "folder", "device", "nothing"])
def test_only_a_regular_file_is_taken_and_no_link_is_followed(kind: str, tmp_path: Path, cache: Path) -> None:
    secret = tmp_path / "secret" / "rows.jsonl"
    secret.parent.mkdir()
    secret.write_text(ROW)
    file = cache / "0123abcd" / "rows.jsonl"
    if kind == "link to the folder":
        os.symlink(secret.parent, file.parent)
    elif kind == "link to the cache":
        (secret.parent / "0123abcd").mkdir()
        shutil.copy(secret, secret.parent / "0123abcd" / "rows.jsonl")
        cache.rmdir()
        os.symlink(secret.parent, cache)
    else:
        file.parent.mkdir()
    if kind == "link":
        os.symlink(secret, file)
    if kind == "pipe":
        os.mkfifo(file)
    if kind == "folder":
        file.mkdir()
    if kind == "device":
        os.symlink("/dev/zero", file)
    with pytest.raises(PlanError, match="not a regular file"):
        data.store_upload(file)
    assert secret.read_text() == ROW
    assert kept() == []


def test_a_link_that_was_planted_among_the_uploads_is_neither_read_nor_written_through(tmp_path: Path, cache: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text(ROW)
    os.symlink(secret, uploads_folder() / f"{'a' * 32}.jsonl")
    with pytest.raises(PlanError, match="there is no upload"):
        data.locate(DataSource(path=f"upload/{'a' * 32}"))
    target = uploads_folder() / f"{'b' * 32}.jsonl"
    os.symlink(secret, target)
    with open(uploaded(cache, "other"), "rb") as stream, pytest.raises(FileExistsError):
        sources._copy(stream, target)
    assert secret.read_text() == ROW


@pytest.mark.parametrize(
    "name",
    [
        "../../x.jsonl",
        "$(touch c).jsonl",
        "a\nb.jsonl",
        "\u202elnosj.jsonl",
        "<script>.jsonl",
        "-rf.jsonl",
        "x" * 240 + ".jsonl",
    ],
)
def test_the_name_of_a_file_is_only_ever_shown(name: str, cache: Path) -> None:
    stored = data.store_upload(uploaded(cache, name=name.replace("/", "_")))
    shown = data.title(stored)
    assert shown.isprintable()
    assert len(shown) <= limits.MOST_NAME
    assert all(re.fullmatch(r"[0-9a-f]{32}\.(jsonl|name)", file) for file in kept())


def test_a_name_that_is_no_text_is_no_fault(cache: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(cache) + b"/caf\xe9.jsonl"))
    file.write_text(ROW)
    assert data.title(data.store_upload(file)) == "caf\ufffd.jsonl"


# --- what is not kept -----------------------------------------------------------------------------------------------


def zipped(file: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(file, "w", method) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", "oops\n", "is not valid JSON"),
        ("rows.jsonl", "", "has no rows"),
        ("rows.jsonl", '{"text": 5}\n', "has a number in 'text'"),
        ("rows.jsonl", '{"text": ""}\n', "no row has anything to learn from"),
        ("rows.jsonl", '{"image": "/etc/passwd", "label": "a"}\n', "not beside the file"),
        ("rows.parquet", b"PAR1", "cannot be read as Parquet"),
        ("rows.exe", b"MZ", "none of the kinds that are read"),
    ],
)
def test_an_upload_without_a_usable_row_is_removed_again(name: str, content: str | bytes, said: str, cache: Path) -> None:
    with pytest.raises(PlanError, match=said):
        data.store_upload(uploaded(cache, content, name))
    assert kept() == []


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a/x.png": b"no image"}, "no image that can be read"),
        ({"./": b"", "a/x.png": b"no image"}, "no image that can be read"),
        ({".": b"x"}, "no images"),
        ({"inner.zip": b"PK\5\6" + bytes(18)}, "no images"),
        ({"../x.png": b"x"}, "leads out of it"),
        ({"/x.png": b"x"}, "leads out of it"),
        ({"..\\x.png": b"x"}, "leads out of it"),
        ({"C:x.png": b"x"}, "leads out of it"),
    ],
)
def test_a_zip_without_a_usable_image_leaves_nothing(members: dict[str, bytes], said: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(PlanError, match=said):
        data.store_upload(uploaded(cache, zipped(tmp_path / "a.zip", members), "a.zip"))
    assert kept() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b"PK\1\2", 8, b"\1"), "password"),  # the flag of an encrypted member
        ((b"PK\1\2", 10, b"\x0e"), "a method that is not read here"),  # LZMA
        ((b"PK\1\2", 41, b"\xa0"), "a link or a device"),  # the mode of a symbolic link
        ((b"PK\1\2", 41, b"\x20"), "a link or a device"),  # and of a device
        ((b"PK\3\4", 14, b"\xff"), "cannot be read"),  # the checksum
        ((b"PK\3\4", 0, b"XX"), "cannot be read"),
    ],
)
def test_a_zip_with_other_members_than_plain_files_leaves_nothing(
    change: tuple[bytes, int, bytes], said: str, tmp_path: Path, cache: Path
) -> None:
    mark, offset, value = change
    content = bytearray(zipped(tmp_path / "a.zip", {"a/x.png": b"x" * 100}, zipfile.ZIP_STORED))
    place = content.index(mark) + offset
    content[place : place + len(value)] = value
    if said == "cannot be read" and offset == 14:  # both copies of the checksum
        place = content.index(b"PK\1\2") + 16
        content[place : place + 1] = value
    with pytest.raises(PlanError, match=said):
        data.store_upload(uploaded(cache, bytes(content), "a.zip"))
    assert kept() == []


def test_every_zip_that_is_damaged_somewhere_is_one_sentence(tmp_path: Path, cache: Path) -> None:
    content = zipped(tmp_path / "a.zip", {"a/x.png": b"x" * 40, "metadata.jsonl": b'{"file_name": "a/x.png", "text": "a"}'})
    for place in range(0, len(content), 7):
        broken = content[:place] + b"\xff\xff" + content[place + 2 :]
        with pytest.raises(PlanError) as refused:
            data.store_upload(uploaded(cache, broken, "a.zip"))
        assert "stopped" not in str(refused.value), place
    assert kept() == []


# --- room -----------------------------------------------------------------------------------------------------------


def test_uploads_have_a_quota_together(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.store_upload(uploaded(cache))
    second = data.store_upload(uploaded(cache, ROW * 10))
    assert data.uploads_bytes([first.path]) == len(ROW) + len("rows.jsonl")
    assert data.uploads_bytes() == data.uploads_bytes([first.path, second.path])
    monkeypatch.setattr(limits, "MOST_UPLOADED", data.uploads_bytes() + len(ROW) - 1)
    with pytest.raises(PlanError, match="the uploads of this server have reached"):
        data.store_upload(uploaded(cache))
    assert len(kept()) == 4


def test_a_full_disk_is_one_sentence_and_nothing_is_left(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sources, "free_bytes", lambda folder: limits.LEFT_FREE)
        with pytest.raises(PlanError, match="has no room for the upload"):
            data.store_upload(uploaded(cache))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(PlanError, match="has no room for the upload"):
        data.store_upload(uploaded(cache))
    assert kept() == []


# --- the web server's cache -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [ROW, "oops"])
def test_the_copy_in_the_cache_is_gone_after_an_upload_and_after_a_refusal(content: str, cache: Path) -> None:
    file = uploaded(cache, content)
    try:
        data.store_upload(file)
    except PlanError:
        assert content == "oops"
    assert list(cache.iterdir()) == []


def test_a_file_outside_of_the_cache_stays(tmp_path: Path, cache: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text(ROW)
    data.store_upload(mine)
    assert mine.read_text() == ROW


def old(file: Path) -> Path:
    hour_ago = time.time() - 7200
    os.utime(file, (hour_ago, hour_ago), follow_symlinks=False)
    return file


def test_what_was_broken_off_is_swept_and_what_is_under_way_stays(cache: Path) -> None:
    aborted = old(uploaded(cache, b"x" * 1000, "tmpabcd"))
    half = cache / "tmp0123"
    half.write_bytes(b"x" * 500)
    old(half)
    under_way = cache / "tmp4567"
    under_way.write_bytes(b"x")
    assert cache_files.sweep(cache, older_than_seconds=3600) == 1500
    assert not aborted.exists()
    assert not half.exists()
    assert under_way.exists()


def test_a_sweep_follows_no_link_and_never_leaves_the_folder(tmp_path: Path, cache: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = old(Path(shutil.copy(__file__, outside / "precious.py")))
    old(outside)
    os.symlink(outside, cache / "folder")
    os.symlink(precious, cache / "file")
    for link in ("folder", "file"):
        old(cache / link)
    cache_files.sweep(cache, older_than_seconds=3600)
    assert precious.exists()
    assert list(cache.iterdir()) == []  # the links themselves are gone
    elsewhere = tmp_path / "elsewhere"
    os.symlink(outside, elsewhere)
    assert cache_files.sweep(elsewhere, older_than_seconds=0) == 0
    assert cache_files.sweep(tmp_path / "nowhere", older_than_seconds=0) == 0
    assert precious.exists()


# --- where rows come from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["https://x/y.jsonl", "hf://../..", "zip://x::a.jsonl", "file:///etc/passwd", "/etc/*", "a::b.jsonl",
     "http://2852039166/x.csv", "~nobody-there/x.jsonl", "a\0b.jsonl", "\ud800.jsonl", "x" * 5000 + ".jsonl",
     "/dev/zero", "/proc/self/environ", "../../x", ""],
)  # fmt: skip
def test_a_url_a_pattern_and_a_path_that_cannot_be_are_one_sentence(path: str) -> None:
    (issue,) = data.scan(DataSource(path=path)).issues
    assert issue.field == "datasets"
    assert issue.fix
    assert len(issue.message) < 300
