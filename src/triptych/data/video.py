"""Video cells: some frames of a clip, each treated as an image is; augmentation changes all frames of a clip alike.

Files are decoded through PyAV, the extra `video`.
"""

import io
from bisect import bisect_right
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor

from triptych.data.decode import file_content, media_source, refuse_large_image
from triptych.data.image import CHUNK, ImageFeatures
from triptych.errors import InputError, LimitError
from triptych.limits import LIMITS, Limits
from triptych.structure import Features, Modality

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts"  # no others: a playlist would name other files


class Clip(NamedTuple):
    """Some frames of a video in RGB, in the order in which they are shown, and how long the whole of it is."""

    frames: UInt8[np.ndarray, "frames h w 3"]
    seconds: float


class VideoFeatures(ImageFeatures):
    """What a video cell becomes: a normalised (frames, channels, height, width) tensor.

    Frames that a clip does not have are zeros at the end, before and after normalisation; a frame that is black altogether
    is loaded one level brighter, so that the two are never mixed up.

    Args:
        config: frames, sizes, normalisation and augmentation.
        mean: of each channel from 0 to 1, where `normalise` is "dataset".
        std: standard deviation of each channel.
    """

    class Config(ImageFeatures.Config):
        """Which frames are read; and how they are resized, normalised and, in training, varied, as images are."""

        frames: int = Field(16, ge=1, le=512)
        rate: float | None = Field(
            None, gt=0, le=240, description="frames a second from the beginning on; default: evenly over the whole clip"
        )

    kind: ClassVar[Modality] = "video"
    config: Config

    @property
    def shape(self) -> Features:
        """What an encoder reads."""
        return Features(kind="video", shape=(self.config.frames, *super().shape.shape))

    def load(self, cell: Any, root: Path, where: str) -> UInt8[Tensor, "frames channels height width"]:
        """Decode and resize the frames of one cell.

        Raises:
            InputError: the file is missing or cannot be decoded, or PyAV is not installed; `where` names the place.
            LimitError: it is too large.
        """
        found = decode_video(media_source(cell, root, where), self.config.frames, where, self.config.rate).frames
        clip = self.absent()
        for place, pixels in enumerate(found):
            frame = self.arranged(pixels)
            clip[place] = frame if frame.any() else 1
        return clip

    def features(
        self,
        stack: UInt8[Tensor, "batch frames channels height width"],
        augment: bool = False,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch frames channels height width"]:
        """Normalised floats; augmented if asked, drawing from `generator`."""
        return super().features(stack, augment, generator).mul_(_real(stack)[..., None, None, None])

    def absent(self) -> UInt8[Tensor, "frames channels height width"]:
        """Stands in for a missing cell, beside a presence of False."""
        return torch.zeros(self.shape.shape, dtype=torch.uint8)

    @property
    def _chunk(self) -> int:
        return max(1, CHUNK // self.config.frames)

    def _by_channel(self, loaded: UInt8[Tensor, "frames channels height width"]) -> UInt8[Tensor, "channels pixels"]:
        return loaded[_real(loaded)].transpose(0, 1).flatten(1)

    def _warped(
        self,
        x: Float[Tensor, "batch frames channels height width"],
        theta: Float[Tensor, "batch 2 3"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch frames channels height width"]:
        """One warp a clip: its frames are the channels of one picture."""
        return super()._warped(x.flatten(1, 2), theta, generator).view_as(x)

    def _recoloured(
        self, x: Float[Tensor, "batch frames channels height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch frames channels height width"]:
        """One change of colour a clip: its frames lie below each other in one picture."""
        tall = x.transpose(1, 2).flatten(2, 3)
        return super()._recoloured(tall, generator).unflatten(2, (self.config.frames, -1)).transpose(1, 2)


def decode_video(
    source: Path | bytes, frames: int, where: str, rate: float | None = None, limits: Limits = LIMITS
) -> Clip:
    """Decode some frames of a video to RGB, upright by its rotation tag, through PyAV.

    Args:
        source: a file, or an encoded video.
        frames: how many are wanted; a video that has fewer gives what it has.
        where: the place in the table, for messages: "train.csv, line 17, column film".
        rate: frames a second from the beginning on; None spreads the frames evenly over the whole video.
        limits: refused beyond these.

    Raises:
        InputError: no such file, it cannot be decoded whole, holds sound alone, or PyAV is not installed.
        LimitError: too many bytes, pixels or seconds.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(f"{where}: reading video needs PyAV.", "pip install 'triptych[video]'") from error

    name, content = file_content(source, where, limits)
    try:
        with av.open(io.BytesIO(content), mode="r", options={"format_whitelist": FORMATS}) as container:
            return _clip(container, frames, rate, f"{where}: {name}", limits)
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything inside a decoder
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise _unreadable(f"{where}: {name}", reason) from error


def _clip(container: "InputContainer", frames: int, rate: float | None, file: str, limits: Limits) -> Clip:
    """The wanted frames of an open video. Its packets are looked at first, for a header may say nothing, or too much."""
    from av.stream import Disposition

    cover = Disposition.attached_pic  # the picture of a sound file is no video
    stream = next((s for s in container.streams.video if not s.disposition & cover), None)
    if stream is None:
        raise _unreadable(file, "it holds no moving pictures")
    refuse_large_image(stream.width, stream.height, file, limits)
    times = _shown_at(container, stream)
    if not times:
        raise _unreadable(file, "it holds no frames")
    seconds = (times[-1] - times[0]) * len(times) / max(1, len(times) - 1)
    _refuse_long_video(stream.width * stream.height, len(times), seconds, frames, file, limits)
    numbers = _picked(times, frames, rate)
    wanted = set(numbers)
    container.seek(0, stream=stream)
    stream.codec_context.options = {"max_pixels": str(limits.image_pixels)}  # of frames larger than the header says
    shown = enumerate(islice(container.decode(stream), numbers[-1] + 1))
    kept = {number: _upright(frame) for number, frame in shown if number in wanted}
    if len(kept) < len(wanted):
        raise _unreadable(file, f"it is to hold {len(times)} frames, and some are not there")
    return Clip(np.stack([kept[number] for number in numbers]), seconds)


def _refuse_long_video(area: int, count: int, seconds: float, frames: int, file: str, limits: Limits) -> None:
    """Refuse a video for its length, for the work of decoding it, or for what the frames that are kept would take."""
    if seconds > limits.video_seconds:
        length = f"{file} lasts {seconds:,.0f} s; the limit is {limits.video_seconds:,.0f} s."
        raise LimitError(length, "Cut it into shorter clips.")
    if count * area > limits.video_pixels:
        work = f"{file} has {count:,} frames of {area:,} pixels; the limit is {limits.video_pixels:,} pixels in all."
        raise LimitError(work, "Make it smaller or cut it into shorter clips.")
    kept = 3 * area * min(count, frames)
    if kept > limits.video_bytes:
        decoded = f"{file} decodes to {kept:,} bytes; the limit is {limits.video_bytes:,}."
        raise LimitError(decoded, "Make it smaller, or read fewer frames.")


def _shown_at(container: "InputContainer", stream: "VideoStream") -> list[float]:
    """When each frame is shown, in seconds."""
    stamps = (p.dts if p.pts is None else p.pts for p in container.demux(stream) if p.size)
    return sorted(float(stamp * stream.time_base) for stamp in stamps if stamp is not None and stream.time_base)


def _picked(times: list[float], frames: int, rate: float | None) -> list[int]:
    """The numbers of the frames that are wanted: the middles of equal parts, or what is shown every 1 / rate seconds."""
    if rate is None:
        count = min(frames, len(times))
        return [(2 * k + 1) * len(times) // (2 * count) for k in range(count)]
    moments = [times[0] + k / rate for k in range(frames)]
    return [bisect_right(times, moment) - 1 for moment in moments if moment <= times[-1]]


def _upright(frame: "VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


def _unreadable(file: str, reason: str) -> InputError:
    return InputError(f"{file} cannot be read as video ({reason}).", "Replace the file or leave the cell empty.")


def _real(clips: UInt8[Tensor, "*batch channels height width"]) -> Bool[Tensor, "*batch"]:
    """Which frames are not padding."""
    return clips.flatten(-3).amax(-1) > 0
