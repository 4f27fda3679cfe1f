"""Pictures, sounds and videos of a few samples, small enough to stand inside the page as data URIs; a video as a strip of frames.

Both encoders give the same bytes for the same input, as all of the report must (an Ogg stream would carry a random
serial number), and browsers show and play both.
"""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from triptych.data.decode import audio_source, decode_audio, decode_image, media_source
from triptych.data.video import decode_video

PICTURE_SIDE = 240  # pixels, twice what a card shows, for dense screens
SOUND_SECONDS = 6.0
STRIP = 5  # frames of a video that are shown
SOUND_RATE = 16_000  # Hz


def shown(kind: str, cell: Any, root: Path, where: str) -> str | None:
    """A cell of a table as a page shows it: a picture, a video or a sound as its data URI, anything else as text."""
    if cell is None:
        return None
    if kind == "image":
        return picture_uri(decode_image(media_source(cell, root, where), where))
    if kind == "video":
        return strip_uri(decode_video(media_source(cell, root, where), STRIP, where).frames)
    if kind == "audio":
        return sound_uri(decode_audio(audio_source(cell, root, where), SOUND_RATE, where), SOUND_RATE)
    return str(cell)


def picture_uri(pixels: UInt8[np.ndarray, "h w 3"], side: int = PICTURE_SIDE) -> str:
    """A WebP data URI of an RGB picture whose longer side is at most `side` pixels."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    file = BytesIO()
    picture.save(file, format="webp", quality=80, method=4)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


def strip_uri(frames: UInt8[np.ndarray, "frames h w 3"]) -> str:
    """A WebP data URI of the frames of a video beside each other, the first on the left."""
    return picture_uri(np.hstack(list(frames)), side=PICTURE_SIDE * 2)


def sound_uri(samples: Float32[np.ndarray, "samples"], rate: int, seconds: float = SOUND_SECONDS) -> str:
    """An MP3 data URI of the first `seconds` of a mono sound in [-1, 1].

    Args:
        samples: the waveform.
        rate: samples per second, one that MP3 knows (8, 11.025, 12, 16, 22.05, 24, 32, 44.1 or 48 kHz).
        seconds: what is longer is cut.
    """
    import soundfile

    file = BytesIO()
    soundfile.write(file, np.clip(samples[: int(seconds * rate)], -1, 1), rate, format="MP3")
    return f"data:audio/mpeg;base64,{b64encode(file.getvalue()).decode()}"
