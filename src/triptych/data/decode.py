"""From an encoded image or sound, a file or bytes, to an array; limits are checked on the header, before decoding."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from triptych.errors import InputError, LimitError
from triptych.limits import LIMITS, Limits

if TYPE_CHECKING:
    from soundfile import SoundFile

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # no others: Pillow would run Ghostscript on an EPS file
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".sph"})
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"})

Media = Literal["image", "audio", "video"]  # the kinds whose cells point at files
MEDIA: dict[Media, frozenset[str]] = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES, "video": VIDEO_SUFFIXES}

IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
SPHERE = b"NIST_1A"  # how the files of the National Institute of Standards and Technology begin
AUDIO_MAGIC = (b"OggS", b"fLaC", b"ID3", b"\xff\xfb", b"FORM", SPHERE)
VIDEO_MAGIC = (b"\x1aE\xdf\xa3", b"\0\0\1\xba")  # Matroska and WebM, MPEG

EXCERPT = re.compile(r"#t=(\d+(?:\.\d+)?)?(?:,(\d+(?:\.\d+)?))?$")
OVERSHOOT = 0.5  # seconds by which an excerpt may end after its file, as in Kaldi's extract-segments


class Excerpt(NamedTuple):
    """A part of a sound file, in seconds, as a cell says it by a media fragment (W3C 2012): `talk.wav#t=12.5,20`."""

    file: Path
    start: float
    end: float | None


def media_kind(cell: Any) -> Media | None:
    """Tell images, sounds and videos apart in cells that hold bytes, or bytes and path as Hugging Face datasets store them."""
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    head = bytes((content or b"")[:12])
    suffix = PurePath(path).suffix.lower() if path else ""
    if head.startswith(IMAGE_MAGIC) or head[8:12] == b"WEBP" or suffix in IMAGE_SUFFIXES:
        return "image"
    if head.startswith(AUDIO_MAGIC) or head[8:12] == b"WAVE" or suffix in AUDIO_SUFFIXES:
        return "audio"
    if head.startswith(VIDEO_MAGIC) or head[4:8] == b"ftyp" or head[8:12] == b"AVI " or suffix in VIDEO_SUFFIXES:
        return "video"
    return None


def media_source(cell: Any, root: Path, where: str) -> Path | bytes:
    """What a media cell points at: a file (relative paths start at `root`) or bytes in the table itself.

    Raises:
        InputError: the cell is neither, or is a web address.
    """
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    if isinstance(content, bytes):
        return content
    if not isinstance(path, str):
        raise InputError(f"{where}: {cell!r:.60} is not the path of a file.", "Give a path, or mend the column's kind.")
    if "://" in path:
        raise InputError(f"{where}: {path} is a web address.", "Download the file and give its path.")
    return root / path


def audio_source(cell: Any, root: Path, where: str) -> Path | bytes | Excerpt:
    """What a sound cell points at: as `media_source`, or an excerpt of a file.

    Raises:
        InputError: as `media_source`.
    """
    source = media_source(cell, root, where)
    part = EXCERPT.search(source.name) if isinstance(source, Path) else None
    if part is None or not isinstance(source, Path):
        return source
    start, end = part.groups()
    return Excerpt(source.with_name(source.name[: part.start()]), float(start or 0), float(end) if end else None)


def decode_image(source: Path | bytes, where: str, limits: Limits = LIMITS) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image to RGB: upright by its EXIF tag, transparent parts white, of an animation the first frame.

    Args:
        source: a file, or an encoded image.
        where: the place in the table, for messages: "train.csv, line 17, column photo".
        limits: refused beyond these.

    Raises:
        InputError: no such file, or it cannot be decoded whole.
        LimitError: too many bytes or pixels.
    """
    return np.asarray(open_image(source, where, limits, _to_rgb)[1])


