"""Patches: squares of a picture or stretches of a spectrogram, each made a token by one linear map (a convolution).

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, equation 1.
"""

from torch import nn

from triptych.errors import InputError
from triptych.structure import Features


def patches(features: Features, patch: int, width: int) -> tuple[nn.Conv2d, int]:
    """The convolution that turns each patch into `width` features, and how many patches there are.

    Args:
        features: of an image, cut into squares of `patch` pixels, or of audio or a series, cut into all mels of `patch` frames.
            What is left over at the right and lower end is not read.
        patch: side in pixels, or length in frames.
        width: features of a token.

    Raises:
        InputError: the patch is larger than the picture or the spectrogram.
    """
    channels, height, length = features.shape
    over_time = features.kind in ("audio", "series")
    size = (height, patch) if over_time else (patch, patch)
    rows, columns = height // size[0], length // size[1]
    if rows * columns == 0:
        unit = "frames" if over_time else "pixels"
        raise InputError(
            f"A patch of {patch} {unit} does not fit {features.kind} features of {height} x {length}.",
            "Choose a smaller `patch`.",
        )
    return nn.Conv2d(channels, width, size, size), rows * columns
