"""Distillation of features.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015: with a learned projection P where the widths differ,

    energy:  L = sum ||P f_student - f_teacher||^2 / sum ||f_teacher||^2
    unit:    L = mean ||P f_student / |P f_student| - f_teacher / |f_teacher| ||^2

Both are free of scale, so that one weight serves towers whose features differ in size: 1 is the loss of saying nothing.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from triptych.registry import register
from triptych.structure import Settings


@register("distillation", "features")
class FeatureDistillation(nn.Module):
    """Mean squared error between projected student features and teacher features.

    Args:
        config: how the error is normalised.
        student_width: width of the student's features.
        teacher_width: width of the teacher's. Where it differs, `projection` has weights to train with the student.
    """

    class Config(Settings):
        """energy: relative to the teacher's features; unit: only directions count."""

        normalise: Literal["energy", "unit"] = "energy"

    def __init__(self, config: Config | None = None, *, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.config = config or self.Config()
        same = student_width == teacher_width
        self.projection = nn.Identity() if same else nn.Linear(student_width, teacher_width, bias=False)

    def forward(
        self,
        student: Float[Tensor, "*batch student"],
        teacher: Float[Tensor, "*batch teacher"],
        mask: Bool[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss; no gradient flows to the teacher.

        Args:
            student: features of the student, one vector a sample or a token.
            teacher: features of the teacher for the same samples or tokens.
            mask: True where a token is real; the others do not count.
        """
        ours, theirs = self.projection(student), teacher.detach()
        if self.config.normalise == "unit":
            ours, theirs = normalize(ours, dim=-1), normalize(theirs, dim=-1)
        error, energy = (ours - theirs).square().sum(-1), theirs.square().sum(-1)
        if mask is not None:
            error, energy = error * mask, energy * mask
        # vectors of length 1 have their count as energy, so one formula serves both
        return error.sum() / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
