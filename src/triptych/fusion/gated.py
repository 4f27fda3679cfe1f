"""Gated multimodal unit: gates computed from all vectors say how much of each feature of each modality passes.

In words: value_m = tanh(V_m z_m); gate = softmax or sigmoid over m of G [z_1, ..., z_M]; the result is the sum of
gate_m * value_m, where the gates of absent modalities are 0.

Shapes: "batch modalities width" -> "batch width"; gates "batch modalities width".

Source: Arevalo et al., Gated Multimodal Units for Information Fusion, ICLR 2017 workshop, section 3: its unit for many
modalities has sigmoid gates, its unit for two modalities gates that sum to one (here: softmax).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from triptych.encoders.masked import any_or_all
from triptych.registry import register
from triptych.structure import Settings, Width


@register("fusion", "gated")
class GatedFusion(nn.Module):
    """Sum of gate_m * tanh(V_m z_m)."""

    class Config(Settings):
        """`gate` is softmax (the modalities compete) or sigmoid (each for itself)."""

        gate: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(self, config: Config, modalities: int, width: int) -> None:
        super().__init__()
        self.compete = config.gate == "softmax"
        self.values = nn.ModuleList(nn.Linear(width, width) for _ in range(modalities))
        self.gates = nn.Linear(modalities * width, modalities * width)
        self.out_width = width

    def forward(
        self, z: Float[Tensor, "batch modalities width"], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch width"]:
        """One vector a sample; an absent modality's gate is shut, unless all are absent."""
        values = torch.stack([value(z[:, m]) for m, value in enumerate(self.values)], dim=1).tanh()
        shut = ~any_or_all(presence).unsqueeze(-1)
        scores = self.gates(z.flatten(1)).unflatten(1, (len(self.values), -1)).masked_fill(shut, float("-inf"))
        gates = scores.softmax(dim=1) if self.compete else scores.sigmoid()
        return (gates * values).sum(dim=1)

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
