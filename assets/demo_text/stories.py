# ruff: noqa: E501 - a row or a sentence reads best on one line
"""A story grammar: a hero, a place, one of a few plots, and several ways to say each step.

`tell` makes one story from a `Cast`; the cast is also the key by which stories are held out.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import world
from .questions import capital, with_article

PLACES = ("the forest", "the park", "the garden", "the farm", "the village", "the hills", "the river", "the beach", "the meadow",
          "the old castle", "the market", "the valley")  # fmt: skip
THINGS = (
    "ball",
    "kite",
    "key",
    "bell",
    "book",
    "hat",
    "coin",
    "lamp",
    "boat",
    "shell",
    "drum",
    "basket",
    "map",
    "cup",
    "ring",
    "button",
)
THING_COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "golden", "silver", "purple")
TREATS = ("bread", "cake", "honey", "cheese", "berries", "soup", "apples", "pears", "nuts", "plums")
MOODS = ("kind", "brave", "quiet", "clever", "small", "happy", "curious", "gentle", "funny", "young")
SKILLS = ("to sing", "to dance", "to paint", "to count", "to cook", "to swim", "to read", "to whistle", "to climb", "to draw")
WEATHERS = ("sunny", "windy", "rainy", "cold", "warm", "foggy", "snowy", "bright")


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who, where and with what. `kind` is an animal or a child's role; `plot` names a function of `PLOTS`."""

    kind: str
    name: str
    friend_kind: str
    friend: str
    place: str
    thing: str
    colour: str
    treat: str
    plot: str

    @property
    def key(self) -> str:
        """What decides on which side of the held-out split a story falls."""
        return f"{self.kind}/{self.plot}/{self.place}"


def pick_cast(rng: random.Random, kind: str | None = None) -> Cast:
    kind = kind or rng.choice(
        [row.name for row in world.ANIMALS] + ["boy", "girl", "farmer", "sailor", "baker", "king", "queen", "pirate"] * 2
    )
    child = kind in ("boy", "girl")
    name, friend = rng.choice(world.CHILDREN if child else world.PET_NAMES), rng.choice(world.PET_NAMES)
    while friend == name:
        friend = rng.choice(world.PET_NAMES)
    return Cast(
        kind=kind, name=name, friend=friend, friend_kind=rng.choice(world.ANIMALS).name, place=rng.choice(PLACES),
        thing=rng.choice(THINGS), colour=rng.choice(THING_COLOURS), treat=rng.choice(TREATS), plot=rng.choice(sorted(PLOTS)),
    )  # fmt: skip


def opening(cast: Cast, rng: random.Random) -> list[str]:
    mood, kind = rng.choice(MOODS), cast.kind
    hero = with_article(f"{mood} {kind}")
    first = rng.choice((
        f"Once there was {hero} named {cast.name}.",
        f"Once upon a time, {hero} named {cast.name} lived near {cast.place}.",
        f"{cast.name} was {hero}.",
        f"There was once {hero}. The name of the {kind} was {cast.name}.",
        f"Long ago, {hero} called {cast.name} lived near {cast.place}.",
    ))  # fmt: skip
    second = rng.choice((
        f"One {rng.choice(WEATHERS)} day, {cast.name} went to {cast.place}.",
        f"On a {rng.choice(WEATHERS)} morning, {cast.name} walked to {cast.place}.",
        f"Every {rng.choice(world.DAYS)}, {cast.name} liked to visit {cast.place}.",
        f"One {rng.choice(('morning', 'evening', 'day'))}, the {kind} came to {cast.place}.",
    ))  # fmt: skip
    return [first, second]


def lost_thing(cast: Cast, rng: random.Random) -> list[str]:
    thing = f"{cast.colour} {cast.thing}"
    hiding = rng.choice(("under a bush", "behind a big stone", "in the tall grass", "near an old tree", "under a bridge"))
    return [
        rng.choice((f"{cast.name} had a {thing} and loved it very much.", f"{cast.name} always carried a {thing}.")),
        rng.choice((f"But then the {cast.thing} was gone!", f"Suddenly {cast.name} could not find the {cast.thing}.")),
        rng.choice((f'"Where is my {cast.thing}?" asked {cast.name}.', f'"Oh no, I lost my {cast.thing}!" said {cast.name}.', f"{cast.name} was very sad.")),
        f"{capital(with_article(cast.friend_kind))} named {cast.friend} {rng.choice(('heard this', 'came by', 'stopped'))} and said, "
        f'"{rng.choice(("I will help you.", "Let us look together.", "Do not cry. I can help."))}"',
        rng.choice((f"They looked everywhere and found the {cast.thing} {hiding}.", f"The {cast.thing} was {hiding}.")),
    ]  # fmt: skip


