"""Masks and boxes drawn over the picture that they lie over."""

from colorsys import hls_to_rgb
from typing import Any

import numpy as np
from jaxtyping import UInt8

from triptych.data.frame import VOID
from triptych.data.overlay import Overlay

Pixels = UInt8[np.ndarray, "h w 3"]

TURN = 0.618033988749895  # golden section: hues that follow each other by it lie far apart, however many there are
VEIL = 0.55  # how much of a pixel is its class's colour


def drawn(pixels: Pixels, overlay: Overlay, task: Any, row: np.ndarray) -> Pixels:
    """A picture under what was said of it.

    Args:
        pixels: of the whole picture.
        overlay: where the answer lies on the picture.
        task: that answered.
        row: what `settle` kept of the answer, or the true mask or boxes as the target encodes them.
    """
    height, width = pixels.shape[:2]
    if overlay.kind == "mask":
        return under_mask(pixels, overlay.frame.mask_out(row, width, height))
    return under_boxes(pixels, task.config.labels, in_pixels(task.listed(row), overlay, width, height))


def in_pixels(boxes: list[dict[str, Any]], overlay: Overlay, width: int, height: int) -> list[dict[str, Any]]:
    """The same boxes with their corners in pixels of a picture, to a tenth."""
    corners = np.array([box["box"] for box in boxes], dtype=np.float32).reshape(-1, 4)
    placed = overlay.frame.boxes_out(corners, width, height).round(1).astype(float).tolist()
    return [{**box, "box": [round(x, 1) for x in at]} for box, at in zip(boxes, placed, strict=True)]


def under_mask(pixels: Pixels, ids: UInt8[np.ndarray, "h w"]) -> Pixels:
    """The picture with every pixel tinted by its class; void is left as it is."""
    tint = np.array([colour(i) for i in range(VOID)] + [(0, 0, 0)], dtype=np.float32)[ids]
    mixed = np.where((ids == VOID)[..., None], pixels, (1 - VEIL) * pixels + VEIL * tint)
    return mixed.round().astype(np.uint8)


def under_boxes(pixels: Pixels, labels: tuple[str, ...], boxes: list[dict[str, Any]]) -> Pixels:
    """The picture with a rectangle around each thing and its label at the upper left corner."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        shade = colour(labels.index(box["label"]))
        pen.rectangle(box["box"], outline=shade, width=max(1, round(min(picture.size) / 160)))
        pen.text((box["box"][0] + 2, box["box"][1]), box["label"], fill=shade)
    return np.asarray(picture)


def colour(index: int) -> tuple[int, int, int]:
    """Red, green and blue of a class."""
    red, green, blue = hls_to_rgb(index * TURN % 1.0, 0.45 + 0.15 * (index % 2), 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
