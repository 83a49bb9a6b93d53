"""What a value must look like, as PEFT's own configs declare it, and what of a value does not.

A form is JSON, so that it can be written down once (`assets/method_options.json`) and read without importing peft:

    "flag" | "integer" | "number" | "text" | "null" | "any"
    {"choice": ["gaussian", "pissa_niter_[number of iters]"]}    one of these words; [...] stands for a number
    {"list": FORM}      {"tuple": [FORM, FORM]}      {"mapping": FORM}    its keys are names
    {"config": {"rho": FORM, ...}}                   an object with these fields, each of which may be left out
    {"either": [FORM, FORM]}

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.issues import Issue, quoted

# Limits of numbers for which PEFT declares none: far beyond what any published adapter uses, small enough to build.
LARGEST = 10_000_000  # as many trained numbers as the largest limit of our own (`n_frequency`)
LARGEST_SEED = 2**32 - 1  # torch.Generator's
_PLAIN = {"flag": "true or false", "integer": "a whole number", "number": "a number", "text": "a text", "null": "null"}


def problems(value: Any, form: Any, field: str) -> Iterator[Issue]:
    """One issue per part of the value that is not of its form, on the field where it is."""
    if isinstance(form, str):
        if not _is_plain(value, form):
            yield _issue(field, value, form)
    elif "either" in form:
        yield from _of_either(value, form, field)
    elif "choice" in form:
        if not isinstance(value, str) or not any(_is_choice(value, choice) for choice in form["choice"]):
            yield _issue(field, value, form)
    elif "config" in form:
        yield from _of_config(value, form, field)
    elif "mapping" in form:
        if not isinstance(value, Mapping):
            yield _issue(field, value, form)
            return
        for key, each in value.items():
            yield from problems(each, form["mapping"], f"{field}.{key}")
    elif not isinstance(value, (list, tuple)) or ("tuple" in form and len(value) != len(form["tuple"])):
        yield _issue(field, value, form)
    else:
        forms = form["tuple"] if "tuple" in form else [form["list"]] * len(value)
        for place, (each, inner) in enumerate(zip(value, forms, strict=True)):
            yield from problems(each, inner, f"{field}[{place}]")


def _is_plain(value: Any, form: str) -> bool:
    if form == "any":
        return True
    if form == "null":
        return value is None
    if form == "flag":
        return isinstance(value, bool)
    if form == "text":
        return isinstance(value, str)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_SEED
    return is_number and (form == "number" or isinstance(value, int))


def _is_choice(value: str, choice: str) -> bool:
    """Whether a word is one of PEFT's literals; "pissa_niter_[number of iters]" stands for a word with a number."""
    if "[" not in choice:
        return value == choice
    before, _, rest = choice.partition("[")
    return re.fullmatch(rf"{re.escape(before)}\d{{1,3}}{re.escape(rest.partition(']')[2])}", value) is not None


def _of_either(value: Any, form: Mapping[str, Any], field: str) -> Iterator[Issue]:
    """Nothing where one of the forms takes the value; else what is wrong with it by the one that comes nearest."""
    found = [list(problems(value, inner, field)) for inner in form["either"]]
    if not all(found):
        return
    inside = [issues for issues in found if all(issue.field != field for issue in issues)]
    if inside:
        yield from min(inside, key=len)
    else:
        yield _issue(field, value, form)


def _of_config(value: Any, form: Mapping[str, Any], field: str) -> Iterator[Issue]:
    fields = form["config"]
    if not isinstance(value, Mapping):
        yield _issue(field, value, form)
        return
    for key, each in value.items():
        if key not in fields:
            yield Issue(field=f"{field}.{key}", message="is not a field of it.", fix=f"Use one of: {', '.join(fields)}.")
        else:
            yield from problems(each, fields[key], f"{field}.{key}")


def _issue(field: str, value: Any, form: Any) -> Issue:
    return Issue(field=field, message=f"{quoted(value)} does not go here.", fix=f"Use {described(form)}.")


def described(form: Any) -> str:
    """The form in words: "a whole number, or a list of whole numbers"."""
    if isinstance(form, str):
        return _PLAIN.get(form, "any value")
    if "either" in form:
        return ", or ".join(described(inner) for inner in form["either"])
    if "choice" in form:
        return f"one of {', '.join(form['choice'])}"
    if "config" in form:
        return f"an object with {', '.join(form['config'])}"
    if "mapping" in form:
        return f'an object, {{"name": {_plainly(form["mapping"])}}}'
    if "tuple" in form:
        return f"a list of {len(form['tuple'])}"
    return f"a list, each {described(form['list'])}"


def _plainly(form: Any) -> str:
    return {"integer": "16", "number": "0.5", "text": '"text"'}.get(form, "...") if isinstance(form, str) else "..."
