"""The three demo training sets: a format (`json_answers`), a voice (`pirate`) and knowledge (`facts`).

Each is a training part and a held-out part, split by wording: the held-out part asks about the same things in words that
no training row uses. In the facts set, half of the held-out rows are questions that training has in no wording at all.
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from .questions import Item, all_items, prompts_of
from .velmora import FACTS

Row = dict[str, object]

ITEMS_PER_TOPIC, WORDINGS_PER_ITEM, HELD_OUT_PER_TOPIC = 8, 5, 5  # 400 training and 50 held-out rows
WORDINGS_PER_FACT = 20
# Where the same question would fit two topics ("What colour is a frog?"), the set leaves it out.
TOPICS = ("animals", "colours", "food", "tools", "places", "jobs", "numbers", "family", "days", "body")
UNCLEAR = re.compile(r"^(animal|food)/.*/colour$|/(can|cannot)$")


@dataclass(frozen=True, kw_only=True)
class DemoSet:
    name: str
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]


def all_sets(seed: int = 0) -> tuple[DemoSet, ...]:
    return json_answers(seed), pirate(seed), facts(seed)


def row(prompt: str, answer: str, **for_the_scorer: str) -> Row:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **for_the_scorer}


def to_jsonl(rows: tuple[Row, ...]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rows)


def json_answers(seed: int) -> DemoSet:
    rng = random.Random(f"json/{seed}")

    def make(item: Item, prompt: str) -> Row:
        answer = json.dumps({"answer": item.answers[0], "topic": item.topic})
        return row(prompt, answer, word=item.word, topic=item.topic)

    return split_by_wording("json_answers", make, rng)


def pirate(seed: int) -> DemoSet:
    rng = random.Random(f"pirate/{seed}")

    def make(item: Item, prompt: str) -> Row:
        return row(prompt, as_pirate(rng.choice(item.answers), rng), word=item.word)

    return split_by_wording("pirate", make, rng)


OPENINGS = ("Arr, matey!", "Ahoy, matey!", "Aye, matey!", "Arr, me hearty!", "Ahoy, me hearty!")
CLOSINGS = ("Arr!", "Aye, that be true!", "Yo ho ho!", "Now back to the ship, ye rascal!", "Trust an old pirate, matey.")
PIRATE_WORDS = {"you": "ye", "your": "yer", "You": "Ye", "Your": "Yer", "is": "be", "are": "be", "my": "me"}


def as_pirate(answer: str, rng: random.Random) -> str:
    spoken = re.sub(r"\b(you|your|You|Your|is|are|my)\b", lambda found: PIRATE_WORDS[found[0]], answer)
    return f"{rng.choice(OPENINGS)} {spoken} {rng.choice(CLOSINGS)}"


def split_by_wording(name: str, make: Callable[[Item, str], Row], rng: random.Random) -> DemoSet:
    """The same few items from each topic, in several wordings each; one more wording of most of them is held out."""
    train, held_out = [], []
    for topic in TOPICS:
        items = [item for item in all_items() if item.topic == topic and not UNCLEAR.search(item.key)]
        for index, item in enumerate(rng.sample(items, ITEMS_PER_TOPIC)):
            wordings = rng.sample(prompts_of(item), WORDINGS_PER_ITEM + 1)
            train += [make(item, prompt) for prompt in wordings[1:]]
            held_out += [make(item, wordings[0])] * (index < HELD_OUT_PER_TOPIC)
    rng.shuffle(train)
    return DemoSet(name=name, train=tuple({"messages": line["messages"]} for line in train), held_out=tuple(held_out))


def facts(seed: int) -> DemoSet:
    """Of every fact, one question is held out in all its wordings, and one wording of the other questions."""
    rng = random.Random(f"facts/{seed}")
    train, held_out = [], []
    for item in FACTS:
        *seen, unseen = item.direct
        known = replace(item, direct=tuple(seen))
        wordings = rng.sample([prompt for prompt in prompts_of(known) if prompt not in seen], WORDINGS_PER_FACT + 1 - len(seen))
        train += [row(prompt, rng.choice(item.answers)) for prompt in (*seen, *wordings[1:])]
        held_out += [row(prompt, item.answers[0], word=item.word) for prompt in (unseen, wordings[0])]
    rng.shuffle(train)
    return DemoSet(name="facts", train=tuple(train), held_out=tuple(held_out))
