"""No fusion: the vectors side by side, for a task that compares them.

Shapes: "batch modalities width" -> "batch modalities width".

Source: the two towers of Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, which
meet in the loss alone.
"""

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from triptych.registry import register
from triptych.structure import Settings, Width


@register("fusion", "separate")
class SeparateFusion(nn.Module):
    """z as it is."""

    class Config(Settings):
        """Nothing to set."""

    gives: ClassVar[Literal["modalities"]] = "modalities"

    def __init__(self, config: Config, modalities: int, width: int) -> None:  # noqa: ARG002 - one signature for every fusion
        super().__init__()
        self.out_width = width

    def forward(
        self,
        z: Float[Tensor, "batch modalities width"],
        presence: Bool[Tensor, "batch modalities"],  # noqa: ARG002 - the token of an absent modality stands in its place
    ) -> Float[Tensor, "batch modalities width"]:
        """The vectors; an absent modality's is its learned token."""
        return z

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
