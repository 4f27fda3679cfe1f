import io
import re
import struct
import wave
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from triptych.data.decode import audio_header, audio_source, decode_audio, decode_image, media_kind, media_source
from triptych.errors import InputError, LimitError
from triptych.limits import Limits

WHERE = "train.csv, line 17, column photo"


def refused(function, *arguments, kind=InputError) -> str:
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert type(caught.value) is kind
    return str(caught.value)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def ogg_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = ((value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def opus_that_claims(seconds: int) -> bytes:
    """Three seconds of Opus whose last page says that it ends much later (its clock runs at 48 kHz)."""
    encoded = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000)
    soundfile.write(encoded, noise, 8000, format="OGG", subtype="OPUS")
    content = bytearray(encoded.getvalue())
    last = content.rindex(b"OggS")
    content[last + 6 : last + 14] = struct.pack("<q", seconds * 48_000)
    content[last + 22 : last + 26] = bytes(4)
    content[last + 22 : last + 26] = struct.pack("<I", ogg_checksum(bytes(content[last:])))
    return bytes(content)


def wav(samples: np.ndarray, rate: int = 8000, subtype: str = "PCM_16") -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format="WAV", subtype=subtype)
    return encoded.getvalue()


# images


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_formats(tmp_path, suffix):
    Image.new("RGB", (5, 3), (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    pixels = decode_image(tmp_path / f"a.{suffix}", WHERE)
    assert (pixels.shape, pixels.dtype) == ((3, 5, 3), np.uint8)
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= 4


def encoded(image: Image.Image, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", **options)
    return content.getvalue()


def test_transparent_parts_are_white_and_16_bits_are_scaled():
    assert (decode_image(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0))), WHERE) == 255).all()
    assert (decode_image(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 255))), WHERE) == [255, 0, 0]).all()
    half = Image.fromarray(np.full((2, 2), 32768, np.uint16))
    assert (decode_image(encoded(half), WHERE) == 127).all()
    palette = Image.new("P", (2, 2), 3)
    palette.putpalette([0, 0, 0] * 3 + [9, 8, 7])
    assert (decode_image(encoded(palette), WHERE) == [9, 8, 7]).all()
    assert (decode_image(encoded(Image.new("L", (2, 2), 77)), WHERE) == 77).all()


def test_a_photo_taken_sideways_is_turned_upright():
    tag = Image.Exif()
    tag[0x0112] = 6  # the camera was turned by 90 degrees
    content = io.BytesIO()
    Image.new("RGB", (8, 4)).save(content, "JPEG", exif=tag)
    assert decode_image(content.getvalue(), WHERE).shape == (8, 4, 3)


def test_a_missing_file(tmp_path):
    assert refused(decode_image, tmp_path / "no.png", WHERE) == (
        f"{WHERE}: there is no file {tmp_path / 'no.png'}. Mend the path or leave the cell empty."
    )
    assert "there is no file" in refused(decode_image, tmp_path, WHERE)
    assert "there is no file" in refused(decode_audio, Path("/dev/zero"), 8000, WHERE)


def test_an_unreadable_image(tmp_path):
    (tmp_path / "a.png").write_text("a text")
    assert refused(decode_image, tmp_path / "a.png", WHERE) == (
        "train.csv, line 17, column photo: a.png cannot be read as an image (it is not an image). "
        "Replace the file or leave the cell empty."
    )


