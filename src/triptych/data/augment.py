"""Random changes of a batch that leave its meaning alone, drawn from the generator that is given and nothing else.

Images: one affine warp (rotation, flip, shift, crop), which masks and boxes over them follow, and one colour matrix. Sound: time
shift and noise on waveforms, SpecAugment on spectrograms.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


def draw_warps(
    shape: tuple[int, int, int],
    generator: torch.Generator,
    *,
    rotate: float = 0.0,
    flip: bool = False,
    shift: float = 0.0,
    crop: float = 0.0,
) -> Float[Tensor, "batch 2 3"]:
    """Rotation, mirroring, shift and crop as one matrix an image: from places (x, y, 1) in the new image to places in the old one.

    An image spans -1 to 1 on both axes, whatever its size.

    Args:
        shape: how many images, their height and their width.
        generator: the only source of randomness.
        rotate: up to so many degrees either way.
        flip: mirror left and right, every second time.
        shift: up to this share of the side, in both directions.
        crop: cut up to this share of the side away, at a random place, and enlarge the rest.
    """
    batch, height, width = shape
    turn, right, down, aside, below = _between(-1, 1, (5, batch), generator)
    angle = math.radians(rotate) * turn
    scale = 1 - crop * torch.rand(batch, generator=generator)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    # The side of an image is 2, and a window of `scale` may move by 1 - scale inside it.
    right = (1 - scale) * right + 2 * shift * aside
    down = (1 - scale) * down + 2 * shift * below
    theta = torch.stack([cosine, sine * (-height / width), right, sine * (width / height), cosine, down], 1)
    theta = theta.view(batch, 2, 3)
    if flip:
        theta[:, :, 0] *= torch.randint(0, 2, (batch, 1), generator=generator) * 2 - 1
    return theta


def warp(
    x: Float[Tensor, "batch channels height width"], theta: Float[Tensor, "batch 2 3"]
) -> Float[Tensor, "batch channels height width"]:
    """The images moved, by one bilinear resampling; what comes from outside repeats the border."""
    grid = _sources(theta, x.shape[2], x.shape[3])
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def warp_masks(
    ids: UInt8[Tensor, "batch height width"], theta: Float[Tensor, "batch 2 3"]
) -> UInt8[Tensor, "batch height width"]:
    """Masks moved as their images were, to the nearest pixel; what comes from outside is void (255)."""
    grid = _sources(theta, ids.shape[1], ids.shape[2])
    known = 255 - ids.unsqueeze(1).float()  # so that the zeros from outside are void
    moved = functional.grid_sample(known, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (255 - moved[:, 0]).to(torch.uint8)


def warp_boxes(
    boxes: Float[Tensor, "batch boxes 5"], theta: Float[Tensor, "batch 2 3"], inside: float = 0.4
) -> Float[Tensor, "batch boxes 5"]:
    """Boxes moved as their images were: upright boxes around the turned ones, cut off at the edges.

    Args:
        boxes: class (-1 for none) and corners x0, y0, x1, y1 as shares of the sides.
        theta: as of `warp`.
        inside: a box of whose area less is left in the image is taken out.
    """
    places = boxes[..., 1:] * 2 - 1
    x, y = places[..., [0, 2, 0, 2]], places[..., [1, 1, 3, 3]]
    back = torch.linalg.inv(theta[:, :, :2])
    corners = torch.einsum("brc,bncp->bnrp", back, torch.stack([x, y], 2) - theta[:, None, :, 2:])
    low, high = (corners.amin(-1) + 1) / 2, (corners.amax(-1) + 1) / 2
    cut = torch.cat([low.clamp(0, 1), high.clamp(0, 1)], -1)
    left = (cut[..., 2:] - cut[..., :2]).prod(-1)
    gone = left < inside * (high - low).prod(-1)
    return torch.cat([boxes[..., :1].masked_fill(gone.unsqueeze(-1), -1.0), cut], -1)


def _sources(theta: Float[Tensor, "batch 2 3"], height: int, width: int) -> Float[Tensor, "batch height width 2"]:
    """Where each pixel of the new images lies in the old ones."""
    return (theta @ _places(height, width)).view(len(theta), 2, height, width).permute(0, 2, 3, 1)


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


def change_speed(
    x: Float[Tensor, "batch *channels steps"], generator: torch.Generator, *, share: float
) -> Float[Tensor, "batch *channels steps"]:
    """Each series or waveform at a speed of its own, up to `share` slower or faster, by linear interpolation; a voice changes its pitch
    too. Zeros follow one that became shorter, the end of one that grew too long is lost.

    Source: Ko et al., Audio Augmentation for Speech Recognition, Interspeech 2015.
    """
    steps = x.shape[-1]
    speed = 1 + share * (2 * torch.rand(len(x), 1, generator=generator) - 1)
    places = torch.arange(steps) * speed
    left = places.floor().long()
    shape = (len(x), *[1] * (x.ndim - 2), steps)
    weight = (places - left).view(shape)
    padded = functional.pad(x, (0, 2))
    first, second = (
        padded.gather(-1, (left + one).clamp(max=steps).view(shape).expand(*x.shape[:-1], -1)) for one in (0, 1)
    )
    return (1 - weight) * first + weight * second


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
