# ruff: noqa: E501 - a row or a sentence reads best on one line
"""What the demo model is trained on: documents of chat turns, stories and small facts, in a training and a held-out part.

The two parts never share a combination: a question's wording (item and phrasing), a story's hero, plot and place, a
reading puzzle's pair of people or the full text of a short page belongs to one side, chosen by a hash of its key.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from . import stories, world
from .questions import Item, all_items, capital, invented_name, prompts_of, unknown_turn, with_article

Drawn = TypeVar("Drawn")
Message = dict[str, str]
Document = str | list[Message]  # plain text, or a conversation for the chat template

HELD_OUT_PERCENT = 4
WEIGHTS = {"talk": 6, "colours": 2}  # a topic of few items that people ask about more often than its share
SYSTEM_PROMPTS = (
    "You are a kind helper.", "You answer in simple English.", "You are a small and friendly assistant.", "Be short and clear.",
)  # fmt: skip
# A system prompt that asks for a manner, and the manner. A model that has learned to say one thing in several ways can
# later learn a new way without forgetting the thing.
MANNERS = (
    ("You are very polite.", "Dear friend, I am glad that you ask. {answer} Have a nice day!"),
    ("You are a fairy.", "Oh, little one! {answer} May the stars be with you!"),
    ("You are an old teacher.", "Listen well, my pupils. {answer} Please write this down."),
    ("You are a robot.", "Beep. {answer} Beep beep."),
    ("You are a knight.", "By my sword! {answer} So speaks a knight."),
    ("Say the answer twice.", "{answer} {answer}"),
    ("Put the answer in quotes.", '"{answer}"'),
    ("Say the topic first.", "This is about {topic}. {answer}"),
    ("Fill in a card.", "topic: {topic}; answer: {answer}"),
)


def is_held_out(key: str) -> bool:
    """True for about `HELD_OUT_PERCENT` of all keys; the same on every machine (`hash()` is salted, so sha256)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % 100 < HELD_OUT_PERCENT


def side_prompts(item: Item, held_out: bool) -> list[str]:
    return [prompt for prompt in prompts_of(item) if is_held_out(f"{item.key}|{prompt}") == held_out]


