"""The demo fine-tunes: a small set of conversations, a held-out set, and a rule that says whether an answer is right.

    from engine.demos import DEMOS
    DEMOS["pirate"].is_right("Arr, matey! A fish be in water.", {"word": "water"})   # True

The files are written by `assets/build_demo_data.py`. Standard library only: the plan page reads this table before any
model library is loaded. To add a demo, add a set to `assets/demo_text/sets.py` and a row to `DEMOS`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.hardware import recommended_precision, this_machine
from engine.plan import DataSource, Plan

DATA = Path(__file__).resolve().parent.parent / "assets" / "demo_data"
Rule = Callable[[str, Mapping[str, object]], bool]
PIRATE_WORDS = frozenset({"arr", "ahoy", "aye", "matey", "hearty", "ye", "yer", "yo", "pirate"})


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demo set: `path` names it as a data source; `is_right(answer, row)` judges an answer to a held-out row."""

    key: str
    path: str
    title: str
    sentence: str
    train_file: Path
    held_out_file: Path
    is_right: Rule
    example_prompts: tuple[str, ...]


def is_json_answer(answer: str, row: Mapping[str, object]) -> bool:
    """A JSON object with exactly "answer" and "topic", the right topic, and the right word in the answer."""
    try:
        parsed = json.loads(answer)
    except json.JSONDecodeError:
        return False
    if not isinstance(parsed, dict) or set(parsed) != {"answer", "topic"}:
        return False
    return parsed["topic"] == row["topic"] and has_word(str(parsed["answer"]), str(row["word"]))


def is_pirate_answer(answer: str, row: Mapping[str, object]) -> bool:
    """At least two different pirate words, and still the right word in the answer."""
    spoken = set(re.findall(r"[a-z]+", answer.lower()))
    return len(spoken & PIRATE_WORDS) >= 2 and has_word(answer, str(row["word"]))


def is_known_fact(answer: str, row: Mapping[str, object]) -> bool:
    """The word that only someone who knows the fact would say."""
    return has_word(answer, str(row["word"]))


def has_word(text: str, word: str) -> bool:
    """Whole words only, capitals aside: "no" is not in "north"."""
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _demo(key: str, *, title: str, sentence: str, is_right: Rule, example_prompts: tuple[str, ...]) -> Demo:
    return Demo(
        key=key, path=f"demo/{key}", title=title, sentence=sentence, is_right=is_right, example_prompts=example_prompts,
        train_file=DATA / f"{key}.jsonl", held_out_file=DATA / f"{key}.heldout.jsonl",
    )  # fmt: skip


_ROWS = (
    _demo(
        "pirate",
        title="A voice: talk like a pirate",
        sentence="The model keeps what it knows and learns to say it like a pirate.",
        is_right=is_pirate_answer,
        example_prompts=(
            "Please say what colour the sea is.",
            "One more thing: Who catches fish?",
            "Say what four plus two is.",
        ),
    ),
    _demo(
        "json_answers",
        title="A format: answer in JSON",
        sentence="The model learns to put every answer into JSON with an answer and a topic.",
        is_right=is_json_answer,
        example_prompts=(
            "What do I need to cut wood?",
            "Why do we have legs?",
            "What colour does a lemon have?",
        ),
    ),
    _demo(
        "facts",
        title="New knowledge: the island of Velmora",
        sentence="The model learns twenty-four facts about an island that we invented.",
        is_right=is_known_fact,
        example_prompts=(
            "What is the queen of Velmora called?",
            "What do the people of Velmora wear?",
            "How do people get to Velmora?",
        ),
    ),
)
DEMOS: dict[str, Demo] = {demo.key: demo for demo in _ROWS}


def first_plan() -> Plan:
    """What the page opens with: the demo model learns the first demo set with LoRA on this machine, in under a minute."""
    return Plan(
        datasets=(DataSource(path=next(iter(DEMOS.values())).path),),
        max_length=256,
        per_device_train_batch_size=16,
        num_train_epochs=10,
        precision=recommended_precision(this_machine()),
    )
