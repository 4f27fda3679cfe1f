"""Cells that say where things stand in a picture: a JSON list of labels and boxes, the target of detection.

    [{"label": "cat", "box": [12, 40, 96.5, 128]}, {"label": "dog", "box": [0, 0, 50, 60]}]

A box is [x0, y0, x1, y1] in pixels of the picture as it is decoded: corners, half-open, so that a box as wide as the picture has
x0 = 0 and x1 = its width. An empty list is a picture with nothing in it; an empty cell is a picture that nobody has looked at.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from triptych.errors import InputError

WRITTEN = re.compile(r'\s*\[\s*(\]|\{.*"box"\s*:)', re.DOTALL)
INSIDE = 0.5  # share of a box's area that must lie in the picture: more hangs over where a scale or a picture is wrong
NEXT = 'Write [{"label": "cat", "box": [x0, y0, x1, y1]}, ...] in pixels.'


@dataclass(frozen=True, eq=False)
class Boxes:
    """The things in one picture.

    Attributes:
        labels: what each is.
        corners: x0, y0, x1, y1 of each in pixels, half-open.
    """

    labels: tuple[str, ...]
    corners: Float32[np.ndarray, "boxes 4"]

    def __len__(self) -> int:
        return len(self.labels)

    def within(self, width: int, height: int, where: str) -> "Boxes":
        """The boxes cut off at the edges of their picture, as annotators mean them where a thing goes on outside.

        Args:
            width: of the picture, in pixels.
            height: likewise.
            where: the place in the table, for messages.

        Raises:
            InputError: less than half of a box lies in the picture.
        """
        limits = np.array([width, height, width, height], dtype=np.float32)
        cut = np.clip(self.corners, 0, limits)
        for i in np.flatnonzero(_areas(cut) < INSIDE * _areas(self.corners)):
            raise InputError(
                f"{where}: the box {_named(self.labels[i], self.corners[i].tolist())} lies outside the picture, "
                f"which has {width} x {height} pixels.",
                "Mend the box, or leave the row out.",
            )
        return Boxes(self.labels, cut)

    def ids(self, known: Sequence[str], where: str) -> Int64[np.ndarray, " boxes"]:
        """The place of each label among those that are known.

        Raises:
            InputError: a label is not known.
        """
        places = {label: place for place, label in enumerate(known)}
        for label in self.labels:
            if label not in places:
                raise InputError(
                    f"{where}: the label {label!r} is not among the {len(known)} labels of the training rows.",
                    "Add training rows with it or leave the row out.",
                )
        return np.array([places[label] for label in self.labels], dtype=np.int64)


def parse_boxes(cell: Any, where: str) -> Boxes:
    """Read a cell: JSON text, or the list itself as JSON lines and Parquet hold it.

    Raises:
        InputError: it is no such list, a number is not finite, or a box has no area; names the place.
    """
    try:
        items = json.loads(cell) if isinstance(cell, str) else cell
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: the boxes are not JSON ({error}).", NEXT) from error
    if not isinstance(items, list):
        raise InputError(f"{where}: {cell!r:.60} is not a list of boxes.", NEXT)
    labels: list[str] = []
    corners: list[list[float]] = []
    for item in items:
        label, box = (item.get("label"), item.get("box")) if isinstance(item, dict) else (None, None)
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{where}: {item!r:.60} has no label.", NEXT)
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(x) for x in box):
            raise InputError(f"{where}: the box of {label!r} is {box!r:.60}, not four numbers.", NEXT)
        _refuse_nothing(label, box, where)
        labels.append(label)
        corners.append(box)
    return Boxes(tuple(labels), np.array(corners, dtype=np.float32).reshape(-1, 4))


def write_boxes(boxes: Sequence[tuple[str, Sequence[float]]]) -> str:
    """The cell of these labels and corners; numbers to a hundredth of a pixel."""
    items = [{"label": label, "box": [round(float(x), 2) for x in corners]} for label, corners in boxes]
    return json.dumps(items, ensure_ascii=False)


def are_boxes(cells: Sequence[Any]) -> bool:
    """Whether the cells of a column look like boxes."""
    return bool(cells) and all(
        all(isinstance(item, dict) and "box" in item for item in cell)
        if isinstance(cell, list)
        else isinstance(cell, str) and bool(WRITTEN.match(cell))
        for cell in cells
    )


def _refuse_nothing(label: str, box: list[float], where: str) -> None:
    if not all(math.isfinite(x) for x in box):
        raise InputError(f"{where}: the box {_named(label, box)} holds a number that is not finite.", "Mend the box.")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise InputError(
            f"{where}: the box {_named(label, box)} has no area.",
            "Write the upper left corner, then the lower right one.",
        )


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _areas(corners: Float32[np.ndarray, "boxes 4"]) -> Float32[np.ndarray, " boxes"]:
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])


def _named(label: str, box: Sequence[float]) -> str:
    return f"{label!r} at [{', '.join(f'{x:g}' for x in box)}]"
