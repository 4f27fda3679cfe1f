"""Sounds that are to be made: from clips to log-mel spectrograms with an end, and from spectrograms back to waveforms.

A spectrogram here is in decibels below the loudest point of its clip, from -80 to 0: how loud a clip was recorded is nothing to learn.

Source: Griffin & Lim, Signal Estimation from Modified Short-Time Fourier Transform, IEEE TASSP 1984, as librosa does it.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from triptych.data.audio import TOP_DECIBELS, AudioFeatures
from triptych.data.decode import audio_header, media_source
from triptych.errors import InputError

ITERATIONS = 60  # of Griffin-Lim: twice as many as librosa does by default
PEAK = 0.7  # of the waveforms that are made
SPECTRAL = ("representation", "window", "centred", "power", "mel_scale", "f_min", "f_max", "log_offset")


def fit_sound(config: AudioFeatures.Config, cells: Sequence[Any], root: Path, where: str) -> AudioFeatures:
    """The features of sounds that are to be made, fitted to the training clips.

    Raises:
        InputError: settings of which `waveform` could make no sound again.
    """
    usual = {name: AudioFeatures.Config.model_fields[name].default for name in SPECTRAL}
    if config != config.model_copy(update=usual):
        raise InputError(
            f"{where}: no sound can be made of such spectrograms again.", f"Leave out {', '.join(SPECTRAL)}."
        )
    return AudioFeatures(config).fit(cells, root, where)


def spectrograms(
    features: AudioFeatures, cells: Sequence[Any], root: Path, places: Sequence[str]
) -> Float32[np.ndarray, "rows frames mels"]:
    """What each clip sounds like, NaN after its end.

    Raises:
        InputError: a clip cannot be read or is silent; `places` names it.
    """
    _, mels, frames = features.shape.shape
    found = np.full((len(cells), frames, mels), np.nan, dtype=np.float32)
    for row, (cell, place) in enumerate(zip(cells, places, strict=True)):
        wave = features.load(cell, root, place)
        if not wave.any():
            raise InputError(f"{place}: the sound is silent, and it is what the model learns.", "Leave the row out.")
        rate, seconds = audio_header(media_source(cell, root, place), place)
        count = min(frames, 1 + int(seconds * rate) * features.sampling_rate // rate // features.hop_length)
        decibels = features.spectrogram(wave[None])[0, 0].T
        found[row, :count] = (decibels - decibels.max())[:count].numpy()
    return found


def waveform(
    features: AudioFeatures, decibels: Float[np.ndarray, "frames mels"], seed: int = 0
) -> Float32[np.ndarray, " samples"]:
    """The sound of a spectrogram, its phases found by Griffin-Lim from random ones; the same seed finds the same."""
    from librosa import griffinlim
    from librosa.feature.inverse import mel_to_stft

    power = 10.0 ** (np.clip(decibels.T, -TOP_DECIBELS, 0.0) / 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mel filters that share their frequencies
        magnitudes = mel_to_stft(power, sr=features.sampling_rate, n_fft=features.n_fft)
    wave = griffinlim(
        magnitudes, n_iter=ITERATIONS, hop_length=features.hop_length, n_fft=features.n_fft, random_state=seed
    )
    return (PEAK * wave / max(float(np.abs(wave).max()), 1e-9)).astype(np.float32)


def cepstral_distance(
    a: Float[np.ndarray, "frames mels"], b: Float[np.ndarray, "others mels"], coefficients: int = 13
) -> float:
    """Mel-cepstral distance in dB, the frames of one clip aligned with those of the other by dynamic time warping.

        sqrt(sum_{k=1..13} (c_k - c'_k)^2 / mels) a pair of frames, with c the orthonormal DCT of their decibels: the root mean
        square of what two smoothed spectra differ by, loudness (k = 0) left out; averaged along the path.

    Source: Kubichek, Mel-Cepstral Distance Measure for Objective Speech Quality Assessment, PACRIM 1993.
    """
    from librosa.sequence import dtw
    from scipy.fft import dct

    c, d = (dct(x.astype(np.float64), norm="ortho")[:, 1 : coefficients + 1] for x in (a, b))
    costs = np.sqrt(np.square(c[:, None] - d[None]).sum(-1) / a.shape[1])
    _, path = dtw(C=costs)
    return float(costs[path[:, 0], path[:, 1]].mean())
