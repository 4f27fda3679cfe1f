"""Light where a map is, axes where a person expects them, weights beside the words they belong to."""

import io
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from triptych.data.audio import AudioFeatures
from triptych.data.image import ImageFeatures
from triptych.data.tabular import NumberFeatures
from triptych.data.text import TextFeatures
from triptych.evaluate.explain.look import Look
from triptych.report import lit


def test_light_falls_where_the_map_is():
    pixels = np.full((40, 60, 3), (200, 100, 0), np.uint8)
    heat = torch.zeros(4, 6)
    heat[3, 0] = 5
    seen = lit.lit(pixels, heat)
    assert seen[36, 3].tolist() == pytest.approx([200, 100, 0], abs=12)
    assert seen[2, 50].tolist() == [20, 20, 20]  # a fifth of the mean, grey
    assert (lit.lit(pixels, torch.zeros(4, 6)) == 20).all()


def test_a_photo_is_cut_as_the_model_sees_it_and_stays_sharp(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 250
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    features = ImageFeatures(ImageFeatures.Config(size=(32, 32), grey=True))
    shown = lit.photo(features, "wide.png", tmp_path, "here")
    assert shown.shape == (288, 288, 3)
    assert shown.mean() > 240


def test_a_tone_stands_at_its_frequency(tmp_path):
    time = np.arange(8_000) / 8_000
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1_000 * time) * (time > 0.5), 8_000)
    features = AudioFeatures(AudioFeatures.Config(sampling_rate=8_000, seconds=1.0, mels=48))
    shown = lit.spectrogram(features, "tone.wav", tmp_path, "here").mean(2)
    axes = lit.spectrogram_axes(features)
    heights = dict(axes.marks)
    assert axes.seconds == 1
    assert list(heights) == ["125", "500", "1k", "2k"] or list(heights) == ["125", "250", "500", "1k", "2k"]
    loudest = 1 - shown[:, 200].argmax() / len(shown)
    assert loudest == pytest.approx(heights["1k"], abs=0.04)
    assert shown[:, 200].max() > 2 * shown[:, 50].max()


def test_the_bands_of_mfcc_have_no_name():
    features = AudioFeatures(AudioFeatures.Config(sampling_rate=8_000, seconds=2.0, representation="mfcc"))
    assert (lit.spectrogram_axes(features).seconds, lit.spectrogram_axes(features).marks) == (2, ())


def test_pieces_carry_the_weights_of_their_tokens():
    features = TextFeatures(TextFeatures.Config(level="word", length=4)).fit(["red or green"])
    found = Look(
        tokens=torch.tensor([[9.0, 9, 9, 9], [-2.0, 0, 4, 0]]), attention=torch.tensor([[0.0] * 4, [0.3, 0.2, 0.5, 0]])
    )
    said, looked = lit.looks(features, "red or green", Path(), "here", found, 1, "for it")
    assert said.name == "for it"
    assert [(piece.text, piece.weight) for piece in said.pieces] == [("red ", -0.5), ("or ", 0), ("green ", 1)]
    assert looked.name == "attention"
    assert [piece.weight for piece in looked.pieces] == pytest.approx([0.333, 0, 1])
    assert len(lit.looks(features, "red or green", Path(), "here", found, 1, "for it", small=True)) == 1
    assert lit.looks(features, None, Path(), "here", found, 1, "for it") == []


def test_tokens_of_one_character_are_one_piece():
    assert [(p.text, p.weight) for p in lit._pieces(["a", "七", "", ""], [1.0, 1, 1, 0])] == [("a", 0.5), ("七", 1)]
    assert lit._pieces(["a"], [0.0])[0].weight == 0


def test_pictures_of_both_kinds(tmp_path):
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", np.zeros(2_000), 8_000)
    found = Look(heat=torch.rand(1, 5, 5))
    for features, cell, axes in (
        (ImageFeatures(ImageFeatures.Config(size=16)), "a.png", False),
        (AudioFeatures(AudioFeatures.Config(sampling_rate=8_000, seconds=0.5)), "a.wav", True),
    ):
        (shown,) = lit.looks(features, cell, tmp_path, "here", found, 0, "before")
        assert (shown.axes is not None) == axes
        assert max(Image.open(io.BytesIO(b64decode(shown.picture.split(",")[1]))).size) == 288
        (small,) = lit.looks(features, cell, tmp_path, "here", found, 0, "before", small=True)
        assert small.axes is None
    assert lit.looks(NumberFeatures(NumberFeatures.Config()), 3, tmp_path, "here", Look(), 0, "before") == []
