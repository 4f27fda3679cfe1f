"""How large an input may be. Checked from headers, before any work on the input.

A picture of a few kilobytes can claim a billion pixels and a sound file of one page eight hours; these limits keep such
files from taking the machine down. Functions that read media take `limits=`, so a caller may set others.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest image, sound, video, text and file that is read."""

    file_bytes: int = 256 * 2**20
    image_pixels: int = 64_000_000
    image_side: int = 16_384
    audio_seconds: float = 600.0
    audio_bytes: int = 256 * 2**20  # decoded, as float32 samples of all channels
    sampling_rate_min: int = 1_000  # Hz; outside these bounds a header is damaged or forged
    sampling_rate_max: int = 768_000
    video_seconds: float = 600.0
    video_pixels: int = 40_000_000_000  # of all frames together: ten minutes of 1,920 x 1,080 at 30 frames a second
    video_bytes: int = 2**30  # decoded, of the frames that are kept
    text_characters: int = 65_536


LIMITS = Limits()
