"""Distillation of the distances between samples.

Park et al., "Relational Knowledge Distillation", CVPR 2019, the distance-wise loss: with d_ij = ||f_i - f_j|| and
psi_ij = d_ij / (mean of d over pairs i != j),

    L = mean over pairs i != j of huber(psi_student - psi_teacher),   huber(x) = x^2 / 2 for |x| <= 1, else |x| - 1/2
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from triptych.registry import register
from triptych.structure import Settings


def relational_loss(
    student: Float[Tensor, "batch student"], teacher: Float[Tensor, "batch teacher"]
) -> Float[Tensor, ""]:
    """Huber loss between relative distances; 0 for a single sample, which has no relations."""
    if len(student) < 2:
        return student.sum() * 0.0  # keeps the graph, so that backward works on the last, short batch
    return smooth_l1_loss(_relative_distances(student), _relative_distances(teacher.detach()))


def _relative_distances(features: Float[Tensor, "batch width"]) -> Float[Tensor, "pairs"]:
    first, second = torch.triu_indices(len(features), len(features), offset=1, device=features.device)
    # the loss is symmetric, so each pair counts once; a tiny floor because sqrt has no slope at 0
    squares = (features[first] - features[second]).square().sum(1)
    distances = squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
    return distances / distances.mean()


@register("distillation", "relational")
class RelationalDistillation(nn.Module):
    """`relational_loss` as a module."""

    class Config(Settings):
        """Nothing to set."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or self.Config()

    def forward(
        self, student: Float[Tensor, "batch student"], teacher: Float[Tensor, "batch teacher"]
    ) -> Float[Tensor, ""]:
        """The loss; no gradient flows to the teacher."""
        return relational_loss(student, teacher)
