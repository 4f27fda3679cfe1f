"""Weighted mean: one learned weight a modality, shared out anew among the modalities that are present.

In words: w = softmax(score) over the present modalities; the result is the sum of w_m z_m.

Shapes: "batch modalities width" -> "batch width".

Source: the learned scalar mix of Peters et al., Deep Contextualized Word Representations, NAACL 2018, equation 1, over
modalities rather than layers.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from triptych.encoders.masked import any_or_all
from triptych.registry import register
from triptych.structure import Settings, Width


@register("fusion", "weighted")
class WeightedFusion(nn.Module):
    """Sum of softmax(score)_m z_m."""

    class Config(Settings):
        """Nothing to set."""

    def __init__(self, config: Config, modalities: int, width: int) -> None:  # noqa: ARG002 - as every fusion
        super().__init__()
        self.score = nn.Parameter(torch.zeros(modalities))
        self.out_width = width

    def forward(
        self, z: Float[Tensor, "batch modalities width"], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch width"]:
        """One vector a sample; an absent modality has weight 0, unless all are absent."""
        weights = self.score.masked_fill(~any_or_all(presence), float("-inf")).softmax(dim=1)
        return (weights.unsqueeze(-1) * z).sum(dim=1)

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
