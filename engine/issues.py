"""What is wrong with something that a person or a program sent: an `Issue`, and the `PlanError` that carries several.

Issues may quote what a stranger wrote, and every border shows them: the page, the API, the command line. So they are
bounded and printable whatever they quote. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

QUOTED = 80  # characters of a value that a message quotes
MOST_FIELD = 200  # characters of a field's name; the longest of this program's own is about 60
MOST_MESSAGE = 1200  # characters; the longest of this program's own lists the names of a large table
SHOWN_KEYS = 3  # of unknown ones
LONGEST_NAME = 80  # characters of a word that are compared with the right names
MOST_ISSUES = 20  # of one error; nobody fixes more at a time


@dataclass(frozen=True, kw_only=True)
class Issue:
    """One thing that is wrong with a plan: which field, what, and what to do about it."""

    field: str
    message: str
    fix: str
    severity: str = "error"  # "error" stops a start, "warning" does not

    def __post_init__(self) -> None:
        for name, most in (("field", MOST_FIELD), ("message", MOST_MESSAGE), ("fix", MOST_MESSAGE)):
            object.__setattr__(self, name, shortened(printable(getattr(self, name)), most))

    def sentence(self) -> str:
        """The issue as a person reads it: one line that names the field and the remedy."""
        return f"{self.field}: {self.message} {self.fix}".strip()


class PlanError(ValueError):
    """The plan cannot be read or run as it is. `issues` holds one entry per problem, in the order of the fields."""

    def __init__(self, issues: Iterable[Issue]):
        self.issues = at_most(tuple(issues), MOST_ISSUES)
        super().__init__("\n".join(issue.sentence() for issue in self.issues))


def at_most(issues: tuple[Issue, ...], most: int) -> tuple[Issue, ...]:
    """The first issues, and one more that counts those left out."""
    if len(issues) <= most:
        return issues
    rest = Issue(
        field=issues[most].field, message=f"is one of {len(issues) - most:,} more problems.", fix="Fix those above first."
    )
    return (*issues[:most], rest)


def quoted(value: Any, most: int = QUOTED) -> str:
    """The value as Python writes it, cut after `most` characters. Never more work than that: values may be huge."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length():,} bits"  # Python refuses to write out those of over 4,300 digits
    if isinstance(value, str):
        return shortened(repr(value[: most + 1]), most)
    if isinstance(value, (list, tuple, set, frozenset)):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return shortened(repr(value), most)


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and an ellipsis where it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: str) -> str:
    """The text without what no UTF-8 stream takes: a lone surrogate becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def unknown_keys(values: Mapping[str, Any], known: Iterable[str], *, where: str) -> list[Issue]:
    """One issue per key of `values` that is not in `known`, each naming the nearest right key; the first few of them."""
    known = list(known)
    wrong = [key for key in values if key not in known]
    issues = [
        Issue(field=str(key), message=f"is not a field of the {where}.", fix=nearest(str(key), known))
        for key in wrong[:SHOWN_KEYS]
    ]
    if len(wrong) > SHOWN_KEYS:
        message = f"has {len(wrong) - SHOWN_KEYS:,} more fields that do not exist."
        issues.append(Issue(field=where, message=message, fix="Leave them out."))
    return issues


def nearest(word: str, known: Iterable[str]) -> str:
    """The remedy for a misspelt name: "Did you mean ...?" or the list of right names."""
    known = list(known)
    by_lower_case = {name.lower(): name for name in reversed(known)}
    similar = get_close_matches(word[:LONGEST_NAME].lower(), by_lower_case, n=1, cutoff=0.5)
    close = [by_lower_case[name] for name in similar]
    if close:
        return f"Did you mean {close[0]}?"
    return f"Use one of: {', '.join(known)}." if known else "Leave it out."
