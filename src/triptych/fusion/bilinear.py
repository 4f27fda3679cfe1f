"""Low-rank bilinear pooling: products of every pair of modalities in few dimensions, beside the vectors themselves.

In words: for each pair i < j, (U_i z_i) * (V_j z_j), element by element, summed over windows of `window` neighbours and
normalised over the batch; a pair with an absent member gives 0 before the norm. The result is [z_1, ..., z_M, all
products], or with `vectors=False` the products alone, for tasks that lie in how the modalities agree.

Shapes: "batch modalities width" -> "batch modalities * width + pairs * rank / window"; M modalities make M (M - 1) / 2
pairs. With window w each sum is a similarity in w dimensions.

Source: Kim et al., Hadamard Product for Low-rank Bilinear Pooling, ICLR 2017, section 3, whose last projection is
the task's first layer here; Yu et al., Multi-modal Factorized Bilinear Pooling, ICCV 2017, section 3.1, for the sums
(batch norm in place of their power and l2 normalisation).
"""

from itertools import combinations

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.registry import register
from triptych.structure import Settings, Width


@register("fusion", "bilinear")
class BilinearFusion(nn.Module):
    """[z_1, ..., z_M, (U_1 z_1) * (V_2 z_2), ...]."""

    class Config(Settings):
        """`rank` of each pair's product, the `window` it is summed over, and whether the vectors stand beside it."""

        rank: PositiveInt = 32
        window: PositiveInt = 1
        vectors: bool = True

        @model_validator(mode="after")
        def whole_windows(self) -> "BilinearFusion.Config":
            """Refuses a window that does not divide the rank."""
            if self.rank % self.window:
                raise ValueError(f"a window of {self.window} does not divide the rank of {self.rank}")
            return self

    def __init__(self, config: Config, modalities: int, width: int) -> None:
        super().__init__()
        self.pairs = list(combinations(range(modalities), 2))
        # The last modality never stands first in a pair, and the first never second: they need no such map.
        self.U = nn.ModuleList(nn.Linear(width, config.rank) for _ in range(modalities - 1))
        self.V = nn.ModuleList(nn.Linear(width, config.rank) for _ in range(modalities - 1))
        self.window, self.vectors = config.window, config.vectors or modalities == 1  # a single one has no pairs
        features = len(self.pairs) * config.rank // config.window
        self.norm = nn.BatchNorm1d(features) if config.window > 1 and self.pairs else nn.Identity()
        self.out_width = features + (modalities * width if self.vectors else 0)

    def forward(
        self, z: Float[Tensor, "batch modalities width"], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch out"]:
        """One vector a sample; an absent modality takes part as its learned token, and in no product."""
        if not self.pairs:
            return z.flatten(1)
        present = presence.unsqueeze(-1).to(z.dtype)
        first = [U(z[:, i]) * present[:, i] for i, U in enumerate(self.U)]
        second = [V(z[:, j]) * present[:, j] for j, V in enumerate(self.V, start=1)]
        products = torch.cat([first[i] * second[j - 1] for i, j in self.pairs], dim=1)
        sums = self.norm(self.window * F.avg_pool1d(products.unsqueeze(1), self.window).squeeze(1))
        return torch.cat([z.flatten(1), sums], dim=1) if self.vectors else sums

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
