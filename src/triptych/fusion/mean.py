"""Mean: the average of the vectors of the modalities that are present.

Shapes: "batch modalities width" -> "batch width".

Source: the sum rule of Kittler et al., On Combining Classifiers, IEEE TPAMI 1998, applied to features.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from triptych.encoders.masked import any_or_all, masked_mean
from triptych.registry import register
from triptych.structure import Settings, Width


@register("fusion", "mean")
class MeanFusion(nn.Module):
    """Sum of z_m over the present modalities, divided by their number."""

    class Config(Settings):
        """Nothing to set."""

    def __init__(self, config: Config, modalities: int, width: int) -> None:  # noqa: ARG002 - as every fusion
        super().__init__()
        self.out_width = width

    def forward(
        self, z: Float[Tensor, "batch modalities width"], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch width"]:
        """One vector a sample; the mean of all tokens where everything is absent."""
        return masked_mean(z, any_or_all(presence))

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
