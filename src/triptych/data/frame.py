"""What a model sees of a picture, so that masks and boxes over the picture can be brought there and back.

Seen is a rectangle of the picture, [x0, y0, x1, y1] in its pixels: the middle of it (`crop`), all of it (`squash`), or more than it
(`pad`). Boxes over what is seen are shares of its sides, from 0 to 1.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from triptych.structure import Settings

Resize = Literal["crop", "pad", "squash"]
VOID = 255  # the id of pixels that no class is asked of


class Frame(Settings):
    """Height and width of what the model reads, and what happens to another aspect ratio."""

    size: tuple[int, int]
    resize: Resize

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The rectangle of a picture of so many pixels that is seen."""
        rows, columns = self.size
        if self.resize == "squash":
            return 0.0, 0.0, float(width), float(height)
        fit = min if self.resize == "crop" else max
        scale = fit(width / columns, height / rows)
        across, down = scale * columns, scale * rows
        left, top = (width - across) / 2, (height - down) / 2
        return left, top, left + across, top + down

    def mask_in(
        self, ids: UInt8[np.ndarray, "height width"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "rows columns"]:
        """The part of a picture's mask that is seen, at `size` (height, width), by nearest pixels; void beside the picture."""
        height, width = ids.shape
        return _cut(ids, self.seen(width, height), size)

    def mask_out(
        self, ids: UInt8[np.ndarray, "rows columns"], width: int, height: int
    ) -> UInt8[np.ndarray, "height width"]:
        """The mask of a whole picture from that of what is seen; void where nothing was seen."""
        x0, y0, x1, y1 = self.seen(width, height)
        across, down = ids.shape[1] / (x1 - x0), ids.shape[0] / (y1 - y0)
        back = (-x0 * across, -y0 * down, (width - x0) * across, (height - y0) * down)
        return _cut(ids, back, (height, width))

    def boxes_in(
        self, corners: Float32[np.ndarray, "boxes 4"], width: int, height: int
    ) -> Float32[np.ndarray, "boxes 4"]:
        """Corners in a picture's pixels as shares of what is seen; they may lie outside 0 to 1."""
        x0, y0, x1, y1 = self.seen(width, height)
        return ((corners - np.array([x0, y0, x0, y0])) / np.array([x1 - x0, y1 - y0] * 2)).astype(np.float32)

    def boxes_out(
        self, corners: Float32[np.ndarray, "boxes 4"], width: int, height: int
    ) -> Float32[np.ndarray, "boxes 4"]:
        """Corners in a picture's pixels, cut off at its edges, from shares of what is seen."""
        x0, y0, x1, y1 = self.seen(width, height)
        placed = corners * np.array([x1 - x0, y1 - y0] * 2) + np.array([x0, y0, x0, y0])
        return np.clip(placed, 0, np.array([width, height] * 2)).astype(np.float32)


def _cut(ids: UInt8[np.ndarray, "_ _"], box: tuple[float, float, float, float], size: tuple[int, int]) -> Any:
    """A rectangle of a mask, at a new size."""
    from PIL import Image

    method, nearest = Image.Transform.EXTENT, Image.Resampling.NEAREST
    return np.array(Image.fromarray(ids).transform(size[::-1], method, box, nearest, fillcolor=VOID))