def open_image(
    source: Path | bytes, where: str, limits: Limits = LIMITS, convert: Callable[[Any], Any] | None = None
) -> tuple[str, Any]:
    """The name and the Pillow image of a source, decoded, upright by its EXIF tag and then converted.

    Raises:
        InputError: as `decode_image`.
        LimitError: as `decode_image`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name, content = file_content(source, where, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the lower one
            image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        refuse_large_image(image.width, image.height, f"{where}: {name}", limits)
        upright = ImageOps.exif_transpose(image)
        converted = upright if convert is None else convert(upright)
        converted.format = image.format  # which Pillow forgets
    except LimitError:
        raise
    except Image.DecompressionBombError as error:
        raise LimitError(
            f"{where}: {name} has more than {limits.image_pixels:,} pixels.", "Make the image smaller."
        ) from error
    except Exception as error:  # a damaged file may raise anything inside a decoder
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else str(error) or repr(error)
        raise InputError(
            f"{where}: {name} cannot be read as an image ({reason}).", "Replace the file or leave the cell empty."
        ) from error
    return name, converted


def decode_audio(
    source: Path | bytes | Excerpt, sampling_rate: int, where: str, limits: Limits = LIMITS
) -> Float32[np.ndarray, " samples"]:
    """Decode a sound to one channel (the mean of all) at `sampling_rate` Hz, resampled by a polyphase filter.

    Args:
        source: a file, an excerpt of one, or an encoded sound.
        sampling_rate: in Hz.
        where: the place in the table, for messages: "train.csv, line 17, column voice".
        limits: refused beyond these.

    Raises:
        InputError: no such file, it cannot be decoded, holds no samples, or holds NaN; or no such excerpt.
        LimitError: too many bytes or seconds.
    """
    with _opened(source, where, limits) as (name, sound, frames):
        rate = sound.samplerate
        samples = sound.read(frames, dtype="float32", always_2d=True)
    if len(samples) == 0:
        raise _unreadable_audio(name, where, "it holds no samples")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise _unreadable_audio(name, where, "it holds NaN or infinite samples")
    if rate != sampling_rate:
        from scipy.signal import resample_poly  # slow to import, and seldom needed

        common = math.gcd(rate, sampling_rate)
        mono = resample_poly(mono, sampling_rate // common, rate // common)
    return np.ascontiguousarray(mono, dtype=np.float32)


def audio_header(source: Path | bytes | Excerpt, where: str, limits: Limits = LIMITS) -> tuple[int, float]:
    """Sampling rate in Hz and length in seconds, from the header alone.

    Raises:
        InputError: as `decode_audio`.
        LimitError: as `decode_audio`.
    """
    with _opened(source, where, limits) as (_, sound, frames):
        return sound.samplerate, frames / sound.samplerate


@contextmanager
def _opened(source: Path | bytes | Excerpt, where: str, limits: Limits) -> Iterator[tuple[str, "SoundFile", int]]:
    """The name of a sound, the sound at its beginning or its excerpt's, and how many frames are to be read."""
    import soundfile

    whole = source.file if isinstance(source, Excerpt) else source
    name = _checked(whole, where, limits)
    with _bytes_of(whole, name, where) as file:
        try:
            # by its number, for soundfile would take the format from the name
            with soundfile.SoundFile(file if isinstance(whole, bytes) else file.fileno(), closefd=False) as sound:
                first, last = 0, sound.frames
                if isinstance(source, Excerpt):
                    first, last = _bounds(source, sound, f"{where}: {name}")
                    sound.seek(first)
                _refuse_long_audio(sound, last - first, f"{where}: {name}", limits)
                yield name, sound, last - first
        except soundfile.LibsndfileError as error:
            file.seek(0)
            if file.read(len(SPHERE)) == SPHERE:
                raise InputError(
                    f"{where}: {name} is a NIST SPHERE file in a coding that cannot be read, such as Shorten.",
                    "Convert it to WAV with sph2pipe.",
                ) from error
            raise _unreadable_audio(name, where, error.error_string.rstrip(".")) from error


