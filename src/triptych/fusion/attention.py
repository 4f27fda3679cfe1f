"""Cross-modal attention: every modality asks all present ones, adds what it learns, and the answers are pooled.

In words: y = norm(z + attention(z)), with the vectors of a sample as tokens and absent modalities left out of keys and
values; the result is the mean of y over the present modalities, or all of y one after another.

Shapes: "batch modalities width" -> "batch width", or "batch modalities * width".

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017; across modalities, Tsai et al., Multimodal Transformer
for Unaligned Multimodal Language Sequences, ACL 2019.
"""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor, nn

from triptych.encoders.attention import Attention
from triptych.encoders.masked import any_or_all, masked_mean
from triptych.registry import register
from triptych.structure import Settings, Width, prefixed


@register("fusion", "attention")
class AttentionFusion(nn.Module):
    """Mean or concatenation of norm(z + attention(z)).

    Raises:
        InputError: `heads` does not divide the width.
    """

    class Config(Settings):
        """`heads` must divide the fusion's width; `pool` is what becomes of the modalities' answers."""

        heads: PositiveInt = 4
        pool: Literal["mean", "concat"] = "mean"

    def __init__(self, config: Config, modalities: int, width: int) -> None:
        super().__init__()
        self.pool = config.pool
        self.attention = Attention(width, config.heads)
        self.norm = nn.LayerNorm(width)
        self.out_width = width if config.pool == "mean" else modalities * width

    def forward(
        self, z: Float[Tensor, "batch modalities width"], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch out"]:
        """One vector a sample; where all are absent, their tokens ask each other."""
        counted = any_or_all(presence)
        answers = self.norm(z + self.attention(z, counted))
        return masked_mean(answers, counted) if self.pool == "mean" else answers.flatten(1)

    def widths(self) -> list[Width]:
        """The heads."""
        return prefixed("attention", self.attention.widths())
