"""Pictures of one coloured shape and questions about them: a fifth of easy-VQA (MIT), enough to learn from in two minutes.

    python -m examples.education.make

Writes runs/education/data.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.packs import inside, unpack, write_tables

COLUMNS = {"picture": "image", "question": "text", "answer": "category:target", "picture_id": "category:group"}
PICTURES = {"train": ("train", range(800)), "valid": ("train", range(800, 860)), "test": ("test", range(150))}


def make(folder: Path) -> Path:
    """The tables: all questions about these pictures."""
    unpack("easyvqa.zip", folder / "media")
    rows: dict[str, list[dict[str, Any]]] = {}
    for split, (source, pictures) in PICTURES.items():
        rows[split] = [
            {"picture": f"media/{source}/{n}.png", "question": asked, "answer": answer, "picture_id": f"{source} {n}"}
            for asked, answer, n in json.loads(inside(folder / "media", f"{source}/questions.json.gz"))
            if n in pictures
        ]
    return write_tables(folder, COLUMNS, **rows)


if __name__ == "__main__":
    print(make(Path("runs/education/data")))
