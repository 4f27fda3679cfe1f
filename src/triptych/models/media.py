"""Tensors that an image, video or audio input may want: the layouts in use, smallest first, with sizes that the config gives.

A layout is a guess until a model has run on it. Masks, grids, sizes and lengths that belong to an input are its companions:
first only those that carry the geometry, then all that the signature names, since a model's own default is a better mask than ours.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from triptych.models.config_keys import ConfigKeys, modality_of

_MEDIA = re.compile(
    r"(\w+_)?(pixel_values|pixels|patches|images?|pictures?|videos?|frames|input_features|input_values|audios?|waves?|waveforms?"
    r"|speech|sounds?|spectrograms?|mels?)(_images?|_videos?)?"
)
_NOT_MEDIA = re.compile(r"num_|sizes_|use_|_in_")  # `batch_num_images`, `image_sizes_videos`, `use_audio_in_video`
_COMPANION = re.compile(r"\w*(mask|sizes|lengths|lens|grid_t?hws?|spatial_shapes)|is_\w+")
_MANY = 64  # pixels a side, or frames: enough for strides of 32 to leave a map of 2 x 2
_SAMPLES = (2000, 16000)  # of a waveform: 1/8 s and 1 s at 16 kHz


@dataclass(frozen=True)
class Media:
    """One guess: what the input holds, the axes of its tensor, and the sizes that its companions tell.

    Args:
        modality: "image", "video" or "audio".
        shape: of the input's tensor.
        grid: patches of one sample along time, height and width.
        size: height and width in pixels, or frames and mel bins.
        mask: the shape of a mask over the input.
    """

    modality: str
    shape: tuple[int, ...]
    grid: tuple[int, int, int] = (1, 1, 1)
    size: tuple[int, int] = (1, 1)
    mask: tuple[int, ...] = ()


def is_media(name: str) -> bool:
    """Whether an input of that name holds pixels or sound itself."""
    return bool(_MEDIA.fullmatch(name)) and not _NOT_MEDIA.search(name) and modality_of(name) not in {None, "text"}


def is_companion(name: str) -> bool:
    """Whether an input of that name says something about another one: a mask, a size, a grid."""
    return bool(_COMPANION.fullmatch(name)) and "embed" not in name


def noise(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal values that depend on the name and the seed alone, not on the guesses that failed before."""
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    return torch.randn(*shape, generator=generator)


