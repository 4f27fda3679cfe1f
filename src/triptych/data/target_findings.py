"""What the data check looks for in the target: labels, numbers, boxes, masks, and texts that are to be written."""

import unicodedata
from collections import Counter
from collections.abc import Iterator

from triptych.data.cells import has_words
from triptych.data.findings import Finding, Level, Part, some, unreadable_cells
from triptych.data.schema import Field, in_order
from triptych.data.table import counted
from triptych.data.target import references

FEW_ROWS = 10  # of a label, in training
UNEVEN = 10.0  # rows of the most frequent label over those of the least frequent one
DAMAGED = {"\ufffd"}  # what a wrong encoding leaves behind, besides control characters


def label_problems(part: Part, train: Part | None, target: Field | None) -> Iterator[Finding]:
    """Answers that are missing, cannot be read, or could never be learned from the training rows."""
    if target is None or target.name not in part.table.names:
        return
    name, labels = target.name, part.table.column(target.name)
    missing = [i for i, label in enumerate(labels) if label is None]
    if missing:
        message, advice = f"{counted(len(missing), 'missing label')}.", "Fill them in or leave the rows out."
        yield part.finding("error", "missing_label", message, advice, column=name, rows=missing)
    yield from unreadable_cells(part, name, part.answers)
    if target.kind == "text":
        yield from _written(part, train, name)
    elif target.kind == "boxes":
        yield from _doubtful_boxes(part, name)
    elif target.kind == "audio":
        yield from _silent(part, name)
    if part.split == "train":
        yield from _class_sizes(part, target)
    elif train is not None:
        yield from _unseen(part, train, target)


def _silent(part: Part, name: str) -> Iterator[Finding]:
    """Sounds that are to be made, and are none."""
    rows = [i for i, cell in enumerate(part.answers) if cell.dull == "silent"]
    if rows:
        message, advice = f"{counted(len(rows), 'silent sound')}.", "Record them again, or leave the rows out."
        yield part.finding("error", "silent", message, advice, column=name, rows=rows)


def _unseen(part: Part, train: Part, target: Field) -> Iterator[Finding]:
    """Labels that no training row has. A mask may hold a pixel of one; a row or a box of one can never be right."""
    known = {label for cell in train.answers for label in cell.labels}
    rows = [i for i, cell in enumerate(part.answers) if not known.issuperset(cell.labels)]
    if rows:
        new = list(dict.fromkeys(repr(label) for i in rows for label in part.answers[i].labels if label not in known))
        message, advice = (
            f"no training row has the label {some(new)}.",
            "Add training rows with it or leave the row out.",
        )
        level: Level = "warning" if target.kind == "mask" else "error"
        yield part.finding(level, "unseen_label", message, advice, column=target.name, rows=rows)


def _written(part: Part, train: Part | None, name: str) -> Iterator[Finding]:
    """Texts without a word, damaged ones, and characters that a model could not learn to write."""
    told = [[] if cell is None else references(cell) for cell in part.table.column(name)]
    rows = [i for i, texts in enumerate(told) if not all(map(has_words, texts))]
    if rows:
        message, advice = f"{counted(len(rows), 'text')} without a word.", "Write what is meant, or leave the rows out."
        yield part.finding("error", "no_words", message, advice, column=name, rows=rows)
    characters = [set(cell.content or "") for cell in part.answers]
    rows = [i for i, found in enumerate(characters) if any(map(_damaged, found))]
    if rows:
        message = f"{counted(len(rows), 'text')} with characters that stand for none, as a wrong encoding leaves them."
        advice = "Save the texts as UTF-8 again, from where they were whole."
        yield part.finding("warning", "damaged_text", message, advice, column=name, rows=rows)
    if train is None or part is train:
        return
    known = set[str]().union(*(cell.content or "" for cell in train.answers))
    rows = [i for i, found in enumerate(characters) if not found <= known]
    if rows:
        new = sorted({repr(c) for i in rows for c in characters[i] - known})
        message = f"{counted(len(rows), 'text')} with characters that no training row has: {some(new)}."
        advice = "A model never writes them, and each counts as an error: write them otherwise, or add training rows."
        yield part.finding("warning", "unknown_characters", message, advice, column=name, rows=rows)


def _damaged(character: str) -> bool:
    return character in DAMAGED or unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")


def _doubtful_boxes(part: Part, name: str) -> Iterator[Finding]:
    """Boxes that go on outside their picture, and those that are narrower than a pixel."""
    rows = [i for i, cell in enumerate(part.answers) if cell.overhang > 0]
    if rows:
        most = max(cell.overhang for cell in part.answers)
        message = f"{counted(len(rows), 'row')} with boxes that reach over the edge of the picture (by up to {most:.3g} pixels)."
        advice = "They are cut off at the edge. If there are many, were they drawn on pictures of another size?"
        yield part.finding("warning", "overhanging_boxes", message, advice, column=name, rows=rows)
    rows = [i for i, cell in enumerate(part.answers) if cell.narrowest < 1]
    if rows:
        message, advice = (
            f"{counted(len(rows), 'row')} with boxes narrower than a pixel.",
            "Were they drawn by mistake?",
        )
        yield part.finding("warning", "narrow_boxes", message, advice, column=name, rows=rows)


def _class_sizes(train: Part, target: Field) -> Iterator[Finding]:
    """Training labels that are too few or too uneven."""
    counts = class_counts(train, target)
    things = {"boxes": "training boxes", "mask": "training masks"}.get(target.kind, "training rows")
    few = [f"{label!r} ({count})" for label, count in counts.items() if count < FEW_ROWS]
    if len(counts) == 1 and target.kind == "category":
        message = f"there is one label alone, {next(iter(counts))!r}."
        advice = "There is nothing to learn: bring rows with other labels."
        yield train.finding("error", "one_label", message, advice, column=target.name)
    elif few:
        message = f"{counted(len(few), 'label')} with fewer than {FEW_ROWS} {things}: {some(few)}."
        advice = "Bring more rows, or join labels. If there are many such labels, is the target a number?"
        yield train.finding("warning", "few_rows", message, advice, column=target.name)
    elif counts and max(counts.values()) > UNEVEN * min(counts.values()):
        most, least = max(counts, key=lambda label: counts[label]), min(counts, key=lambda label: counts[label])
        message = f"{most!r} has {counts[most]} {things}, {least!r} has {counts[least]}."
        advice = "Look at the scores of each class, not at accuracy alone."
        yield train.finding("warning", "uneven_classes", message, advice, column=target.name)


def class_counts(part: Part, target: Field | None) -> dict[str, int]:
    """How often each label stands in a split, in rows, boxes or masks; empty where the target has no labels."""
    counts = Counter(label for cell in part.answers for label in cell.labels)
    return {label: counts[label] for label in in_order(counts)} if target is not None else {}
