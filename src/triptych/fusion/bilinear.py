"""Low-rank bilinear pooling: products of every pair of modalities in few dimensions, beside the vectors themselves.

In words: for each pair i < j, (U_i z_i) * (V_j z_j), element by element; a pair with an absent member gives 0. The
result is [z_1, ..., z_M, all products].

Shapes: "batch modalities width" -> "batch modalities * width + pairs * rank"; M modalities make M (M - 1) / 2 pairs.

Source: Kim et al., Hadamard Product for Low-rank Bilinear Pooling, ICLR 2017, section 3, whose last projection is
the task's first layer here; Ben-younes et al., MUTAN: Multimodal Tucker Fusion for Visual Question Answering, ICCV
2017.
"""

from itertools import combinations

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor, nn

from triptych.registry import register
from triptych.structure import Settings, Width


@register("fusion", "bilinear")
class BilinearFusion(nn.Module):
    """[z_1, ..., z_M, (U_1 z_1) * (V_2 z_2), ...]."""

    class Config(Settings):
        """`rank` of each pair's product."""

        rank: PositiveInt = 32

    def __init__(self, config: Config, modalities: int, width: int) -> None:
        super().__init__()
        self.pairs = list(combinations(range(modalities), 2))
        # The last modality never stands first in a pair, and the first never second: they need no such map.
        self.U = nn.ModuleList(nn.Linear(width, config.rank) for _ in range(modalities - 1))
        self.V = nn.ModuleList(nn.Linear(width, config.rank) for _ in range(modalities - 1))
        self.out_width = modalities * width + len(self.pairs) * config.rank

    def forward(
        self, z: Float[Tensor, "batch modalities width"], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch out"]:
        """One vector a sample; an absent modality takes part as its learned token, and in no product."""
        present = presence.unsqueeze(-1).to(z.dtype)
        first = [U(z[:, i]) * present[:, i] for i, U in enumerate(self.U)]
        second = [V(z[:, j]) * present[:, j] for j, V in enumerate(self.V, start=1)]
        products = [first[i] * second[j - 1] for i, j in self.pairs]
        return torch.cat([z.flatten(1), *products], dim=1)

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
