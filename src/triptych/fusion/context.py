"""The tokens of one modality, each told what the other modalities say on the whole: for tasks that answer place by place.

    z_p = t_p + W (1 / (M - 1) sum_{m != onto} mean_q t_mq)

Shapes: a list of "batch tokens width" and of masks "batch tokens" -> "batch tokens width" and "batch tokens" of the modality `onto`.

Source: the shift of Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, AAAI 2018, equation 2.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeInt
from torch import Tensor, nn

from triptych.encoders.masked import masked_mean
from triptych.errors import InputError
from triptych.registry import register
from triptych.structure import Memory, Settings, Width


@register("fusion", "context")
class ContextFusion(nn.Module):
    """The places of one modality, with the others as their context."""

    class Config(Settings):
        """`onto` is the place of the modality in the order of the inputs."""

        onto: NonNegativeInt = 0

    gives: ClassVar[Literal["tokens"]] = "tokens"

    def __init__(self, config: Config, modalities: int, width: int) -> None:
        super().__init__()
        if config.onto >= modalities:
            raise InputError(
                f"The fusion is to give the tokens of input {config.onto}, but there are {modalities}.",
                f"Choose fusion.onto from 0 to {modalities - 1}.",
            )
        self.onto, self.out_width = config.onto, width
        self.context = nn.Linear(width, width) if modalities > 1 else None

    def forward(self, tokens: list[Float[Tensor, "batch _ width"]], masks: list[Bool[Tensor, "batch _"]]) -> Memory:
        """The tokens of one modality; an absent one is its learned token at every place."""
        places, mask = tokens[self.onto], masks[self.onto]
        if self.context is None:
            return Memory(places, mask)
        others = [masked_mean(x, m) for i, (x, m) in enumerate(zip(tokens, masks, strict=True)) if i != self.onto]
        return Memory(places + self.context(torch.stack(others).mean(0)).unsqueeze(1), mask)

    def widths(self) -> list[Width]:
        """None: all features are read outside the fusion."""
        return []
