"""The demo fine-tunes: a small set of rows, a held-out set, and a plan that starts with two clicks.

    from engine.data.demos import DEMOS
    DEMOS["pirate"].is_right("Arr, matey! A fish be in water.", {"word": "water"})   # True
    DEMOS["shapes"].plan()                                                            # ready to start

The files are written by `assets/build_demo_data.py` and `assets/build_demo_families.py`, the tiny models of the other
families by `assets/build_demo_models.py`. Standard library only: the plan page reads this table before any model
library is loaded. To add a demo, add its rows to `assets/demo_text` and a row to `DEMOS`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.catalog.hardware import recommended_precision, this_machine
from engine.plan import DataSource, Plan

ASSETS = Path(__file__).resolve().parents[2] / "assets"
Rule = Callable[[str, Mapping[str, object]], bool]
PIRATE_WORDS = frozenset({"arr", "ahoy", "aye", "matey", "hearty", "ye", "yer", "yo", "pirate"})


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demo set: `path` names it as a data source; `is_right(answer, row)` judges an answer to a held-out row.

    `changes` are the fields in which its plan differs from the one that the page opens with.
    """

    key: str
    path: str
    title: str
    sentence: str
    train_file: Path
    held_out_file: Path
    is_right: Rule
    example_prompts: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    def plan(self) -> Plan:
        """The fine-tune that shows this demo, on this machine, in about a minute."""
        return first_plan().with_(datasets=(DataSource(path=self.path),), **self.changes)


def never_asked(answer: str, row: Mapping[str, object]) -> bool:
    """For sets whose results do not answer in words: the run's own figure says how good they are."""
    return False


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


