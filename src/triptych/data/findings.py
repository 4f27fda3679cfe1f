"""What the data check looks for in the inputs; each function yields its findings about one split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from triptych.data.cells import Cell
from triptych.data.decode import MEDIA
from triptych.data.schema import Field, Schema
from triptych.data.table import Table, counted
from triptych.structure import Settings

Level = Literal["error", "warning", "note"]
PROBLEMS = {
    "missing_file": "files are missing",
    "unreadable": "files cannot be read",
    "too_large": "cells are too large",
    "wrong_type": "cells are of the wrong type",
    "bad_boxes": "cells hold boxes that cannot be right",
    "bad_mask": "masks cannot be used",
}
DULL = {"silent": "silent", "black": "all-black", "constant": "one-coloured", "wordless": "wordless"}
MADE = ("audio", "image")  # targets with no right answer: a word may be said in many ways
NOUNS = {"audio": "sound"}  # where the kind is not the word
CUT = {  # what becomes of a cell that is too long
    "audio": "Their end is cut off unless `seconds` is raised.",
    "video": "Their frames lie further apart, or with a `rate` their end is cut off unless `frames` is raised.",
    "series": "Their end is cut off unless `steps` is raised.",
    "text": "Their end is cut off unless `length` is raised.",
}


class Finding(Settings):
    """One thing the check found.

    Attributes:
        level: error, warning or note.
        code: what it is, for programs.
        split: where.
        column: where, if it concerns one column.
        rows: which rows (places in the split's table, from 0), if it concerns some.
        message: for people; names file and line.
        next: what to do.
    """

    level: Level
    code: str
    split: str
    column: str | None = None
    rows: tuple[int, ...] = ()
    message: str
    next: str

    def __str__(self) -> str:
        return f"{self.level}: {self.message} {self.next}".rstrip()


@dataclass(frozen=True)
class Part:
    """One split as the check sees it: its rows and what was read from the cells of each input column and of the target."""

    split: str
    table: Table
    cells: dict[str, list[Cell]]
    answers: list[Cell]

    @property
    def keys(self) -> list[tuple[str | None, ...]]:
        """What stands in each row, comparable across tables."""
        return list(zip(*([cell.content for cell in column] for column in self.cells.values()), strict=True))

    def finding(
        self, level: Level, code: str, message: str, advice: str, *, column: str | None = None, rows: Sequence[int] = ()
    ) -> Finding:
        """A finding whose message starts with where it is: the rows, else the file; and the column."""
        where = self.table.places(rows) if rows else self.table.source.name
        message = f"{where}, column {column}: {message}" if column else f"{where}: {message}"
        return self.verbatim(level, code, message, advice, column=column, rows=rows)

    def verbatim(
        self, level: Level, code: str, message: str, advice: str, *, column: str | None = None, rows: Sequence[int] = ()
    ) -> Finding:
        """A finding with a message that says itself where it is."""
        return Finding(
            level=level, code=code, split=self.split, column=column, rows=tuple(rows), message=message, next=advice
        )


def unreadable_cells(part: Part, name: str, cells: list[Cell]) -> Iterator[Finding]:
    """Cells that are missing files, cannot be decoded, are too large or of the wrong type."""
    for code, said in PROBLEMS.items():
        found = [(i, cell.error) for i, cell in enumerate(cells) if cell.problem == code and cell.error is not None]
        rows = [i for i, _ in found]
        if len(found) == 1:
            yield part.verbatim("error", code, found[0][1].what, found[0][1].next, column=name, rows=rows)
        elif found:
            message = f"{len(found)} {said}. The first: {found[0][1].what}"
            yield part.finding("error", code, message, found[0][1].next, column=name, rows=rows)


def dull_cells(part: Part, field: Field, cells: list[Cell]) -> Iterator[Finding]:
    """Silent sounds, black and one-coloured images and videos, empty cells, columns that say nothing."""
    name = field.name
    for code, said in DULL.items():
        rows = [i for i, cell in enumerate(cells) if cell.dull == code]
        if rows:
            advice = "Replace them, or leave the cells empty: a missing cell is learned as missing."
            message = f"{counted(len(rows), f'{said} {NOUNS.get(field.kind, field.kind)}')}."
            yield part.finding("warning", code, message, advice, column=name, rows=rows)
    absent = sum(cell.content is None and cell.problem is None for cell in cells)
    if absent == len(cells):
        advice = "Fill the column in or give it the role `ignore`."
        yield part.finding("warning", "empty_column", "all cells are empty.", advice, column=name)
    elif absent:
        message = f"{absent} of {len(cells)} cells are empty."
        yield part.finding("note", "absent_cells", message, "They count as absent.", column=name)
    if len(cells) > 1 and len({cell.content for cell in cells}) == 1 and cells[0].content is not None:
        advice = "Give the column the role `ignore`."
        yield part.finding("warning", "constant_column", "all cells are equal.", advice, column=name)


def length_outliers(part: Part, field: Field, cells: list[Cell]) -> Iterator[Finding]:
    """Cells beyond both the third quartile + 3 interquartile ranges (Tukey's outer fence) and twice the median."""
    lengths = np.array([np.nan if cell.length is None else cell.length for cell in cells])
    if np.isfinite(lengths).sum() < 20:
        return
    lower, median, upper = np.nanquantile(lengths, [0.25, 0.5, 0.75])
    rows = np.flatnonzero(lengths > max(upper + 3 * (upper - lower), 2 * median)).tolist()
    if rows:
        unit = {"text": "characters", "series": "steps"}.get(field.kind, "s")
        message = (
            f"{counted(len(rows), 'cell')} far longer than the others "
            f"(up to {np.nanmax(lengths):.4g} {unit}; half of all have at most {median:.4g})."
        )
        advice = CUT[field.kind]
        yield part.finding("note", "length_outliers", message, advice, column=field.name, rows=rows)


def empty_and_repeated_rows(part: Part, target: Field | None) -> Iterator[Finding]:
    """Rows with nothing in them, and rows that stand in the table twice; five captions of one photo are five rows."""
    written = target is not None and target.kind in ("text", *MADE)
    answers = [cell.content for cell in part.answers] if written else [None] * len(part.table)
    unread = {i for column in part.cells.values() for i, cell in enumerate(column) if cell.problem is not None}
    seen: set[tuple[tuple[str | None, ...], str | None]] = set()
    empty, again = [], []
    for i, key in enumerate(zip(part.keys, answers, strict=True)):
        if all(content is None for content in key[0]):
            if i not in unread:
                empty.append(i)
        elif key in seen:
            again.append(i)
        seen.add(key)
    if empty:
        yield part.finding("error", "empty_row", "all inputs are empty.", "Fill in at least one.", rows=empty)
    if again:
        message = f"{counted(len(again), 'row')} with the same inputs as an earlier row."
        yield part.finding("note", "duplicate_rows", message, "Repeated rows weigh more in training.", rows=again)


def rows_in_training(part: Part, train: Part, schema: Schema) -> Iterator[Finding]:
    """Rows and files that training has too."""
    trained = {key: i for i, key in reversed(list(enumerate(train.keys))) if any(key)}
    made = schema.target is not None and schema.target.kind in MADE
    rows = [] if made else [i for i, key in enumerate(part.keys) if key in trained]
    if rows:
        kinds = {field.kind for field in schema.inputs}  # categories repeat, numbers may, and texts where few are asked
        few = kinds <= {"category", "number", "text"} and 2 * len(set(train.keys)) <= len(train.keys)
        usual = kinds <= {"category", "number"} or few
        level: Level = "note" if kinds == {"category"} else "warning" if usual else "error"
        twin = train.table.place(trained[part.keys[rows[0]]])
        several = f"{len(rows)} rows are training rows too (the first is {twin})."
        message = f"the row is a training row too ({twin})." if len(rows) == 1 else several
        yield part.finding(level, "row_in_training", message, "Leave it out of one of the two.", rows=rows)
    for field in schema.inputs:
        if field.kind in (*MEDIA, "series"):
            known = {cell.content for cell in train.cells[field.name]} - {None}
            told = set(rows)
            files = [i for i, c in enumerate(part.cells[field.name]) if c.content in known and i not in told]
            if files:
                message = f"{counted(len(files), 'row')} with a file that training rows have too."
                advice = "Figures will be better than for new files: split by file."
                yield part.finding("warning", "media_in_training", message, advice, column=field.name, rows=files)


def groups_in_training(part: Part, train: Part, schema: Schema) -> Iterator[Finding]:
    """Groups (a speaker, a photo's owner) that training has too."""
    for field in schema.groups:
        if field.name not in part.table.names:
            continue
        here = list(dict.fromkeys(str(cell) for cell in part.table.column(field.name) if cell is not None))
        known = {str(cell) for cell in train.table.column(field.name) if cell is not None}
        shared = [group for group in here if group in known]
        if shared:
            message = f"{len(shared)} of {len(here)} groups stand in the training rows too ({some(shared)})."
            advice = "Figures will be better than for new groups: split by group, or say so beside them."
            yield part.finding("warning", "group_in_training", message, advice, column=field.name)


def some(items: Sequence[str]) -> str:
    """The first five."""
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
