"""Real files, written by PyAV, from their decoding to features; and what is wrong with those that are refused."""

import io
import sys
from contextlib import suppress

import av
import numpy as np
import pytest
import soundfile
import torch
from benchmarks.tasks.clips import encoded

from triptych.data.check import check
from triptych.data.decode import media_kind
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.schema import guess
from triptych.data.table import read_table
from triptych.data.video import VideoFeatures, decode_video
from triptych.errors import InputError, LimitError
from triptych.limits import Limits
from triptych.structure import Features

WHERE = "train.csv, line 17, column film"
FORMS = [("libx264", "mp4"), ("libx264", "mov"), ("libvpx-vp9", "webm"), ("libvpx", "matroska"), ("mpeg4", "avi")]
MATRIX = b"".join((v & 0xFFFFFFFF).to_bytes(4, "big") for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))


def brightening(frames: int = 16) -> np.ndarray:
    """Frame i is a grey of 15 i, its upper left quarter red."""
    pixels = np.zeros((frames, 32, 48, 3), np.uint8)
    pixels[:] = 15 * np.arange(frames)[:, None, None, None]
    pixels[:, :16, :24] = (255, 0, 0)
    return pixels


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames they are, read off the grey of the lower right corner."""
    return (frames[:, 28, 40, 1] / 15).round().astype(int).tolist()


def refused(content: bytes, kind: type[InputError] = InputError, **settings) -> str:
    with pytest.raises(kind) as caught:
        decode_video(content, 4, WHERE, **settings)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(WHERE)
    return str(caught.value)


def features(**settings) -> VideoFeatures:
    return VideoFeatures(VideoFeatures.Config(**settings))


@pytest.fixture
def folder(tmp_path):
    """Three clips, of sixteen, sixteen and three frames, and a table of them."""
    for name, frames in (("a", brightening()), ("b", brightening()[:, ::-1]), ("c", brightening(3))):
        (tmp_path / f"{name}.mp4").write_bytes(encoded(frames))
    (tmp_path / "rows.csv").write_text("film,label\na.mp4,x\nb.mp4,y\nc.mp4,x\n,y\n")
    return tmp_path


# decoding


@pytest.mark.parametrize(("codec", "form"), FORMS)
def test_frames_are_spread_evenly(codec, form):
    content = encoded(brightening(), codec=codec, form=form)
    assert media_kind(content) == "video"
    for wanted, expected in ((1, [8]), (4, [2, 6, 10, 14]), (16, [*range(16)]), (99, [*range(16)])):
        clip = decode_video(content, wanted, WHERE)
        assert numbers(clip.frames) == expected
        assert clip.seconds == pytest.approx(1.6)


def test_frames_at_a_rate_of_their_own():
    content = encoded(brightening(), rate=10)
    assert numbers(decode_video(content, 4, WHERE, rate=2.5).frames) == [0, 4, 8, 12]
    assert numbers(decode_video(content, 4, WHERE, rate=20).frames) == [0, 0, 1, 1]
    assert numbers(decode_video(content, 99, WHERE, rate=5).frames) == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize(
    ("matrix", "corner"), [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))]
)
def test_a_turned_video_is_set_upright(matrix, corner):
    """As telephones write it: the pictures lie, and a matrix in the header says how they are to be shown."""
    a, b, c, d = (((v << 16) & 0xFFFFFFFF).to_bytes(4, "big") for v in matrix)
    before, after = encoded(brightening()).rsplit(MATRIX, 1)  # of the track, not of the whole film
    turned = before + a + b + bytes(4) + c + d + bytes(12) + (1 << 30).to_bytes(4, "big") + after
    frame = decode_video(turned, 1, WHERE).frames[0]
    assert frame.shape[:2] == ((32, 48) if matrix[0] else (48, 32))
    red = [(y, x) for y in (0, -1) for x in (0, -1) if int(frame[y, x, 0]) - int(frame[y, x, 1]) > 100]
    assert red == [corner]


def test_what_is_no_video_is_refused():
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.rate = 8000
        container.mux([*stream.encode(samples), *stream.encode()])
    assert "it holds no moving pictures" in refused(sound.getvalue())
    wave = io.BytesIO()
    soundfile.write(wave, np.zeros(800), 8000, format="WAV")
    assert "cannot be read as video" in refused(wave.getvalue())
    assert "is empty (0 bytes)" in refused(b"")


def test_a_playlist_is_not_followed(tmp_path):
    (tmp_path / "a.mp4").write_bytes(encoded(brightening()))
    assert "cannot be read" in refused(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n".encode())
    assert "cannot be read" in refused(f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n".encode())


@pytest.mark.parametrize(("codec", "form"), FORMS[:3])
def test_damage_is_refused_or_does_no_harm(codec, form):
    content = encoded(brightening(), codec=codec, form=form)
    random = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(content)
        for place in random.integers(len(content), size=5):
            damaged[place] ^= 1 << random.integers(8)
        with suppress(InputError):  # anything else would be a defect
            assert decode_video(bytes(damaged), 4, WHERE).frames.shape[0] in range(1, 5)
    assert "cannot be read as video" in refused(content[: len(content) // 4])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(video_seconds=1.5), "lasts 2 s; the limit is 2 s"),
        (Limits(video_pixels=20_000), "16 frames of 1,536 pixels; the limit is 20,000"),
        (Limits(video_bytes=10_000), "decodes to 18,432 bytes"),
        (Limits(image_side=40), "48 x 32 pixels; the limit is 40 a side"),
        (Limits(file_bytes=100), "the limit is 100"),
    ],
)
def test_limits(limits, said):
    assert said in refused(encoded(brightening()), LimitError, limits=limits)


def test_without_pyav_the_extra_is_named(monkeypatch):
    content = encoded(brightening())
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'triptych[video]'" in refused(content)


# features


def test_shape_and_colours(folder):
    assert features(frames=4, size=(16, 24)).shape == Features(kind="video", shape=(4, 3, 16, 24))
    loaded = features(frames=4, size=(32, 48)).load("a.mp4", folder, WHERE)
    assert (loaded.shape, loaded.dtype) == ((4, 3, 32, 48), torch.uint8)
    assert numbers(loaded.permute(0, 2, 3, 1).numpy()) == [2, 6, 10, 14]
    grey = features(frames=4, size=8, grey=True).load("a.mp4", folder, WHERE)
    assert grey.shape == (4, 1, 8, 8)
    x = features(frames=4, size=8, grey=True).features(grey[None])
    torch.testing.assert_close(x, (grey[None].float() / 255 - 0.5) / 0.5)


def test_what_a_clip_lacks_is_zero_and_black_is_not(folder):
    (folder / "black.mp4").write_bytes(encoded(np.zeros((3, 32, 48, 3), np.uint8)))
    for settings in ({}, {"grey": True}, {"normalise": "imagenet"}):
        video = features(frames=5, size=8, **settings)
        for name in ("c.mp4", "black.mp4"):
            x = video.features(video.load(name, folder, WHERE)[None], augment=True)
            assert (x[0] != 0).flatten(1).any(1).tolist() == [True, True, True, False, False]
        assert not video.features(video.absent()[None]).any()


def test_all_frames_of_a_clip_change_alike():
    stack = torch.randint(1, 256, (6, 1, 3, 12, 12), dtype=torch.uint8).expand(-1, 5, -1, -1, -1)
    x = features(frames=5, size=12, warped=1.0).features(stack, True, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x, x[:, :1].expand_as(x))
    plain = features(frames=5, size=12).features(stack)
    assert all((x[clip] - plain[clip]).abs().mean() > 0.05 for clip in range(6))
    assert not torch.allclose(x[0] - plain[0], x[1] - plain[1], atol=0.1)


def test_a_clip_is_augmented_as_a_picture_is():
    from triptych.data.image import ImageFeatures

    settings = {"size": 12, "warped": 1.0}
    picture = torch.randint(1, 256, (4, 3, 12, 12), dtype=torch.uint8)
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    alone = ImageFeatures(ImageFeatures.Config(**settings)).features(picture, True, next(generators))
    clip = features(frames=1, **settings).features(picture[:, None], True, next(generators))
    torch.testing.assert_close(clip[:, 0], alone)


def test_normalised_by_data_set(folder):
    fitted = features(frames=4, size=8, normalise="dataset").fit(["a.mp4", "c.mp4"], folder, WHERE)
    x = torch.cat([fitted.features(fitted.load(name, folder, WHERE)[None]) for name in ("a.mp4", "c.mp4")])
    real = x.flatten(0, 1)[[0, 1, 2, 3, 4, 5, 6]]  # of eight frames one is padding
    torch.testing.assert_close(real.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(real.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


# tables


def test_videos_are_known_by_their_suffix_and_become_batches(folder, tmp_path):
    table = read_table(folder / "rows.csv")
    schema = guess(table)
    assert str(schema) == "film: video:input\nlabel: category:target"
    processor = Processor.fit(table, schema, {"film": {"frames": 4, "size": 8}})
    processor.save(tmp_path)
    again = Processor.load(tmp_path)
    assert again.shapes == {"film": Features(kind="video", shape=(4, 3, 8, 8))}
    batch, same = (Samples(table, one, schema).batch(range(4)) for one in (processor, again))
    assert batch.inputs["film"].shape == (4, 4, 3, 8, 8)
    assert batch.presence[:, 0].tolist() == [True, True, True, False]
    assert not batch.inputs["film"][3].any()
    assert torch.equal(batch.inputs["film"], same.inputs["film"])


def test_the_check_tells_black_damaged_and_missing_videos(folder):
    (folder / "black.mp4").write_bytes(encoded(np.zeros((4, 32, 48, 3), np.uint8)))
    (folder / "torn.mp4").write_bytes((folder / "a.mp4").read_bytes()[:500])
    rows = ["film,label", "a.mp4,x", "b.mp4,y", "black.mp4,x", "torn.mp4,y", "gone.mp4,x"]
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    table = read_table(folder / "rows.csv")
    found = {finding.code: finding for finding in check({"train": table}, guess(table)).findings}
    assert found["black"].message == "rows.csv, line 4, column film: 1 all-black video."
    assert (found["unreadable"].rows, found["missing_file"].rows) == ((3,), (4,))
    assert "torn.mp4 cannot be read as video" in found["unreadable"].message