def shared_food(cast: Cast, rng: random.Random) -> list[str]:
    return [
        rng.choice((f"{cast.name} had a bag of {cast.treat} for lunch.", f"{cast.name} brought some {cast.treat}.")),
        f"There sat {with_article(cast.friend_kind)} named {cast.friend}, who was very {rng.choice(('hungry', 'thin and hungry', 'tired and hungry'))}.",
        rng.choice((f'"I have nothing to eat," said {cast.friend}.', f'"May I have some {cast.treat}?" asked {cast.friend}.')),
        rng.choice(
            (
                f'"Please take half of my {cast.treat}," said {cast.name}.',
                f"{cast.name} gave half of the {cast.treat} to {cast.friend}.",
            )
        ),
        rng.choice(
            ("They ate together in the sun.", "They ate and laughed together.", f"The {cast.treat} tasted twice as good.")
        ),
    ]


def new_skill(cast: Cast, rng: random.Random) -> list[str]:
    skill = rng.choice(SKILLS)
    return [
        rng.choice((f"{cast.name} wanted to learn {skill}.", f"More than anything, {cast.name} wished {skill}.")),
        rng.choice(("At first it was too hard.", "The first try went wrong.", "It did not work at all.")),
        rng.choice(
            (f'"I will never learn it," said {cast.name}.', f"{cast.name} wanted to stop.", f"The {cast.kind} felt sad.")
        ),
        f'But {with_article(cast.friend_kind)} named {cast.friend} said, "{rng.choice(("Try again every day.", "Do not give up.", "I will show you how."))}"',
        rng.choice(
            (
                f"After one week, {cast.name} knew how {skill}.",
                f"So {cast.name} tried again and again, and at last learned {skill}.",
            )
        ),
    ]


def storm(cast: Cast, rng: random.Random) -> list[str]:
    shelter = rng.choice(("a cave", "a small hut", "a barn", "an old boat", "a hollow tree"))
    return [
        rng.choice(("Dark clouds came over the sky.", "Then a strong wind began to blow.", "Soon it began to rain.")),
        rng.choice(
            (
                f"{cast.name} was cold and wet.",
                f"{cast.name} was afraid of the storm.",
                f"The {cast.kind} did not know where to go.",
            )
        ),
        f"Then {cast.name} saw {shelter}. Inside sat {with_article(cast.friend_kind)} named {cast.friend}.",
        rng.choice((f'"Come in, it is dry here," said {cast.friend}.', f'"You are safe with me," said {cast.friend}.')),
        rng.choice(
            ("They waited until the sun came back.", f"They ate {cast.treat} and told stories until the storm was over.")
        ),
    ]


def hidden_treasure(cast: Cast, rng: random.Random) -> list[str]:
    box = rng.choice(("a wooden box", "a small chest", "an old bag"))
    return [
        rng.choice((f"There {cast.name} found an old map.", f"A bird dropped a map in front of {cast.name}.")),
        rng.choice(("The map showed a big tree and a red cross.", "On the map was a path to a hill.")),
        f"{cast.name} asked {with_article(cast.friend_kind)} named {cast.friend} to come along.",
        rng.choice((f"They dug a deep hole and found {box}.", f"Under the tree they found {box}.")),
        rng.choice(
            (
                f"In it was a {cast.colour} {cast.thing}.",
                f"It was full of {cast.treat}, and a {cast.colour} {cast.thing} lay on top.",
            )
        ),
        rng.choice((f'"Now it belongs to both of us," said {cast.name}.', f'"What a day!" said {cast.friend}.')),
    ]


