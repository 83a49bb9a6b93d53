"""TEMPLATES: chat templates for models whose tokenizer has none, by name.

Each marks the assistant's words and the end of a turn (`{% generation %}`), so that every answer, and where it ends, is
trained on. A base model has not seen the markers: it ends its answers with the end-of-sequence token that it knows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.issues import Issue, PlanError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from engine.plan import Plan


OWN = "own"  # what a plan says for the model's own template


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """One way to write a chat as a text."""

    key: str
    label: str
    jinja: str


_ROWS = (
    ChatTemplate(
        key="plain",
        label="Plain: User and Assistant as headings",
        # A line's end after each heading: a space would melt into the first token of the answer.
        jinja=(
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'assistant' -%}"
            "{{ 'Assistant:\n' }}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}{{ '\n' }}"
            "{%- else -%}{{ (message['role'] | capitalize) + ':\n' + message['content'] + '\n' }}{%- endif -%}"
            "{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{ 'Assistant:\n' }}{%- endif -%}"
        ),
    ),
    ChatTemplate(
        key="chatml",
        label="ChatML, as text",
        jinja=(
            "{%- for message in messages -%}"
            "{{ '<|im_start|>' + message['role'] + '\\n' }}"
            "{%- if message['role'] == 'assistant' -%}"
            "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}{{ '\\n' }}"
            "{%- else -%}{{ message['content'] + '<|im_end|>\\n' }}{%- endif -%}"
            "{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
        ),
    ),
)
TEMPLATES: dict[str, ChatTemplate] = {row.key: row for row in _ROWS}


def of_plan(tokenizer: PreTrainedTokenizerBase, plan: Plan) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template that the plan names; "own" is the one that it has."""
    return tokenizer if plan.chat_template == OWN else with_template(tokenizer, plan.chat_template)


def with_template(tokenizer: PreTrainedTokenizerBase | None, key: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer with a named template, as a copy; as it is where no name is given. Raises `PlanError`."""
    if not key or tokenizer is None:
        return tokenizer
    if key not in TEMPLATES:
        message = f"{key!r} is not a chat template."
        raise PlanError([Issue(field="chat_template", message=message, fix=nearest(key, TEMPLATES))])
    changed = copy.copy(tokenizer)
    changed.chat_template = TEMPLATES[key].jinja
    return changed
