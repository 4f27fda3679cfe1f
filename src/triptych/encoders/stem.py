"""Convolutions over time that make tokens of a spectrogram or a series, overlapping where patches do not: Whisper's stem.

In words: each convolution reads three neighbouring steps, the first one all mels of them, moves on by its stride and ends in a GELU.

Source: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, ICML 2023, section 2.2.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import InputError
from triptych.structure import Features


class Stem(nn.Module):
    """One convolution a stride.

    Args:
        features: of audio or a series.
        strides: steps that each convolution moves on by.
        width: features of a token.

    Attributes:
        tokens: how many there are; token t lies around frame t times the product of all strides.

    Raises:
        InputError: features that have no time.
    """

    def __init__(self, features: Features, strides: Sequence[int], width: int) -> None:
        super().__init__()
        if features.kind not in ("audio", "series"):
            raise InputError(f"`strides` are over time, which {features.kind} features do not have.", "Use `patch`.")
        channels, height, self.tokens = features.shape
        self.convolutions = nn.ModuleList()
        for stride in strides:
            self.convolutions.append(nn.Conv2d(channels, width, (height, 3), (1, stride), (0, 1)))
            channels, height, self.tokens = width, 1, (self.tokens - 1) // stride + 1

    def forward(self, x: Float[Tensor, "batch channels height frames"]) -> Float[Tensor, "batch width 1 tokens"]:
        """The tokens."""
        for convolution in self.convolutions:
            x = functional.gelu(convolution(x))
        return x
