"""Distillation of which samples look alike.

Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019: with G = A A^T over the features A [batch,
width] of a batch, each row of G divided by its length,

    L = ||G_teacher - G_student||_F^2 / batch^2

Student and teacher may have any widths, and nothing needs to be learned besides the student.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from triptych.registry import register
from triptych.structure import Settings


def similarity_loss(student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """Mean squared difference of the two row-normalised similarity matrices; all axes but the first are flattened."""
    return (_similarities(teacher.detach()) - _similarities(student)).square().mean()


def _similarities(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch batch"]:
    flat = features.flatten(1)
    return normalize(flat @ flat.T, dim=1)


@register("distillation", "similarity")
class SimilarityDistillation(nn.Module):
    """`similarity_loss` as a module."""

    class Config(Settings):
        """Nothing to set."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or self.Config()

    def forward(self, student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
        """The loss; no gradient flows to the teacher."""
        return similarity_loss(student, teacher)
