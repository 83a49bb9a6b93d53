"""Drawn shapes: small pictures of one shape or a few, and what can be said about them. All from a seed."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE = 32  # pixels
SCENE = 48  # pixels, of a picture with several shapes
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (210, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 210), "yellow": (230, 200, 40), "black": (20, 20, 20)}
PLACES = ("left", "right")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture, as the bytes of a PNG file, and what it shows."""

    png: bytes
    shape: str
    colour: str
    place: str

    @property
    def sentence(self) -> str:
        return f"A {self.colour} {self.shape} on the {self.place}."


def drawings(count: int, seed: str) -> list[Drawing]:
    """Pictures of every shape, colour and place in turn, each with a size, a spot and a paper of its own."""
    rng = random.Random(seed)
    kinds = [(shape, colour, place) for shape in SHAPES for colour in COLOURS for place in PLACES]
    return [_draw(*kinds[number % len(kinds)], rng) for number in range(count)]


def _draw(shape: str, colour: str, place: str, rng: random.Random) -> Drawing:
    paper = rng.randint(225, 255)
    image = Image.new("RGB", (SIDE, SIDE), (paper, paper, paper))
    pen = ImageDraw.Draw(image)
    half = rng.randint(5, 7)
    across = rng.randint(8, 10) if place == "left" else rng.randint(SIDE - 11, SIDE - 9)
    down = rng.randint(10, SIDE - 11)
    ink = tuple(min(255, max(0, part + rng.randint(-15, 15))) for part in COLOURS[colour])
    _stroke(pen, shape, across, down, half, ink)
    return Drawing(png=_png(image), shape=shape, colour=colour, place=place)


def _stroke(pen: ImageDraw.ImageDraw, shape: str, across: int, down: int, half: int, ink: tuple[int, ...]) -> None:
    """One shape round a spot: it reaches `half` pixels to each side."""
    box = (across - half, down - half, across + half, down + half)
    if shape == "circle":
        pen.ellipse(box, fill=ink)
    elif shape == "square":
        pen.rectangle(box, fill=ink)
    elif shape == "triangle":
        pen.polygon([(across, down - half), (across - half, down + half), (across + half, down + half)], fill=ink)
    else:
        pen.line((across - half, down, across + half, down), fill=ink, width=4)
        pen.line((across, down - half, across, down + half), fill=ink, width=4)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


# --- several shapes on one picture ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape of a scene, and the box round it: [x, y, width, height] in pixels."""

    shape: str
    colour: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture of one to three shapes that do not touch."""

    png: bytes
    things: tuple[Thing, ...]


def scenes(count: int, seed: str) -> list[Scene]:
    """Pictures with shapes at places of their own: a cell each of a grid of two by two."""
    rng = random.Random(seed)
    return [_scene(rng) for _ in range(count)]


def _scene(rng: random.Random) -> Scene:
    paper = rng.randint(225, 255)
    image = Image.new("RGB", (SCENE, SCENE), (paper, paper, paper))
    pen, things, cell = ImageDraw.Draw(image), [], SCENE // 2
    for number in rng.sample(range(4), rng.randint(1, 3)):
        shape, colour, half = rng.choice(SHAPES), rng.choice(tuple(COLOURS)), rng.randint(6, 9)
        across = cell * (number % 2) + rng.randint(half + 1, cell - half - 2)
        down = cell * (number // 2) + rng.randint(half + 1, cell - half - 2)
        ink = tuple(min(255, max(0, part + rng.randint(-15, 15))) for part in COLOURS[colour])
        _stroke(pen, shape, across, down, half, ink)
        things.append(Thing(shape=shape, colour=colour, box=(across - half, down - half, 2 * half + 1, 2 * half + 1)))
    return Scene(png=_png(image), things=tuple(things))


def boxes_row(scene: Scene) -> dict[str, object]:
    """Each thing with its box (the layout of `datasets`' object detection)."""
    boxes, names = [list(thing.box) for thing in scene.things], [thing.shape for thing in scene.things]
    return {"image": {"bytes": scene.png, "path": None}, "objects": {"bbox": boxes, "category": names}}


def image(drawing: Drawing) -> dict[str, object]:
    """The picture as a column of a Parquet file holds it (the layout of `datasets.Image`)."""
    return {"bytes": drawing.png, "path": None}


def label_row(drawing: Drawing) -> dict[str, object]:
    return {"image": image(drawing), "label": drawing.shape}


def words_row(drawing: Drawing) -> dict[str, object]:
    return {"image": image(drawing), "text": drawing.sentence}


def question_row(drawing: Drawing, rng: random.Random) -> dict[str, object]:
    question, answer = rng.choice(
        (
            ("What shape is it?", drawing.shape),
            ("What colour is it?", drawing.colour),
            ("On which side is it?", drawing.place),
        )
    )
    return {"image": image(drawing), "question": question, "answer": answer}
