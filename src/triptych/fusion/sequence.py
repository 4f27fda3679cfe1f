"""All tokens of all modalities one after another, each with its modality's vector added: for tasks that look at tokens.

    memory = [t_11 + v_1, ..., t_1n + v_1, t_21 + v_2, ...]

Shapes: a list of "batch tokens width" and of masks "batch tokens" -> "batch all_tokens width", "batch all_tokens".

Source: token type embeddings as in Kim et al., ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision, ICML
2021, section 3.1.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from triptych.registry import register
from triptych.structure import Memory, Settings, Width


@register("fusion", "sequence")
class SequenceFusion(nn.Module):
    """The tokens side by side; what they have to do with each other is for the task to find."""

    class Config(Settings):
        """Nothing to set."""

    gives: ClassVar[Literal["tokens"]] = "tokens"

    def __init__(self, config: Config, modalities: int, width: int) -> None:  # noqa: ARG002 - one signature for every fusion
        super().__init__()
        self.out_width = width
        self.modality = nn.Parameter(torch.zeros(modalities, width))

    def forward(self, tokens: list[Float[Tensor, "batch _ width"]], masks: list[Bool[Tensor, "batch _"]]) -> Memory:
        """What a task looks at; an absent modality stands there as its learned token."""
        named = [x + vector for x, vector in zip(tokens, self.modality, strict=True)]
        return Memory(torch.cat(named, dim=1), torch.cat(masks, dim=1))

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
