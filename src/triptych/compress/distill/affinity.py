"""Distillation of how two modalities match across a batch.

Wu et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance", ICCV 2023: with unit vectors a
and b of two modalities, A = softmax over rows (or columns) of a b^T / tau,

    L = (KL(A_teacher || A_student) over rows + the same over columns) / 2

KL instead of the paper's cross-entropy: the gradients are equal, and 0 means that the student mimics perfectly.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize

from triptych.registry import register
from triptych.structure import Settings


@register("distillation", "affinity")
class AffinityDistillation(nn.Module):
    """Divergence between the student's and the teacher's matching of two modalities."""

    class Config(Settings):
        """Temperature tau of both; CLIP's own training ends near 0.01."""

        temperature: float = 0.05

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or self.Config()

    def forward(
        self,
        student: tuple[Float[Tensor, "batch student"], Float[Tensor, "batch student"]],
        teacher: tuple[Float[Tensor, "batch teacher"], Float[Tensor, "batch teacher"]],
    ) -> Float[Tensor, ""]:
        """The loss of the (first, second) modality's vectors of a batch; no gradient flows to the teacher."""
        ours = self._affinity(*student)
        theirs = self._affinity(*teacher).detach()
        rows, columns = (
            kl_div(torch.log_softmax(ours, axis), torch.log_softmax(theirs, axis), reduction="sum", log_target=True)
            for axis in (1, 0)
        )
        return (rows + columns) / (2 * len(ours))

    def _affinity(
        self, first: Float[Tensor, "batch width"], second: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch batch"]:
        return normalize(first, dim=1) @ normalize(second, dim=1).T / self.config.temperature