def test_a_cut_off_image(tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    (tmp_path / "a.jpg").write_bytes(whole.getvalue()[:-700])
    message = refused(decode_image, tmp_path / "a.jpg", WHERE)
    assert re.search(
        r"a\.jpg cannot be read as an image \(image file is truncated \(\d+ bytes not processed\)\)\.", message
    )


def test_an_image_of_a_format_that_is_not_accepted():
    assert "it is not an image" in refused(decode_image, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", WHERE)


def test_a_huge_image_is_refused_by_its_header():
    assert refused(decode_image, png_that_claims(40_000, 40_000), WHERE, kind=LimitError) == (
        "train.csv, line 17, column photo: the content has more than 64,000,000 pixels. Make the image smaller."
    )
    assert refused(decode_image, png_that_claims(10_000, 10_000), WHERE, kind=LimitError) == (
        "train.csv, line 17, column photo: the content has 10,000 x 10,000 pixels; the limit is 64,000,000 in all. "
        "Make the image smaller."
    )
    assert refused(decode_image, png_that_claims(20_000, 10), WHERE, kind=LimitError) == (
        "train.csv, line 17, column photo: the content has 20,000 x 10 pixels; the limit is 16,384 a side. "
        "Make the image smaller."
    )


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(300 * 2**20)
    assert refused(decode_image, tmp_path / "a.png", WHERE, kind=LimitError) == (
        "train.csv, line 17, column photo: a.png has 314,572,800 bytes; the limit is 268,435,456. Make it smaller."
    )


# sounds


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_sound_formats(tmp_path, suffix):
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    soundfile.write(tmp_path / f"a.{suffix}", tone, 8000, **options)
    samples = decode_audio(tmp_path / f"a.{suffix}", 8000, WHERE)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 8000) < 1300  # MP3 and Opus pad
    assert np.abs(np.fft.rfft(samples[:4000])).argmax() == 150


def test_stereo_is_averaged_and_rates_are_changed():
    left = np.sin(2 * np.pi * 500 * np.arange(44100) / 44100)
    stereo = wav(np.stack([left, np.zeros_like(left)], 1), 44100)
    samples = decode_audio(stereo, 16000, WHERE)
    expected = 0.5 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)
    assert len(samples) == 16000
    assert np.abs(samples - expected)[200:-200].max() < 2e-3
    assert audio_header(stereo, WHERE) == (44100, 1.0)


def test_a_wav_that_is_text(tmp_path):
    (tmp_path / "a.wav").write_text("these are no samples")
    assert refused(decode_audio, tmp_path / "a.wav", 8000, WHERE) == (
        "train.csv, line 17, column photo: a.wav cannot be read as sound (Format not recognised). "
        "Replace the file or leave the cell empty."
    )


def test_a_clip_of_0_bytes(tmp_path):
    (tmp_path / "a.wav").touch()
    assert refused(decode_audio, tmp_path / "a.wav", 8000, WHERE) == (
        "train.csv, line 17, column photo: a.wav is empty (0 bytes). Replace the file or leave the cell empty."
    )


def test_a_clip_without_samples_or_with_nan():
    assert "(it holds no samples)" in refused(decode_audio, wav(np.zeros(0)), 8000, WHERE)
    broken = wav(np.array([0.0, np.nan, 0.0], np.float32), subtype="FLOAT")
    assert "(it holds NaN or infinite samples)" in refused(decode_audio, broken, 8000, WHERE)


def test_eight_hours_of_opus_are_refused_by_their_header():
    content = opus_that_claims(8 * 3600)
    for read in (lambda: decode_audio(content, 8000, WHERE), lambda: audio_header(content, WHERE)):
        assert refused(read, kind=LimitError) == (
            f"{WHERE}: the content lasts 28,800 s; the limit is 600 s. Cut it into shorter clips."
        )


def test_other_limits_of_sound():
    content = wav(np.zeros((8000, 2)), 8000)
    assert refused(decode_audio, content, 8000, WHERE, Limits(audio_bytes=60_000), kind=LimitError) == (
        f"{WHERE}: the content decodes to 64,000 bytes; the limit is 60,000. Cut it into shorter clips."
    )
    slow = io.BytesIO()
    with wave.open(slow, "wb") as file:
        file.setparams((1, 2, 3, 10, "NONE", ""))
        file.writeframes(bytes(20))
    assert refused(decode_audio, slow.getvalue(), 8000, WHERE, kind=LimitError) == (
        f"{WHERE}: the content has a sampling rate of 3 Hz; it must lie between 1,000 and 768,000. Replace the file."
    )


def ramp(folder: Path, name: str = "a.wav") -> str:
    """A second at 8 kHz in which sample i has the value i / 8000."""
    soundfile.write(folder / name, np.arange(8000) / 8000, 8000, format=None if "wav" in name else "FLAC")
    return name


@pytest.mark.parametrize(
    ("part", "first", "last"),
    [("#t=0.25,0.5", 2000, 4000), ("#t=0.75", 6000, 8000), ("#t=,0.125", 0, 1000), ("#t=0.5,1.3", 4000, 8000)],
)
def test_an_excerpt_of_a_file(tmp_path, part, first, last):
    for name in ("a.wav", "a.flac", "a#b.wav"):
        source = audio_source(ramp(tmp_path, name) + part, tmp_path, WHERE)
        assert audio_header(source, WHERE) == (8000, (last - first) / 8000)
        assert np.abs(decode_audio(source, 8000, WHERE) * 8000 - np.arange(first, last)).max() < 1


