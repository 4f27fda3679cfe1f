"""The column that a model learns: a label, a number, a text, a sound or a picture to be made, what lies over a picture, or what
belongs together.

A label or a number is one value a row; a text is one row of token ids a reference, 0 after its end, and a cell may hold several
references: a list, or one a line. A sound is its spectrogram (see `vocoder`), a picture its pixels. Masks and boxes are those of
`overlay`. An identity is numbered within its table, for a model never learns it by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from triptych.data.audio import AudioFeatures
from triptych.data.frame import Frame
from triptych.data.image import ImageFeatures
from triptych.data.overlay import Overlay, fit_overlay
from triptych.data.schema import Field, in_order
from triptych.data.table import Table
from triptych.data.tabular import parse_number
from triptych.data.text import TextFeatures
from triptych.data.vocoder import fit_sound, spectrograms
from triptych.errors import InputError
from triptych.recipe import parse
from triptych.structure import Settings

Labels = (
    Int64[np.ndarray, " rows"]
    | Float32[np.ndarray, " rows"]
    | Int64[np.ndarray, "rows references tokens"]
    | Float32[np.ndarray, "rows frames mels"]
    | UInt8[np.ndarray, "rows channels height width"]
    | UInt8[np.ndarray, "rows height width"]
    | Float32[np.ndarray, "rows boxes 5"]
)


class Target(Settings):
    """A target column: `labels` in the order of their indices, `text` of a text what `TextFeatures.state` says, `media` of a sound
    or a picture the same of its features, `overlay` of masks and boxes how they lie over their picture.
    """

    name: str
    kind: Literal["category", "number", "text", "audio", "image", "mask", "boxes", "identity"]
    labels: tuple[str, ...] = ()
    text: dict[str, Any] | None = None
    media: dict[str, Any] | None = None
    overlay: Overlay | None = None

    @property
    def features(self) -> TextFeatures:
        """How a text target is cut into tokens."""
        if self.text is None:
            raise InputError(
                f"The task learns texts, but the target {self.name} is a {self.kind}.",
                f"Say `{self.name}: text:target`, or choose another task.",
            )
        return TextFeatures.from_state(self.text)

    @property
    def sound(self) -> AudioFeatures:
        """How a sound becomes a spectrogram."""
        return AudioFeatures.from_state(self._media("audio", "sounds"))

    @property
    def picture(self) -> ImageFeatures:
        """How a picture becomes pixels."""
        return ImageFeatures.from_state(self._media("image", "pictures"))

    def _media(self, kind: str, made: str) -> dict[str, Any]:
        if self.media is None or self.kind != kind:
            raise InputError(
                f"The task makes {made}, but the target {self.name} is a {self.kind}.",
                f"Say `{self.name}: {kind}:target`, or choose another task.",
            )
        return self.media

    def encode(self, table: Table) -> Labels:
        """Label indices, numbers, token ids, spectrograms, pixels, masks, boxes or the numbers of identities; all rows are held in memory.

        Raises:
            InputError: a missing cell, an unknown label, no number, no word, no readable file, or a mask or boxes that do not fit
                their picture; the message names table, line and column.
        """
        cells = table.column(self.name)
        for i, cell in enumerate(cells):
            if cell is None:
                raise InputError(
                    f"{table.place(i)}, column {self.name}: the cell is empty, and it is what the model learns.",
                    "Fill it in or leave the row out.",
                )
        places = [f"{table.place(i)}, column {self.name}" for i in range(len(cells))]
        if self.kind == "number":
            values = [parse_number(cell, place) for cell, place in zip(cells, places, strict=True)]
            return np.array(values, dtype=np.float32)
        if self.kind == "text":
            return self._ids(cells, places)
        if self.media is not None:
            return self._made(cells, table.root, places)
        if self.overlay is not None:
            if self.kind == "mask":
                return self.overlay.masks(table, self.name)
            return self.overlay.boxes(table, self.name, self.labels)
        known = dict.fromkeys(map(str, cells)) if self.kind == "identity" else self.labels
        ids = {label: place for place, label in enumerate(known)}
        for cell, place in zip(cells, places, strict=True):
            if str(cell) not in ids:
                raise InputError(
                    f"{place}: the label {str(cell)!r} is not among the {len(ids)} labels of the training rows.",
                    "Add training rows with it or leave the row out.",
                )
        return np.array([ids[str(cell)] for cell in cells], dtype=np.int64)

    def _made(self, cells: list[Any], root: Path, places: list[str]) -> Labels:
        """The spectrograms of sounds, or the pixels of pictures."""
        if self.kind == "audio":
            return spectrograms(self.sound, cells, root, places)
        features = self.picture
        return np.stack([features.load(cell, root, place).numpy() for cell, place in zip(cells, places, strict=True)])

    def _ids(self, cells: list[Any], places: list[str]) -> Int64[np.ndarray, "rows references tokens"]:
        """Nothing is cut off here: a reference that is longer than what a model may write counts against the model."""
        features = self.features
        encoded = [
            [features.tokenizer.encode(features.clean(text, place)) for text in references(cell)]
            for cell, place in zip(cells, places, strict=True)
        ]
        for told, place in zip(encoded, places, strict=True):
            if not all(told) or not told:
                raise InputError(
                    f"{place}: a text without a word cannot be learned.", "Fill it in or leave the row out."
                )
        shape = len(cells), max(map(len, encoded)), max(len(ids) for told in encoded for ids in told)
        filled = np.zeros(shape, dtype=np.int64)
        for row, told in enumerate(encoded):
            for place_of, ids in enumerate(told):
                filled[row, place_of, : len(ids)] = ids
        return filled


def references(cell: Any) -> list[str]:
    """The texts of a cell: those of a list, or of each line."""
    return [str(text) for text in cell] if isinstance(cell, list | tuple) else str(cell).splitlines()


def fit_target(
    table: Table, field: Field | None, settings: Mapping[str, Any], frames: Mapping[str, Frame]
) -> Target | None:
    """The target as the training rows show it: labels (whole numbers in their order, words sorted), a text's vocabulary, the length
    of sounds.

    Args:
        table: the training rows.
        field: the target's column, None where there is none.
        settings: of `TextFeatures`, for a text; unless they say otherwise its tokens are words, and no training text is cut. Of
            `AudioFeatures` for a sound, of `ImageFeatures` for a picture, of `OverlaySettings` for masks and boxes.
        frames: what is seen of each column of pictures.

    Raises:
        InputError: an empty column, or settings that do not fit.
    """
    if field is None:
        return None
    if settings and field.kind in ("number", "category"):
        raise InputError(
            f"There are settings for the target {field.name}, but it is a {field.kind}, which needs none.",
            f"Leave model.target out, or say `{field.name}: text:target`.",
        )
    if field.kind in ("number", "identity"):
        return Target(name=field.name, kind=field.kind)
    cells = [cell for cell in table.column(field.name) if cell is not None]
    if not cells:
        raise InputError(
            f"{table.source.name}, column {field.name} is empty, and it is what the model learns.", "Fill it in."
        )
    where = f"{table.source.name}, column {field.name}"
    if field.kind in ("mask", "boxes"):
        overlay, known = fit_overlay(table, field.name, field.kind, settings, frames)
        return Target(name=field.name, kind=field.kind, labels=known, overlay=overlay)
    if field.kind == "text":
        texts = [text for cell in cells for text in references(cell)]
        config = parse(TextFeatures.Config, {"level": "word", **settings}, f"The features of {field.name}")
        features = TextFeatures(config).fit(texts, where=where)
        if config.length is None:
            longest = max(len(features.tokenizer.encode(features.clean(text, where))) for text in texts)
            features = TextFeatures(config.model_copy(update={"length": longest}), features.tokenizer)
        return Target(name=field.name, kind="text", text=features.state())
    if field.kind in ("audio", "image"):
        return Target(name=field.name, kind=field.kind, media=_fit_media(field, cells, settings, table.root, where))
    if field.kind != "category":
        raise InputError(
            f"{where}: nothing here learns to make {field.kind} yet.",
            "Choose a target that is a label, a number, a text, a sound, a picture, masks, boxes or an identity.",
        )
    return Target(name=field.name, kind="category", labels=tuple(in_order({str(cell) for cell in cells})))


def _fit_media(field: Field, cells: list[Any], settings: Mapping[str, Any], root: Path, where: str) -> dict[str, Any]:
    """How sounds or pictures are seen that are to be made."""
    said = f"The features of {field.name}"
    if field.kind == "image":
        return ImageFeatures(parse(ImageFeatures.Config, dict(settings), said)).state()
    return fit_sound(parse(AudioFeatures.Config, dict(settings), said), cells, root, where).state()
