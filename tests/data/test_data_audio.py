from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch

from triptych.data.audio import AudioFeatures, Filters, mel_spectrogram
from triptych.errors import InputError
from triptych.structure import Features


def features(**settings) -> AudioFeatures:
    return AudioFeatures(AudioFeatures.Config(**settings))


def clip(folder: Path, name: str, samples: np.ndarray, rate: int = 8000) -> str:
    soundfile.write(folder / name, samples, rate, subtype="FLOAT")
    return name


@pytest.mark.parametrize(
    ("rate", "n_fft", "hop", "mels", "samples"),
    [(8000, 256, 128, 64, 8000), (16000, 512, 160, 80, 9001), (22050, 1024, 333, 40, 5000), (8000, 512, 64, 20, 700)],
)
def test_mel_spectrogram_equals_librosa(rate, n_fft, hop, mels, samples):
    rng = np.random.default_rng(samples)
    waves = rng.normal(0, 0.3, (3, samples)).astype(np.float32)
    ours = mel_spectrogram(torch.from_numpy(waves), Filters(rate, n_fft, mels), n_fft, hop)
    for wave, mel in zip(waves, ours, strict=True):
        theirs = librosa.feature.melspectrogram(y=wave, sr=rate, n_fft=n_fft, hop_length=hop, n_mels=mels)
        np.testing.assert_allclose(mel, theirs, rtol=1e-4, atol=1e-5 * theirs.max())


@pytest.mark.parametrize(("mels", "coefficients", "seconds"), [(64, 20, 0.9), (40, 13, 0.5), (24, 24, 1.3)])
def test_logmel_and_mfcc_equal_librosa(mels, coefficients, seconds):
    rng = np.random.default_rng(mels)
    ours = features(sampling_rate=8000, seconds=seconds, mels=mels, coefficients=coefficients, representation="mfcc")
    logmel = features(sampling_rate=8000, seconds=seconds, mels=mels)
    # An attack that decays through more than 80 dB, so that the floor is met.
    waves = rng.normal(0, 1, (2, ours.samples)) * np.exp(-np.arange(ours.samples) / (ours.samples / 14))
    waves = waves.astype(np.float32)
    for wave, mfcc, mel in zip(
        waves, ours.spectrogram(torch.from_numpy(waves)), logmel.spectrogram(torch.from_numpy(waves)), strict=True
    ):
        settings = {"y": wave, "sr": 8000, "n_fft": 256, "hop_length": 128, "n_mels": mels}
        np.testing.assert_allclose(mfcc[0], librosa.feature.mfcc(n_mfcc=coefficients, **settings), rtol=1e-4, atol=2e-3)
        decibels = librosa.power_to_db(librosa.feature.melspectrogram(**settings))
        np.testing.assert_allclose(mel[0], decibels, rtol=1e-4, atol=1e-3)


def test_shapes_follow_from_the_settings():
    audio = features(sampling_rate=8000, seconds=1.0)
    assert (audio.n_fft, audio.hop_length, audio.samples) == (256, 128, 8000)
    assert audio.shape == Features(kind="audio", shape=(1, 64, 63))
    assert audio.features(torch.zeros(2, 8000)).shape == (2, 1, 64, 63)
    assert features(representation="mfcc", coefficients=13).shape.shape[1] == 13


def test_fit_reads_rate_and_length_from_the_headers(tmp_path):
    cells = [clip(tmp_path, f"{i}.wav", np.zeros(8000 * (1 + i)), 8000) for i in range(3)]
    fitted = features().fit(cells, tmp_path)
    assert (fitted.sampling_rate, fitted.config.seconds) == (8000, 3.0)
    kept = features(seconds=0.5, sampling_rate=4000).fit(cells, tmp_path)
    assert (kept.sampling_rate, kept.samples) == (4000, 2000)
    high = clip(tmp_path, "high.wav", np.zeros(44100), 44100)
    assert features().fit([high], tmp_path).sampling_rate == 16000


def test_short_clips_are_padded_and_long_ones_cut(tmp_path):
    wave = np.linspace(0.1, 0.9, 800, dtype=np.float32)
    clip(tmp_path, "a.wav", wave)
    short, long = features(sampling_rate=8000, seconds=0.2), features(sampling_rate=8000, seconds=0.05)
    padded = short.load("a.wav", tmp_path, "here")
    assert torch.equal(padded[:800], torch.from_numpy(wave))
    assert not padded[800:].any()
    assert torch.equal(long.load("a.wav", tmp_path, "here"), torch.from_numpy(wave[:400]))


