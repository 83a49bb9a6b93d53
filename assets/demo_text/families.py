"""Demo sets for the objectives beyond instruction tuning: each a training part and a held-out part, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from .corpus import write_documents
from .questions import all_items, capital, invented_name, prompts_of
from .sets import TOPICS, UNCLEAR, DemoSet, Row, as_pirate
from .velmora import FACTS

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
THINGS = ("cats", "dogs", "apples", "boats", "birds", "books", "stars", "trees", "cups", "fish")
OWNED = ("kite", "ball", "boat", "hat", "drum", "lamp", "book", "cup", "bell", "rope")
COLOURS = ("red", "blue", "green", "white", "black", "golden")
PEOPLE = ("Mia", "Tom", "Anna", "Leo", "Ruth", "Sam", "Nora", "Ben", "Ida", "Max", "Eva", "Paul")


def family_sets(seed: int = 0) -> tuple[DemoSet, ...]:
    """All of them that are texts; the pictures are in `shapes`."""
    return (
        _set("topics", _topics, 400, 60, seed),
        _set("counts", _counts, 240, 40, seed),
        _set("names", _names, 240, 40, seed),
        _set("reading", _reading, 400, 60, seed),
        _set("alike", _alike, 320, 60, seed),
        _set("velmora_text", _velmora_text, 160, 24, seed),
        _set("phrases", _phrases, 400, 60, seed),
        _voices(seed),
        _thumbs(seed),
        _prompts(seed, "prompts"),
        _prompts(seed, "asks"),
        _chats(seed),
        _general(seed),
    )


def _set(name: str, make: Callable[[random.Random, bool], Row], train: int, held_out: int, seed: int) -> DemoSet:
    """Rows of one maker; the held-out ones are drawn apart, and none of them stands in the training part."""
    rng = random.Random(f"{name}/{seed}")
    rows = [make(rng, False) for _ in range(train)]
    seen = {repr(row) for row in rows}
    fresh: list[Row] = []
    while len(fresh) < held_out:
        row = make(rng, True)
        if repr(row) not in seen:
            seen.add(repr(row))
            fresh.append(row)
    return DemoSet(name=name, train=tuple(rows), held_out=tuple(fresh))


# --- encoders -------------------------------------------------------------------------------------------------------

_ITEMS = [item for item in all_items() if item.topic in TOPICS and not UNCLEAR.search(item.key)]


def _topics(rng: random.Random, held_out: bool) -> Row:
    """A question, and the topic that it is about."""
    topic = rng.choice(TOPICS)
    item = rng.choice([item for item in _ITEMS if item.topic == topic])
    return {"text": rng.choice(prompts_of(item)), "label": topic}


def _counts(rng: random.Random, held_out: bool) -> Row:
    """A sentence with a number in words, and the number."""
    number, thing, who = rng.randrange(10), rng.choice(THINGS), rng.choice(PEOPLE)
    pattern = rng.choice(("{who} has {number} {thing}.", "There are {number} {thing}.", "I can see {number} {thing} here."))
    return {"text": pattern.format(who=who, number=NUMBERS[number], thing=thing), "label": number + 1.0}


def _names(rng: random.Random, held_out: bool) -> Row:
    """Words with tags: the names of people and of places."""
    pattern = rng.choice(
        (
            "{p} lives in {l} .",
            "{p} went to {l} with {q} .",
            "In {l} we met {p} .",
            "The king of {l} is {p} .",
            "{p} and {q} sing .",
        )
    )
    places = {
        "{l}": (capital(invented_name(rng)), "LOC"),
        "{p}": (rng.choice(PEOPLE), "PER"),
        "{q}": (rng.choice(PEOPLE), "PER"),
    }
    words = [places.get(word, (word, "O")) for word in pattern.split()]
    return {"tokens": [word for word, _ in words], "tags": [tag for _, tag in words]}


def _reading(rng: random.Random, held_out: bool) -> Row:
    """A few sentences about a person in any order, and a question that one of them answers."""
    who, place = rng.choice(PEOPLE), capital(invented_name(rng))
    number, thing, colour, owned = rng.choice(NUMBERS[1:]), rng.choice(THINGS), rng.choice(COLOURS), rng.choice(OWNED)
    said = [
        (f"{who} lives in {place}.", f"Where does {who} live?", place),
        (f"In the garden there are {number} {thing}.", f"How many {thing} are there?", number),
        (f"The {owned} is {colour}.", f"What colour is the {owned}?", colour),
    ]
    rng.shuffle(said)
    context = " ".join(sentence for sentence, _, _ in said)
    sentence, question, answer = rng.choice(said)
    start = context.index(sentence) + sentence.rindex(answer)
    return {"question": question, "context": context, "answers": {"text": [answer], "answer_start": [start]}}


def _alike(rng: random.Random, held_out: bool) -> Row:
    """Two wordings of the same question."""
    anchor, positive = rng.sample(prompts_of(rng.choice(_ITEMS)), 2)
    return {"anchor": anchor, "positive": positive}


# --- plain text, and text to text -----------------------------------------------------------------------------------


def _velmora_text(rng: random.Random, held_out: bool) -> Row:
    """A few sentences about the invented island, as a book would have them."""
    return {"text": " ".join(rng.choice(item.answers) for item in rng.sample(FACTS, 5))}


def _phrases(rng: random.Random, held_out: bool) -> Row:
    """A record card, and the sentence that says the same."""
    who, colour, thing, number = rng.choice(PEOPLE), rng.choice(COLOURS), rng.choice(OWNED), rng.randrange(1, 10)
    card = f"name: {who} | thing: {thing} | colour: {colour} | number: {NUMBERS[number]}"
    return {"source": card, "target": f"{who} has {NUMBERS[number]} {colour} {thing}s."}


# --- preferences and rewards ----------------------------------------------------------------------------------------


def _said(role: str, content: str) -> list[Row]:
    return [{"role": role, "content": content}]


def _pairs(seed: int, name: str, count: int) -> list[tuple[str, str, str, str]]:
    """(question, answer in a pirate's voice, plain answer, the word that is right), each question once."""
    rng = random.Random(f"{name}/{seed}")
    found = {}
    while len(found) < count:
        item = rng.choice(_ITEMS)
        answer = rng.choice(item.answers)
        found.setdefault(rng.choice(prompts_of(item)), (as_pirate(answer, rng), answer, item.word))
    return [(question, *rest) for question, rest in found.items()]


def _cut(name: str, rows: list[Row], held_out: int) -> DemoSet:
    return DemoSet(name=name, train=tuple(rows[held_out:]), held_out=tuple(rows[:held_out]))


def _voices(seed: int) -> DemoSet:
    """Pairs: the pirate's answer is chosen, the plain one rejected."""
    rows = [
        {"prompt": _said("user", question), "chosen": _said("assistant", pirate), "rejected": _said("assistant", plain)}
        for question, pirate, plain, _ in _pairs(seed, "voices", 280)
    ]
    return _cut("voices", rows, 40)


def _thumbs(seed: int) -> DemoSet:
    """Single answers with a mark: good in the pirate's voice, bad in the plain one."""
    rows = [
        {
            "prompt": _said("user", question),
            "completion": _said("assistant", pirate if number % 2 else plain),
            "label": bool(number % 2),
        }
        for number, (question, pirate, plain, _) in enumerate(_pairs(seed, "thumbs", 280))
    ]
    return _cut("thumbs", rows, 40)


def _prompts(seed: int, name: str) -> DemoSet:
    """Questions alone, with the word of the right answer for the rewards."""
    rows = [{"prompt": _said("user", question), "answer": word} for question, _, _, word in _pairs(seed, name, 240)]
    return _cut(name, rows, 40)


def _chats(seed: int) -> DemoSet:
    """Plain questions with their answers, for a student to learn from its teacher on."""
    rows = [
        {"messages": [*_said("user", question), *_said("assistant", plain)]}
        for question, _, plain, _ in _pairs(seed, "chats", 280)
    ]
    return _cut("chats", rows, 40)


def _general(seed: int) -> DemoSet:
    """What the demo model could do before any fine-tuning: the probe of the forgetting report."""
    chats = [text for text in write_documents(200, seed=seed + 1, held_out=True) if not isinstance(text, str)]
    rows: list[Row] = [{"messages": list(chat)} for chat in chats if chat[-1]["role"] == "assistant"]
    return _cut("general", rows[:72], 48)
