"""Tables with the columns that recipes learn from and a few dozen rows, drawn here: noise, tones and short texts, no pack needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from benchmarks.packs import write_tables
from benchmarks.tasks.clips import encoded
from PIL import Image

from triptych.data.boxes import write_boxes

ROWS = {"train": 24, "valid": 8, "test": 8}
HEIGHT, WIDTH = 24, 32  # of pictures, in pixels
RATE = 8_000
WORDS = ("red", "green", "blue", "ring", "square", "one", "two", "three")
CLASSES = 12  # ids in masks; the last is CamVid's void
GROUP = "category:group"

# By the folder that a recipe names, as `benchmarks.tasks.tables` writes them.
COLUMNS = {
    "an4": {"mfcc": "series", "transcript": "text:target", "speaker": GROUP},
    "bccd": {"photo": "image", "cells": "boxes:target", "photo_id": "category:ignore"},
    "camvid": {"photo": "image", "mask": "mask:target", "frame_id": "category:ignore"},
    "captions": {"photo": "image", "caption": "text:target", "photo_id": GROUP},
    "classic": {"picture": "image", "words": "text", "group": "category:target"},
    "digits": {"picture": "image", "voice": "audio", "digit": "category:target", "clip_id": GROUP},
    "drawing": {"caption": "text", "picture": "image:target"},
    "easy_vqa": {"picture": "image", "question": "text", "answer": "category:target", "picture_id": GROUP},
    "emoji": {"picture": "image", "words": "text", "emoji_id": "identity:target"},
    "emotion": {"voice": "audio", "emotion": "category:target", "speaker": GROUP},
    "matching": {"photo": "image", "sentence": "text", "verdict": "category:target", "photo_id": GROUP},
    "moving": {"film": "video", "motion": "category:target"},
    "nlvr": {"picture": "image", "sentence": "text", "holds": "category:target", "sentence_id": GROUP},
    "odd_one_out": {"photo": "image", "voice": "audio", "word": "text", "odd": "category:target"},
    "order": {"quantity": "image", "price": "number", "customer": "category", "total": "number:target"},
    "retrieval": {"photo": "image", "sentence": "text", "photo_id": "identity:target"},
    "signs": {"photo": "image", "voice": "audio", "digit": "category:target", "photo_id": GROUP},
    "sounds": {"sound": "audio", "kind": "category:target", "clip_id": GROUP},
    "speech": {"word": "text", "speaker": "category", "voice": "audio:target"},
    "speech_one_voice": {"word": "text", "speaker": "category:ignore", "voice": "audio:target"},
    "spoken": {"voice": "audio", "transcript": "text:target", "speaker": "category"},
    "translation": {"words": "text", "into": "category", "translation": "text:target", "number_id": GROUP},
}


def table(folder: Path, columns: dict[str, str]) -> Path:
    """A table of these columns: no two of its rows are alike, but for their classes."""
    folder.mkdir()
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in ROWS}
    for split, count in ROWS.items():
        for _ in range(count):
            row = sum(map(len, rows.values()))
            rows[split].append({name: _cell(kind, folder, f"{name}-{row}", row) for name, kind in columns.items()})
    return write_tables(folder, columns, **rows)


def _cell(kind: str, folder: Path, name: str, row: int) -> Any:
    """What stands in a row; media are written into `folder`."""
    held, _, role = kind.partition(":")
    if role in ("group", "ignore"):
        return name
    if held in FILES:
        suffix, write = FILES[held]
        write(folder / f"{name}{suffix}", row)
        return f"{name}{suffix}"
    if name.startswith("caption") and role == "target":
        return f"{_text(row)}\n{_text(row)} again"  # in two wordings
    assert held in CELLS, f"No cell of the kind {held} is drawn here: add it."
    return CELLS[held](row)


def _text(row: int) -> str:
    return " ".join(WORDS[int(digit)] for digit in f"{row:03o}")


def _box(row: int) -> str:
    x, y = row % (WIDTH // 2), row % (HEIGHT // 2)
    return write_boxes([(WORDS[row % 3], [x, y, x + 12.0, y + 8.0])])


def _noise(row: int, *shape: int, below: int = 256) -> np.ndarray:
    return np.random.default_rng(row).integers(0, below, shape, np.uint8)


def _tone(file: Path, row: int) -> None:
    seconds = np.arange(0.4 * RATE) / RATE
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * (200 + 40 * row) * seconds), RATE)


CELLS: dict[str, Callable[[int], Any]] = {
    "category": lambda row: WORDS[row % 3],
    "identity": lambda row: f"thing {row}",
    "number": lambda row: 1.5 * row,
    "text": _text,
    "boxes": _box,
}
FILES: dict[str, tuple[str, Callable[[Path, int], Any]]] = {
    "image": (".png", lambda file, row: Image.fromarray(_noise(row, HEIGHT, WIDTH, 3)).save(file)),
    "mask": (".png", lambda file, row: Image.fromarray(_noise(row, HEIGHT, WIDTH, below=CLASSES)).save(file)),
    "audio": (".wav", _tone),
    "series": (".npy", lambda file, row: np.save(file, np.random.default_rng(row).standard_normal((120, 13)))),
    "video": (".mp4", lambda file, row: file.write_bytes(encoded(_noise(row, 6, 16, 16, 3)))),
}