def _demo(
    key: str,
    *,
    title: str,
    sentence: str,
    is_right: Rule = never_asked,
    example_prompts: tuple[str, ...] = (),
    suffix: str = ".jsonl",
    **changes: Any,
) -> Demo:
    data = ASSETS / ("demo_families" if changes else "demo_data")
    return Demo(
        key=key, path=f"demo/{key}", title=title, sentence=sentence, is_right=is_right, example_prompts=example_prompts,
        train_file=data / f"{key}{suffix}", held_out_file=data / f"{key}.heldout{suffix}", changes=changes,
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
    _demo(
        "topics",
        title="Classes: what a question is about",
        sentence="A small encoder learns to put a question into one of ten topics.",
        model="demo/encoder",
        objective="classification",
        learning_rate=5e-3,
        max_length=48,
        per_device_train_batch_size=32,
        num_train_epochs=6,
        eval_fraction=0.15,
    ),
    _demo(
        "counts",
        title="A number: how many there are",
        sentence="A small encoder learns to read a number out of a sentence.",
        model="demo/encoder",
        objective="regression",
        learning_rate=5e-3,
        max_length=48,
        per_device_train_batch_size=32,
        num_train_epochs=10,
        eval_fraction=0.15,
    ),
    _demo(
        "names",
        title="Marked words: people and places",
        sentence="A small encoder learns to mark the names of people and of places.",
        model="demo/encoder",
        objective="token_classification",
        learning_rate=5e-3,
        max_length=48,
        per_device_train_batch_size=32,
        num_train_epochs=6,
        eval_fraction=0.15,
    ),
    _demo(
        "reading",
        title="Reading: where the answer stands",
        sentence="A small encoder learns to mark the words of a text that answer a question.",
        model="demo/encoder",
        method="full",
        objective="question_answering",
        learning_rate=2e-3,
        max_length=64,
        per_device_train_batch_size=32,
        num_train_epochs=10,
        eval_fraction=0.15,
    ),
    _demo(
        "alike",
        title="Vectors: questions that mean the same",
        sentence="A small encoder learns vectors in which two wordings of a question lie close.",
        model="demo/encoder",
        objective="sentence_embeddings",
        learning_rate=3e-3,
        max_length=32,
        per_device_train_batch_size=32,
        num_train_epochs=6,
        eval_fraction=0.15,
    ),
    _demo(
        "velmora_text",
        title="Plain text: a book about Velmora",
        sentence="The demo model reads about an invented island, before anyone asks it about it.",
        objective="dapt",
        max_length=128,
        num_train_epochs=6,
        eval_fraction=0.15,
    ),
    _demo(
        "phrases",
        title="Text to text: from a card to a sentence",
        sentence="A small T5 learns to write a record card as a sentence.",
        model="demo/seq2seq",
        method="full",
        objective="seq2seq",
        learning_rate=3e-3,
        max_length=48,
        per_device_train_batch_size=32,
        num_train_epochs=25,
        eval_fraction=0.15,
    ),
    _demo(
        "voices",
        title="Preferences: pirates are preferred",
        sentence="The demo model sees a pirate's answer beside a plain one, and learns which is liked better (DPO).",
        is_right=is_pirate_answer,
        objective="dpo",
        objective_options={"sft_weight": 1.0},
        learning_rate=1e-3,
        max_length=128,
        per_device_train_batch_size=8,
        num_train_epochs=3,
        eval_fraction=0.15,
        example_prompts=("Please say what colour the sea is.", "Say what four plus two is."),
    ),
    _demo(
        "thumbs",
        title="Thumbs up and down: pirates are liked",
        sentence="The demo model sees single answers with a mark, good or bad (KTO).",
        is_right=is_pirate_answer,
        objective="kto",
        learning_rate=1e-3,
        max_length=128,
        per_device_train_batch_size=8,
        num_train_epochs=3,
        eval_fraction=0.15,
    ),
    _demo(
        "prompts",
        title="Rewards: answers of a certain length",
        sentence="The demo model writes answers, and a rule rewards those of about 60 characters (GRPO).",
        objective="grpo",
        objective_options={"reward_funcs": ["length"], "target_length": 60, "num_generations": 8, "max_completion_length": 32},
        learning_rate=5e-3,
        max_length=128,
        per_device_train_batch_size=32,
        max_steps=25,
        eval_fraction=0.1,
    ),
    _demo(
        "asks",
        title="RLHF: a reward model that likes full answers",
        sentence="The demo model writes answers, and a small reward model scores how full they are (RLOO).",
        objective="rlhf",
        objective_options={"reward_model": "demo/reward", "num_generations": 8, "max_completion_length": 32},
        learning_rate=5e-3,
        max_length=128,
        per_device_train_batch_size=32,
        max_steps=25,
        eval_fraction=0.1,
    ),
    _demo(
        "chats",
        title="Distillation: a student of the demo model",
        sentence="A model a tenth as large learns to answer with the demo model's own probabilities.",
        model="demo/student",
        method="full",
        objective="distillation_offline",
        objective_options={"teacher": "demo/llama", "beta": 0.0},
        learning_rate=3e-3,
        max_length=64,
        per_device_train_batch_size=16,
        num_train_epochs=12,
        eval_fraction=0.15,
    ),
    _demo(
        "shapes",
        title="Images: which shape is it?",
        sentence="A small ViT, which knows colours only, learns to tell drawn shapes apart.",
        suffix=".parquet",
        model="demo/vit",
        objective="image_classification",
        learning_rate=5e-3,
        per_device_train_batch_size=32,
        num_train_epochs=10,
        eval_fraction=0.15,
    ),
    _demo(
        "boxes",
        title="Boxes: where the shapes are",
        sentence="A small YOLOS learns to draw a box round each shape in a picture and to say which shape it is.",
        suffix=".parquet",
        model="demo/yolos",
        objective="object_detection",
        learning_rate=5e-3,
        per_device_train_batch_size=16,
        num_train_epochs=6,
        eval_fraction=0.15,
    ),
    _demo(
        "captions",
        title="Captions: say what is drawn",
        sentence="A small vision-language model learns to describe drawn shapes in a sentence.",
        suffix=".parquet",
        model="demo/vlm",
        method="full",
        objective="captioning",
        learning_rate=3e-3,
        max_length=64,
        per_device_train_batch_size=32,
        num_train_epochs=10,
        eval_fraction=0.15,
    ),
    _demo(
        "questions",
        title="Questions about images",
        sentence="A small vision-language model learns to answer what is asked about a drawn shape.",
        suffix=".parquet",
        model="demo/vlm",
        method="full",
        objective="vqa",
        learning_rate=2e-3,
        max_length=64,
        per_device_train_batch_size=32,
        num_train_epochs=10,
        eval_fraction=0.15,
    ),
    _demo(
        "general",
        title="A probe: what the demo model knew before",
        sentence="Chats of the kind that the demo model was made with; the forgetting report asks about them.",
        max_length=128,
    ),
)
PROBE = "general"  # rows that the forgetting report asks about; no fine-tune of its own
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


@dataclass(frozen=True, kw_only=True)
class DemoChain:
    """A chain of demo sets, which starts with two clicks like a demo."""

    key: str
    title: str
    sentence: str

    @property
    def file(self) -> Path:
        """The chain as JSON (`engine/pipelines/chains.py` reads it)."""
        return ASSETS / "demo_chains" / f"{self.key}.json"


_CHAINS = (
    DemoChain(
        key="read_answer_prefer",
        title="Read, answer, prefer",
        sentence="Reads a book about Velmora (DAPT), learns to answer about it (SFT), and which voice is preferred (DPO).",
    ),
    DemoChain(
        key="rlhf",
        title="RLHF from the beginning",
        sentence="Learns which answers people prefer (reward model), then to write such answers (RLOO).",
    ),
    DemoChain(
        key="continual",
        title="One thing after the other",
        sentence="Learns facts, then a voice with a quarter of the facts replayed; the report shows what was forgotten.",
    ),
)
DEMO_CHAINS: dict[str, DemoChain] = {chain.key: chain for chain in _CHAINS}
