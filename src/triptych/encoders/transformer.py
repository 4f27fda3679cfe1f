"""Transformer encoder, pre-norm: attention and a feed-forward network, each added to what it read.

In words: x + attention(norm(x)), then x + down(GELU(up(norm(x)))), layer after layer; a last norm; the mean over real
tokens.

Shapes: image "batch channels height width" is cut into square patches of `patch` pixels, audio "batch 1 mels frames"
into pieces of `patch` frames, both by one convolution (an incomplete patch at the end is left out), or read by convolutions with
`strides` (see `stem`); text "batch tokens" is embedded. Positions are learned.

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017; pre-norm from Xiong et al., On Layer Normalization in
the Transformer Architecture, ICML 2020; patches from Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
"""

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from triptych.encoders.attention import Attention
from triptych.encoders.masked import Masked, all_real, masked_mean, real_tokens
from triptych.encoders.patches import patches
from triptych.encoders.stem import Stem
from triptych.registry import register
from triptych.structure import Encoded, Features, Member, Modality, Settings, Width, prefixed


class Layer(nn.Module):
    """x + attention(norm(x)), then x + down(GELU(up(norm(x))))."""

    def __init__(self, config: "TransformerEncoder.Config") -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.feedforward)
        self.down = nn.Linear(config.feedforward, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, stream: Masked) -> Masked:
        """The tokens after the layer; their mask goes along."""
        x, mask = stream
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        x = x + self.dropout(self.down(functional.gelu(self.up(self.feedforward_norm(x)))))
        return Masked(x, mask)

    def widths(self) -> list[Width]:
        """The heads and the features between up and down."""
        rows = (Member("up.weight", 0), Member("up.bias", 0))
        features = Width("feedforward", self.up.weight.shape[0], rows, (Member("down.weight", 1),))
        return [*prefixed("attention", self.attention.widths()), features]


@register("encoder", "transformer")
class TransformerEncoder(nn.Module):
    """Transformer for image, audio and text."""

    class Config(Settings):
        """`feedforward` features between up and down; `patch` is a side in pixels, or a length in frames; of sound and series,
        `strides` of overlapping convolutions may stand in its place (Whisper: [1, 2]).
        """

        width: PositiveInt = 128
        heads: PositiveInt = 4
        layers: PositiveInt = 4
        feedforward: PositiveInt = 256
        patch: PositiveInt = 8
        strides: tuple[PositiveInt, ...] = ()
        dropout: float = Field(0.1, ge=0, lt=1)

    kinds: ClassVar[frozenset[Modality]] = frozenset({"image", "audio", "series", "text"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        self.text, self.every = features.kind == "text", math.prod(config.strides) if config.strides else config.patch
        self.embed: nn.Module
        if config.strides:
            self.embed = stem = Stem(features, config.strides, config.width)
            tokens = stem.tokens
        elif self.text:
            self.embed, tokens = nn.Embedding(features.vocabulary, config.width, padding_idx=0), features.shape[0]
        else:
            self.embed, tokens = patches(features, config.patch, config.width)
        self.positions = nn.Embedding(tokens, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.Sequential(*(Layer(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.width = config.width

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"] | Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch width"] | None = None,
    ) -> Encoded:
        """The mean of the last layer's real tokens, and all tokens.

        Of sound and series, `mask` says which frames are no padding; a token is real where its first frame is.
        """
        embedded = self.embed(x) if self.text else self.embed(x).flatten(2).transpose(1, 2)
        if self.text:
            mask = real_tokens(x)
        elif mask is not None:
            mask = mask[:, :: self.every][:, : embedded.shape[1]]
        positions = self.positions(torch.arange(embedded.shape[1], device=x.device))
        stream = self.layers(Masked(self.dropout(embedded + positions), mask))
        tokens = self.norm(stream.x)
        return Encoded(masked_mean(tokens, mask), tokens, all_real(tokens) if mask is None else mask)

    def widths(self) -> list[Width]:
        """The heads and feed-forward features of each layer."""
        return [width for name, layer in self._layers() for width in prefixed(name, layer.widths())]

    def droppable(self) -> list[str]:
        """Every layer."""
        return [name for name, _ in self._layers()]

    def _layers(self) -> Iterator[tuple[str, Layer]]:
        """The layers in order, by name; those that were dropped are left out."""
        return ((name, module) for name, module in self.named_modules() if isinstance(module, Layer))
