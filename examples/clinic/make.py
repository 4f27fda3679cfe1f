"""Views of blood smears with an order: are there more cells of the ordered kind than its limit? (BCCD, MIT)

    python -m examples.clinic.make

A view is a quarter of one of BCCD's photos, and what is in it is counted in BCCD's boxes; the orders are made up, and every order goes
with every view. Writes runs/clinic/data.
"""

import random
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.packs import unpack, write_tables
from benchmarks.tasks.dense import SCALE, SIDES
from PIL import Image

COLUMNS = {"view": "image", "ordered": "category", "finding": "category:target", "photo_id": "category:group"}
KINDS = {"red cells": "RBC", "white cells": "WBC", "platelets": "Platelets"}  # as BCCD names them
LIMITS = {"red cells": (2.0, 3.5), "white cells": (0.1, 0.5), "platelets": (0.1, 0.5)}  # left out between the two
FINDINGS = ("within", "above")
SPLITS = {"train": "train", "valid": "val", "test": "test"}  # as BCCD names them
WIDTH, HEIGHT = 160, 120  # of a view, in pixels
Box = tuple[str, list[float]]


def make(folder: Path) -> Path:
    """The tables, by BCCD's own splits; a photo is in one of them alone."""
    media = unpack("bccd_320.zip", folder / "media")
    (folder / "views").mkdir(exist_ok=True)

    def views(split: str) -> Iterator[dict[str, Any]]:
        for name in (media / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
            things = ET.parse(media / "Annotations" / f"{name}.xml").iter("object")  # noqa: S314 - a pack of our own
            boxes: list[Box] = [
                (str(thing.findtext("name")), [SCALE * float(thing.findtext(f"bndbox/{side}", "")) for side in SIDES])
                for thing in things
            ]
            photo = Image.open(media / "JPEGImages" / f"{name}.jpg")
            for x, y in ((x, y) for y in (0, HEIGHT) for x in (0, WIDTH)):
                view = f"views/{name}-{x}-{y}.png"
                photo.crop((x, y, x + WIDTH, y + HEIGHT)).save(folder / view)
                for ordered, (low, high) in LIMITS.items():
                    there = amount(boxes, KINDS[ordered], x, y)
                    if not low < there < high:
                        finding = FINDINGS[there >= high]
                        yield {"view": view, "ordered": ordered, "finding": finding, "photo_id": name}

    return write_tables(folder, COLUMNS, **{split: balanced(list(views(named))) for split, named in SPLITS.items()})


def balanced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many rows of either finding for every order, drawn from the rows of that order."""
    draw, kept = random.Random(0), []  # noqa: S311 - views, not secrets
    for ordered in LIMITS:
        found = {
            finding: [row for row in rows if (row["ordered"], row["finding"]) == (ordered, finding)]
            for finding in FINDINGS
        }
        kept += [row for these in found.values() for row in draw.sample(these, min(map(len, found.values())))]
    return kept


def amount(boxes: list[Box], kind: str, x: int, y: int) -> float:
    """Cells of a kind in the view whose corner is x, y; one that is cut off counts by the share that is inside."""
    found = 0.0
    for name, (x0, y0, x1, y1) in boxes:
        across, down = min(x1, x + WIDTH) - max(x0, x), min(y1, y + HEIGHT) - max(y0, y)
        if name == kind and across > 0 and down > 0:
            found += across * down / ((x1 - x0) * (y1 - y0))
    return found


if __name__ == "__main__":
    print(make(Path("runs/clinic/data")))
