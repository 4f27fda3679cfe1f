"""Which rows train, and which are held back: by whole photo, speaker, clip or sentence."""

import random
from pathlib import Path
from typing import Any

VALID = 0.1  # of the training photos, questions or clips
TAKES = {"test": range(5), "valid": range(5, 10), "train": range(10, 50)}  # of FSDD; 0-4 are its official test

Rows = list[dict[str, Any]]


def held_back(names: list[Any], seed: int = 0) -> set[Any]:
    """The share `VALID` of the names, drawn by the seed."""
    return set(random.Random(seed).sample(sorted(set(names)), max(1, round(VALID * len(set(names))))))  # noqa: S311


def apart(rows: Rows, group: str) -> tuple[Rows, Rows]:
    """Training rows, and validation rows that share no group with them."""
    back = held_back([row[group] for row in rows])
    return [row for row in rows if row[group] not in back], [row for row in rows if row[group] in back]


def voices_of(media: Path) -> dict[tuple[str, int], list[str]]:
    """Paths of FSDD's clips by split and digit, as a table beside `media` names them."""
    found: dict[tuple[str, int], list[str]] = {}
    for file in sorted(media.rglob("*.flac")):
        digit, _, take = file.stem.split("_")
        split = next(name for name, takes in TAKES.items() if int(take) in takes)
        found.setdefault((split, int(digit)), []).append(str(file.relative_to(media.parent)))
    return found
