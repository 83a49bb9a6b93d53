"""Images as rows name them (a path, the bytes of a file, or a PIL image): opened, checked, and made small for the page.

Pillow only, and only where an image is really looked at.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.data import limits, sandbox
from engine.data.values import BadRow, Row

if TYPE_CHECKING:
    from PIL import Image

SHOWN_PIXELS = 640  # the longer side of an image on the page
CELL_PIXELS = 96  # of one in a table
SMALL = 160  # images up to this many pixels are sent without loss

# What Pillow's parsers raise for bytes that are not the image that they say they are.
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, struct.error, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box on a picture, in shares of its width and height, from the top left corner; `share`: how sure a detector is."""

    label: str
    left: float
    top: float
    width: float
    height: float
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as the page shows it."""

    source: str  # a data: URL
    width: int  # pixels of the image itself
    height: int
    boxes: tuple[Box, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Picture:
        """The picture from its JSON form."""
        return cls(**{**values, "boxes": tuple(Box(**box) for box in values["boxes"])})


def open_image(image: Any) -> Image.Image:
    """The image in RGB. Raises `BadRow` for what is none."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        with Image.open(_file(image), formats=limits.IMAGE_FORMATS) as found:
            _refuse_large(found.size)
            return found.convert("RGB")
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise _unreadable(error) from None


def size_of(image: Any) -> tuple[int, int]:
    """(width, height), from the beginning of the file alone. Raises `BadRow` for what is no image."""
    from PIL import Image

    try:
        with Image.open(_file(image), formats=limits.IMAGE_FORMATS) as found:
            _refuse_large(found.size)
            return found.size
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise _unreadable(error) from None


def _file(image: Any) -> Any:
    """The bytes of an image that a row holds, or its path. The path inside of such a row is a stranger's: never opened."""
    if isinstance(image, dict):
        return io.BytesIO(image["bytes"])
    return image


def _refuse_large(size: tuple[int, int]) -> None:
    """Raise `BadRow` before the pixels are decoded: their number is in the beginning of the file."""
    width, height = size
    if width * height > limits.MOST_PIXELS:
        most = f"{limits.MOST_PIXELS // 1_000_000} million pixels"
        raise BadRow(f"has an image of {width:,} x {height:,} pixels, and at most {most} are read")


def _unreadable(error: BaseException) -> BadRow:
    from PIL import UnidentifiedImageError

    if isinstance(error, BadRow):
        return error
    words = (str(error).splitlines() or [type(error).__name__])[0][:80]
    if isinstance(error, (UnidentifiedImageError, FileNotFoundError)):  # their words name a path of this computer
        words = f"it is of no known kind, which are {', '.join(limits.IMAGE_FORMATS)}"
    return BadRow(f"has an image that cannot be read ({words})")


def check(row: Row) -> None:
    """Raise `BadRow` if an image of the row cannot be opened, or a box of the row lies outside of it."""
    if "images" in row:
        if len(row["images"]) > limits.MOST_IMAGES_IN_ROW:
            raise BadRow(f"has more than {limits.MOST_IMAGES_IN_ROW} images")
        for image in row["images"]:
            size_of(image)
        return
    width, height = size_of(row["image"])
    for one in row.get("objects", ()):
        left, top, across, down = one["box"]
        if left >= width or top >= height or left + across <= 0 or top + down <= 0:
            raise BadRow(f"has a box outside of its image, which has {width} x {height} pixels")


def picture(image: Any, objects: Sequence[Row] = (), *, most: int = SHOWN_PIXELS) -> Picture:
    """The image, no side of it longer than `most` pixels, with its objects' boxes. Raises `BadRow`."""
    opened = open_image(image)
    width, height = opened.size
    boxes = tuple(_share(one, width, height) for one in objects)
    opened.thumbnail((most, most))
    file, kind = io.BytesIO(), "PNG" if max(opened.size) <= SMALL else "JPEG"
    opened.save(file, format=kind, quality=85)
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(source=source, width=width, height=height, boxes=boxes)


def uploaded(file: str) -> Picture:
    """The picture of an image that somebody has uploaded, made in a process with limits. Raises `PlanError`."""
    return Picture.from_dict(sandbox.run("picture", {"image": file}, name="the image"))


def _share(one: Row, width: int, height: int) -> Box:
    left, top, across, down = one["box"]
    return Box(label=one["label"], left=left / width, top=top / height, width=across / width, height=down / height)
