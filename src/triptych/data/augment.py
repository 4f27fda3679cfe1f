"""Random changes of a batch that leave its meaning alone, drawn from the generator that is given and nothing else.

Images: one affine warp (rotation, flip, shift, crop) and one colour matrix. Sound: time shift and noise on waveforms,
SpecAugment on spectrograms.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


def warp(
    x: Float[Tensor, "batch channels height width"],
    generator: torch.Generator,
    *,
    rotate: float = 0.0,
    flip: bool = False,
    shift: float = 0.0,
    crop: float = 0.0,
) -> Float[Tensor, "batch channels height width"]:
    """Rotate, mirror, shift and crop by one bilinear resampling; what comes from outside repeats the border.

    Args:
        x: images.
        generator: the only source of randomness.
        rotate: up to so many degrees either way.
        flip: mirror left and right, every second time.
        shift: up to this share of the side, in both directions.
        crop: cut up to this share of the side away, at a random place, and enlarge the rest.
    """
    batch, _, height, width = x.shape
    turn, right, down, aside, below = _between(-1, 1, (5, batch), generator)
    angle = math.radians(rotate) * turn
    scale = 1 - crop * torch.rand(batch, generator=generator)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    # An image spans -1 to 1 on both axes: its side is 2, and a window of `scale` may move by 1 - scale inside it.
    right = (1 - scale) * right + 2 * shift * aside
    down = (1 - scale) * down + 2 * shift * below
    theta = torch.stack([cosine, sine * (-height / width), right, sine * (width / height), cosine, down], 1)
    theta = theta.view(batch, 2, 3)
    if flip:
        theta[:, :, 0] *= torch.randint(0, 2, (batch, 1), generator=generator) * 2 - 1
    grid = (theta @ _places(height, width)).view(batch, 2, height, width).permute(0, 2, 3, 1)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


@lru_cache(maxsize=8)
def _places(height: int, width: int) -> Float[Tensor, "3 pixels"]:
    """(x, y, 1) of every pixel's centre. A product with this is ten times faster than `affine_grid`."""
    rows = (torch.arange(height) * 2 + 1) / height - 1
    columns = (torch.arange(width) * 2 + 1) / width - 1
    return torch.stack([columns.repeat(height), rows.repeat_interleave(width), torch.ones(height * width)])


def recolour(
    x: Float[Tensor, "batch channels height width"],
    generator: torch.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    white: float = 1.0,
) -> Float[Tensor, "batch channels height width"]:
    """Scale brightness, contrast (about mid-grey) and saturation (towards grey) by factors in 1 ± strength.

    The three are one matrix and one offset an image, so one product does them all. Values stay between 0 and `white`.
    """
    batch, channels, height, width = x.shape
    strengths = torch.tensor([brightness, contrast, saturation]).view(3, 1, 1, 1)
    bright, sharp, vivid = 1 + strengths * _between(-1, 1, (3, batch, 1, 1), generator)
    grey = torch.tensor(GREY if channels == 3 else (1.0,)).expand(channels, channels)
    matrix = bright * sharp * (vivid * torch.eye(channels) + (1 - vivid) * grey)
    offset = (bright * (1 - sharp) * white / 2).expand(batch, channels, 1)
    changed = torch.baddbmm(offset, matrix, x.flatten(2)).clamp_(0, white)
    return changed.view(batch, channels, height, width)


def shift_time(
    x: Float[Tensor, "batch samples"], generator: torch.Generator, *, shift: float
) -> Float[Tensor, "batch samples"]:
    """Move each sound earlier or later by up to `shift` of its length; silence comes in."""
    batch, samples = x.shape
    reach = round(shift * samples)
    start = torch.randint(0, 2 * reach + 1, (batch,), generator=generator)
    return functional.pad(x, (reach, reach)).unfold(1, samples, 1)[torch.arange(batch), start]


def add_noise(
    x: Float[Tensor, "batch samples"], generator: torch.Generator, *, decibels: tuple[float, float]
) -> Float[Tensor, "batch samples"]:
    """Add white noise at a signal-to-noise ratio drawn from `decibels` for each sound. Silence stays silent.

    Each sound gets another window of one long noise, which costs a tenth of drawing noise for every sound.
    """
    batch, samples = x.shape
    low, high = decibels
    noise = torch.randn(2 * samples, generator=generator)
    windows = noise.unfold(0, samples, 1)[torch.randint(0, samples + 1, (batch,), generator=generator)]
    ratio = 10 ** (_between(low, high, (batch, 1), generator) / 20)
    loudness = torch.linalg.vector_norm(x, dim=1, keepdim=True) / samples**0.5
    return windows.mul_(loudness / ratio).add_(x)


def mask_spectrogram(
    x: Float[Tensor, "batch 1 bands frames"],
    generator: torch.Generator,
    *,
    bands: int,
    frames: int,
    masks: int = 1,
) -> Float[Tensor, "batch 1 bands frames"]:
    """SpecAugment's frequency and time masks (Park et al. 2019, sections 2 and 3), without its time warping.

    Args:
        x: normalised spectrograms: a masked value becomes 0, which is their mean.
        generator: the only source of randomness.
        bands: a frequency mask covers 0 to `bands` neighbouring bands.
        frames: a time mask covers 0 to `frames` neighbouring frames.
        masks: how many of each.
    """
    batch, _, height, width = x.shape
    for _ in range(masks):
        x = x * ~_stripe(batch, height, min(bands, height), generator)[:, None, :, None]
        x = x * ~_stripe(batch, width, min(frames, width), generator)[:, None, None, :]
    return x


def _stripe(batch: int, length: int, widest: int, generator: torch.Generator) -> Bool[Tensor, "batch length"]:
    """True on one random run of 0 to `widest` places a row."""
    run = torch.randint(0, widest + 1, (batch, 1), generator=generator)
    start = (torch.rand(batch, 1, generator=generator) * (length - run + 1)).long()
    places = torch.arange(length)
    return (places >= start) & (places < start + run)


def _between(low: float, high: float, shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform numbers from `low` to `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator)
