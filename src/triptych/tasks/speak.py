"""Say it: a sound from the tokens of the encoders, all of its frames at once.

How long the clip is comes first, from the mean of the tokens. Each frame then asks, by where in the clip it lies, what sounds there:
transformer layers look at the other frames and at the tokens. In training the true length is told, so that the frames of a slow and
of a fast clip lie at the same places. Loss: absolute and squared error of the log-mel bands, and the absolute error of the length.

Outputs "batch frames mels + 1": bands in deviations from their training mean; behind them the share of the frames that are still to
come, negative after the end. Quality: R², the share of the spectrograms' variance that is explained, silence after either end included.
The waveform is found outside of the model (see `vocoder`).

Source: parallel frames and a duration that is predicted as in Ren et al., FastSpeech, NeurIPS 2019, one duration for the whole clip.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.audio import TOP_DECIBELS, AudioFeatures
from triptych.data.target import Target
from triptych.data.vocoder import cepstral_distance, waveform
from triptych.decoders.transformer import DecoderLayer, TransformerDecoder
from triptych.encoders.masked import masked_mean
from triptych.registry import register
from triptych.structure import Settings, Width, prefixed

WAVES = 32  # in which a place is told to the frames: sines and cosines of 1/2 to 16 turns a clip


@register("task", "speak")
class Speak(nn.Module):
    """A spectrogram and its length, from tokens."""

    class Config(Settings):
        """`heads` must divide the fusion's width. What the data says is filled in by `fit`."""

        audio: dict[str, Any] = {}
        mean: tuple[float, ...] = (0.0,)
        deviation: float = 1.0
        heads: PositiveInt = 4
        layers: PositiveInt = 3
        feedforward: PositiveInt = 256
        dropout: float = Field(0.0, ge=0, lt=1)

    metric: ClassVar[str] = "r2"
    reads: ClassVar[Literal["tokens"]] = "tokens"
    forced: ClassVar[bool] = True
    numbers: ClassVar[bool] = True

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.audio = AudioFeatures.from_state(config.audio)
        _, mels, self.frames = self.audio.shape.shape
        self.length = nn.Linear(width, 1)
        self.place = nn.Linear(2 * WAVES, width)
        layer = TransformerDecoder.Config(heads=config.heads, feedforward=config.feedforward, dropout=config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(layer, width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, mels)
        self.turns = torch.pi * torch.arange(1, WAVES + 1)
        self.middles = (torch.arange(self.frames) + 0.5) / self.frames
        self.mean = torch.tensor(config.mean)

    def forward(
        self,
        memory: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"],
        labels: Float[Tensor, "batch frames mels"] | None = None,
    ) -> Float[Tensor, "batch frames bands"]:
        """The frames; with labels those of a clip of the labels' length."""
        length = self.length(masked_mean(memory, mask)).sigmoid()
        told = length if labels is None else _lengths(labels)
        places = self.middles.to(told) / told.clamp(min=1 / self.frames)
        turned = places.unsqueeze(-1) * self.turns.to(told)
        x = self.place(torch.cat([turned.sin(), turned.cos()], dim=-1))
        sounding = places < 1
        for layer in self._ordered():
            asking = layer.attention_norm(x)
            own = *layer.attention.offer(asking), sounding[:, None, None, :]
            x = layer(x, asking, own, (*layer.cross.offer(memory), mask[:, None, None, :]))
        silence = (-TOP_DECIBELS - self.mean.to(told)) / self.config.deviation
        bands = torch.where(sounding.unsqueeze(-1), self.output(self.norm(x)), silence)
        return torch.cat([bands, (length - self.middles.to(told)).unsqueeze(-1)], dim=-1)

    def loss(
        self, outputs: Float[Tensor, "batch frames bands"], labels: Float[Tensor, "batch frames mels"]
    ) -> Float[Tensor, ""]:
        """In deviations a band, over the frames of the clips; and as a share of the longest clip."""
        real = ~labels.isnan()
        told = (labels - self.mean.to(labels)) / self.config.deviation
        errors = (outputs[..., :-1] - told)[real]
        length = outputs[:, 0, -1:] + self.middles[0]
        return errors.abs().mean() + errors.square().mean() + F.l1_loss(length, _lengths(labels))

    def widths(self) -> list[Width]:
        """The heads and feed-forward features of each layer."""
        named = ((f"layers.{number}", layer) for number, layer in enumerate(self._ordered()))
        return [width for name, layer in named for width in prefixed(name, layer.widths())]

    def _ordered(self) -> Iterator[DecoderLayer]:
        return (layer for layer in self.layers if isinstance(layer, DecoderLayer))

    def scores(
        self, outputs: Float[np.ndarray, "rows frames bands"], labels: Float32[np.ndarray, "rows frames mels"]
    ) -> Float64[np.ndarray, " rows"]:
        """1 - |s - ŝ|² / mean |s - mean s|² a row, whose mean is R² on these rows."""
        told = np.nan_to_num(labels, nan=-TOP_DECIBELS)
        error = np.square(self._decibels(outputs) - told, dtype=np.float64).mean((1, 2))
        return 1.0 - error / max(float(np.square(told - told.mean(0), dtype=np.float64).mean()), 1e-12)

    def soft_scores(
        self, outputs: Float[np.ndarray, "rows frames bands"], labels: Float32[np.ndarray, "rows frames mels"]
    ) -> Float64[np.ndarray, " rows"]:
        """The scores themselves: an error has no ties that a coin could decide."""
        return self.scores(outputs, labels)

    def metrics(
        self, outputs: Float[np.ndarray, "rows frames bands"], labels: Float32[np.ndarray, "rows frames mels"]
    ) -> dict[str, float]:
        """R², mean mel-cepstral distance in dB and mean error of the length in seconds."""
        told = [row[~np.isnan(row[:, 0])] for row in labels]
        made = self._clips(outputs)
        seconds = self.audio.hop_length / self.audio.sampling_rate
        return {
            "r2": float(self.scores(outputs, labels).mean()),
            "mel_cepstral_distance": float(
                np.mean([cepstral_distance(*pair) for pair in zip(made, told, strict=True)])
            ),
            "seconds_off": seconds * float(np.mean([abs(len(a) - len(b)) for a, b in zip(made, told, strict=True)])),
        }

    def answers(self, outputs: Float[np.ndarray, "rows frames bands"]) -> list[dict[str, Any]]:
        """The sound of each row, and how long it is."""
        return [self._heard(clip) for clip in self._clips(outputs)]

    def truth(self, label: Any) -> dict[str, Any]:
        """The true spectrogram, made a sound in the same way."""
        return self._heard(label[~np.isnan(label[:, 0])])

    def _heard(self, clip: Float[np.ndarray, "frames mels"]) -> dict[str, Any]:
        wave, rate = waveform(self.audio, clip), self.audio.sampling_rate
        return {"answer": f"{len(wave) / rate:.2f} s", "sound": wave, "rate": rate}

    def _clips(self, outputs: Float[np.ndarray, "rows frames bands"]) -> list[Float32[np.ndarray, "_ mels"]]:
        """The frames of each row up to its end, in decibels."""
        counts = np.maximum((outputs[..., -1] > 0).sum(1), 1)
        return [clip[:count] for clip, count in zip(self._decibels(outputs), counts, strict=True)]

    def _decibels(self, outputs: Float[np.ndarray, "rows frames bands"]) -> Float32[np.ndarray, "rows frames mels"]:
        bands = outputs[..., :-1] * self.config.deviation + np.array(self.config.mean, dtype=np.float32)
        return np.clip(bands, -TOP_DECIBELS, 0.0).astype(np.float32)

    @staticmethod
    def fit(config: dict[str, Any], target: Target, targets: np.ndarray) -> dict[str, Any]:
        """The config completed from the training rows: how sounds are sampled, each band's mean and the deviation of all."""
        mean = np.asarray(np.nanmean(targets, (0, 1), dtype=np.float64))
        deviation = max(float(np.sqrt(np.nanmean(np.square(targets - mean)))), 1e-6)
        state = target.sound.state()
        return {**config, "audio": state, "mean": tuple(mean.tolist()), "deviation": deviation}


def _lengths(labels: Float[Tensor, "batch frames mels"]) -> Float[Tensor, "batch 1"]:
    """The share of the frames that belong to each clip."""
    return (~labels[..., 0].isnan()).float().mean(1, keepdim=True)