def test_an_excerpt_that_is_not_there(tmp_path):
    ramp(tmp_path)
    for part, said in (("#t=0.2,1.6", "0.2 to 1.6"), ("#t=0.5,0.25", "0.5 to 0.25"), ("#t=1.2,1.4", "1.2 to 1.4")):
        source = audio_source("a.wav" + part, tmp_path, WHERE)
        assert refused(decode_audio, source, 8000, WHERE) == (
            f"{WHERE}: a.wav lasts 1.00 s; it has no excerpt from {said} s. Mend the times."
        )
    assert "there is no file" in refused(audio_header, audio_source("b.wav#t=1", tmp_path, WHERE), WHERE)


def test_the_limit_on_seconds_holds_for_the_excerpt_alone(tmp_path):
    ramp(tmp_path)
    limits = Limits(audio_seconds=0.5)
    assert len(decode_audio(audio_source("a.wav#t=0.5,0.75", tmp_path, WHERE), 8000, WHERE, limits)) == 2000
    assert "lasts 1 s" in refused(decode_audio, tmp_path / "a.wav", 8000, WHERE, limits, kind=LimitError)


def sphere(samples: np.ndarray, coding: str = "pcm") -> bytes:
    """A NIST SPHERE file as the corpora of the Linguistic Data Consortium have them, 16 kHz."""
    fields = {
        "sample_count": f"-i {len(samples)}",
        "sample_rate": "-i 16000",
        "channel_count": "-i 1",
        "sample_n_bytes": "-i 2",
        "sample_byte_format": "-s2 01",
        "sample_coding": f"-s{len(coding)} {coding}",
    }
    header = "NIST_1A\n   1024\n" + "".join(f"{name} {value}\n" for name, value in fields.items()) + "end_head\n"
    return header.encode().ljust(1024, b"\0") + samples.astype("<i2").tobytes()


def test_nist_sphere_is_read_or_named():
    samples = np.arange(-800, 800)
    assert (decode_audio(sphere(samples), 16000, WHERE) * 32768 == samples).all()
    assert media_kind(sphere(samples)) == "audio"
    assert refused(decode_audio, sphere(samples, "pcm,embedded-shorten-v2.00"), 16000, WHERE) == (
        f"{WHERE}: the content is a NIST SPHERE file in a coding that cannot be read, such as Shorten. "
        "Convert it to WAV with sph2pipe."
    )


# damage


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with some bytes changed and its end cut off."""

    def spoil(changes: list[tuple[int, int]], length: int) -> bytes:
        spoilt = bytearray(content)
        for place, value in changes:
            spoilt[place] = value
        return bytes(spoilt[:length])

    change = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    return st.builds(spoil, st.lists(change, max_size=6), st.integers(1, len(content)))


def small_image(form: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)).save(content, form)
    return content.getvalue()


@given(st.one_of(*(damaged(small_image(form)) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))))
@settings(max_examples=200, deadline=None)
def test_a_damaged_image_is_read_or_refused_and_nothing_else(content):
    with suppress(InputError):
        assert decode_image(content, WHERE).ndim == 3


@given(st.one_of(damaged(wav(np.sin(np.arange(300)))), damaged(opus_that_claims(3))))
@settings(max_examples=100, deadline=None)
def test_a_damaged_sound_is_read_or_refused_and_nothing_else(content):
    with suppress(InputError):
        assert decode_audio(content, 8000, WHERE).ndim == 1


# cells


def test_what_a_cell_points_at(tmp_path):
    assert media_source("a.png", tmp_path, WHERE) == tmp_path / "a.png"
    assert media_source({"bytes": b"x", "path": "a.png"}, tmp_path, WHERE) == b"x"
    assert media_source({"bytes": None, "path": "a.png"}, tmp_path, WHERE) == tmp_path / "a.png"
    assert refused(media_source, 3.5, tmp_path, WHERE) == (
        "train.csv, line 17, column photo: 3.5 is not the path of a file. Give a path, or mend the column's kind."
    )
    assert refused(media_source, "https://example.org/a.png", tmp_path, WHERE) == (
        f"{WHERE}: https://example.org/a.png is a web address. Download the file and give its path."
    )


def test_media_in_bytes_are_told_apart():
    assert media_kind(png_that_claims(1, 1)) == "image"
    assert media_kind({"bytes": wav(np.zeros(9)), "path": None}) == "audio"
    assert media_kind({"bytes": None, "path": "x.FLAC"}) == "audio"
    assert media_kind(b"something") is None
