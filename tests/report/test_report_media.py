"""Pictures and sounds inside the page: small, the same every time, and still what they were."""

import io
from base64 import b64decode

import numpy as np
import soundfile
from PIL import Image

from triptych.report.media import picture_uri, sound_uri, strip_uri
from triptych.report.schema import SampleField


def _bytes(uri: str) -> io.BytesIO:
    return io.BytesIO(b64decode(uri.split(",")[1]))


def test_a_picture_is_shrunk_and_keeps_its_shape() -> None:
    pixels = np.zeros((600, 900, 3), np.uint8)
    pixels[:, 450:] = (200, 40, 40)
    uri = picture_uri(pixels)
    SampleField(name="x", kind="image", value=uri)
    picture = Image.open(_bytes(uri)).convert("RGB")
    assert picture.size == (240, 160)
    assert np.abs(np.array(picture.getpixel((200, 80))) - (200, 40, 40)).max() < 16
    assert uri == picture_uri(pixels)


def test_a_video_is_a_strip_of_its_frames_from_left_to_right() -> None:
    frames = np.zeros((5, 60, 60, 3), np.uint8)
    frames[:, :, :, 0] = 50 * np.arange(5)[:, None, None]
    uri = strip_uri(frames)
    SampleField(name="x", kind="video", value=uri)
    strip = np.asarray(Image.open(_bytes(uri)).convert("RGB"))
    assert strip.shape == (60, 300, 3)
    assert np.abs(strip[30, 30::60, 0].astype(int) - 50 * np.arange(5)).max() < 16


def test_the_noisiest_picture_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    assert len(picture_uri(noise)) < 80_000


def test_a_sound_is_cut_and_keeps_its_pitch() -> None:
    t = np.arange(16_000 * 20) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    uri = sound_uri(tone, 16_000)
    SampleField(name="x", kind="audio", value=uri)
    decoded, rate = soundfile.read(_bytes(uri))
    assert rate == 16_000
    assert abs(len(decoded) / rate - 6.0) < 0.15
    spectrum = np.abs(np.fft.rfft(decoded[4000:20_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert len(uri) < 60_000
    assert uri == sound_uri(tone, 16_000)
