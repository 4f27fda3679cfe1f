"""The rows of a table as samples of words, pictures, sounds and clips, whatever the columns are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, UInt8

from triptych.data.decode import audio_source, decode_audio, decode_image, media_source
from triptych.data.schema import Schema, guess
from triptych.data.splits import read_splits
from triptych.data.table import Table
from triptych.data.target import references
from triptych.data.video import decode_video
from triptych.errors import InputError
from triptych.limits import LIMITS

ANSWERS = ("answer", "response", "completion", "output", "reply", "caption", "transcript", "transcription")
FRAMES = 8  # of a clip, evenly spaced


@dataclass(frozen=True)
class Sample:
    """One row. What it lacks is empty.

    Attributes:
        text: what a person would say.
        answer: what the model should say to it.
        images: RGB, [height, width, 3] each.
        sounds: one channel, [samples] each, at the rate that was asked for.
        clips: RGB frames, [frames, height, width, 3] each.
    """

    text: str = ""
    answer: str = ""
    images: tuple[UInt8[np.ndarray, "_ _ 3"], ...] = ()
    sounds: tuple[Float32[np.ndarray, " _"], ...] = ()
    clips: tuple[UInt8[np.ndarray, "frames _ _ 3"], ...] = ()

    @property
    def media(self) -> dict[str, int]:
        """How many there are of each medium that is there."""
        counts = {"image": len(self.images), "video": len(self.clips), "audio": len(self.sounds)}
        return {modality: count for modality, count in counts.items() if count}


@dataclass(frozen=True)
class Columns:
    """Which columns are read, by modality, in table order; `answer` names one of words or is None."""

    text: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    video: tuple[str, ...] = ()
    answer: str | None = None

    def of(self, modality: str) -> tuple[str, ...]:
        """The columns that hold a modality."""
        words = (*self.text, self.answer) if self.answer else self.text
        return {"text": words, "image": self.image, "audio": self.audio, "video": self.video}[modality]


def read_rows(data: Path | Sequence[Mapping[str, Any]], schema: Mapping[str, str] | None) -> tuple[Table, Columns]:
    """The rows to calibrate with (of split data the training rows, which nothing is judged by) and what their columns hold.

    Args:
        data: a table as `triptych.data` reads it, or its rows as mappings of column to cell.
        schema: kind or kind:role by column, stronger than a schema.yaml.

    Raises:
        InputError: it cannot be read, or no column holds anything that a model could read.
    """
    table, known = training_rows(data, schema or {})
    return table, _columns(known)


def training_rows(data: Path | Sequence[Mapping[str, Any]], schema: Mapping[str, str]) -> tuple[Table, Schema]:
    """The rows that nothing is judged by, and what the columns are for.

    Raises:
        InputError: they cannot be read.
    """
    if isinstance(data, Path):
        splits = read_splits(data, overrides=schema)
        return splits.table("train"), splits.schema
    table = _in_memory(data)
    return table, guess(table, overrides=schema)


def _in_memory(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as a table; its hash stays empty, for what is used of it is hashed later."""
    if not rows:
        raise InputError("There are no rows to calibrate with.", "Give at least one.")
    try:
        content = pa.Table.from_pylist([dict(row) for row in rows])
    except (pa.ArrowException, TypeError) as error:
        raise InputError(
            f"The rows cannot be read as a table: {error}.",
            "Give cells that are strings, numbers, paths of media or their encoded bytes.",
        ) from error
    return Table(content, Path(), Path("rows"), "", tuple(range(1, len(rows) + 1)))


def _columns(schema: Schema) -> Columns:
    """Short words that look like categories are words here, as numbers are not."""
    inputs = schema.inputs
    words = [f.name for f in inputs if f.kind == "text"] or [f.name for f in inputs if f.kind == "category"]
    target = schema.target
    answer = target.name if target is not None and target.kind in ("text", "category") else None
    if answer is None and len(inputs) > 1:
        spoken = [f.name for f in inputs if f.kind in ("text", "category")]
        answer = next((name for name in spoken if name.lower() in ANSWERS), None)
    return Columns(
        text=tuple(name for name in words if name != answer),
        image=tuple(f.name for f in inputs if f.kind == "image"),
        audio=tuple(f.name for f in inputs if f.kind == "audio"),
        video=tuple(f.name for f in inputs if f.kind == "video"),
        answer=answer,
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples by their place in a table, decoded when they are asked for.

    Attributes:
        table: the rows.
        columns: what its columns hold.
        reads: modalities that the model reads; columns of others are left alone.
        sampling_rate: in Hz, of the sounds.
    """

    table: Table
    columns: Columns
    reads: frozenset[str] = field(default=frozenset({"text", "image", "audio", "video"}))
    sampling_rate: int = 16_000

    def __len__(self) -> int:
        return len(self.table)

    def read(self, i: int) -> Sample:
        """The sample of row `i` (from 0).

        Raises:
            InputError: a cell cannot be read; names the row and the column.
        """
        cells = self.table.row(i)

        def present(modality: str) -> list[tuple[Any, str]]:
            names = self.columns.of(modality) if modality in self.reads else ()
            return [(cells[n], f"{self.table.place(i)}, column {n}") for n in names if cells[n] is not None]

        def sources(modality: str) -> list[tuple[Path | bytes, str]]:
            return [(media_source(cell, self.table.root, where), where) for cell, where in present(modality)]

        answer = cells[self.columns.answer] if self.columns.answer else None
        if answer is not None and self.table.kinds:  # of a layout, which may say the same in several ways
            answer = next(iter(references(answer)), answer)
        text = [cells[name] for name in self.columns.text if cells[name] is not None]
        return Sample(
            text="\n".join(str(cell) for cell in text)[: LIMITS.text_characters],
            answer="" if answer is None else str(answer)[: LIMITS.text_characters],
            images=tuple(decode_image(source, where) for source, where in sources("image")),
            sounds=tuple(
                decode_audio(audio_source(cell, self.table.root, where), self.sampling_rate, where)
                for cell, where in present("audio")
            ),
            clips=tuple(decode_video(source, FRAMES, where).frames for source, where in sources("video")),
        )
