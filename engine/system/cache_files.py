"""Old files of the web server's cache are removed: Gradio keeps what was uploaded, refused or broken off, for ever.

sweep(upload_cache(), older_than_seconds=3600)
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path


def upload_cache() -> Path:
    """The folder in which Gradio keeps uploads, whole ones and such as were broken off (`gradio.utils.get_upload_folder`)."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def sweep(cache_folder: Path, older_than_seconds: float) -> int:
    """Remove the files that were last written so long ago, and folders that are empty then. Returns the bytes freed.

    Links are removed and never followed, also where one takes the place of a folder meanwhile. A folder that is itself a
    link is left alone.
    """
    if cache_folder.is_symlink() or not cache_folder.is_dir() or not hasattr(os, "fwalk"):  # Windows has no safe walk
        return 0
    oldest, freed = time.time() - older_than_seconds, 0
    for _, folders, files, here in os.fwalk(cache_folder, topdown=False, follow_symlinks=False):
        for name in files:
            with contextlib.suppress(OSError):  # it is gone, or not ours
                found = os.lstat(name, dir_fd=here)
                if found.st_mtime < oldest:
                    os.unlink(name, dir_fd=here)
                    freed += found.st_size if stat.S_ISREG(found.st_mode) else 0
        for name in folders:
            with contextlib.suppress(OSError):
                found = os.lstat(name, dir_fd=here)
                if stat.S_ISLNK(found.st_mode):
                    os.unlink(name, dir_fd=here)
                elif found.st_mtime < oldest:
                    os.rmdir(name, dir_fd=here)
    return freed


def forget(upload: Path) -> None:
    """Remove an upload's copy in the cache, now that its bytes are kept or refused; files elsewhere are not touched."""
    cache = upload_cache().resolve()
    with contextlib.suppress(OSError, ValueError):
        folder = upload.parent.resolve()
        if folder != cache and folder.is_relative_to(cache):
            (folder / upload.name).unlink(missing_ok=True)
            folder.rmdir()