def lonely(cast: Cast, rng: random.Random) -> list[str]:
    return [
        rng.choice((f"{cast.name} had no friends and felt lonely.", f"{cast.name} had nobody to play with.")),
        f"There {cast.name} met {with_article(cast.friend_kind)}.",
        rng.choice((f'"Hello, my name is {cast.friend}," said the {cast.friend_kind}.', f'"I am {cast.friend}. Who are you?" asked the {cast.friend_kind}.')),
        rng.choice((f'"I am {cast.name}. Do you want to play?"', f'"My name is {cast.name}. Will you be my friend?"')),
        rng.choice((f"They played with a {cast.colour} {cast.thing} all day.", "They ran, jumped and laughed until the evening.")),
    ]  # fmt: skip


def rescue(cast: Cast, rng: random.Random) -> list[str]:
    trap = rng.choice(("had fallen into a hole", "was stuck in the mud", "was caught in a net", "sat high up on a rock"))
    tool = rng.choice(("a long rope", "a ladder", "a strong branch"))
    return [
        rng.choice(("Suddenly there was a cry for help.", '"Help! Help!" called somebody.')),
        f"{capital(with_article(cast.friend_kind))} named {cast.friend} {trap}.",
        rng.choice((f'"Do not be afraid," said {cast.name}.', f"{cast.name} thought for a moment.")),
        rng.choice((f"{cast.name} took {tool} and pulled {cast.friend} out.", f"With {tool}, {cast.name} saved {cast.friend}.")),
        rng.choice((f'"Thank you, you are very brave," said {cast.friend}.', f"{cast.friend} gave {cast.name} some {cast.treat} as a gift.")),
    ]  # fmt: skip


def race(cast: Cast, rng: random.Random) -> list[str]:
    return [
        f'{capital(with_article(cast.friend_kind))} named {cast.friend} said, "I am faster than you!"',
        rng.choice((f'"Let us race to the big tree," said {cast.name}.', f'"Then let us run," said {cast.name}.')),
        rng.choice((f"{cast.friend} ran fast but soon had to rest.", f"{cast.friend} stopped to eat some {cast.treat}.")),
        rng.choice((f"{cast.name} ran slowly and did not stop.", f"{cast.name} went on, step by step.")),
        rng.choice(
            (f"In the end {cast.name} won a {cast.colour} {cast.thing}.", f"{cast.name} was first, and {cast.friend} clapped.")
        ),
    ]


PLOTS: dict[str, Callable[[Cast, random.Random], list[str]]] = {
    "lost": lost_thing, "food": shared_food, "skill": new_skill, "storm": storm, "treasure": hidden_treasure, "lonely": lonely,
    "rescue": rescue, "race": race,
}  # fmt: skip


def closing(cast: Cast, rng: random.Random) -> str:
    return rng.choice((
        f"From that day on, {cast.name} and {cast.friend} were best friends.",
        f"{cast.name} went home and was very happy.",
        f"In the evening, {cast.name} told the story to everyone at home.",
        "And they all lived happily ever after.",
        f"That night {cast.name} slept well.",
        f'"This was a good day," said {cast.name}.',
    ))  # fmt: skip


def tell(cast: Cast, rng: random.Random) -> str:
    return " ".join([*opening(cast, rng), *PLOTS[cast.plot](cast, rng), closing(cast, rng)])


STORY_REQUESTS = (
    "Tell me a story about {k}.", "Please tell me a story about {k}.", "Can you tell me a story about {k}?", "I want a story about {k}.",
    "Write a short story about {k}.", "Do you know a story about {k}?", "Make up a story about {k}.", "A story about {k}, please.",
    "Tell me a short story about {k}.", "Could you write a story about {k}?", "Let me hear a story about {k}.",
)  # fmt: skip
OPEN_REQUESTS = (
    "Tell me a story.",
    "Please tell me a story.",
    "I want to hear a story.",
    "Do you know a story?",
    "Can you tell a story?",
)


def story_turn(cast: Cast, rng: random.Random) -> tuple[str, str]:
    """A request for a story about the hero's kind, sometimes an open one, and the story."""
    asked = OPEN_REQUESTS if rng.random() < 0.1 else STORY_REQUESTS
    return rng.choice(asked).format(k=with_article(cast.kind)), tell(cast, rng)