def test_normalised_by_clip_loudness_does_not_matter():
    waves = torch.randn(4, 8000, generator=torch.Generator().manual_seed(0))
    audio = features(sampling_rate=8000, seconds=1.0)
    x = audio.features(waves)
    assert torch.allclose(x, audio.features(0.01 * waves), atol=1e-3)
    assert torch.allclose(x.mean((1, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(x.std((1, 2, 3)), torch.ones(4), atol=1e-2)
    assert not audio.features(torch.zeros(1, 8000)).any()


def test_normalised_by_data_set(tmp_path):
    rng = np.random.default_rng(0)
    cells = [clip(tmp_path, f"{i}.wav", rng.normal(0, 0.1, 4000)) for i in range(5)]
    audio = features(normalise="dataset", representation="mfcc", coefficients=5).fit(cells, tmp_path)
    x = audio.features(torch.stack([audio.load(cell, tmp_path, "here") for cell in cells]))
    assert torch.allclose(x.mean((0, 1, 3)), torch.zeros(5), atol=1e-4)
    assert torch.allclose(x.std((0, 1, 3), correction=0), torch.ones(5), atol=1e-4)
    again = AudioFeatures.from_state(audio.state())
    assert torch.equal(again.features(audio.load(cells[0], tmp_path, "here")[None]), x[:1])


def test_augmentation_depends_on_the_generator_alone():
    audio = features(sampling_rate=8000, seconds=0.5)
    waves = torch.randn(40, 4000, generator=torch.Generator().manual_seed(0))
    first, again, other = (audio.features(waves, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, audio.features(waves))
    assert torch.isfinite(first).all()


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(InputError, match=r"20 MFCC cannot be made of 10 mels\. Raise mels or lower coefficients\."):
        features(mels=10, coefficients=20, representation="mfcc")
    crowded = features(sampling_rate=8000, mels=300)
    with pytest.raises(InputError, match=r"300 mels are too many for windows of 256 samples at 8,000 Hz: some filters"):
        crowded.features(torch.zeros(1, crowded.samples))


def test_a_backbones_own_front_end_by_settings():
    """Windows shorter than the transform, from the first sample on; magnitudes; HTK's triangles in mel; log(mel + 0.001)."""
    settings = {"mels": 40, "n_fft": 256, "window": 200, "hop_length": 80, "centred": False, "power": 1}
    ours = features(
        sampling_rate=8000,
        seconds=0.5,
        mel_scale="htk",
        f_min=100,
        f_max=3500,
        log_offset=0.001,
        normalise="none",
        **settings,
    )
    wave = np.random.default_rng(0).normal(0, 0.3, 4000).astype(np.float32)
    mel = np.linspace(*(2595 * np.log10(1 + np.array([100, 3500]) / 700)), 42)
    bins = 2595 * np.log10(1 + np.arange(129) * 8000 / 256 / 700)
    rise, fall = ((bins[:, None] - mel[:-2]) / np.diff(mel)[:-1], (mel[2:] - bins[:, None]) / np.diff(mel)[1:])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    frames = np.stack([wave[start : start + 200] * hann for start in range(0, 4000 - 199, 80)])
    expected = np.log(np.abs(np.fft.rfft(frames, 256)) @ np.maximum(0, np.minimum(rise, fall)) + 0.001).T
    assert ours.shape.shape == (1, *expected.shape)
    np.testing.assert_allclose(ours.features(torch.from_numpy(wave[None]))[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_filters_of_another_range_and_magnitudes_equal_librosa():
    wave = np.random.default_rng(0).normal(0, 0.3, 4000).astype(np.float32)
    ours = features(sampling_rate=8000, seconds=0.5, window=200, power=1, f_min=200, f_max=3000, mels=20)
    theirs = librosa.feature.melspectrogram(
        y=wave, sr=8000, n_fft=256, win_length=200, hop_length=128, power=1, fmin=200, fmax=3000, n_mels=20
    )
    np.testing.assert_allclose(
        ours.spectrogram(torch.from_numpy(wave[None]))[0, 0], librosa.amplitude_to_db(theirs), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 300, "n_fft": 256}, "A window of 300 samples does not fit into n_fft, 256"),
        ({"sampling_rate": 8000, "f_max": 5000}, "There are no mels from 0 to 5000 Hz of sounds at 8,000 Hz"),
        ({"f_min": 4000, "f_max": 300}, "There are no mels from 4000 to 300 Hz"),
    ],
)
def test_windows_and_ranges_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        features(**settings)


def test_a_faster_clip_is_higher_and_shorter():
    wave = torch.sin(2 * np.pi * 500 * torch.arange(8000) / 8000).repeat(40, 1)
    audio = features(
        sampling_rate=8000, seconds=1.0, speed=0.2, shift=0, noise=None, masks=0, normalise="none", mels=128, n_fft=1024
    )
    loud = audio.features(wave, True, torch.Generator().manual_seed(0))[:, 0] > 0
    heights = loud.float().argmax(1)[:, 3]
    assert heights.min() < audio.features(wave)[0, 0, :, 3].argmax() < heights.max()
    lengths = loud.any(1).sum(1)
    assert lengths.min() < lengths.max() == audio.shape.shape[2]
