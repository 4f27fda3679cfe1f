"""Where a model looked, as pictures: a photo or a spectrogram with light where the map is, a text with weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from triptych.data.audio import AudioFeatures
from triptych.data.image import ImageFeatures
from triptych.data.processor import FieldFeatures
from triptych.data.text import TextFeatures
from triptych.evaluate.explain.gradcam import enlarged
from triptych.evaluate.explain.look import Look as Found
from triptych.report.media import picture_uri
from triptych.report.schema import Axes, Look, Piece

SIDE = 288  # pixels
SHADE = 0.2  # of the light is left where the map is dark
GAMMA = 0.75  # lifts the middle of a map, which screens show too dark
HERTZ = (125, 250, 500, 1_000, 2_000, 4_000, 8_000)
APART = 0.11  # of the height, at least, between two names on an axis


def looks(
    features: FieldFeatures,
    cell: Any,
    root: Path,
    where: str,
    found: Found,
    row: int,
    name: str,
    *,
    small: bool = False,
) -> list[Look]:
    """What was found in one cell, ready for a page.

    `cell`, `root` and `where` are those of `features.load`; `row` is the cell's row in `found`; `name` is said of what speaks for
    the answer. `small` leaves out axes and attention.
    """
    spoken = found.tokens if found.heat is None else found.heat
    if cell is None or spoken is None:
        return []
    drawn = [(name, spoken[row])]
    if found.attention is not None and not small:
        flow = found.attention[row]
        drawn.append(("attention", (flow - flow[flow > 0].min()).relu()))  # padding has none; every token has some
    if isinstance(features, TextFeatures):
        pieces = features.pieces(cell, where)
        return [Look(name=n, pieces=_pieces(pieces, weights.tolist())) for n, weights in drawn]
    assert isinstance(features, ImageFeatures | AudioFeatures)  # nothing is found in other kinds
    if isinstance(features, ImageFeatures):
        pixels, axes = photo(features, cell, root, where), None
    else:
        pixels, axes = spectrogram(features, cell, root, where), None if small else spectrogram_axes(features)
    return [Look(name=n, picture=picture_uri(lit(pixels, heat), SIDE), axes=axes) for n, heat in drawn]


def lit(pixels: UInt8[np.ndarray, "h w 3"], heat: Float[Tensor, "rows columns"]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture in full light and colour where the map is largest, dark and grey where it is 0."""
    light = enlarged(heat.unsqueeze(0), pixels.shape[:2])[0, :, :, None].pow(GAMMA).numpy()
    grey = SHADE * pixels.mean(2, keepdims=True)
    return (light * pixels + (1 - light) * grey).round().astype(np.uint8)


def photo(features: ImageFeatures, cell: Any, root: Path, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """A picture cut as the model sees it, but with as many pixels as the page shows."""
    height, width = features.config.size
    scale = max(1, SIDE // max(height, width))
    sharp = ImageFeatures(features.config.model_copy(update={"size": (scale * height, scale * width), "grey": False}))
    return sharp.load(cell, root, where).permute(1, 2, 0).numpy()


def spectrogram(features: AudioFeatures, cell: Any, root: Path, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """A sound as the model sees it, low bands below, in matplotlib's magma."""
    from matplotlib import colormaps
    from PIL import Image

    bands = features.spectrogram(features.load(cell, root, where)[None])[0, 0].flip(0)
    bands = (bands - bands.min()) / (bands.max() - bands.min()).clamp(min=1e-12)
    coloured = Image.fromarray((255 * colormaps["magma"](bands.numpy())[..., :3]).astype(np.uint8))
    return np.asarray(coloured.resize((SIDE, SIDE * 5 // 8), Image.Resampling.BICUBIC))


def spectrogram_axes(features: AudioFeatures) -> Axes:
    """Seconds, and the frequencies of the mel bands; the bands of MFCC have no name."""
    from librosa import hz_to_mel, mel_frequencies

    seconds = features.samples / features.sampling_rate
    if features.config.representation == "mfcc":
        return Axes(seconds=seconds)
    centres = hz_to_mel(mel_frequencies(features.config.mels + 2, fmin=0.0, fmax=features.sampling_rate / 2)[1:-1])
    marks: list[tuple[str, float]] = []
    for hertz in HERTZ:
        height = float(
            np.interp(hz_to_mel(hertz), centres, (np.arange(len(centres)) + 0.5) / len(centres), left=-1, right=-1)
        )
        if height >= 0 and (not marks or height - marks[-1][1] >= APART):
            marks.append((f"{hertz / 1000:g}k" if hertz >= 1000 else str(hertz), height))
    return Axes(seconds=seconds, marks=tuple(marks))


def _pieces(texts: Sequence[str], weights: Sequence[float]) -> tuple[Piece, ...]:
    """Pieces with weights from -1 to 1; the pieces of one character share what they have."""
    merged: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=False):  # padding has weights and no text
        if text or not merged:
            merged.append((text, weight))
        else:
            merged[-1] = (merged[-1][0], merged[-1][1] + weight)
    largest = max((abs(weight) for _, weight in merged), default=0.0) or 1.0
    return tuple(Piece(text=text, weight=round(weight / largest, 3)) for text, weight in merged)
