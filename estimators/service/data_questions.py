"""Looks at the data of a plan, in the process that has the tokenizers: the X-ray, one row, and cleaning.

The requests are those of `python -m estimators --jsonl`: {"ask": "xray" | "look" | "clean", "plan": {...}, ...}.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from engine import json_input
from engine.adapters import option_forms
from engine.data import token_counts, tokenization
from engine.issues import Issue, PlanError
from engine.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TOKENIZER = Issue(
    field="model",
    message="its tokenizer is not on this computer, so tokens cannot be shown.",
    fix="Choose the demo model, or a model that was downloaded already.",
)


def answer(question: str, plan: Plan, only: str) -> dict[str, Any]:
    """The answer to one request, as JSON values. Raises `PlanError`.

    `only` is a JSON text with what the question needs: {"number", "template"} or {"wishes", "template"}.
    """
    from engine.data import cleaning
    from engine.modeling import xray

    wanted = _wanted(only or "{}")
    if not plan.datasets:
        raise PlanError([Issue(field="datasets", message="is empty.", fix="Choose data first.")])
    if question == "clean":
        source, key = plan.datasets[0], wanted.get("template", "")
        if key:
            return {"clean": dataclasses.asdict(cleaning.write_with_template(plan, source, _tokenizer(plan), key))}
        return {
            "clean": dataclasses.asdict(
                cleaning.clean(plan, source, wanted.get("wishes", {}), token_counts.local_tokenizer(plan))
            )
        }
    tokenizer, template = _tokenizer(plan), wanted.get("template", "")
    if question == "look":
        return {"look": dataclasses.asdict(xray.look(plan, wanted.get("number", 1), tokenizer, template))}
    return {"xray": dataclasses.asdict(xray.xray(plan, tokenizer, template))}


# What a question may need, and its form (`engine/adapters/option_forms.py`).
FORM = {"config": {"number": "integer", "template": "text", "wishes": {"mapping": "any"}, "data": "text"}}


def _wanted(only: str) -> dict[str, Any]:
    """What a question needs. Raises `PlanError` where it is of another form."""
    wanted = json_input.parse(only, "only")
    wrong = list(option_forms.problems(wanted, FORM, "only"))
    if wrong:
        raise PlanError(wrong)
    return wanted


def _tokenizer(plan: Plan) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer; None where the rows are images with labels or boxes, which need none."""
    found = token_counts.local_tokenizer(plan)
    if found is None and not set(token_counts.accepts(plan)) <= set(tokenization.WITHOUT_TEXT):
        raise PlanError([NO_TOKENIZER])
    return found
