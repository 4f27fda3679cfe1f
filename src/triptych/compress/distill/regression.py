"""Distillation of numbers: L = mean (student - teacher)^2.

For regression heads, and for logits where a student should match the teacher's scale too (Ba & Caruana, "Do Deep Nets
Really Need to be Deep?", NeurIPS 2014).
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from triptych.registry import register
from triptych.structure import Settings


@register("distillation", "regression")
class RegressionDistillation(nn.Module):
    """Mean squared error between the two models' outputs."""

    class Config(Settings):
        """Nothing to set."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or self.Config()

    def forward(self, student: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
        """The loss; no gradient flows to the teacher."""
        return mse_loss(student, teacher.detach())
