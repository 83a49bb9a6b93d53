"""A path that a person typed, as a `Path` that can be asked for: over-long names and unknown homes are their mistakes.

Whether a path may be opened at all is said by `models.local_paths_allowed`.
"""

from __future__ import annotations

from pathlib import Path

from engine.issues import Issue, PlanError

LONGEST_PATH = 1024  # characters; macOS' limit (PATH_MAX), and a quarter of Linux's
LONGEST_NAME = 255  # bytes of each part (NAME_MAX of ext4, APFS and NTFS)


def local_path(words: str, *, field: str) -> Path:
    """The path, with `~` written out. Raises `PlanError` on `field`: too long, or the home of nobody."""
    parts = words.replace("\\", "/").split("/")
    if len(words) > LONGEST_PATH or any(len(part.encode("utf-8", "replace")) > LONGEST_NAME for part in parts):
        message = f"is a path of {len(words):,} characters, longer than a file can have."
        raise PlanError([Issue(field=field, message=message, fix="Check the path.")])
    try:
        return Path(words).expanduser()
    except RuntimeError:
        message = "is in the home folder of somebody who is not a user of this computer."
        raise PlanError([Issue(field=field, message=message, fix="Check the path.")]) from None


def is_file(path: Path) -> bool:
    """Whether a file is there and may be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False