def _bounds(excerpt: Excerpt, sound: "SoundFile", file: str) -> tuple[int, int]:
    """The first frame of an excerpt and the one after its last."""
    seconds = sound.frames / sound.samplerate
    end = seconds if excerpt.end is None else excerpt.end
    first, last = round(excerpt.start * sound.samplerate), round(min(end, seconds) * sound.samplerate)
    if end > seconds + OVERSHOOT or first >= last:
        raise InputError(
            f"{file} lasts {seconds:.2f} s; it has no excerpt from {excerpt.start:g} to {end:g} s.", "Mend the times."
        )
    return first, last


def file_content(source: Path | bytes, where: str, limits: Limits) -> tuple[str, bytes]:
    """Name and bytes of a source.

    Raises:
        InputError: no such file, or an empty one.
        LimitError: too many bytes.
    """
    name = _checked(source, where, limits)
    with _bytes_of(source, name, where) as file:
        return name, file.read()


def _checked(source: Path | bytes, where: str, limits: Limits) -> str:
    """The name of a source that is there, is not empty and not too large."""
    if isinstance(source, bytes):
        name, size = "the content", len(source)
    else:
        name = source.name
        try:
            if not source.is_file():  # a device or a pipe could be read without end
                raise InputError(f"{where}: there is no file {source}.", "Mend the path or leave the cell empty.")
            size = source.stat().st_size
        except (OSError, ValueError) as error:
            raise _no_access(name, where, error) from error
    if size == 0:
        raise InputError(f"{where}: {name} is empty (0 bytes).", "Replace the file or leave the cell empty.")
    if size > limits.file_bytes:
        raise LimitError(f"{where}: {name} has {size:,} bytes; the limit is {limits.file_bytes:,}.", "Make it smaller.")
    return name


def _bytes_of(source: Path | bytes, name: str, where: str) -> io.BufferedIOBase:
    try:
        return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except OSError as error:
        raise _no_access(name, where, error) from error


def _no_access(name: str, where: str, error: Exception) -> InputError:
    return InputError(f"{where}: {name} cannot be read ({error}).", "Check the path and its permissions.")


def refuse_large_image(width: int, height: int, file: str, limits: Limits) -> None:
    """Raise LimitError if a picture has too many pixels, in all or a side."""
    size = f"{file} has {width:,} x {height:,} pixels"
    if width * height > limits.image_pixels:
        raise LimitError(f"{size}; the limit is {limits.image_pixels:,} in all.", "Make the image smaller.")
    if max(width, height) > limits.image_side:
        raise LimitError(f"{size}; the limit is {limits.image_side:,} a side.", "Make the image smaller.")


def _to_rgb(image: Any) -> Any:
    """Any Pillow mode as RGB. Pillow's own conversion cuts 16-bit grey off at 255 and turns transparent parts black."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float32)
        top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1e-12)
        return Image.fromarray((values / top * 255.0).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")


def _refuse_long_audio(sound: "SoundFile", frames: int, file: str, limits: Limits) -> None:
    low, high = limits.sampling_rate_min, limits.sampling_rate_max
    if not low <= sound.samplerate <= high:
        rate = f"{file} has a sampling rate of {sound.samplerate:,} Hz"
        raise LimitError(f"{rate}; it must lie between {low:,} and {high:,}.", "Replace the file.")
    seconds = frames / sound.samplerate
    if seconds > limits.audio_seconds:
        length = f"{file} lasts {seconds:,.0f} s; the limit is {limits.audio_seconds:,.0f} s."
        raise LimitError(length, "Cut it into shorter clips.")
    size = 4 * frames * sound.channels
    if size > limits.audio_bytes:
        decoded = f"{file} decodes to {size:,} bytes; the limit is {limits.audio_bytes:,}."
        raise LimitError(decoded, "Cut it into shorter clips.")


def _unreadable_audio(name: str, where: str, reason: str) -> InputError:
    return InputError(
        f"{where}: {name} cannot be read as sound ({reason}).", "Replace the file or leave the cell empty."
    )
