"""Targets that lie over a picture: a mask or boxes, brought to what the model sees of that picture.

Masks become arrays of class numbers [rows, height, width], `VOID` where nothing is asked; boxes become [rows, boxes, 5]: the class
(-1 behind the last box of a row), then corners x0, y0, x1, y1 as shares of the sides of what is seen.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from torch import Tensor

from triptych.data import augment
from triptych.data.boxes import parse_boxes
from triptych.data.decode import media_source, open_image
from triptych.data.frame import VOID, Frame
from triptych.data.mask import read_mask
from triptych.data.schema import in_order
from triptych.data.table import Table
from triptych.errors import InputError, LimitError
from triptych.recipe import parse
from triptych.structure import Settings

Kind = Literal["mask", "boxes"]


class OverlaySettings(Settings):
    """What a recipe may say under `model.target`.

    `picture` is the column that the target lies over (needed where there are several). Of masks: `classes` names the ids 0, 1, ... and
    `colours` gives red, green and blue by class where masks are colour pictures; without either, the classes are the ids of the
    training masks. Pixels whose id is in `void`, or 255, count nowhere. `size` is the height and width at which masks are compared;
    by default that of the first training mask.
    """

    picture: str | None = None
    classes: tuple[str, ...] = ()
    colours: dict[str, tuple[int, int, int]] = {}
    void: tuple[int, ...] = ()
    size: tuple[int, int] | None = None


class Overlay(Settings):
    """A fitted target: what it lies over, and of masks which id is which class, in the order of the labels."""

    kind: Kind
    picture: str
    frame: Frame
    ids: tuple[int, ...] = ()
    colours: dict[str, tuple[int, int, int]] = {}
    void: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)

    def moved(self, labels: Tensor, theta: Float[Tensor, "batch 2 3"]) -> Tensor:
        """Masks or boxes that follow their pictures (see `augment.draw_warps`)."""
        return (augment.warp_masks if self.kind == "mask" else augment.warp_boxes)(labels, theta)

    def masks(self, table: Table, name: str) -> UInt8[np.ndarray, "rows height width"]:
        """The masks of a column at one size.

        Raises:
            InputError: a mask that cannot be read, has another size than its picture or a pixel of an unknown class.
        """
        found = np.empty((len(table), *self.size), dtype=np.uint8)
        for row, (cell, where, width, height) in enumerate(_placed(table, name, self.picture)):
            ids = read_mask(cell, table.root, where, size=(width, height), colours=self.colours or None)
            found[row] = self.frame.mask_in(self._numbered(ids, where), self.size)
        return found

    def boxes(self, table: Table, name: str, labels: tuple[str, ...]) -> Float32[np.ndarray, "rows boxes 5"]:
        """The boxes of a column, those that are not seen left out.

        Raises:
            InputError: a cell that holds no boxes, a box outside its picture, or an unknown label.
        """
        rows = []
        for cell, where, width, height in _placed(table, name, self.picture):
            boxes = parse_boxes(cell, where).within(width, height, where)
            shares = np.clip(self.frame.boxes_in(boxes.corners, width, height), 0, 1)
            numbered = np.concatenate([boxes.ids(labels, where)[:, None].astype(np.float32), shares], axis=1)
            rows.append(numbered[(shares[:, 2:] > shares[:, :2]).all(1)])
        found = np.zeros((len(rows), max(map(len, rows), default=0) or 1, 5), dtype=np.float32)
        found[..., 0] = -1
        for row, told in enumerate(rows):
            found[row, : len(told)] = told
        return found

    def _numbered(self, ids: Int32[np.ndarray, "height width"], where: str) -> UInt8[np.ndarray, "height width"]:
        """Class numbers in the place of ids."""
        numbers = np.full(max(int(ids.max()), VOID, *self.ids) + 1, -1, dtype=np.int16)
        numbers[[*self.void, VOID]] = VOID
        numbers[list(self.ids)] = np.arange(len(self.ids))
        found = numbers[ids]
        strange = np.argwhere(found < 0)
        if len(strange):
            y, x = strange[0].tolist()
            raise InputError(
                f"{where}: the mask has the id {ids[y, x]} (first at x {x}, y {y}), which is none of the {len(self.ids)} classes.",
                "Mend the mask, or add the id to `classes` or `void` under model.target.",
            )
        return found.astype(np.uint8)


def fit_overlay(
    table: Table, name: str, kind: Kind, settings: Mapping[str, Any], frames: Mapping[str, Frame]
) -> tuple[Overlay, tuple[str, ...]]:
    """The target as the training rows show it, and the labels of its classes.

    Args:
        table: the training rows.
        name: the target's column.
        kind: what its cells hold.
        settings: fields of `OverlaySettings`.
        frames: what is seen of each column of pictures.

    Raises:
        InputError: settings that do not fit, no picture to lie over, or cells that cannot be read.
        LimitError: more classes than a byte can number.
    """
    told = parse(OverlaySettings, dict(settings), f"The target {name}")
    picture = told.picture or (next(iter(frames)) if len(frames) == 1 else None)
    if picture is None or picture not in frames:
        raise InputError(
            f"The {kind} of {name} lie over a picture, and {'no input is one' if not frames else 'it is not clear which'}.",
            f"Name it as `picture` under model.target: {', '.join(frames)}."
            if frames
            else "Add the column of pictures.",
        )
    overlay = Overlay(kind=kind, picture=picture, frame=frames[picture], colours=told.colours, void=told.void)
    if kind == "boxes":
        cells = enumerate(table.column(name))
        every = (parse_boxes(cell, f"{table.place(i)}, column {name}").labels for i, cell in cells)
        return overlay, tuple(in_order({label for labels in every for label in labels}))
    labels = tuple(told.colours) or told.classes
    ids = tuple(i for i in range(len(labels)) if i not in told.void)
    size = told.size
    if not labels or size is None:
        seen: set[int] = set()
        for cell, where, *_ in _placed(table, name, picture):
            mask = read_mask(cell, table.root, where, colours=told.colours or None)
            size = size or _seen_size(overlay.frame, mask)
            if labels:
                break
            seen.update(np.unique(mask).tolist())
        if not labels:
            ids = tuple(sorted(seen - {*told.void, VOID}))
            labels = tuple(map(str, range(max(ids, default=0) + 1)))
    if len(ids) >= VOID:
        raise LimitError(f"The masks of {name} have {len(ids)} classes; the limit is {VOID - 1}.", "Join classes.")
    return overlay.model_copy(update={"ids": ids, "size": size}), tuple(labels[i] for i in ids)


def _seen_size(frame: Frame, mask: np.ndarray) -> tuple[int, int]:
    """Height and width of the part of a mask that is seen."""
    x0, y0, x1, y1 = frame.seen(mask.shape[1], mask.shape[0])
    return round(y1 - y0), round(x1 - x0)


def _placed(table: Table, name: str, picture: str) -> Iterator[tuple[Any, str, int, int]]:
    """Each cell, its place in the table, and width and height of its picture."""
    for i, (cell, shown) in enumerate(zip(table.column(name), table.column(picture), strict=True)):
        where = f"{table.place(i)}, column {name}"
        if shown is None:
            raise InputError(f"{where}: there is no {picture} that it lies over.", "Leave the row out.")
        source = media_source(shown, table.root, f"{table.place(i)}, column {picture}")
        yield cell, where, *open_image(source, f"{table.place(i)}, column {picture}")[1].size
