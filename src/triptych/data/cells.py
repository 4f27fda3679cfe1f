"""Reading a cell for the data check alone: can it be read, what is in it, how long is it, does it say anything?"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from triptych.data.boxes import parse_boxes
from triptych.data.decode import MEDIA, Excerpt, audio_header, audio_source, decode_audio, decode_image, media_source
from triptych.data.mask import IDS, open_mask
from triptych.data.schema import Kind
from triptych.data.series import decode_series
from triptych.data.tabular import parse_number
from triptych.data.video import decode_video
from triptych.errors import InputError, LimitError
from triptych.limits import LIMITS, Limits

QUIET = 1e-4  # peak amplitude of silence: -80 dB of full scale
DARK = 8  # brightest pixel of an all-black image, of 255
FRAMES = 8  # of a video, evenly spaced, that are looked at

Problem = Literal["missing_file", "unreadable", "too_large", "wrong_type", "bad_boxes", "bad_mask"]


class Cell(NamedTuple):
    """What the check knows of a cell.

    Attributes:
        content: equal for equal contents, whatever the file is called; None for a missing or unreadable cell.
        length: seconds, steps or characters.
        dull: why the cell says nothing, if it does not.
        size: width and height of a picture, in pixels.
        labels: what a category, boxes or a mask name: a box its label, however often; a mask each id once.
        overhang: pixels by which a box reaches over the edge of its picture.
        narrowest: the shortest side of a box, in pixels.
        problem: why it cannot be read, if it cannot.
        error: the whole message of the problem.
    """

    content: str | None = None
    length: float | None = None
    dull: Literal["silent", "black", "constant", "wordless"] | None = None
    size: tuple[int, int] | None = None
    labels: tuple[str, ...] = ()
    overhang: float = 0.0
    narrowest: float = math.inf
    problem: Problem | None = None
    error: InputError | None = None


ABSENT = Cell()


class CellReader:
    """Reads cells; a file that many rows share is decoded once."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._known: dict[tuple[Kind, Path | Excerpt], Cell] = {}

    def read(self, cell: Any, kind: Kind, root: Path, where: str, size: tuple[int, int] | None = None) -> Cell:
        """What is in a cell. Never raises for bad data: that is what `problem` is for.

        Args:
            cell: as the table holds it.
            kind: of its column.
            root: where relative paths start.
            where: the place in the table, for messages.
            size: width and height of the picture that boxes or a mask belong to.
        """
        if cell is None:
            return ABSENT
        try:
            if kind in MEDIA:
                found = self._media(cell, kind, root, where)
            elif kind == "mask":
                found = self._mask(cell, root, where, size)
            elif kind == "boxes":
                found = self._boxes(cell, where, size)
            elif kind == "series":
                found = self._series(cell, root, where)
            elif kind == "number":
                found = Cell(content=repr(parse_number(cell, where)))
            else:
                found = self._words(cell, kind, where)
        except LimitError as error:
            found = Cell(problem="too_large", error=error)
        except InputError as error:
            found = Cell(problem=_problem(kind, error), error=error)
        return found

    def _media(self, cell: Any, kind: Kind, root: Path, where: str) -> Cell:
        if kind == "audio":
            sound = audio_source(cell, root, where)
            return self._once(kind, sound, lambda: self._audio(sound, where))
        seen = media_source(cell, root, where)
        read = self._video if kind == "video" else self._image
        return self._once(kind, seen, lambda: read(seen, where))

    def _once(self, kind: Kind, source: Path | bytes | Excerpt, read: Callable[[], Cell]) -> Cell:
        if isinstance(source, bytes):
            return read()
        if (kind, source) not in self._known:
            self._known[kind, source] = read()
        return self._known[kind, source]

    def _image(self, source: Path | bytes, where: str) -> Cell:
        pixels = decode_image(source, where, self.limits)
        return Cell(content=_sha256(source), dull=_dull(pixels), size=(pixels.shape[1], pixels.shape[0]))

    def _audio(self, source: Path | bytes | Excerpt, where: str) -> Cell:
        sampling_rate, seconds = audio_header(source, where, self.limits)
        wave = decode_audio(source, sampling_rate, where, self.limits)
        silent = float(np.abs(wave - wave.mean()).max()) < QUIET  # a constant offset is silence too
        content = _sha256(wave.tobytes() if isinstance(source, Excerpt) else source)
        return Cell(content=content, length=seconds, dull="silent" if silent else None)

    def _video(self, source: Path | bytes, where: str) -> Cell:
        clip = decode_video(source, FRAMES, where, limits=self.limits)
        return Cell(content=_sha256(source), length=clip.seconds, dull=_dull(clip.frames))

    def _mask(self, cell: Any, root: Path, where: str, size: tuple[int, int] | None) -> Cell:
        _, image = open_mask(cell, root, where, size=size, limits=self.limits)
        ids = np.unique(np.asarray(image)).tolist() if image.mode in IDS else []
        return Cell(content=_sha256(media_source(cell, root, where)), size=image.size, labels=tuple(map(str, ids)))

    def _boxes(self, cell: Any, where: str, size: tuple[int, int] | None) -> Cell:
        boxes = parse_boxes(cell, where)
        cut = boxes if size is None else boxes.within(*size, where)
        overhang = float(np.abs(boxes.corners - cut.corners).max(initial=0.0))
        content = cell if isinstance(cell, str) else json.dumps(cell)
        sides = boxes.corners[:, 2:] - boxes.corners[:, :2]
        narrowest = float(sides.min(initial=math.inf))
        return Cell(content=content, labels=boxes.labels, overhang=overhang, narrowest=narrowest)

    def _series(self, cell: Any, root: Path, where: str) -> Cell:
        values = decode_series(cell, root, where)
        flat = bool((values == values[0]).all()) and len(values) > 1
        content = hashlib.sha256(values.tobytes()).hexdigest()
        return Cell(content=content, length=float(len(values)), dull="constant" if flat else None)

    def _words(self, cell: Any, kind: Kind, where: str) -> Cell:
        if kind == "text" and isinstance(cell, list) and all(isinstance(one, str) for one in cell):
            cell = "\n".join(cell)  # several references
        if not isinstance(cell, str | int | float):
            raise InputError(f"{where}: {cell!r:.60} is not text.", "Mend the cell, or the column's kind.")
        text = str(cell)
        if len(text) > self.limits.text_characters:
            raise LimitError(
                f"{where}: the text has {len(text):,} characters; the limit is {self.limits.text_characters:,}.",
                "Shorten it.",
            )
        if kind == "category":
            return Cell(content=text, labels=(text,))
        dull: Literal["wordless"] | None = None if has_words(text) else "wordless"
        return Cell(content=" ".join(text.casefold().split()), length=float(len(text)), dull=dull)


def has_words(text: str) -> bool:
    """Whether a text holds a letter, a digit or a symbol, as an emoji is."""
    return any(unicodedata.category(character)[0] in "LNS" for character in text)


def _problem(kind: Kind, error: InputError) -> Problem:
    if ": there is no file " in error.what:
        return "missing_file"
    if kind in ("boxes", "mask"):
        return "bad_boxes" if kind == "boxes" else "bad_mask"
    wrong = kind == "number" or "is not the path" in error.what or "is not text" in error.what
    return "wrong_type" if wrong else "unreadable"


def _dull(pixels: UInt8[np.ndarray, "*frames h w 3"]) -> Literal["black", "constant"] | None:
    """Whether a picture, or every frame of a video, is black or of one colour."""
    if int(pixels.max()) <= DARK:
        return "black"
    return "constant" if bool((pixels == pixels[(0,) * (pixels.ndim - 1)]).all()) else None


def _sha256(source: Path | bytes) -> str:
    return hashlib.sha256(source if isinstance(source, bytes) else source.read_bytes()).hexdigest()
