"""Radial basis functions: how close an input is to each of some learned centres, and a linear layer over the answers.

In words: phi_k(x) = exp(-gamma_k * |x - c_k|^2), with learned centres c_k and gamma_k = exp(log_gamma_k).

Shapes: image and audio "batch channels height width" are cut into patches, each projected to `dim` features by one
convolution, and every patch is compared with the centres; text "batch tokens" is embedded and averaged over its real
tokens; a number "batch 1" is compared as it is. Projections are normalised, so that distances have one scale and no
centre falls silent.

Source: Broomhead and Lowe, Multivariable Functional Interpolation and Adaptive Networks, Complex Systems 1988; Moody
and Darken, Fast Learning in Networks of Locally-Tuned Processing Units, Neural Computation 1989.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from triptych.encoders.masked import all_real, masked_mean, real_tokens
from triptych.encoders.patches import patches
from triptych.registry import register
from triptych.structure import Encoded, Features, Member, Modality, Settings, Width, linear_rows


class RadialBasis(nn.Module):
    """exp(-exp(log_gamma_k) |x - c_k|^2) for every centre k."""

    def __init__(self, dim: int, units: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(units, dim))
        # Two standard normal points lie sqrt(2 dim) apart: this gamma makes a typical answer 1/e, far from 0 and 1.
        self.log_gamma = nn.Parameter(torch.full((units,), -math.log(2 * dim)))

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens units"]:
        """The answer of each centre to each token, between 0 and 1."""
        # |x - c|^2 = |x|^2 - 2 c.x + |c|^2 keeps memory at tokens x units; rounding may leave a tiny negative.
        squares = x.square().sum(-1, keepdim=True) + self.centres.square().sum(-1)
        distance = (squares - 2 * x @ self.centres.T).clamp(min=0)
        return torch.exp(-self.log_gamma.exp() * distance)


@register("encoder", "rbf")
class RBFEncoder(nn.Module):
    """Radial basis functions for image, audio, text and number."""

    class Config(Settings):
        """`units` centres in a space of `dim` features; `patch` is a side in pixels, or a length in frames."""

        dim: PositiveInt = 32
        units: PositiveInt = 64
        width: PositiveInt = 64
        patch: PositiveInt = 8

    kinds: ClassVar[frozenset[Modality]] = frozenset({"image", "audio", "series", "text", "number"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        self.kind = features.kind
        dim = features.shape[0] if features.kind == "number" else config.dim
        self.project: nn.Module
        self.norm: nn.Module
        if features.kind == "number":
            self.project, self.norm = nn.Identity(), nn.Identity()
        elif features.kind == "text":
            self.project, self.norm = nn.Embedding(features.vocabulary, dim, padding_idx=0), nn.LayerNorm(dim)
        else:
            (self.project, _), self.norm = patches(features, config.patch, dim), nn.LayerNorm(dim)
        self.basis = RadialBasis(dim, config.units)
        self.out = nn.Linear(config.units, config.width)
        self.width = config.width

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"] | Int[Tensor, "batch tokens"] | Float[Tensor, "batch numbers"],
    ) -> Encoded:
        """The mean over the patches, and each patch; one token for text and number."""
        projected = self.project(x)
        if self.kind == "text":
            projected = masked_mean(projected, real_tokens(x))
        points = projected.flatten(2).transpose(1, 2) if projected.ndim == 4 else projected.unsqueeze(1)
        tokens = self.out(self.basis(self.norm(points)))
        return Encoded(tokens.mean(dim=1), tokens, all_real(tokens))

    def widths(self) -> list[Width]:
        """The centres."""
        producers = (Member("basis.centres", 0), Member("basis.log_gamma", 0))
        return [Width("basis", self.basis.centres.shape[0], producers, (Member("out.weight", 1),))]

    def pooled(self) -> Width:
        """The features of the pooled vector."""
        return linear_rows("out", self.out)

    def droppable(self) -> list[str]:
        """None: nothing here has a shortcut."""
        return []
