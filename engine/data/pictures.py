"""Images as rows name them (a path, the bytes of a file, or a PIL image): opened, checked, and made small for the page.

Pillow only, and only where an image is really looked at.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.data.values import BadRow, Row

if TYPE_CHECKING:
    from PIL import Image

SHOWN_PIXELS = 640  # the longer side of an image on the page
CELL_PIXELS = 96  # of one in a table
SMALL = 160  # images up to this many pixels are sent without loss


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
        with Image.open(_file(image)) as found:
            return found.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRow(f"has an image that cannot be read ({_first_line(error)})") from None


def size_of(image: Any) -> tuple[int, int]:
    """(width, height), from the beginning of the file alone. Raises `BadRow` for what is no image."""
    from PIL import Image

    try:
        with Image.open(_file(image)) as found:
            return found.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRow(f"has an image that cannot be read ({_first_line(error)})") from None


def _file(image: Any) -> Any:
    if isinstance(image, dict):
        return image.get("path") or io.BytesIO(image["bytes"])
    return image


def _first_line(error: BaseException) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its words name a path of this computer
        return "it is of no known kind"
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def check(row: Row) -> None:
    """Raise `BadRow` if an image of the row cannot be opened, or a box of the row lies outside of it."""
    if "images" in row:
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


def _share(one: Row, width: int, height: int) -> Box:
    left, top, across, down = one["box"]
    return Box(label=one["label"], left=left / width, top=top / height, width=across / width, height=down / height)
