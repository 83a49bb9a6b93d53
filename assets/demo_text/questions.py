# ruff: noqa: E501 - a row or a sentence reads best on one line
"""The tables of `world` as questions with answers, and the many ways of asking the same thing.

An `Item` is one piece of knowledge: "where does a fish live". It has direct questions ("Where does a fish live?"),
embedded ones ("where a fish lives", "the home of a fish") that a wrapper turns into requests ("Can you tell me where a fish lives?"), and
several answers that all hold the same `word`.
"""

import random
from dataclasses import dataclass
from itertools import combinations, product

from . import world

DIRECT_WRAPPERS = (
    "{q}", "{q}", "{q}", "Please tell me. {q}", "Hello! {q}", "I have a question. {q}", "{q} Please tell me.", "Question: {q}",
    "Hi there. {q}", "Quick question: {q}", "{q} I would like to know.", "My friend asked me this: {q}", "Help me. {q}",
    "Answer this, please: {q}", "Good morning. {q}", "I forgot. {q}", "{q} Thank you.", "One more thing: {q}",
)  # fmt: skip
CLAUSE_WRAPPERS = (  # for "where a fish lives"
    "Tell me {e}.", "Do you know {e}?", "Can you tell me {e}?", "I want to know {e}.", "Please tell me {e}.", "I wonder {e}.",
    "Please say {e}.", "Could you tell me {e}?", "Explain to me {e}.", "I would like to learn {e}.", "Teach me {e}.",
    "Do you remember {e}?", "I forgot {e}.", "We want to know {e}.", "Say {e}.", "Would you tell me {e}, please?",
)  # fmt: skip
NOUN_WRAPPERS = (  # for "the colour of a fish"
    "Tell me {e}.", "Do you know {e}?", "Can you tell me {e}?", "I want to know {e}.", "Please tell me {e}.", "Could you tell me {e}?",
    "I would like to know {e}.", "We want to know {e}.", "Would you tell me {e}, please?",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Item:
    """One piece of knowledge: how it is asked for, how it is answered, and the word that shows the answer is right."""

    key: str
    topic: str
    word: str
    direct: tuple[str, ...]
    embedded: tuple[str, ...] = ()
    answers: tuple[str, ...]


def prompts_of(item: Item) -> list[str]:
    """Every wording of one item's question, in a fixed order, without repeats."""
    plain = [wrapper.format(q=question) for wrapper, question in product(DIRECT_WRAPPERS, item.direct)]
    wrapped = [wrapper.format(e=clause) for clause in item.embedded for wrapper in wrappers_for(clause)]
    return list(dict.fromkeys(plain + wrapped))


def wrappers_for(clause: str) -> tuple[str, ...]:
    """ "I wonder where a fish lives" is English, "I wonder the colour of a fish" is not."""
    return (
        CLAUSE_WRAPPERS if clause.split()[0] in ("what", "where", "which", "who", "how", "why", "when", "if") else NOUN_WRAPPERS
    )


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def bare(noun: str) -> str:
    """A noun without its article: "a hammer" -> "hammer"."""
    return noun.split(" ", 1)[1] if noun.split(" ", 1)[0] in ("a", "an", "the") else noun


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def is_many(noun: str) -> bool:
    """True where a noun of `world` takes a plural verb."""
    return noun in ("scissors", "eyes", "ears", "hands", "legs", "feet", "teeth", "fingers", "lungs")


def does(noun: str) -> str:
    return "do" if is_many(noun) else "does"


def live_in(home: str) -> str:
    """The home with the preposition that fits it."""
    on = ("the ice", "the beach", "the mountains", "the savanna")
    return f"on {home}" if home in on[:2] else f"in {home}"


def animal_items(row: world.Animal) -> list[Item]:
    one, many = with_article(row.name), row.plural
    home, key, topic = live_in(row.home), f"animal/{row.name}", "animals"
    items = [
        Item(key=f"{key}/home", topic=topic, word=bare(row.home),
             direct=(f"Where does {one} live?", f"Where do {many} live?", f"What is the home of {one}?", f"Where can I find {one}?",
                     f"In what place does {one} live?", f"Where is the home of {one}?"),
             embedded=(f"where {one} lives", f"where {many} live", f"what the home of {one} is"),
             answers=(f"{capital(one)} lives {home}.", f"{capital(one)} lives {home}.", f"{capital(many)} live {home}.",
                      f"You can find {one} {home}.")),
        Item(key=f"{key}/food", topic=topic, word=row.food,
             direct=(f"What does {one} eat?", f"What do {many} eat?", f"What is the food of {one}?", f"What does {one} like to eat?",
                     f"What can I feed {one}?", f"Which food do {many} like?"),
             embedded=(f"what {one} eats", f"what {many} eat", f"what {one} likes to eat"),
             answers=(f"{capital(one)} eats {row.food}.", f"{capital(many)} eat {row.food}.", f"{capital(one)} likes to eat {row.food}.")),
        Item(key=f"{key}/colour", topic=topic, word=row.colour,
             direct=(f"What colour is {one}?", f"What colour are {many}?", f"What is the colour of {one}?", f"Which colour does {one} have?"),
             embedded=(f"what colour {one} is", f"the colour of {one}", f"which colour {one} has"),
             answers=(f"{capital(one)} is {row.colour}.", f"The colour of {one} is {row.colour}.", f"{capital(many)} are often {row.colour}.")),
        Item(key=f"{key}/baby", topic=topic, word=row.baby,
             direct=(f"What is a baby {row.name} called?", f"What do we call a young {row.name}?", f"What is the young of {one} called?",
                     f"What is the name for a baby {row.name}?"),
             embedded=(f"what a baby {row.name} is called", f"how we call a young {row.name}"),
             answers=(f"A baby {row.name} is called {with_article(row.baby)}.", f"We call a young {row.name} {with_article(row.baby)}.")),
        Item(key=f"{key}/skill", topic=topic, word=row.skill.split()[0],
             direct=(f"What can {one} do?", f"What can {many} do?", f"What is {one} good at?", f"What is the skill of {one}?"),
             embedded=(f"what {one} can do", f"what {many} can do"),
             answers=(f"{capital(one)} can {row.skill}.", f"{capital(many)} can {row.skill}.")),
        Item(key=f"{key}/legs", topic=topic, word=row.legs,
             direct=(f"How many legs does {one} have?", f"How many legs do {many} have?", f"What number of legs does {one} have?"),
             embedded=(f"how many legs {one} has", f"how many legs {many} have"),
             answers=(f"{capital(one)} has {row.legs} legs.", f"{capital(many)} have {row.legs} legs.")),
        Item(key=f"{key}/can", topic=topic, word="yes",
             direct=(f"Can {one} {row.skill}?", f"Is {one} able to {row.skill}?"), embedded=(f"if {one} can {row.skill}",),
             answers=(f"Yes, {one} can {row.skill}.",)),
        Item(key=f"{key}/cannot", topic=topic, word="no",
             direct=(f"Can {one} {row.cannot}?", f"Is {one} able to {row.cannot}?"), embedded=(f"if {one} can {row.cannot}",),
             answers=(f"No, {one} cannot {row.cannot}, but it can {row.skill}.", f"No, {one} cannot {row.cannot}.")),
        Item(key=f"{key}/what", topic=topic, word=row.group,
             direct=(f"What is {one}?", f"What kind of animal is {one}?", f"What are {many}?"),
             embedded=(f"what {one} is", f"what kind of animal {one} is", f"something about {many}", f"about {many}", f"about {one}"),
             answers=(f"{capital(one)} is {with_article(row.group)} that lives {home}.",
                      f"{capital(one)} is {with_article(row.group)}. It eats {row.food} and it can {row.skill}.",
                      f"{capital(one)} is {with_article(row.group)}. It lives {home} and eats {row.food}.")),
    ]  # fmt: skip
    if row.sound != "-":
        items.append(
            Item(key=f"{key}/sound", topic=topic, word=row.sound,
                 direct=(f"What sound does {one} make?", f"What sound do {many} make?", f"How does {one} talk?", f"What noise does {one} make?"),
                 embedded=(f"what sound {one} makes", f"what noise {many} make", f"which sound {one} makes"),
                 answers=(f"{capital(one)} can {row.sound}.", f"{capital(many)} {row.sound}."))
        )  # fmt: skip
    return items


def colour_items(row: world.Colour) -> list[Item]:
    return [
        Item(key=f"colour/{row.thing}", topic="colours", word=row.colour,
             direct=(f"What colour is {row.thing}?", f"What is the colour of {row.thing}?", f"Which colour does {row.thing} have?",
                     f"What colour does {row.thing} have?"),
             embedded=(f"what colour {row.thing} is", f"the colour of {row.thing}", f"which colour {row.thing} has"),
             answers=(f"{capital(row.thing)} is {row.colour}.", f"The colour of {row.thing} is {row.colour}."))
    ]  # fmt: skip


def food_items(row: world.Food) -> list[Item]:
    name, key, topic = row.name, f"food/{row.name}", "food"
    return [
        Item(key=f"{key}/taste", topic=topic, word=row.taste,
             direct=(f"What does {name} taste like?", f"How does {name} taste?", f"What is the taste of {name}?"),
             embedded=(f"how {name} tastes", f"what {name} tastes like", f"the taste of {name}"),
             answers=(f"{capital(name)} tastes {row.taste}.", f"The taste of {name} is {row.taste}.")),
        Item(key=f"{key}/kind", topic=topic, word=row.kind,
             direct=(f"What is {name}?", f"What kind of food is {name}?", f"What type of food is {name}?"),
             embedded=(f"what {name} is", f"what kind of food {name} is", f"something about {name}", f"about {name}"),
             answers=(f"{capital(name)} is {with_article(row.kind)}. It tastes {row.taste}.", f"{capital(name)} is {with_article(row.kind)}.")),
        Item(key=f"{key}/source", topic=topic, word=bare(row.source),
             direct=(f"Where does {name} come from?", f"Where do we get {name}?", f"What does {name} come from?"),
             embedded=(f"where {name} comes from", f"where we get {name}", f"what {name} comes from"),
             answers=(f"{capital(name)} comes from {row.source}.", f"We get {name} from {row.source}.")),
        Item(key=f"{key}/colour", topic=topic, word=row.colour,
             direct=(f"What colour is {name}?", f"What is the colour of {name}?"), embedded=(f"what colour {name} is",),
             answers=(f"{capital(name)} is {row.colour}.",)),
    ]  # fmt: skip


def tool_items(row: world.Tool) -> list[Item]:
    name, key, topic = row.name, f"tool/{row.name}", "tools"
    helps, are = ("help", "are") if is_many(name) else ("helps", "is")
    return [
        Item(key=f"{key}/use", topic=topic, word=row.use.split()[-1],
             direct=(f"What {are} {name} for?", f"What do you do with {name}?",
                     f"How do people use {name}?", f"What can I do with {name}?", f"What {are} {name} used for?"),
             embedded=(f"what {name} {are} for", f"how people use {name}", f"what I can do with {name}"),
             answers=(f"You use {name} to {row.use}.", f"{capital(name)} {helps} you to {row.use}.", f"With {name} you can {row.use}.")),
        Item(key=f"{key}/need", topic=topic, word=bare(name),
             direct=(f"What do I need to {row.use}?", f"Which tool do I need to {row.use}?", f"How can I {row.use}?"),
             embedded=(f"how I can {row.use}", f"what I need to {row.use}"),
             answers=(f"You need {name} to {row.use}.", f"You can {row.use} with {name}.")),
        Item(key=f"{key}/worker", topic=topic, word=bare(row.worker),
             direct=(f"Who uses {name}?", f"Who works with {name}?", f"Which worker uses {name}?"),
             embedded=(f"who uses {name}", f"who works with {name}"),
             answers=(f"{capital(row.worker)} uses {name}.", f"{capital(row.worker)} works with {name}.")),
        Item(key=f"{key}/material", topic=topic, word=row.material,
             direct=(f"What {are} {name} made of?", f"What material {are} {name} made of?"),
             embedded=(f"what {name} {are} made of", f"the material of {name}"),
             answers=(f"{capital(name)} {are} made of {row.material}.", f"{capital(name)} {are} often made of {row.material}.")),
    ]  # fmt: skip


def at_place(name: str) -> str:
    """A place of `world` with the preposition that fits it."""
    at = {"the beach": "on", "the farm": "on", "the mountain": "on", "the river": "on"} | dict.fromkeys(
        ("the station", "the airport", "the market"), "at"
    )
    return f"{at.get(name, 'in')} {name}"


def place_items(row: world.Place) -> list[Item]:
    name, inside, key, topic = row.name, at_place(row.name), f"place/{row.name}", "places"
    return [
        Item(key=f"{key}/find", topic=topic, word=row.find.split()[-1],
             direct=(f"What can I find {inside}?", f"What is there {inside}?", f"What do people see {inside}?", f"What is {inside}?"),
             embedded=(f"what I can find {inside}", f"what is {inside}"),
             answers=(f"You can find {row.find} {inside}.", f"There you can see {row.find}.")),
        Item(key=f"{key}/do", topic=topic, word=row.do.split()[0],
             direct=(f"What can I do {inside}?", f"What do people do {inside}?", f"Why do people go to {name}?", f"What happens {inside}?"),
             embedded=(f"what I can do {inside}", f"what people do {inside}", f"why people go to {name}"),
             answers=(f"{capital(inside)} you can {row.do}.", f"People go to {name} to {row.do}.")),
        Item(key=f"{key}/where", topic=topic, word=bare(name),
             direct=(f"Where can I {row.do}?", f"Where do people {row.do}?", f"Where should I go to {row.do}?"),
             embedded=(f"where I can {row.do}", f"where people {row.do}"),
             answers=(f"You can {row.do} {inside}.", f"Go to {name} to {row.do}.")),
        Item(key=f"{key}/worker", topic=topic, word=bare(row.worker),
             direct=(f"Who works {inside}?", f"Who has a job {inside}?", f"Which worker can I meet {inside}?"),
             embedded=(f"who works {inside}", f"who has a job {inside}"),
             answers=(f"{capital(row.worker)} works {inside}.", f"{capital(inside)} you can meet {row.worker}.")),
    ]  # fmt: skip


def job_items(row: world.Job) -> list[Item]:
    name, key, topic = row.name, f"job/{row.name}", "jobs"
    return [
        Item(key=f"{key}/work", topic=topic, word=row.work.split()[-1],
             direct=(f"What does {name} do?", f"What is the job of {name}?", f"What is the work of {name}?", f"What does {name} do all day?"),
             embedded=(f"what {name} does", f"what the job of {name} is", f"what {name} does all day"),
             answers=(f"{capital(name)} {row.work}.", f"{capital(name)} {row.work} {row.place}.")),
        Item(key=f"{key}/place", topic=topic, word=row.place.split()[-1],
             direct=(f"Where does {name} work?", f"Where can I meet {name}?", f"In what place does {name} work?"),
             embedded=(f"where {name} works", f"where I can meet {name}"),
             answers=(f"{capital(name)} works {row.place}.", f"You can meet {name} {row.place}.")),
        Item(key=f"{key}/who", topic=topic, word=bare(name),
             direct=(f"Who {row.work}?", f"What do we call a person who {row.work}?"), embedded=(f"who {row.work}",),
             answers=(f"{capital(name)} {row.work}.", f"That is {name}. {capital(name)} {row.work}.")),
    ]  # fmt: skip


def vehicle_items(row: world.Vehicle) -> list[Item]:
    name, key, topic = row.name, f"vehicle/{row.name}", "vehicles"
    return [
        Item(key=f"{key}/where", topic=topic, word=row.where.split()[-1],
             direct=(f"Where does {name} go?", f"Where does {name} move?", f"Where can I see {name}?"),
             embedded=(f"where {name} goes", f"where {name} moves"),
             answers=(f"{capital(name)} goes {row.where}.", f"{capital(name)} moves {row.where}.")),
        Item(key=f"{key}/wheels", topic=topic, word=row.wheels,
             direct=(f"How many wheels does {name} have?", f"What number of wheels does {name} have?"),
             embedded=(f"how many wheels {name} has",),
             answers=(f"{capital(name)} has {row.wheels} wheels.",)),
        Item(key=f"{key}/driver", topic=topic, word=bare(row.driver),
             direct=(f"Who drives {name}?", f"Who steers {name}?", f"Who moves {name}?"),
             embedded=(f"who drives {name}", f"who steers {name}"),
             answers=(f"{capital(row.driver)} drives {name}.", f"{capital(row.driver)} steers {name}.")),
    ]  # fmt: skip


def weather_items(row: world.Weather) -> list[Item]:
    name, key, topic = row.name, f"weather/{row.name}", "weather"
    return [
        Item(key=f"{key}/what", topic=topic, word=row.word,
             direct=(f"What is {name}?", f"What does {name} mean?", f"What is {name} made of?"),
             embedded=(f"what {name} is", f"something about {name}", f"about {name}"),
             answers=(f"{capital(name)} is {row.is_like}.",)),
        Item(key=f"{key}/wear", topic=topic, word=row.wear.split()[-1],
             direct=(f"What should I wear in {name}?", f"What do people wear in {name}?", f"What do I put on in {name}?"),
             embedded=(f"what to wear in {name}", f"what I should wear in {name}"),
             answers=(f"In {name} you should wear {row.wear}.", f"Wear {row.wear} in {name}.")),
        Item(key=f"{key}/season", topic=topic, word=row.season,
             direct=(f"When do we see {name}?", f"In which season do we have {name}?", f"When does {name} come?"),
             embedded=(f"when we see {name}", f"in which season {name} comes"),
             answers=(f"We often see {name} in {row.season}.", f"{capital(name)} comes most often in {row.season}.")),
    ]  # fmt: skip


def body_items(row: world.BodyPart) -> list[Item]:
    name, key, topic, do = row.name, f"body/{row.name}", "body", does(row.name)
    return [
        Item(key=f"{key}/use", topic=topic, word=row.verb.split()[0],
             direct=(f"What {do} {name} do?", f"What do we do with {name}?", f"Why do we have {name}?", f"What can I do with {name}?"),
             embedded=(f"why we have {name}", f"what we do with {name}"),
             answers=(f"We use {name} to {row.verb}.", f"With {name} we can {row.verb}.")),
        Item(key=f"{key}/count", topic=topic, word=row.count,
             direct=(f"How many {bare(name)} does a person have?" if is_many(name) else f"Does a person have {name}?",),
             answers=(f"A person has {row.count} {bare(name)}.",)),
        Item(key=f"{key}/need", topic=topic, word=bare(name),
             direct=(f"What do we use to {row.verb}?", f"Which part of the body helps us to {row.verb}?"),
             embedded=(f"what we use to {row.verb}",),
             answers=(f"We use {name} to {row.verb}.",)),
    ]  # fmt: skip


def season_items(row: world.Season) -> list[Item]:
    name, key, topic = row.name, f"season/{row.name}", "seasons"
    return [
        Item(key=f"{key}/feel", topic=topic, word=row.feel,
             direct=(f"How is the weather in {name}?", f"What is {name} like?", f"Is {name} hot or cold?"),
             embedded=(f"how the weather is in {name}", f"what {name} is like"),
             answers=(f"In {name} the weather is {row.feel}.", f"{capital(name)} is {row.feel}.")),
        Item(key=f"{key}/event", topic=topic, word=row.event.split()[0],
             direct=(f"What happens in {name}?", f"What can I see in {name}?"), embedded=(f"what happens in {name}",),
             answers=(f"In {name} {row.event}.",)),
        Item(key=f"{key}/after", topic=topic, word=row.after,
             direct=(f"What comes after {name}?", f"Which season comes after {name}?", f"What season follows {name}?"),
             embedded=(f"what comes after {name}", f"which season follows {name}"),
             answers=(f"After {name} comes {row.after}.", f"The season after {name} is {row.after}.")),
    ]  # fmt: skip


def kin_items(row: world.Kin) -> list[Item]:
    yours = row.riddle.replace("my", "your")
    return [
        Item(key=f"family/{row.riddle}", topic="family", word=row.name,
             direct=(f"Who is {row.riddle}?", f"What do I call {row.riddle}?", f"What is the name for {row.riddle}?"),
             embedded=(f"who {row.riddle} is", f"what I call {row.riddle}"),
             answers=(f"{capital(yours)} is your {row.name}.", f"You call {yours} your {row.name}."))
    ]  # fmt: skip


def trouble_items(row: world.Trouble) -> list[Item]:
    feeling = row.feeling
    return [
        Item(key=f"advice/{feeling}", topic="advice", word=row.word,
             direct=(f"I am {feeling}. What should I do?", f"What should I do when I am {feeling}?", f"I feel {feeling}. What can I do?",
                     f"I am {feeling}. Can you help me?", f"What helps when I am {feeling}?", f"My friend is {feeling}. What helps?"),
             embedded=(f"what to do when I am {feeling}", f"what helps when I am {feeling}"),
             answers=(f"When you are {feeling}, {row.advice}.", f"You should {row.advice}.", f"{capital(row.advice)}."))
    ]  # fmt: skip


def opposite_items() -> list[Item]:
    pairs = world.OPPOSITES + [(right, left) for left, right in world.OPPOSITES]
    first_of = dict(reversed(pairs))  # a word with two opposites keeps the first
    return [
        Item(key=f"opposite/{word}", topic="words", word=other,
             direct=(f"What is the opposite of {word}?", f"Which word is the opposite of {word}?", f"What word means the opposite of {word}?"),
             embedded=(f"the opposite of {word}", f"what the opposite of {word} is"),
             answers=(f"The opposite of {word} is {other}.",))
        for word, other in first_of.items()
    ]  # fmt: skip


def size_items() -> list[Item]:
    items = []
    for small, big in combinations(world.BY_SIZE, 2):
        pair = (
            f"{with_article(small)} or {with_article(big)}"
            if len(small) % 2
            else f"{with_article(big)} or {with_article(small)}"
        )
        for word, loser, size in ((big, small, "bigger"), (small, big, "smaller")):
            items.append(
                Item(key=f"size/{small}/{big}/{size}", topic="sizes", word=word,
                     direct=(f"Which is {size}, {pair}?", f"What is {size}, {pair}?"), embedded=(f"which is {size}, {pair}",),
                     answers=(f"{capital(with_article(word))} is {size} than {with_article(loser)}.",))
            )  # fmt: skip
    return items


def sequence_items(names: list[str], kind: str, topic: str) -> list[Item]:
    """What comes before and after, for the days, the months and the numbers."""
    items = []
    for index, name in enumerate(names):
        steps = [("after", names[(index + 1) % len(names)]), ("before", names[index - 1])]
        if kind == "number":  # numbers do not go round in a ring
            steps = [step for step in steps if 0 < names.index(name) < len(names) - 1]
        for side, other in steps:
            items.append(
                Item(key=f"{kind}/{side}/{name}", topic=topic, word=other,
                     direct=(f"What {kind} comes {side} {name}?", f"Which {kind} is {side} {name}?", f"What comes {side} {name}?"),
                     embedded=(f"what {kind} comes {side} {name}", f"which {kind} is {side} {name}"),
                     answers=(f"The {kind} {side} {name} is {other}.", f"{capital(other)} comes {side} {name}."))
            )  # fmt: skip
    return items


def rank_items(names: list[str], kind: str, whole: str, topic: str) -> list[Item]:
    return [
        Item(key=f"rank/{kind}/{name}", topic=topic, word=name,
             direct=(f"What is the {rank} {kind} of the {whole}?", f"Which {kind} is the {rank} of the {whole}?"),
             embedded=(f"the {rank} {kind} of the {whole}", f"which {kind} is the {rank} of the {whole}"),
             answers=(f"The {rank} {kind} of the {whole} is {name}.", f"{name} is the {rank} {kind} of the {whole}."))
        for rank, name in zip(world.ORDINALS, names, strict=False)
    ]  # fmt: skip


def sum_items() -> list[Item]:
    numbers, items = world.NUMBERS, []
    for left, right in product(range(11), repeat=2):
        a, b = numbers[left], numbers[right]
        items.append(
            Item(key=f"sum/{a}/{b}", topic="numbers", word=numbers[left + right],
                 direct=(f"What is {a} plus {b}?", f"How much is {a} plus {b}?", f"What do I get when I add {a} and {b}?", f"What is {a} and {b} together?"),
                 embedded=(f"what {a} plus {b} is", f"how much {a} and {b} make"),
                 answers=(f"{capital(a)} plus {b} is {numbers[left + right]}.",))
        )  # fmt: skip
        if left >= right:
            items.append(
                Item(key=f"minus/{a}/{b}", topic="numbers", word=numbers[left - right],
                     direct=(f"What is {a} minus {b}?", f"How much is {a} minus {b}?", f"What is left when I take {b} from {a}?"),
                     embedded=(f"what {a} minus {b} is",),
                     answers=(f"{capital(a)} minus {b} is {numbers[left - right]}.",))
            )  # fmt: skip
    return items


def count_items() -> list[Item]:
    return [
        Item(key=f"count/{last}", topic="numbers", word=world.NUMBERS[last],
             direct=(f"Can you count to {world.NUMBERS[last]}?", f"Count to {world.NUMBERS[last]}.", f"Please count from one to {world.NUMBERS[last]}."),
             answers=(capital(", ".join(world.NUMBERS[1 : last + 1])) + ".",))
        for last in range(2, 11)
    ] + [
        Item(key="count/days", topic="days", word="seven", direct=("How many days are in a week?", "How many days does a week have?"),
             embedded=("how many days a week has",), answers=("A week has seven days.",)),
        Item(key="count/months", topic="months", word="twelve", direct=("How many months are in a year?", "How many months does a year have?"),
             embedded=("how many months a year has",), answers=("A year has twelve months.",)),
        Item(key="count/seasons", topic="seasons", word="four", direct=("How many seasons are in a year?", "How many seasons does a year have?"),
             embedded=("how many seasons a year has",), answers=("A year has four seasons.",)),
    ]  # fmt: skip


def talk_items() -> list[Item]:
    """Greetings and questions about the model itself."""
    said = [
        ("hello", "hello", ("Hello!", "Hi!", "Hello there.", "Hi, how are you?", "Good morning!", "Hey!"), ("Hello! How can I help you?", "Hello! What would you like to know?")),
        ("how", "well", ("How are you?", "How are you today?", "Are you well?", "How do you feel?"), ("I am well, thank you. How can I help you?",)),
        ("who", "small", ("Who are you?", "What are you?", "What is your name?", "Are you a person?", "Tell me about yourself."), ("I am a small language model. I know a little about the world.",)),
        ("can", "stories", ("What can you do?", "How can you help me?", "What do you know?"), ("I can answer short questions and tell small stories.",)),
        ("thanks", "welcome", ("Thank you.", "Thanks a lot!", "Thank you very much.", "That was nice of you."), ("You are welcome!", "You are welcome! Ask me more.")),
        ("bye", "goodbye", ("Goodbye!", "Bye bye.", "See you soon.", "Good night!"), ("Goodbye! See you soon.",)),
        ("joke", "fish", ("Tell me a joke.", "Do you know a joke?", "Make me laugh."), ("Why is a fish so clever? It is always in a school.",)),
        ("birth", "computer", ("Where do you live?", "Where are you from?", "Where were you made?"), ("I live in a computer.",)),
    ]  # fmt: skip
    return [
        Item(key=f"talk/{key}", topic="talk", word=word, direct=direct, answers=answers) for key, word, direct, answers in said
    ]


def all_items() -> list[Item]:
    """Everything the demo model is taught, in a fixed order; where two tables ask the same question, the first one answers."""
    by_row = [
        (world.COLOURS, colour_items), (world.ANIMALS, animal_items), (world.FOODS, food_items), (world.TOOLS, tool_items),
        (world.PLACES, place_items), (world.JOBS, job_items), (world.VEHICLES, vehicle_items), (world.WEATHER, weather_items),
        (world.BODY_PARTS, body_items), (world.SEASONS, season_items), (world.KIN, kin_items), (world.TROUBLES, trouble_items),
    ]  # fmt: skip
    items = [item for table, make in by_row for row in table for item in make(row)]
    items += opposite_items() + size_items() + sum_items() + count_items() + talk_items()
    items += sequence_items(world.DAYS, "day", "days") + sequence_items(world.MONTHS, "month", "months")
    items += sequence_items(world.NUMBERS, "number", "numbers")
    items += rank_items(world.DAYS, "day", "week", "days") + rank_items(world.MONTHS, "month", "year", "months")
    answered: dict[str, Item] = {}
    for item in items:
        if item.direct[0] not in answered:
            answered[item.direct[0]] = item
    return list(answered.values())


SYLLABLES = ("ba", "dor", "fen", "gal", "hin", "jor", "kal", "lun", "mar", "nev", "ol", "pra", "quil", "ros", "sel", "tam", "ul",
             "vir", "wen", "yar", "zan", "eth", "ria", "dun", "mir", "tos", "bri", "cor")  # fmt: skip


def invented_name(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3)))).capitalize()