def media_inputs(
    name: str, names: Sequence[str], keys: ConfigKeys, rows: int, seed: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Guesses for one input, as (its modality, {input or companion: tensor}); `names` are all inputs of the forward."""
    modality = modality_of(name) or ""
    companions = [other for other in names if _belongs(other, name, modality, names)]
    geometry = [other for other in companions if other.endswith(("grid_thw", "grid_hw", "grid_hws", "spatial_shapes"))]
    guesses = (
        _Sound(name, keys, rows).guesses()
        if modality == "audio"
        else _Sight(name, modality, geometry, keys, rows).guesses()
    )
    for guess, (given, dtype) in product(guesses, _levels(geometry, companions)):
        tensors = {other: _companion(other, guess, rows, dtype) for other in given}
        yield guess.modality, {name: noise(name, guess.shape, seed), **tensors}


def _levels(geometry: list[str], companions: list[str]) -> list[tuple[list[str], torch.dtype]]:
    """Which companions to give, and the type of their masks; models differ in whether they invert a mask or subtract it from 1."""
    levels = [(geometry, torch.bool)]
    if companions != geometry:
        levels.append((companions, torch.bool))
    if any(name.endswith("mask") for name in companions):
        levels.append((companions, torch.long))
    return levels


def _belongs(other: str, name: str, modality: str, names: Sequence[str]) -> bool:
    """Whether `other` is a mask, size or grid of the input `name`; a mask of no modality is the only medium's where there is no text."""
    if other == name or not is_companion(other):
        return False
    spoken = modality_of(other) or ("audio" if "feature" in other or other.startswith("is_") else None)
    if spoken is None:
        return not any("ids" in each for each in names)
    return spoken == modality and ("decoder" in other) == ("decoder" in name)


def _companion(name: str, guess: Media, rows: int, dtype: torch.dtype) -> Tensor:
    """A companion's tensor, from the ending of its name: nothing is padded, every row is alike."""
    if name.startswith("is_"):
        return torch.ones(rows, 1, dtype=torch.bool)
    if name.endswith("mask"):
        return torch.ones(guess.mask, dtype=dtype)
    if name.endswith(("thw", "thws")):
        return torch.tensor([guess.grid] * rows)
    if name.endswith(("hw", "hws", "spatial_shapes")):
        return torch.tensor([guess.grid[1:]] * rows)
    if guess.modality == "audio":
        return torch.full((rows,), guess.size[0])
    return torch.tensor([guess.size] * rows)


@dataclass(frozen=True)
class _Sight:
    """Images and videos."""

    name: str
    modality: str
    geometry: list[str]
    keys: ConfigKeys
    rows: int

    @cached_property
    def patch(self) -> int:
        return (self._numbers("patch_size", "patch_stride") or [16])[0]

    @cached_property
    def channels(self) -> int:
        return (self._numbers("num_channels", "in_channels", "in_chans", "channels") or [3])[0]

    @cached_property
    def merge(self) -> int:
        """Patches a side that become one token."""
        return (
            self._numbers(r"(spatial_)?merge_size", "merge_kernel_size", "scale_factor", "pixel_shuffle_factor") or [2]
        )[0]

    def _numbers(self, *patterns: str) -> list[int]:
        return self.keys.numbers(*patterns, modality=self.modality)

    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths: a small image, then what the config declares."""
        declared: list[tuple[int, int]] = []
        for value in self.keys.find("image_size", "img_size", "input_size", modality=self.modality):
            pair = tuple(value.values()) if isinstance(value, dict) else value
            pair = (pair, pair) if isinstance(pair, int) else tuple(pair)[-2:]
            declared.append((int(pair[0]), int(pair[-1])))
        unit = self.patch * self.merge
        small = max(2, -(-_MANY // unit)) * unit  # never one token: a batch of them would hide what attention does
        if declared:
            small = min(small, *declared[0])
        return list(dict.fromkeys([(small, small), *declared, (224, 224), (32, 32)]))

    def guesses(self) -> Iterator[Media]:
        if self.geometry:
            yield from self._patches()
            return
        frames = [n for n in self._numbers("num_frames", "frames_per_clip", "clip_length") if n > 1]
        images = [
            Media(self.modality, (self.rows, self.channels, *size), size=size, mask=(self.rows, *size))
            for size in self.sizes()
        ]
        if self.modality == "video":
            yield from self._stacked(images, (2, *frames, 4, 8))
            return
        yield from images
        yield from self._stacked(images, (1, 2, 3, 5))  # images a sample, or tiles of one image
        yield from (replace(clip, modality="video") for clip in self._stacked(images, frames))

    def _stacked(self, images: Sequence[Media], counts: Sequence[int]) -> Iterator[Media]:
        """[rows, n, channels, height, width]."""
        for n, one in product(dict.fromkeys(counts), images):
            yield replace(one, shape=(self.rows, n, *one.shape[1:]), mask=(self.rows, n, *one.mask[1:]))

    def _patches(self) -> Iterator[Media]:
        """Patches already cut out: all samples' in one row where a grid says whose they are, or a row a sample with its mask."""
        depth = (self._numbers("temporal_patch_size", "temporal_patch") or [1])[0]
        side, pixels = 2 * self.merge, self.channels * self.patch**2
        n, grid = self.rows * side**2, (1, side, side)
        for shape in (
            (n, depth * pixels),
            (self.rows, side**2, pixels),
            (n, pixels),
            (n, self.channels, self.patch, self.patch),
        ):
            yield Media(self.modality, shape, grid, (side * self.patch,) * 2, shape[:2])


@dataclass(frozen=True)
class _Sound:
    """Waveforms and mel spectrograms."""

    name: str
    keys: ConfigKeys
    rows: int

    def guesses(self) -> Iterator[Media]:
        waves = [self._wave(n, middle) for n in _SAMPLES for middle in ((), (1,))]
        mels = list(self._mels())
        mels_first = any(word in self.name for word in ("features", "mel", "spectrogram", "decoder"))
        yield from (*mels, *waves) if mels_first else (*waves, *mels)

    def _wave(self, samples: int, middle: tuple[int, ...]) -> Media:
        return Media("audio", (self.rows, *middle, samples), size=(samples, 1), mask=(self.rows, samples))

    def _mels(self) -> Iterator[Media]:
        """[rows, mels, frames] or [rows, frames, mels], then with channels as an image has."""
        bins = self.keys.numbers(
            "num_mel_bins",
            "n_mels",
            "mel_bins",
            "feature_size",
            "input_feat_per_channel",
            "input_feat_size",
            "input_size",
            modality="audio",
        )
        positions = self.keys.numbers(
            "max_source_positions", "max_length", "spec_size", "max_audio_length", modality="audio"
        )
        frames = dict.fromkeys([_MANY, *(n * stride for stride in (2, 1, 4) for n in positions)])
        layouts = [(2, 1), (1, 2), (0, 1, 2), (3, 1, 2)]  # the axes of [1, frames, mels, 4]
        if "values" in self.name:  # what is named after samples rather than features has time first
            layouts = layouts[1:] + layouts[:1]
        if "decoder" in self.name:  # a decoder reads one frame a step
            layouts = [(1, 2)]
        for axes, n, mel in product(layouts, frames, bins or (80, 128)):
            shape = [(1, n, mel, 4)[axis] for axis in axes]
            yield Media("audio", (self.rows, *shape), size=(n, mel), mask=(self.rows, n))
