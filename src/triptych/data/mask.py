"""Cells that say what every pixel of a picture is: a picture of class ids, or of colours that stand for classes.

Three forms are read. Single-channel pictures hold the ids themselves; palette PNGs hold them as indices, whatever colours they
show; of RGB pictures a table of colours (`road: [128, 64, 128]`) says which class a colour is, numbered in the order of the table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from triptych.data.decode import media_source, open_image
from triptych.errors import InputError
from triptych.limits import LIMITS, Limits

Colours = Mapping[str, Sequence[int]]
IDS = ("1", "L", "P", "I", "I;16", "I;16B")  # Pillow's modes in which a pixel is an id


def read_mask(
    cell: Any,
    root: Path,
    where: str,
    *,
    size: tuple[int, int] | None = None,
    colours: Colours | None = None,
    limits: Limits = LIMITS,
) -> Int32[np.ndarray, "height width"]:
    """The class id of every pixel.

    Args:
        cell: a path, bytes, or both as Hugging Face datasets store them.
        root: where relative paths start.
        where: the place in the table, for messages.
        size: width and height of the picture that the mask belongs to.
        colours: red, green and blue from 0 to 255 by class; needed for RGB pictures, and obeyed for all where it is given.
        limits: refused beyond these.

    Raises:
        InputError: as `open_mask`; or a colour that the table does not know, or no table for a colour picture.
        LimitError: too many bytes or pixels.
    """
    name, image = open_mask(cell, root, where, size=size, limits=limits)
    if colours is not None:
        return _by_colour(np.asarray(image.convert("RGB")), colours, f"{where}: {name}")
    if image.mode not in IDS:
        raise InputError(
            f"{where}: {name} is a colour picture ({image.mode}), and no table says which class a colour is.",
            "Give `colours`, as `road: [128, 64, 128]`, or save the ids as a single channel.",
        )
    return np.asarray(image).astype(np.int32)


def open_mask(
    cell: Any, root: Path, where: str, *, size: tuple[int, int] | None = None, limits: Limits = LIMITS
) -> tuple[str, Any]:
    """The file's name and the Pillow image of a mask, single-channel, palette or colours.

    Raises:
        InputError: no such file, not a picture, a form in which ids get lost, or another size than the picture.
        LimitError: too many bytes or pixels.
    """
    name, image = open_image(media_source(cell, root, where), where, limits)
    if size is not None and image.size != size:
        raise InputError(
            f"{where}: the mask {name} has {image.width} x {image.height} pixels, its picture {size[0]} x {size[1]}.",
            "Bring both to one size (a mask by its nearest pixels, which mixes no ids).",
        )
    if image.format == "JPEG":
        raise InputError(f"{where}: {name} is a JPEG, which mixes neighbouring ids.", "Save masks as PNG.")
    return name, image


def _by_colour(pixels: np.ndarray, colours: Colours, file: str) -> Int32[np.ndarray, "height width"]:
    """The place of each pixel's colour in the table."""
    table = np.array([_code(colour, name) for name, colour in colours.items()])
    order = np.argsort(table)
    if len(np.unique(table)) < len(table):
        twice = [name for name, code in zip(colours, table.tolist(), strict=True) if (table == code).sum() > 1]
        raise InputError(f"The classes {twice[0]!r} and {twice[1]!r} have one colour.", "Give each its own.")
    codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found = order[np.searchsorted(table, codes, sorter=order).clip(max=len(table) - 1)]
    strange = table[found] != codes
    if strange.any():
        y, x = (int(place[0]) for place in np.nonzero(strange))
        raise InputError(
            f"{file} has the colour {pixels[y, x].tolist()} (first at x {x}, y {y}; {strange.sum():,} such pixels), "
            "which is no class.",
            "Add it to `colours`, or mend the mask.",
        )
    return found.astype(np.int32)


def _code(colour: Sequence[int], name: str) -> int:
    if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
        raise InputError(f"The colour of {name!r} is {colour!r}.", "Write red, green and blue from 0 to 255.")
    red, green, blue = colour
    return (red << 16) | (green << 8) | blue
