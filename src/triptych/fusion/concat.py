"""Concatenation: all vectors one after another, then, if asked for, ReLU(linear).

Shapes: "batch modalities width" -> "batch modalities * width", or "batch hidden".

Source: Ngiam et al., Multimodal Deep Learning, ICML 2011: one shared layer over the modalities side by side.
"""

from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor, nn

from triptych.registry import register
from triptych.structure import Settings, Width


@register("fusion", "concat")
class ConcatFusion(nn.Module):
    """[z_1, ..., z_M], or ReLU(W [z_1, ..., z_M] + b)."""

    class Config(Settings):
        """`hidden` features of the optional layer; None leaves the layer out."""

        hidden: PositiveInt | None = None

    def __init__(self, config: Config, modalities: int, width: int) -> None:
        super().__init__()
        self.out_width = config.hidden or modalities * width
        layer = nn.Sequential(nn.Linear(modalities * width, self.out_width), nn.ReLU())
        self.layer = layer if config.hidden else nn.Identity()

    def forward(
        self,
        z: Float[Tensor, "batch modalities width"],
        presence: Bool[Tensor, "batch modalities"],  # noqa: ARG002 - the token of an absent modality says it here
    ) -> Float[Tensor, "batch out"]:
        """One vector a sample; an absent modality takes part as its learned token."""
        return self.layer(z.flatten(1))

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
