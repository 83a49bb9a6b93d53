"""What the hub says of a repository, asked once before anything is fetched: in words, and within seconds.

Its own library asks again and again where the hub is busy or has a fault, for a minute and more.
"""

from __future__ import annotations

import json

from engine.catalog import model_files
from engine.issues import Issue, PlanError

LARGEST_LISTING = 8 * 10**6  # bytes of the answer about a repository; thousands of files take less than 1 MB
SECONDS = 5.0  # to answer at all
OFFLINE = "offline"
# The hub's status -> what that means, with the remedy (https://huggingface.co/docs/hub/api; codes of huggingface_hub 2.4).
ABSENT = ("does not exist on the hub, or is private.", "Check the spelling on {pages}, or set HF_TOKEN for a private one.")
GATED = (
    "is gated: its owner asks you to accept terms first.",
    "Accept them on its page at huggingface.co, and set HF_TOKEN before starting the app.",
)
BUSY = ("could not be fetched: the hub has had too many questions from here.", "Wait some minutes, or set HF_TOKEN.")
BROKEN = ("could not be fetched: the hub has a fault of its own.", "Try again later, or use a file or folder of this computer.")
PAGES = {"models": "https://huggingface.co/models", "datasets": "https://huggingface.co/datasets"}


def refuse_if_refused(kind: str, repository: str, *, field: str, named: str = "") -> None:
    """Ask the hub about a repository. Raises `PlanError` on `field` if it would not give it.

    A model's list of files is looked at, too: one with pickled weights alone is refused before anything is fetched.

    Args:
        kind: "models" or "datasets".
        repository: owner/name.
        named: how the sentence begins, where the field alone does not say what is meant.

    Raises:
        ConnectionError: the hub is switched off (HF_HUB_OFFLINE), or does not answer.
    """
    status, code, names = _asked(kind, repository)
    found = _meaning(status, code)
    if found is not None:
        message, fix = found
        raise PlanError([Issue(field=field, message=f"{named} {message}".strip(), fix=fix.format(pages=PAGES[kind]))])
    issues = model_files.check_listing(names) if kind == "models" else []
    if issues:
        raise PlanError(issues)


def _asked(kind: str, repository: str) -> tuple[int, str, list[str]]:
    """(status, error code, names of the repository's files where the answer has them) of the hub's answer."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("the hub is switched off (HF_HUB_OFFLINE)")
    url = f"{constants.ENDPOINT}/api/{kind}/{repository}"
    method = "GET" if kind == "models" else "HEAD"
    try:
        with httpx.stream(method, url, headers=build_hf_headers(), timeout=SECONDS, follow_redirects=True) as answer:
            content = b""
            for piece in answer.iter_bytes():
                content += piece
                if len(content) > LARGEST_LISTING:
                    break
    except httpx.HTTPError as error:
        raise ConnectionError(f"{constants.ENDPOINT} cannot be reached") from error
    return answer.status_code, answer.headers.get("X-Error-Code", ""), _files_in(content)


def _files_in(content: bytes) -> list[str]:
    """The names of the files in the hub's answer; none, where it does not list them."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return []
    files = values.get("siblings") if isinstance(values, dict) else None
    names = [file.get("rfilename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    return [name for name in names if isinstance(name, str)]


def _meaning(status: int, code: str) -> tuple[str, str] | None:
    if code == "GatedRepo":
        return GATED
    if status in (401, 404) or code == "RepoNotFound":
        return ABSENT
    if status == 429:
        return BUSY
    return BROKEN if status >= 500 else None
