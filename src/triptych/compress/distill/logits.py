"""Distillation of class probabilities.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015. With p = softmax(logits / T),

    L = T^2 * mean_batch sum_classes p_teacher (log p_teacher - log p_student)

T^2 keeps the gradient's size the same whatever the temperature.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.registry import register
from triptych.structure import Settings


def softened_divergence(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(teacher || student) of two sets of logits, averaged over all axes but the last."""
    theirs = torch.log_softmax(teacher.detach() / temperature, -1)
    ours = torch.log_softmax(student / temperature, -1)
    # xlogy-like: a class that the teacher excludes (log p = -inf) adds nothing
    divergence = (theirs.exp() * (theirs - ours)).where(theirs > -torch.inf, 0.0)
    return temperature**2 * divergence.sum(-1).mean()


@register("distillation", "logits")
class LogitsDistillation(nn.Module):
    """`softened_divergence` at a fixed temperature."""

    class Config(Settings):
        """Temperature: above 1 the student also learns how the teacher ranks the wrong classes."""

        temperature: float = 4.0

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or self.Config()

    def forward(
        self, student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, ""]:
        """The loss; no gradient flows to the teacher."""
        return softened_divergence(student, teacher, self.config.temperature)
