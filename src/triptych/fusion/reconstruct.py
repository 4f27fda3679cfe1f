"""A missing modality's vector, guessed from those of the others.

    guess_m = W_m [z_n for n other than m] + b_m

Where m is absent the guess stands in for its learned token. Where it is there, |guess_m - z_m|² teaches W_m and b_m, and nothing else,
so that encoders learn their task and not to be guessed.

Source: the reconstruction of one modality from another in Ngiam et al., Multimodal Deep Learning, ICML 2011, section 3.3, between
features instead of inputs.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Reconstruction(nn.Module):
    """One linear map a modality."""

    def __init__(self, modalities: int, width: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.maps = nn.ModuleList(nn.Linear((modalities - 1) * width, width) for _ in range(modalities))

    def forward(self, z: Float[Tensor, "batch modalities width"]) -> Float[Tensor, "batch modalities width"]:
        """The guess of each modality's vector."""
        others = (torch.cat([z[:, :m], z[:, m + 1 :]], dim=1).flatten(1) for m in range(z.shape[1]))
        return torch.stack([guess(x) for guess, x in zip(self.maps, others, strict=True)], dim=1)

    def loss(
        self, z: Float[Tensor, "batch modalities width"], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, ""]:
        """Weight times the mean squared error of the guesses that can be checked: of what is there beside something else."""
        z = z.detach()
        checked = presence & (presence.sum(1, keepdim=True) > 1)
        errors = (self(z) - z).square().mean(-1)
        return self.weight * torch.where(checked, errors, 0.0).sum() / checked.sum().clamp(min=1)