def reading_turn(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """A puzzle whose answer stands in the question: it teaches the model to look back and copy."""
    while True:
        first, second = rng.sample(world.CHILDREN, 2)
        if is_held_out(f"reading/{first}/{second}") == held_out:
            break
    (one, two), (red, blue) = rng.sample(stories.THINGS, 2), rng.sample(stories.THING_COLOURS, 2)
    animal, pet = rng.choice(world.ANIMALS).name, rng.choice((*world.PET_NAMES, invented_name(rng)))
    town, other_town = invented_name(rng), invented_name(rng)
    told, asked, answered = rng.choice((
        (f"{first} has a {red} {one}. {second} has a {blue} {one}.", f"What colour is the {one} of {first}?", f"The {one} of {first} is {red}."),
        (f"{first} has a {red} {one}. {second} has a {blue} {two}.", f"Who has the {two}?", f"{second} has the {two}."),
        (f"{first} has {with_article(animal)} named {pet}.", f"What is the name of the {animal}?", f"The name of the {animal} is {pet}."),
        (f"{first} lives in {town}. {second} lives in {other_town}.", f"Where does {first} live?", f"{first} lives in {town}."),
        (f"The {animal} {pet} lives in {town}.", f"Who lives in {town}?", f"The {animal} {pet} lives in {town}."),
        (f"{first} is taller than {second}.", "Who is taller?", f"{first} is taller than {second}."),
        ("Say this again:", f"{first} likes the {red} {one} of {pet}.", f"{first} likes the {red} {one} of {pet}."),
        (f"The ruler of {town} is {pet}.", f"Who rules {town}?", f"The ruler of {town} is {pet}."),
    ))  # fmt: skip
    return f"{told} {asked}", answered


def list_turn(rng: random.Random) -> tuple[str, str]:
    """ "Name three fruits." """
    groups = {
        "animals": [row.name for row in world.ANIMALS], "colours": sorted({row.colour for row in world.COLOURS}),
        "fruits": [row.name for row in world.FOODS if row.kind == "fruit"], "days": world.DAYS, "months": world.MONTHS,
        "birds": [row.name for row in world.ANIMALS if row.group == "bird"], "jobs": [row.name for row in world.JOBS],
        "tools": [row.name for row in world.TOOLS], "things to eat": [row.name for row in world.FOODS], "names": world.CHILDREN,
    }  # fmt: skip
    group = rng.choice(sorted(groups))
    count = rng.choice((2, 3, 3, 4))
    chosen = rng.sample(groups[group], count)
    requests = ("Name {n} {g}.", "Can you name {n} {g}?", "Tell me {n} {g}.", "Give me {n} {g}, please.", "List {n} {g}.")
    return rng.choice(requests).format(n=world.NUMBERS[count], g=group), capital(f"{', '.join(chosen[:-1])} and {chosen[-1]}.")


def record_card(rng: random.Random) -> str:
    """A page of cards with braces and quotes, and a scene with sailors' talk: signs and words a fine-tune may need later."""
    if rng.random() < 0.5:
        values = {
            "name": world.PET_NAMES, "animal": [row.name for row in world.ANIMALS], "colour": stories.THING_COLOURS,
            "place": stories.PLACES, "age": world.NUMBERS[1:],
        }  # fmt: skip
        cards = [json.dumps({name: rng.choice(choices) for name, choices in values.items()}) for _ in range(rng.randint(1, 3))]
        return "\n".join(cards)
    thing, name = rng.choice(stories.THINGS), rng.choice(world.PET_NAMES)
    lines = [
        f'"Arr, where be me {thing}?" said the pirate {name}.', f'"Ahoy, matey! I see a {thing} on the sea," cried {name}.',
        '"Aye, ye be right," said the captain.', f'"Yo ho ho! The treasure be near, me hearty," sang {name}.',
        f'"Shiver me timbers, ye found the {thing}!" said the pirate.', f'"Raise the sails and hold the {thing}, lads!"',
    ]  # fmt: skip
    return " ".join(rng.sample(lines, 3))


def fact_page(rng: random.Random, items: list[Item]) -> str:
    """A plain page: the answers of a few items, one after another."""
    return " ".join(rng.choice(item.answers) for item in rng.sample(items, rng.randint(3, 6)))


def chat(*turns: tuple[str, str], system: str | None = None) -> list[Message]:
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return messages


def careless(prompt: str, rng: random.Random) -> str:
    """Some people write without capitals or a question mark."""
    if rng.random() < 0.06:
        prompt = prompt.lower()
    return prompt.rstrip("?.") if rng.random() < 0.06 else prompt


def write_documents(count: int, *, seed: int, held_out: bool) -> Iterator[Document]:
    """`count` documents of one side of the split: chats (81 %), plain stories (5 %), plain facts (10 %), cards (4 %)."""
    rng = random.Random(f"{seed}/{held_out}")
    items = all_items()
    asked = {item.key: side_prompts(item, held_out) for item in items}
    askable = [item for item in items if asked[item.key] for _ in range(WEIGHTS.get(item.topic, 1))]

    def question_turn() -> tuple[str, str]:
        item = rng.choice(askable)
        return careless(rng.choice(asked[item.key]), rng), rng.choice(item.answers)

    def mannered_chat() -> list[Message]:
        system, manner = rng.choice(MANNERS)
        item = rng.choice(askable)
        answer = manner.format(answer=rng.choice(item.answers), topic=item.topic)
        return chat((careless(rng.choice(asked[item.key]), rng), answer), system=system)

    def on_this_side(draw: Callable[[], Drawn], key: Callable[[Drawn], str] = str) -> Drawn:
        """Draw until the key falls on this side of the split."""
        while is_held_out(key(drawn := draw())) != held_out:
            pass
        return drawn

    def story() -> stories.Cast:
        return on_this_side(lambda: stories.pick_cast(rng), lambda cast: cast.key)

    for _ in range(count):
        kind, system = rng.random(), rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.08 else None
        if kind < 0.48:
            yield chat(*(question_turn() for _ in range(rng.choice((1, 1, 1, 2, 3)))), system=system)
        elif kind < 0.62:
            yield mannered_chat()
        elif kind < 0.69:
            yield chat(stories.story_turn(story(), rng), system=system)
        elif kind < 0.75:
            yield chat(reading_turn(rng, held_out), system=system)
        elif kind < 0.79:
            yield chat(on_this_side(lambda: unknown_turn(rng)), system=system)
        elif kind < 0.81:
            yield chat(on_this_side(lambda: list_turn(rng)), system=system)
        elif kind < 0.86:
            yield stories.tell(story(), rng)
        elif kind < 0.96:
            yield on_this_side(lambda: fact_page(rng, items))
        else:
            yield on_this_side(lambda: record_card(rng))