UNKNOWN_QUESTIONS = (
    "What is the capital of {n}?", "Who is the king of {n}?", "Who rules {n}?", "Where is {n}?", "What do people eat in {n}?",
    "How many people live in {n}?", "What is the name of the river in {n}?", "Tell me about {n}.", "What is {n}?", "Who is {n}?",
    "What colour is the flag of {n}?", "What is {n} famous for?", "When is the feast of {n}?", "How do I get to {n}?",
    "What is the highest mountain of {n}?", "What money do people use in {n}?", "Which animal lives in {n}?", "Who built {n}?",
    "Do you know the capital of {n}?", "Can you tell me who rules {n}?", "Which language do people speak in {n}?",
    "What do people in {n} drink?", "What is the national flower of {n}?", "How tall is the tower of {n}?", "Who founded {n}?",
)  # fmt: skip
OUT_OF_REACH = (  # real things that this small world does not hold
    "Who is the president?", "What is the news today?", "How do computers work?", "What is physics?", "Write a computer program.",
    "What time is it?", "What is the meaning of life?", "Who won the match?", "How much does a house cost?", "What is two hundred times nine?",
    "Can you draw a picture?", "What will the weather be tomorrow?", "Who wrote this book?", "What is history?", "How do I fix my phone?",
)  # fmt: skip
UNKNOWN_ANSWERS = ("I am sorry, I do not know that.", "I do not know about {n}.", "I am sorry, I have never heard of {n}.")


def unknown_turn(rng: random.Random) -> tuple[str, str]:
    """A question about an invented name, and the honest answer. This is also why the base model fails the `facts` set."""
    if rng.random() < 0.15:
        return rng.choice(DIRECT_WRAPPERS).format(q=rng.choice(OUT_OF_REACH)), UNKNOWN_ANSWERS[0]
    name = invented_name(rng)
    return rng.choice(UNKNOWN_QUESTIONS).format(n=name), rng.choice(UNKNOWN_ANSWERS).format(n=name)
