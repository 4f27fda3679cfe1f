"""Tables whose target lies over a picture: masks of street scenes, boxes around blood cells."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.packs import unpack, write_tables
from triptych.data.boxes import write_boxes

SIDES = ("xmin", "ymin", "xmax", "ymax")
SCALE = 0.5  # of the pack's photos, whose boxes are for twice their size


def camvid(folder: Path) -> Path:
    """Eleven classes in frames of four drives through Cambridge, at 240 x 180 (CamVid; non-commercial)."""
    media = unpack("camvid_240x180.zip", folder / "media")

    def rows(split: str) -> Iterator[dict[str, Any]]:
        for photo in sorted((media / split).glob("*.jpg")):
            mask = f"media/{split}annot/{photo.stem}.png"
            yield {"photo": f"media/{split}/{photo.name}", "mask": mask, "frame_id": photo.stem}

    schema = {"photo": "image", "mask": "mask:target", "frame_id": "category:ignore"}
    return write_tables(folder, schema, train=rows("train"), valid=rows("val"), test=rows("test"))


def bccd(folder: Path) -> Path:
    """Red and white cells and platelets in smears of blood, at 320 x 240 (BCCD, MIT)."""
    media = unpack("bccd_320.zip", folder / "media")

    def rows(split: str) -> Iterator[dict[str, Any]]:
        for name in (media / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
            things = ET.parse(media / "Annotations" / f"{name}.xml").iter("object")  # noqa: S314 - a pack of our own
            boxes = []
            for thing in things:
                x0, y0, x1, y1 = (SCALE * float(thing.findtext(f"bndbox/{side}", "")) for side in SIDES)
                if x0 < x1 and y0 < y1:  # two of the pack have no area
                    boxes.append((str(thing.findtext("name")), [x0, y0, x1, y1]))
            yield {"photo": f"media/JPEGImages/{name}.jpg", "cells": write_boxes(boxes), "photo_id": name}

    schema = {"photo": "image", "cells": "boxes:target", "photo_id": "category:ignore"}
    return write_tables(folder, schema, train=rows("train"), valid=rows("val"), test=rows("test"))
